"""What a repair of a file would do; decided, and checked, before anything is changed (R46)."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

from daxmend.errors import UsageError
from daxmend.extent import Extent, merged
from daxmend.rescue.subject import CHUNK
from daxmend.units import PAGE

if TYPE_CHECKING:
    from daxmend.rescue.subject import Subject

_MAX_NAMED = 3  # ranges that a warning names

Progress = Callable[[int], None]


class Strategy(StrEnum):
    """How the bad pages are given new bytes."""

    WRITE = "write"  # an aligned write, in place (R14)
    ZERO = "zero"  # in place, by the best verb there is (R29, R34)
    PUNCH = "punch"  # punch and write: the file moves (R35)


class BadPage(NamedTuple):
    """A page of the file, cut at its end, and what of it cannot be read."""

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


def find_bad_pages(subject: Subject, progress: Progress) -> list[BadPage]:
    """Read the whole file, guarded; holes have nothing to lose (R13). Ascending."""
    found: dict[int, list[Extent]] = {}
    done = 0
    for extent in subject.data():
        at = extent.offset
        while at < extent.end:
            chunk = Extent.between(at, min(extent.end, at - at % CHUNK + CHUNK))
            for lost in subject.salvage(chunk).lost:
                for part in _pages(lost):
                    found.setdefault(part.offset // PAGE, []).append(part)
            at = chunk.end
            progress(at - done)
            done = at
    progress(subject.size - done)
    file = Extent(0, subject.size)
    return [
        BadPage(Extent(pgoff * PAGE, PAGE).intersection(file), merged(lost))
        for pgoff, lost in sorted(found.items())
    ]


def _pages(extent: Extent) -> list[Extent]:
    """The range, cut at every page."""
    wide = extent.widened(PAGE)
    return [Extent(at, PAGE).intersection(extent) for at in range(wide.offset, wide.end, PAGE)]


def plan_file_repair(
    subject: Subject, copy: Subject | None, strategy: Strategy, progress: Progress
) -> RepairPlan:
    """Find what is bad, and what can be put there; only reads.

    Raises `UsageError` for a copy that cannot be one: the file itself, or shorter. A page for which
    the copy is bad itself is refused, the others are not.
    """
    if copy is not None:
        _validate_copy(subject, copy)
    pages: list[BadPage] = []
    refused: list[tuple[BadPage, str]] = []
    differing: list[Extent] = []
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
    warnings = _warnings(subject, copy, strategy, pages, differing)
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
    ours, theirs = subject.salvage(near), copy.salvage(near)
    for run in [*ours.lost, *theirs.lost]:
        start = run.offset - near.offset
        for data in (ours.data, theirs.data):
            data[start : start + run.length] = bytes(run.length)
    return ours.data != theirs.data


def _warnings(
    subject: Subject,
    copy: Subject | None,
    strategy: Strategy,
    pages: list[BadPage],
    differing: list[Extent],
) -> list[str]:
    said = []
    if copy is not None and differing:
        where = ", ".join(str(page.offset) for page in differing[:_MAX_NAMED])
        more = ", …" if len(differing) > _MAX_NAMED else ""
        is_older = copy.mtime_ns < subject.mtime_ns
        older = ", and was last written before it was" if is_older else ""
        said.append(
            f"{copy.name} has other bytes than {subject.name} where both can be read, in or beside "
            f"{len(differing)} of {len(pages)} bad pages (at offset {where}{more}){older}: is it "
            "the same version?"
        )
    if copy is not None and pages and copy.size > subject.size:
        said.append(f"{copy.name} is longer ({copy.size} bytes) than {subject.name}")
    if strategy is Strategy.PUNCH and pages:
        said.append(
            "punching gives the bad blocks back to the file system, and takes others: the file is "
            "fragmented, and somebody else may get the bad ones; --from COPY or --zero repair in "
            "place"
        )
    elif any(subject.shared(page.extent) for page in pages):
        said.append(
            f"{subject.name} shares bad blocks with other files (reflink): a write gives it blocks "
            "of its own, and the others keep the bad ones; repair each of them"
        )
    return said
