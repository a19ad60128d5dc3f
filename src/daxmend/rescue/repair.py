"""`repair`: bad pages of a file get their new bytes in place, and are read back (R14, R29, R45).

Every page goes the same way, whether the repair has just been planned or was stopped before: look
at what it is now, and at what the journal says it should be. So a repair can be stopped anywhere,
and started again.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

from daxmend.dax.api import Salvage
from daxmend.errors import ChangedError, DaxmendError
from daxmend.extent import Extent, merged
from daxmend.rescue.repairjournal import About, JournalPlace, RepairJournal, create_journal
from daxmend.rescue.repairplan import BadPage, RepairPlan, Strategy
from daxmend.units import MIB, PAGE, SECTOR, align_up

if TYPE_CHECKING:
    from daxmend.rescue.subject import Subject

_BATCH = MIB  # pages that follow each other and are written at once


class State(StrEnum):
    """What became of a page."""

    PLANNED = "planned"
    HEALED = "healed"
    READABLE = "readable"  # it can be read again, and was left as it is
    CHANGED = "changed"  # somebody else wrote to it meanwhile: it was left as it is
    BAD = "bad"
    TORN = "torn"  # it lost good bytes in the attempt: only the journal has them
    REFUSED = "refused"  # there is nothing to put there
    UNDONE = "undone"


class PageResult(NamedTuple):
    """A page, what became of it, by which verb, or why not."""

    page: BadPage
    state: State
    how: str = ""


def make_journal(
    subject: Subject, copy: Subject | None, plan: RepairPlan, place: JournalPlace
) -> RepairJournal:
    """The merged pages of a plan, durable. Raises `ChangedError` where the file or the copy is not
    any more what was planned with; nothing of the file was changed."""
    subject.validate()
    about = About(subject.name, subject.identity, subject.size, plan.strategy, plan.source)
    return create_journal(place.new_path(), about, _merged_pages(subject, copy, plan.pages))


def _merged_pages(
    subject: Subject, copy: Subject | None, pages: list[BadPage]
) -> Iterator[tuple[BadPage, bytes]]:
    """Each page with what is lost, and its bytes: the good ones, and the copy's, or zeros."""
    for page in pages:
        ours = subject.salvage(page.extent)
        data = ours.data
        if copy is not None:
            theirs = copy.salvage(page.extent)
            if any(run.overlaps(lost) for run in theirs.lost for lost in ours.lost):
                raise ChangedError(
                    f"{copy.name} has gone bad at offset {page.extent.offset} since it was "
                    "checked; nothing was changed; begin again"
                )
            _fill(data, theirs.data, page.extent, ours.lost)
        yield BadPage(page.extent, ours.lost), bytes(data)


def _fill(data: bytearray, source: bytes | bytearray, page: Extent, runs: list[Extent]) -> None:
    """Put what `source` has of the runs into `data`; both are the page's."""
    for run in runs:
        start = run.offset - page.offset
        data[start : start + run.length] = source[start : start + run.length]


# -- apply ---------------------------------------------------------------------------------


def apply_journal(subject: Subject, journal: RepairJournal) -> Iterator[PageResult]:
    """Give each page of the journal its bytes, and read back what was written; ascending.

    What came out is durable when it is yielded. A page that cannot be written stays bad, and the
    next ones are tried. To be called again after a stop, with the same journal.
    """
    _restore_size(subject, journal)
    batch: list[tuple[BadPage, bytes]] = []
    for page, data in journal.contents():
        state = _look(subject, journal, page, data)
        if batch and (state is not None or not _continues(batch, page)):
            yield from _flush(subject, journal, batch)
            batch = []
        if state is None:
            batch.append((page, data))
        else:
            yield PageResult(page, state)
    yield from _flush(subject, journal, batch)


def _continues(batch: list[tuple[BadPage, bytes]], page: BadPage) -> bool:
    """Whether the page can be written together with the batch."""
    return batch[-1][0].extent.end == page.extent.offset and len(batch) * PAGE < _BATCH


def _restore_size(subject: Subject, journal: RepairJournal) -> None:
    """After a stop in the middle of a last page that was written whole."""
    size = journal.about.size
    tail = journal.pages[-1].extent if journal.pages else Extent(0, 0)
    is_whole = subject.size == align_up(size, PAGE) != size
    if not journal.is_finished and is_whole and tail.end == size:
        added = subject.salvage(Extent.between(size, subject.size))
        if not any(added.data):  # what cannot be read there is nobody's
            subject.restore_size(size)


