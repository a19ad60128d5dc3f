"""What a repair of a file would do; decided, and checked, before anything is changed (R46)."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

from daxmend.errors import UsageError
from daxmend.extent import Extent
from daxmend.rescue.subject import CHUNK
from daxmend.units import PAGE

if TYPE_CHECKING:
    from daxmend.dax.api import Salvage
    from daxmend.rescue.subject import Subject

_MAX_NAMED = 3  # ranges that a warning names

Progress = Callable[[int], None]


class Strategy(StrEnum):
    """How the bad pages are given new bytes."""

    WRITE = "write"  # an aligned write, in place (R14)
    ZERO = "zero"  # in place, by the best verb there is (R29, R34)
    PUNCH = "punch"  # punch and write: the file moves (R35)


class BadPage(NamedTuple):
    """A page of the file, cut at its end, and what of it is lost.

    Nothing is, where it cannot be read for what lies behind the end of the file.
    """

    extent: Extent
    lost: list[Extent]

    @property
    def lost_length(self) -> int:
        """Bytes."""
        return sum(run.length for run in self.lost)

    @property
    def is_all_lost(self) -> bool:
        """Whether there is nothing in it to keep."""
        return self.lost_length == self.extent.length


class RepairPlan(NamedTuple):
    """What would be done. `refused` pages stay bad; of each it says why."""

    strategy: Strategy
    source: str | None  # the copy; else what is lost becomes zeros
    pages: list[BadPage]
    refused: list[tuple[BadPage, str]]
    warnings: list[str]

    @property
    def all_pages(self) -> list[BadPage]:
        """What is bad, ascending."""
        return sorted([*self.pages, *(page for page, _ in self.refused)])


def find_bad_pages(subject: Subject, progress: Progress) -> list[BadPage]:
    """Read the whole file, guarded; holes have nothing to lose (R13). Ascending."""
    found: set[int] = set()
    done = 0
    for extent in subject.data():
        at = extent.offset
        while at < extent.end:
            chunk = Extent.between(at, min(extent.end, at - at % CHUNK + CHUNK))
            for run in subject.unreadable(chunk):
                found.update(_pages(run))
            at = chunk.end
            progress(at - done)
            done = at
    progress(subject.size - done)
    file = Extent(0, subject.size)
    pages = (Extent(pgoff * PAGE, PAGE).intersection(file) for pgoff in sorted(found))
    return [BadPage(page, subject.salvage(page).lost) for page in pages]


def _pages(extent: Extent) -> range:
    """The numbers of the pages that the range touches."""
    return range(extent.offset // PAGE, -(-extent.end // PAGE))


def plan_file_repair(
    subject: Subject, copy: Subject | None, strategy: Strategy, progress: Progress
) -> RepairPlan:
    """Find what is bad, and what can be put there; only reads.

    Raises `UsageError` for a copy that cannot be one: the file itself, or shorter. A page for which
    the copy is bad itself is refused, the others are not.
    """
    if strategy is Strategy.PUNCH and not subject.has_holes:
        raise UsageError(f"{subject.name} is a device: --punch is for files; --from COPY or --zero")
    if copy is not None:
        _validate_copy(subject, copy)
    pages: list[BadPage] = []
    refused: list[tuple[BadPage, str]] = []
    differing: list[Extent] = []
    empty: list[Extent] = []
    for page in find_bad_pages(subject, progress):
        if copy is None:
            pages.append(page)
            continue
        theirs = copy.salvage(page.extent)
        bad = [run for run in theirs.lost if any(run.overlaps(lost) for lost in page.lost)]
        if bad:
            said = ", ".join(f"{run.length} bytes at offset {run.offset}" for run in bad)
            refused.append((page, f"{copy.name} is bad there, too: {said}"))
            continue
        pages.append(page)
        if _differs(subject, copy, page.extent):
            differing.append(page.extent)
        if page.lost and all(_is_zero(theirs, page.extent, run) for run in page.lost):
            empty.append(page.extent)
    warnings = [] if copy is None else _doubts(subject, copy, pages, differing, empty)
    warnings += _warnings(subject, copy, strategy, pages)
    source = None if copy is None else copy.name
    return RepairPlan(strategy, source, pages, refused, warnings)


def _validate_copy(subject: Subject, copy: Subject) -> None:
    if subject.is_same(copy):
        raise UsageError(f"{copy.name} is {subject.name} itself, not a copy of it")
    if copy.size < subject.size:
        raise UsageError(
            f"{copy.name} has {copy.size} bytes, and {subject.name} {subject.size}: it is no copy "
            "of all of it; nothing was changed"
        )


def _differs(subject: Subject, copy: Subject, page: Extent) -> bool:
    """Whether the copy has other bytes where both can be read, in the page or beside it."""
    near = Extent.between(page.offset - PAGE, page.end + PAGE)
    near = near.intersection(Extent(0, subject.size))
    ours, theirs = _both(subject, copy, near)
    return ours != theirs


def _both(subject: Subject, copy: Subject, extent: Extent) -> tuple[bytearray, bytearray]:
    """The bytes of both, with zeros where either cannot be read."""
    ours, theirs = subject.salvage(extent), copy.salvage(extent)
    for run in [*ours.lost, *theirs.lost]:
        start = run.offset - extent.offset
        for data in (ours.data, theirs.data):
            data[start : start + run.length] = bytes(run.length)
    return ours.data, theirs.data


def _is_zero(saved: Salvage, page: Extent, run: Extent) -> bool:
    start = run.offset - page.offset
    return not any(saved.data[start : start + run.length])


def _doubts(
    subject: Subject,
    copy: Subject,
    pages: list[BadPage],
    differing: list[Extent],
    empty: list[Extent],
) -> list[str]:
    """Why the copy may be another version, or have been salvaged from a bad file itself."""
    said = []
    is_older = (
        copy.mtime_ns is not None
        and subject.mtime_ns is not None
        and copy.mtime_ns < subject.mtime_ns
    )
    older = ", and was last written before it was" if is_older else ""
    if differing:
        said.append(
            f"{copy.name} has other bytes than {subject.name} where both can be read, in or beside "
            f"{len(differing)} of {len(pages)} bad pages (at offset {_offsets(differing)}){older}: "
            "is it the same version?"
        )
    elif pages and is_older:
        count, first = _count_differing(subject, copy)
        if count:
            said.append(
                f"{copy.name} has other bytes than {subject.name} in {count} pages that both can "
                f"read (the first at offset {first}){older}: is it the same version?"
            )
    if empty:
        said.append(
            f"{copy.name} has nothing but zeros for {len(empty)} of {len(pages)} bad pages (at "
            f"offset {_offsets(empty)}): was it saved from a file that was bad itself?"
        )
    return said


def _offsets(extents: list[Extent]) -> str:
    more = ", …" if len(extents) > _MAX_NAMED else ""
    return ", ".join(str(extent.offset) for extent in extents[:_MAX_NAMED]) + more


def _count_differing(subject: Subject, copy: Subject) -> tuple[int, int]:
    """How many pages differ where both can be read, in all of the file; and where the first is."""
    count, first = 0, 0
    for at in range(0, subject.size, CHUNK):
        chunk = Extent(at, CHUNK).intersection(Extent(0, subject.size))
        ours, theirs = _both(subject, copy, chunk)
        if ours == theirs:
            continue
        for page in range(0, chunk.length, PAGE):
            if ours[page : page + PAGE] != theirs[page : page + PAGE]:
                first = first if count else at + page
                count += 1
    return count, first


def _warnings(
    subject: Subject, copy: Subject | None, strategy: Strategy, pages: list[BadPage]
) -> list[str]:
    """What the operator should know before anything is written."""
    said = []
    if copy is not None and copy.size > subject.size:
        said.append(
            f"{copy.name} is longer ({copy.size} bytes) than {subject.name} ({subject.size}): was "
            f"{subject.name} truncated? A repair does not make it longer"
        )
    if strategy is Strategy.PUNCH and pages:
        said.append(
            "punching gives the bad blocks back to the file system, and takes others: the file is "
            "fragmented, and somebody else may get the bad ones; --from COPY or --zero repair in "
            "place"
        )
    sharers = subject.sharers([page.extent for page in pages]) if pages else []
    if sharers:
        said.append(
            f"{subject.name} shares bad blocks (reflink) with {', '.join(sharers)}: a write gives "
            f"{subject.name} blocks of its own, and the others keep the bad ones; repair each of "
            "them"
        )
    return said
