"""A file of a file system, as a target: its bytes, translated to the device's and back."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from daxmend.errors import UsageError
from daxmend.extent import Extent, check_bounds
from daxmend.faults import Fault
from daxmend.rescue.target import Range, recorded_sectors
from daxmend.units import CACHELINE, SECTOR, align_up

if TYPE_CHECKING:
    from daxmend.rescue.target import DeviceTarget, FileExtent


class FileTarget:
    """Implements `Target`; offsets count from the start of the file (R47).

    Where the file lies is asked once. What lies behind its end, and what is in no extent of it, is
    not the file's. `path` is absolute in the file system.
    """

    content = "file"

    def __init__(self, device: DeviceTarget, path: bytes, name: str) -> None:
        places = device.find_file(path)
        self.name = name
        self.notices = device.notices
        self.unknown = device.unknown
        self.size = places.size
        self.extents = places.extents
        self._device = device
        self._by_place = sorted(places.extents, key=lambda extent: extent.device_offset)
        self._places = [extent.device_offset for extent in self._by_place]
        self._offsets = [extent.offset for extent in self.extents]

    # -- translation -----------------------------------------------------------------------

    def _in_file(self, device_extent: Extent) -> Iterator[tuple[Extent, int]]:
        """The parts of a device range that are the file's, up to its end.

        In bytes of the file, and where each begins on the device.
        """
        at = max(bisect_right(self._places, device_extent.offset) - 1, 0)
        for index in range(at, len(self._by_place)):
            extent = self._by_place[index]
            if extent.device_offset >= device_extent.end:
                return
            part = device_extent.intersection(Extent(extent.device_offset, extent.length))
            distance = extent.offset - extent.device_offset
            inside = part.shifted(distance).intersection(Extent(0, self.size))
            if part.length and inside.length:
                yield inside, inside.offset - distance

    def _mapped(self, extent: Extent) -> Iterator[FileExtent]:
        """The pieces of the file's extents inside a range of it."""
        at = max(bisect_right(self._offsets, extent.offset) - 1, 0)
        for index in range(at, len(self.extents)):
            each = self.extents[index]
            if each.offset >= extent.end:
                return
            part = extent.intersection(Extent(each.offset, each.length))
            if part.length:
                place = each.device_offset + part.offset - each.offset
                yield each._replace(offset=part.offset, device_offset=place, length=part.length)

    def _on_device(self, extent: Extent) -> list[Extent]:
        """Where the range of the file lies. `UsageError` beyond the end, or where a hole is."""
        if extent.offset >= self.size or extent.end > align_up(self.size, SECTOR):
            check_bounds(extent, self.size, self.name)
        found = []
        end = extent.offset
        for part in self._mapped(extent):
            if part.offset > end:
                break
            found.append(Extent(part.device_offset, part.length))
            end = part.offset + part.length
        if end < extent.end:
            raise UsageError(
                f"{self.name}: there is a hole at offset {end}: nothing of the device lies there, "
                "and nothing was changed"
            )
        return found

    # -- what a target does ----------------------------------------------------------------

    def badblocks(self) -> list[Extent]:
        """See `Target`."""
        return recorded_sectors(self.ranges(), SECTOR)

    def ranges(self) -> list[Range]:
        """See `Target`."""
        found = []
        for bad in self._device.ranges():
            for part, place in self._in_file(bad.extent):
                found.append(Range(part, bad.kind, place, "file", bad.path, part.offset))
        return sorted(found, key=lambda each: (each.extent, each.kind))

    def inject(self, faults: Iterable[Fault]) -> None:
        """See `Target`."""
        self._device.inject(
            [
                fault._replace(extent=place)
                for fault in faults
                for place in self._on_device(fault.extent)
            ]
        )

    def uninject(self, extent: Extent) -> Extent:
        """See `Target`."""
        lines = extent.widened(CACHELINE)
        for place in self._on_device(lines):
            self._device.uninject(place)
        return lines

    def scrub(self, extent: Extent | None) -> Iterator[Extent]:
        """See `Target`; there is nothing to look at in a hole."""
        if extent is not None:
            check_bounds(extent, self.size, self.name)
        for part in self._mapped(Extent(0, self.size) if extent is None else extent):
            for done in self._device.scrub(Extent(part.device_offset, part.length)):
                yield done.shifted(part.offset - part.device_offset)

    def status(self) -> dict[str, object]:
        """See `Target`."""
        return self.describe(self.ranges())

    def describe(self, ranges: list[Range]) -> dict[str, object]:
        """The status for `ranges`, just asked: of the file, and which device it lies on."""
        lengths = Counter[str]()
        for found in ranges:
            lengths[found.kind] += found.extent.length
        device = self._device.status()
        return {
            "file": self.name,
            "size": self.size,
            "extents": len(self.extents),
            "recorded": lengths.total() - lengths["poison"],
            "lost": lengths["lost"],
            "poison": lengths["poison"],
            "device": device["device"],
            "mounted": device["mounted"],
        }

    def events(self) -> list[dict[str, object]] | None:
        """See `Target`."""
        found = self._device.events()
        return None if found is None else [each for each in found if self._is_touched_by(each)]

    def _is_touched_by(self, event: dict[str, object]) -> bool:
        offset, length = event.get("offset"), event.get("length")
        if not isinstance(offset, int) or not isinstance(length, int):
            return False
        return any(True for _ in self._in_file(Extent(offset, length)))

    def close(self) -> None:
        """See `Target`."""
        self._device.close()