def _look(subject: Subject, journal: RepairJournal, page: BadPage, data: bytes) -> State | None:
    """What the page is now; None if it is to be written."""
    if page.extent.end > subject.size or not _is_whole(subject, page):
        return State.CHANGED
    now = subject.salvage(page.extent)
    is_readable = _is_readable(subject, page, now)
    if is_readable and now.data == data:
        return State.HEALED
    cleared = _cleared(journal, page, data, now)
    if not _is_ours(page, data, now, cleared):
        return State.CHANGED
    return State.READABLE if is_readable and not cleared else None


def _is_readable(subject: Subject, page: BadPage, now: Salvage) -> bool:
    """Whether a page that was just salvaged can be read by programs, too: through the file."""
    return not now.lost and not any(subject.unreadable(page.extent))


def _cleared(journal: RepairJournal, page: BadPage, data: bytes, now: Salvage) -> list[Extent]:
    """Sectors that our own stopped repair may have left as zeros: after a punch, or as a kernel
    does that clears poison before it copies (R18)."""
    if not journal.is_stopped:
        return []
    sectors = []
    for at in range(0, page.extent.length, SECTOR):
        if any(data[at : at + SECTOR]) and not any(now.data[at : at + SECTOR]):
            end = min(at + SECTOR, page.extent.length)
            sectors.append(Extent.between(page.extent.offset + at, page.extent.offset + end))
    return sectors


def _is_ours(page: BadPage, data: bytes, now: Salvage, cleared: list[Extent]) -> bool:
    """Whether nobody else wrote to the page: what was good in it is as it was, where it can be."""
    masked = []
    for each in (bytearray(data), bytearray(now.data)):
        _fill(each, bytes(page.extent.length), page.extent, [*page.lost, *now.lost, *cleared])
        masked.append(each)
    return masked[0] == masked[1]


def _is_whole(subject: Subject, page: BadPage) -> bool:
    """False for what was the file's last page, of a file that has grown."""
    return page.extent.length == PAGE or page.extent.end == subject.size


def _flush(
    subject: Subject, journal: RepairJournal, batch: list[tuple[BadPage, bytes]]
) -> list[PageResult]:
    """Write pages that follow each other, make that durable, and read them back."""
    if not batch:
        return []
    strategy = journal.about.strategy
    hows: dict[int, str] = {}
    failed: dict[int, str] = {}
    rest = batch
    while rest:
        count = _count_alike(rest, strategy)
        done = _write_some(subject, strategy, rest[:count], hows, failed)
        rest = rest[done:]
    try:
        subject.sync()
    except OSError as error:
        failed = {page.extent.offset: _why(error) for page, _ in batch} | failed
    return [_verified(subject, page, data, hows, failed) for page, data in batch]


def _count_alike(rest: list[tuple[BadPage, bytes]], strategy: Strategy) -> int:
    """How many pages from the first on go the same way: zeroed as a whole, or written."""
    if strategy is Strategy.WRITE:
        return len(rest)
    first = rest[0][0].is_all_lost
    for count, (page, _) in enumerate(rest):
        if page.is_all_lost is not first:
            return count
    return len(rest)


def _write_some(
    subject: Subject,
    strategy: Strategy,
    run: list[tuple[BadPage, bytes]],
    hows: dict[int, str],
    failed: dict[int, str],
) -> int:
    """Deal with some pages from the first on; returns how many. Says how, or why not."""
    start = run[0][0].extent.offset
    extent = Extent.between(start, run[-1][0].extent.end)
    data = b"".join(page for _, page in run)
    how, done = "write", 0
    try:
        if strategy is Strategy.PUNCH:
            subject.punch(extent)
            how = "punch and write" if any(data) else "punch"
            done = subject.write(start, data) if any(data) else extent.length
        elif strategy is Strategy.ZERO and run[0][0].is_all_lost and not any(data):
            how, done = subject.zero(extent), extent.length
        else:
            done = subject.write(start, data)
    except OSError as error:
        failed[start] = _why(error)
    else:
        if done < extent.length:
            failed[start + done - done % PAGE] = "the write stopped there"
    index = _count_within(run, start + done)
    if strategy is Strategy.WRITE and index < len(run):
        _zero_and_write(subject, run[index], hows, failed)
    for page, _ in run[:index]:
        hows[page.extent.offset] = how
    return min(index + 1, len(run))


def _count_within(run: list[tuple[BadPage, bytes]], end: int) -> int:
    """How many of the pages end at `end`, or before it."""
    return sum(page.extent.end <= end for page, _ in run)


