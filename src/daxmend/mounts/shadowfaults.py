"""The faults of one file of a shadow mount: what fails, and what a write heals.

The bytes below stay as they are. A *recorded* sector fails until a write heals it; a *latent* line
is known to nobody until an access meets it, and is recorded then (R3); *once* fails one access.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from daxmend.events import (
    Event,
    EventHub,
    FaultInjected,
    FaultRemoved,
    PoisonConsumed,
    PoisonFound,
    RecoveryDone,
    ScrubDone,
)
from daxmend.extent import Extent, ExtentSet, merged
from daxmend.faults import Fault, FaultKind
from daxmend.units import CACHELINE, MAX_OFFSET, PAGE, SECTOR, align_down, align_up


@dataclass(frozen=True, slots=True)
class InFile(Event):
    """What happened to a file: `event` counts from its start; `path` is empty without a name."""

    event: Event
    path: str
    ino: int

    def as_dict(self) -> dict[str, object]:
        """The fields of `event`, then `path` and `ino`."""
        return {**self.event.as_dict(), "path": self.path, "ino": self.ino}


class FileFaults:
    """Offsets are bytes of the file (R47). Used on the request thread (implements `Holder`).

    `events` tells of this file alone.
    """

    def __init__(self, *, allows_recovery: bool) -> None:
        self.events = EventHub()
        self.allows_recovery = allows_recovery
        self._recorded = ExtentSet(SECTOR)
        self._latent = ExtentSet(CACHELINE)
        self._once = ExtentSet(SECTOR)
        self._tried: set[int] = set()  # of these, the page cache has heard

    def __bool__(self) -> bool:
        return bool(self._recorded or self._latent or self._once)

    # -- what there is ---------------------------------------------------------------------

    def add(self, fault: Fault) -> None:
        """Make the range bad, in its way (R2)."""
        extent = fault.extent
        if fault.kind is FaultKind.UNTIL_WRITTEN:
            self._recorded.add(extent)
            self._latent.discard(extent)
        elif fault.kind is FaultKind.LATENT:
            for run in self._recorded.gaps(extent):
                self._latent.add(run)
        else:
            self._once.add(extent)
        self.events.publish(FaultInjected(extent, fault.kind.value))

    def remove(self, extent: Extent) -> None:
        """Take away what fails in the range: the bytes below were good all the time."""
        self.discard(extent)
        self.events.publish(FaultRemoved(extent))

    def cut(self, size: int) -> None:
        """The file was truncated: what lies behind its end has gone (R32)."""
        end = align_up(size, SECTOR)
        self.discard(Extent.between(end, align_down(MAX_OFFSET, SECTOR)))

    def discard(self, extent: Extent) -> None:
        """As `remove`, and nobody is told."""
        for kept in (self._recorded, self._latent, self._once):
            for run in list(kept.extents(extent.widened(kept.grain))):  # few; the range may be huge
                kept.discard(run)

    def faults(self, pattern: str) -> Iterator[Fault]:
        """All of them, as lines of a plan."""
        for kept, kind in (
            (self._recorded, FaultKind.UNTIL_WRITTEN),
            (self._once, FaultKind.ONCE),
            (self._latent, FaultKind.LATENT),
        ):
            for extent in kept:
                yield Fault(extent, kind, pattern)

    def recorded(self, within: Extent) -> Iterator[Extent]:
        """The recorded sectors in a range, merged, whole ones."""
        return self._recorded.extents(within.widened(SECTOR))

    def overlaps(self, extent: Extent) -> bool:
        """Whether an access to the range fails."""
        return any(kept.overlaps(extent) for kept in (self._recorded, self._latent, self._once))

    # -- reading ---------------------------------------------------------------------------

    def first_bad(self, extent: Extent) -> int | None:
        """Where the first byte of the range lies that cannot be read."""
        found = [kept.next_offset(extent.offset) for kept in (self._recorded, self._latent)]
        found.append(self._once.next_offset(extent.offset))
        offset = min((at for at in found if at is not None), default=extent.end)
        return offset if offset < extent.end else None

    def notice(self, offset: int) -> None:
        """An access stopped at `offset`: latent poison becomes known (R3)."""
        byte = Extent(offset, 1)
        if self._latent.overlaps(byte):
            sector = byte.widened(SECTOR)
            self._recorded.add(sector)
            self._latent.discard(sector)
            self.events.publish(PoisonConsumed(sector))

    def meet(self, offset: int, *, ahead: int = 0) -> None:
        """An access failed at `offset`: latent poison becomes known, *once* is spent.

        `ahead` bytes were read for the page cache: the kernel comes again, for one page, if
        somebody wants to know, and only then the access has failed.
        """
        self.notice(offset)
        byte = Extent(offset, 1)
        if self._once.overlaps(byte):
            start = byte.widened(SECTOR).offset
            while start and self._once.overlaps(Extent(start - SECTOR, SECTOR)):
                start -= SECTOR
            if ahead and (ahead > PAGE or start not in self._tried):
                self._tried.add(start)
                return
            self._tried.discard(start)
            self._once.discard(next(self._once.extents(Extent.between(start, MAX_OFFSET))))

    def scrub(self, size: int) -> None:
        """Record the latent poison in a file of `size` bytes (R4), and tell of it and the end."""
        found = merged(run.widened(SECTOR) for run in self._latent)
        for run in found:
            self._recorded.add(run)
            self._latent.discard(run)
            self.events.publish(PoisonFound(run))
        self.events.publish(ScrubDone(Extent(0, size), sum(run.length for run in found)))

    # -- writing ---------------------------------------------------------------------------

    def first_refused(self, extent: Extent, size: int, *, may_heal: bool) -> Extent | None:
        """The first page, of a file of `size` bytes, that a write of the range cannot heal (R16).

        A page without a recorded sector takes every write: a store over latent poison leaves it
        (R5). What lies behind the end of the file counts as covered.
        """
        covered = Extent.between(
            extent.offset, align_up(extent.end, PAGE) if extent.end >= size else extent.end
        )
        pages = extent.widened(PAGE)
        if not may_heal:
            bad = next(self._recorded.extents(pages), None)
            return None if bad is None else Extent(bad.offset, 1).widened(PAGE)
        for offset in sorted({pages.offset, pages.end - PAGE}):
            page = Extent(offset, PAGE)
            recorded = list(self._recorded.extents(page))
            bad_runs = [*recorded, *self._latent.extents(page)] if recorded else []
            if not all(covered.covers(run) for run in bad_runs):
                return page
        return None

    def heal(self, written: Extent) -> None:
        """The range was written, and `first_refused` found nothing in it: it is good (R14)."""
        pages = merged(run.widened(PAGE) for run in self._recorded.extents(written.widened(PAGE)))
        for page in pages:
            self._recorded.discard(page)
            self._latent.discard(page)
        for page in pages:
            self.events.publish(RecoveryDone(page))

    def hold(self, offset: int, data: bytes, unit: int) -> None:
        """The server keeps a half of a write, as it keeps the fault: as long as it lives."""

    def drop_hold(self, extent: Extent) -> None:
        """See `hold`."""
