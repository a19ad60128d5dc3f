"""One repair by one strategy, done and measured: what was healed, what it cost, what it left."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Final, NamedTuple

from daxmend.errors import DaxmendError
from daxmend.extent import Extent, ExtentSet
from daxmend.host import zeroing
from daxmend.host.unknown import Unknown
from daxmend.report.damage import bad_pages
from daxmend.report.strategy import Lost, Patient, Strategy
from daxmend.report.system import Stage
from daxmend.rescue.hostfile import HostFile
from daxmend.rescue.reader import Reader
from daxmend.rescue.target import FileExtent
from daxmend.units import PAGE

NOBODY: Final = 65534  # who owns the file, where root compares
FILE_NAME: Final = "file"


class Outcome(StrEnum):
    """What came of it."""

    HEALED = "healed"  # every page reads back, past the page cache, with the right bytes
    PARTLY = "partly"  # some do
    FAILED = "failed"  # none does
    CANNOT = "cannot"  # the system does not have what the strategy needs; nothing was changed
    UNDAMAGED = "undamaged"  # that many pages could not be made bad there


class Measure(NamedTuple):
    """Lengths are bytes. None is what could not be known, or has no meaning after `outcome`.

    `healed` counts pages. `lost` are good bytes that are gone: of bad pages, beyond what was bad,
    and of all others; not those that still cannot be read. `moved` lie elsewhere on the device
    now. `left` is bad and no file's; `left_why` says why it may be more. `privilege` is `none` if a
    user who may write the file and its directory can do it, else `root`. `requests` change
    something; `written` is data, `zeroed` what a verb made zeros.
    """

    outcome: Outcome
    why: str = ""
    healed: int = 0
    lost: int | None = None
    extents_before: int | None = None
    extents_after: int | None = None
    moved: int | None = None
    left: int | None = None
    left_why: str = ""
    privilege: str | None = None
    seconds: float | None = None
    requests: int | None = None
    written: int | None = None
    zeroed: int | None = None


class _Attempt(NamedTuple):
    error: OSError | None
    has_changed: bool
    privilege: str
    seconds: float
    requests: int
    written: int
    zeroed: int


def make_file(stage: Stage, data: bytes) -> None:
    """The file, durable; where root compares, it and its directory belong to nobody."""
    path = stage.directory / FILE_NAME
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    if os.geteuid() == 0:
        for each in (path, stage.directory):
            os.chown(each, NOBODY, NOBODY)


def put_back(stage: Stage, data: bytes) -> None:
    """Write the pages whose good bytes a repair has lost, in place; durable on return."""
    path = stage.directory / FILE_NAME
    now, _ = _read_back(path, len(data))
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        for page in bad_pages([Extent(0, len(data))]):
            if _difference(data, now, page):
                os.pwrite(fd, data[page.offset : page.end], page.offset)
        os.fsync(fd)
    finally:
        os.close(fd)


def measure(stage: Stage, strategy: Strategy, data: bytes, bad: list[Extent]) -> Measure:
    """Make the sectors bad, repair them, look. `data` is what the file holds, and should again."""
    path = stage.directory / FILE_NAME
    before = _extents(path)
    try:
        stage.make_bad(path, bad)
    except (DaxmendError, OSError) as error:
        return Measure(Outcome.UNDAMAGED, _said(error))
    lost = [Lost(each, data[each.offset : each.end]) for each in bad]
    attempt = _try(stage.directory, strategy, lost)
    failed = attempt.error
    if failed is not None and failed.errno in _LACKING and not attempt.has_changed:
        return Measure(Outcome.CANNOT, _lacking(strategy, failed))
    found = _verify(path, data, bad)
    after = _extents(path)
    left = stage.left()
    return found._replace(
        why=_said(failed) if failed is not None else found.why,
        extents_before=None if before is None else len(before),
        extents_after=None if after is None else len(after),
        moved=None if before is None or after is None else moved_length(before, after),
        left=left.length,
        left_why=left.why,
        privilege=attempt.privilege,
        seconds=attempt.seconds,
        requests=attempt.requests,
        written=attempt.written,
        zeroed=attempt.zeroed,
    )


_LACKING: Final = frozenset({*zeroing.MISSING, errno.EPERM, errno.EACCES})


def _lacking(strategy: Strategy, error: OSError) -> str:
    if isinstance(error, PermissionError):
        return f"only root can: {_said(error)}"
    return f"{strategy.lacking} ({errno.errorcode.get(error.errno or 0, error.errno)})"


def _said(error: DaxmendError | OSError) -> str:
    if isinstance(error, DaxmendError) or not error.strerror:
        return str(error)
    where = f"{os.fsdecode(error.filename)}: " if error.filename else ""
    return f"{where}{error.strerror} ({errno.errorcode.get(error.errno or 0, error.errno)})"


# -- the attempt ---------------------------------------------------------------------------


def _try(directory: Path, strategy: Strategy, lost: list[Lost]) -> _Attempt:
    """As a user who owns the file; what that user may not do is done by root, where that is us."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if os.geteuid() != 0:
            return _try_as_we_are(fd, strategy, lost, "none")
        with _as_nobody():
            attempt = _try_as_we_are(fd, strategy, lost, "none")
        if isinstance(attempt.error, PermissionError):
            return _try_as_we_are(fd, strategy, lost, "root")
        return attempt
    finally:
        os.close(fd)


