"""The blocks below a file, read by sectors: what is lost by pages above can be smaller there (R33).

A file in DAX mode gives nothing of a page with one bad sector; its block device gives the seven
good ones. For who may read the device, and on file systems that tell where the bytes are.
"""

from __future__ import annotations

import os
from typing import Final

from daxmend.dax.api import Salvage
from daxmend.extent import Extent, merged
from daxmend.host.fiemap import FiemapExtent, FiemapFlag, device_of, file_extents
from daxmend.host.mountinfo import find_mount_of
from daxmend.host.topology import find_block_device
from daxmend.host.unknown import Unknown
from daxmend.rescue.reader import Reader
from daxmend.units import SECTOR, is_aligned

# Where FIEMAP's places count from the start of the one device that st_dev names.
_FILE_SYSTEMS: Final = frozenset({"ext2", "ext3", "ext4", "xfs"})


class BlocksBelow:
    """The device below one open file; it is opened read-only."""

    def __init__(self, fd: int, device: int, name: str) -> None:
        self._fd = fd
        self._block = device
        self._reader = Reader(device, name, os.lseek(device, 0, os.SEEK_END))

    def refine(self, extent: Extent, saved: Salvage) -> Salvage:
        """The same salvage of a range of the file, with what the device gives of what was lost.

        Nothing is taken from it where the file system moves the file meanwhile.
        """
        data, lost = saved.data, []
        for run in saved.lost:
            found = self._read(run)
            if found is None:
                lost.append(run)
                continue
            start = run.offset - extent.offset
            data[start : start + run.length] = found.data
            lost += found.lost
        return Salvage(data, merged(lost))

    def _read(self, run: Extent) -> Salvage | None:
        """What the device has of a range of the file; in the file's offsets."""
        before = self._map(run)
        if before is None:
            return None
        data, lost = bytearray(run.length), []
        for each in before:
            part = Extent(each.offset, each.length).intersection(run)
            distance = each.device_offset - each.offset
            got = self._reader.salvage(part.shifted(distance))
            at = part.offset - run.offset
            data[at : at + part.length] = got.data
            lost += [bad.shifted(-distance) for bad in got.lost]
        return Salvage(data, lost) if self._map(run) == before else None

    def _map(self, run: Extent) -> list[FiemapExtent] | None:
        """Where the range lies; None unless all of it has a place on the device."""
        try:
            extents = file_extents(self._fd, run)
        except OSError:
            return None
        if isinstance(extents, Unknown):
            return None
        at = run.offset
        for each in extents:
            place = each.device_offset + max(at - each.offset, 0)
            is_usable = each.has_place and not each.flags & FiemapFlag.UNWRITTEN
            if each.offset > at or not is_usable or not is_aligned(place, SECTOR):
                return None
            if each.device_offset + each.length > self._reader.size:
                return None
            at = each.offset + each.length
        return extents if at >= run.end else None

    def close(self) -> None:
        """Let go of the device."""
        self._reader.close()
        os.close(self._block)


def open_below(fd: int, path: str | os.PathLike[str]) -> BlocksBelow | Unknown:
    """The device below an open file; `Unknown` where it cannot be known, or may not be read."""
    mount = find_mount_of(path)
    if mount is None or mount.fstype not in _FILE_SYSTEMS:
        return Unknown("its file system does not tell where the bytes lie on one device")
    number = device_of(fd)
    if isinstance(number, Unknown):
        return number
    device = find_block_device(number)
    if isinstance(device, Unknown):
        return device
    try:
        block = os.open(device.node, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        return Unknown(f"{device.node} cannot be opened: {error.strerror}")
    if os.fstat(block).st_rdev != number:
        os.close(block)
        return Unknown(f"{device.node} is another device than the file's")
    return BlocksBelow(fd, block, device.node)