def _zero_and_write(
    subject: Subject, item: tuple[BadPage, bytes], hows: dict[int, str], failed: dict[int, str]
) -> None:
    """The second way in place, for a page that could not be written: zero it, then write (R34).

    What was good in it is in the journal; a stop between the two is finished from there.
    """
    page, data = item
    offset = page.extent.offset
    said = failed.get(offset, "the write stopped there")
    try:
        verb = subject.zero(page.extent)
        if subject.write(offset, data) < page.extent.length:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
    except OSError as error:
        failed[offset] = f"writing: {said}; zeroing first: {_why(error)}"
        return
    failed.pop(offset, None)
    hows[offset] = f"{verb}, then write"


def _why(error: OSError) -> str:
    if isinstance(error, DaxmendError):
        return str(error)
    return error.strerror or str(error)


def _verified(
    subject: Subject, page: BadPage, data: bytes, hows: dict[int, str], failed: dict[int, str]
) -> PageResult:
    """Read back from the medium (R45)."""
    offset = page.extent.offset
    now = subject.salvage(page.extent)
    is_readable = _is_readable(subject, page, now)
    if is_readable and now.data == data and offset not in failed:
        return PageResult(page, State.HEALED, hows.get(offset, ""))
    why = failed.get(offset, "it reads back as something else")
    if now.lost and offset not in failed:
        length = sum(run.length for run in now.lost)
        why = f"{length} bytes from offset {now.lost[0].offset} on are still unreadable"
    elif not is_readable and offset not in failed:
        why = "its bytes are there, but it still cannot be read through the file"
    state = State.TORN if _is_torn(page, data, now) else State.BAD
    return PageResult(BadPage(page.extent, now.lost or page.lost), state, why)


def _is_torn(page: BadPage, data: bytes, now: Salvage) -> bool:
    """Whether bytes that were good when the journal was made are not there any more."""
    kept = bytearray(page.extent.length)  # 1 where the byte was good
    _fill(kept, b"\1" * page.extent.length, page.extent, [page.extent])
    _fill(kept, bytes(page.extent.length), page.extent, page.lost)
    is_lost = bytearray(page.extent.length)
    _fill(is_lost, b"\1" * page.extent.length, page.extent, now.lost)
    pairs = zip(kept, is_lost, now.data, data, strict=True)
    return any(good and (gone or is_ != was) for good, gone, is_, was in pairs)


# -- undo ----------------------------------------------------------------------------------


def undo_journal(subject: Subject, journal: RepairJournal) -> Iterator[PageResult]:
    """Put back what the pages of a repair had: the good bytes, and zeros where they were bad.

    A page that is not as the repair left it is kept (`CHANGED`); one that is still bad, too.
    Durable and read back; to be called again after a stop. The journal stays.
    """
    _restore_size(subject, journal)
    for page, data in journal.contents():
        yield _undo_page(subject, journal, page, data)


def _undo_page(subject: Subject, journal: RepairJournal, page: BadPage, data: bytes) -> PageResult:
    if page.extent.end > subject.size or not _is_whole(subject, page):
        return PageResult(page, State.CHANGED)
    old = bytearray(data)
    _fill(old, bytes(page.extent.length), page.extent, page.lost)
    now = subject.salvage(page.extent)
    if now.lost and not _is_torn(page, data, now):
        return PageResult(BadPage(page.extent, now.lost), State.BAD, "it was not repaired")
    if now.data == old and not now.lost:
        return PageResult(page, State.UNDONE)
    cleared = _cleared(journal, page, data, now)
    is_ours = now.data == data or now.lost or cleared
    if not is_ours or not _is_ours(page, data, now, cleared):
        return PageResult(page, State.CHANGED)
    try:
        subject.write(page.extent.offset, bytes(old))
        subject.sync()
    except OSError as error:
        return PageResult(page, State.TORN, _why(error))
    again = subject.salvage(page.extent)
    if again.lost or again.data != old:
        return PageResult(page, State.TORN, "it reads back as something else")
    return PageResult(page, State.UNDONE)


def bad_ranges(results: list[PageResult]) -> list[Extent]:
    """What is still bad, ascending and merged: what is lost of a page, else all of it."""
    bad = (State.PLANNED, State.BAD, State.TORN, State.REFUSED)
    pages = [result.page for result in results if result.state in bad]
    return merged(run for page in pages for run in page.lost or [page.extent])