@contextmanager
def _as_nobody() -> Iterator[None]:
    groups = os.getgroups()
    os.setgroups([])
    os.setegid(NOBODY)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)


def _try_as_we_are(directory: int, strategy: Strategy, lost: list[Lost], who: str) -> _Attempt:
    error = None
    with Patient(directory, FILE_NAME, lost) as patient:
        started = time.perf_counter()
        try:
            strategy.repair(patient)
        except OSError as failed:
            error = failed
        seconds = time.perf_counter() - started
    counts = (patient.requests, patient.written, patient.zeroed)
    return _Attempt(error, patient.has_changed, who, seconds, *counts)


# -- what came of it -----------------------------------------------------------------------


def _verify(path: Path, data: bytes, bad: list[Extent]) -> Measure:
    """By reading all of it from the medium (R45)."""
    now, unreadable = _read_back(path, len(data))
    wrong = [each for each in _by_page(bad) if _difference(data, now, each)]
    pages = len(bad_pages(bad))
    gone = _difference(data, now, Extent(0, len(data)))
    # What cannot be read is still there to be repaired, and is told apart.
    gone -= sum(_difference(data, now, each) for each in unreadable)
    readable = ExtentSet(1, wrong).without(ExtentSet(1, unreadable))
    gone -= sum(_difference(data, now, each) for each in readable)
    still_bad = {page for each in (wrong, unreadable) for page in bad_pages(each)}
    healed = pages - len(still_bad.intersection(bad_pages(bad)))
    outcome = Outcome.PARTLY if healed else Outcome.FAILED
    length = sum(run.length for run in unreadable)
    return Measure(
        Outcome.HEALED if healed == pages else outcome,
        f"{length} bytes cannot be read" if length else "",
        healed,
        gone,
    )


def _by_page(bad: list[Extent]) -> Iterator[Extent]:
    """Ascending ranges, cut where pages end."""
    for each in bad:
        for page in bad_pages([each]):
            yield each.intersection(page)


def _read_back(path: Path, size: int) -> tuple[bytearray, list[Extent]]:
    """What is on the medium, zeros for what cannot be read, and which those are."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        with closing(Reader(fd, str(path), os.fstat(fd).st_size)) as reader:
            saved = reader.salvage(Extent(0, size))
    finally:
        os.close(fd)
    return saved.data, saved.lost


def _difference(data: bytes, now: bytearray, extent: Extent) -> int:
    """How many bytes of a range differ."""
    found = 0
    for at in range(extent.offset, extent.end, PAGE):
        end = min(at + PAGE, extent.end)
        if data[at:end] != now[at:end]:
            found += sum(a != b for a, b in zip(data[at:end], now[at:end], strict=True))
    return found


def _extents(path: Path) -> list[FileExtent] | None:
    """Where the file lies, neighbours as one; None where that cannot be asked."""
    with closing(HostFile(path, str(path))) as file:
        found = file.extents()
    return None if isinstance(found, Unknown) else joined(found)


def joined(extents: list[FileExtent]) -> list[FileExtent]:
    """Ascending extents with those made one that follow each other in the file, on the device and
    in kind: file systems differ in where they cut."""
    out: list[FileExtent] = []
    for each in extents:
        last = out[-1] if out else None
        if last is not None and each[:2] + each[3:] == (
            last.offset + last.length,
            last.device_offset + last.length,
            last.is_written,
        ):
            out[-1] = last._replace(length=last.length + each.length)
        else:
            out.append(each)
    return out


def moved_length(before: list[FileExtent], after: list[FileExtent]) -> int:
    """How many bytes of a file lie elsewhere on the device, or nowhere, that lay somewhere.

    Both are ascending and disjoint.
    """
    stayed = at = 0
    for old in before:
        while at < len(after) and after[at].offset + after[at].length <= old.offset:
            at += 1
        for new in after[at:]:
            part = Extent(old.offset, old.length).intersection(Extent(new.offset, new.length))
            if not part.length:
                break
            if old.device_offset - old.offset == new.device_offset - new.offset:
                stayed += part.length
    return sum(old.length for old in before) - stayed
