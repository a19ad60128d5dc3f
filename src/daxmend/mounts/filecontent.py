"""A file of a file system as something to write to: the page heals as a whole (R14, R16)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from daxmend.extent import Extent
from daxmend.units import PAGE

if TYPE_CHECKING:
    from daxmend.dax.api import Recovery
    from daxmend.fs import FileSystem
    from daxmend.fuse import Buffer


class FileContent:
    """The bytes of inode `nodeid` (implements `Content`)."""

    unit = PAGE

    def __init__(self, fs: FileSystem, ino: int) -> None:
        self._fs = fs
        self.nodeid = ino
        self.name = f"inode {ino}"

    def read(self, extent: Extent) -> Buffer:
        """See `Content`."""
        return self._fs.read(self.nodeid, extent.offset, extent.length)

    def write(self, offset: int, data: memoryview, recovery: Recovery) -> int:
        """See `Content`."""
        return self._fs.write(self.nodeid, offset, data, recovery)

    def place(self, extent: Extent) -> Extent | None:
        """See `Content`."""
        for offset, place in self._fs.device_extents(self.nodeid, extent):
            return Extent(place.offset + extent.offset - offset, extent.length)
        return None

    def is_bad(self, extent: Extent) -> bool:
        """See `Content`."""
        page = self.place(extent.widened(PAGE))
        return page is not None and any(True for _ in self._fs.device.badblocks(page))

    def needs_rest(self, start: Extent) -> bool:
        """See `Content`. What lies beyond the end of the file counts as written (R16)."""
        page = self.place(start.widened(PAGE))
        if page is None:  # a hole, or unwritten: there is nothing in it to heal (R13)
            return False
        device = self._fs.device
        bad = [run for run, _ in device.badblocks(page)]
        if not bad:
            return False
        owned_end = page.offset + max(self._fs.stat(self.nodeid).size, start.end) - start.offset
        rest = Extent.between(page.offset + start.length, owned_end).intersection(page)
        bad += device.recovery_read(page).lost
        return any(rest.overlaps(run) for run in bad)
