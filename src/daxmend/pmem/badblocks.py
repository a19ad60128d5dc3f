"""The bad-block record in memory: which sectors are bad, and which of them are lost (R1, R8)."""

from collections.abc import Iterator

from daxmend.dax.api import SectorState
from daxmend.extent import Extent, ExtentSet
from daxmend.units import SECTOR


class BadBlocks:
    """Sets of sectors with the kernel's verbs; extents are sector-aligned byte ranges.

    No limit of size, nothing forgotten, nothing invented; each verb costs O(log n).
    """

    def __init__(self) -> None:
        self.recorded = ExtentSet(SECTOR)
        self.lost = ExtentSet(SECTOR)  # always a part of `recorded`

    def check(self, extent: Extent) -> bool:
        """True if a sector that `extent` touches is recorded."""
        return self.recorded.overlaps(extent)

    def first(self, extent: Extent) -> int | None:
        """The offset of the first recorded byte in `extent`, or None."""
        found = self.recorded.next_offset(extent.offset)
        return found if found is not None and found < extent.end else None

    def set(self, extent: Extent) -> None:
        """Record the sectors as bad. Those already lost stay lost."""
        self.recorded.add(extent)

    def set_lost(self, extent: Extent) -> None:
        """Record the sectors as cleared and not rewritten: their content is gone."""
        self.recorded.add(extent)
        self.lost.add(extent)

    def clear(self, extent: Extent) -> None:
        """Forget the sectors: they were written and proven good, or are poison-free again."""
        self.recorded.discard(extent)
        self.lost.discard(extent)

    def states(self, within: Extent) -> Iterator[tuple[Extent, SectorState]]:
        """The record inside the range, ascending, cut where the state changes."""
        for run in self.recorded.extents(within):
            position = run.offset
            for lost in self.lost.extents(run):
                if position < lost.offset:
                    yield Extent.between(position, lost.offset), SectorState.BAD
                yield lost, SectorState.LOST
                position = lost.end
            if position < run.end:
                yield Extent.between(position, run.end), SectorState.BAD
