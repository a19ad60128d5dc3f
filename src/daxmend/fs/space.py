"""Which pages of the device are free (architecture.md, "The file system").

Nothing of it is on the medium: it is what superblocks, journal, checkpoint and files leave. A page
that was freed is not reused before the change that freed it is durable, and one that is bad not
before it is cleared (R31).
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, NamedTuple

from daxmend.errors import MediaError, os_error
from daxmend.events import SpaceCleared
from daxmend.extent import Extent, ExtentSet
from daxmend.units import MIB, PAGE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from daxmend.dax.api import DaxDevice

_LOOK_AT = 16  # free runs that one allocation compares
_SLICE = MIB  # bytes cleared in one turn


class Statfs(NamedTuple):
    """Space in blocks of 4096 bytes; files and what more of them could be made."""

    blocks: int
    bfree: int
    bavail: int
    files: int
    ffree: int


class Space:
    """The free pages of a device, in bytes. Used under the device's lock."""

    def __init__(self, device: DaxDevice) -> None:
        self._device = device
        self._free = ExtentSet(PAGE, [Extent(0, device.size)])
        self._freed = ExtentSet(PAGE)  # until the next commit
        self.quarantine = ExtentSet(PAGE)  # free, but bad
        self._to_clear = ExtentSet(PAGE)  # those that nobody has tried to clear yet
        self._cursor = 0
        self.free_length = device.size  # bytes that can be allocated now
        self._freed_length = 0

    def take(self, extent: Extent) -> None:
        """While mounting: the extent is in use. What overlaps shows in `is_consistent`."""
        self._free.discard(extent.intersection(Extent(0, self._device.size)))
        self.free_length -= extent.length

    @property
    def is_consistent(self) -> bool:
        """True if what was taken lay on the device, and nothing was taken twice."""
        return self._free.length == self.free_length

    @property
    def unused_length(self) -> int:
        """Bytes that are free, or will be."""
        return self.free_length + self._freed_length + self.quarantine.length

    @property
    def has_freed(self) -> bool:
        """True if a commit makes more room."""
        return self._freed_length > 0

    def used(self, extent: Extent) -> Iterator[Extent]:
        """The parts of a page-aligned extent that are in use."""
        rest = ExtentSet(PAGE, [extent])
        for pages in (self._free, self._freed, self.quarantine):
            for run in pages.extents(extent):
                rest.discard(run)
        return iter(rest)

    def allocate(self, length: int, goal: int | None = None) -> Extent:
        """At most `length` bytes in one run, at `goal` if that is free; whole, good pages.

        Raises ENOSPC if there is none.
        """
        while True:
            run = self._choose(length, goal)
            if run is None:
                raise os_error(errno.ENOSPC)
            bad = next((bad for bad, _ in self._device.badblocks(run)), None)
            if bad is None:
                break
            self._seclude(bad)
            if bad.offset >= run.offset + PAGE:
                run = Extent.between(run.offset, bad.widened(PAGE).offset)
                break
        self._free.discard(run)
        self.free_length -= run.length
        self._cursor = run.end
        return run

    def _choose(self, length: int, goal: int | None) -> Extent | None:
        if goal is not None and self._free.next_offset(goal) == goal:
            return next(self._free.extents(Extent(goal, length)))
        best = None
        for run in self._runs_from_cursor():
            if best is None or run.length > best.length:
                best = run
            if best.length >= length:
                break
        return None if best is None else Extent(best.offset, min(length, best.length))

    def _runs_from_cursor(self) -> Iterator[Extent]:
        looked = 0
        for start, end in ((self._cursor, self._device.size), (0, self._cursor)):
            for run in self._free.extents(Extent.between(start, end)):
                yield run
                looked += 1
                if looked >= _LOOK_AT:
                    return

    def give_back(self, extent: Extent) -> None:
        """Pages that were allocated and are not in use after all: free at once."""
        self._free.add(extent)
        self.free_length += extent.length

    def claim(self, extent: Extent) -> None:
        """Allocate pages that are known to be free."""
        self._free.discard(extent)
        self.free_length -= extent.length

    def free(self, extent: Extent) -> None:
        """Pages that a change freed: they can be allocated after `settle`."""
        self._freed.add(extent)
        self._freed_length += extent.length

    def settle(self) -> None:
        """What was freed is durably so: it may be reused, but for what is bad."""
        if not self._freed_length:
            return
        for extent in list(self._freed):
            self.give_back(extent)
            for bad, _ in self._device.badblocks(extent):
                self._seclude(bad)
        self._freed.clear()
        self._freed_length = 0

    def seclude(self, extents: Iterable[Extent]) -> None:
        """Put what is bad and free into quarantine; sector-aligned extents of the record."""
        for extent in extents:
            self._seclude(extent)

    def _seclude(self, bad: Extent) -> None:
        for run in list(self._free.extents(bad.widened(PAGE))):
            self._free.discard(run)
            self.free_length -= run.length
            self.quarantine.add(run)
            self._to_clear.add(run)

    def clear_some(self) -> bool:
        """Clear a slice of the quarantine and free it (R31); True if there is more to try.

        A page that the medium does not clear stays in quarantine until the next mount tries again.
        """
        run = next(iter(self._to_clear), None)
        if run is None:
            return False
        cleared = Extent(run.offset, self._clear(Extent(run.offset, min(run.length, _SLICE))))
        if cleared.length:
            self.quarantine.discard(cleared)
            self.give_back(cleared)
            self._device.events.publish(SpaceCleared(cleared))
        self._to_clear.discard(cleared if cleared.length else Extent(run.offset, PAGE))
        return bool(self._to_clear)

    def _clear(self, extent: Extent) -> int:
        try:
            return self._device.zeroinit(extent)
        except MediaError:
            return 0
