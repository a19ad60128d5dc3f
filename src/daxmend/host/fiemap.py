"""Where an ordinary file lies on its device: the FIEMAP ioctl (Linux, linux/fiemap.h).

Numbers are the kernel's, defined here: Python has none, and headers differ in age.
"""

from __future__ import annotations

import errno
import fcntl
import os
from enum import IntFlag
from struct import Struct
from typing import Final, NamedTuple

from daxmend.extent import Extent
from daxmend.host.unknown import Unknown
from daxmend.units import MAX_OFFSET

FS_IOC_FIEMAP: Final = 0xC020660B  # _IOWR('f', 11, struct fiemap), 32 bytes
FS_IOC_FSGETXATTR: Final = 0x801C581F  # _IOR('X', 31, struct fsxattr), 28 bytes
_FSXATTR_SIZE: Final = 28
_XFLAGS: Final = Struct("=I")
_XFLAG_REALTIME: Final = 0x1
_FLAG_SYNC: Final = 1  # write dirty data back first, so that delayed allocation has a place
_HEAD: Final = Struct("=QQIIII")  # start, length, flags, mapped_extents, extent_count, reserved
_EXTENT: Final = Struct("=QQQ16xI12x")  # logical, physical, length, reserved64[2], flags, reserved
_COUNT: Final = 256  # extents an answer

_UNSUPPORTED: Final = frozenset({errno.EOPNOTSUPP, errno.ENOTTY, errno.EINVAL, errno.ENOSYS})


class FiemapFlag(IntFlag):
    """`FIEMAP_EXTENT_*`."""

    LAST = 0x1
    UNKNOWN = 0x2
    DELALLOC = 0x4
    ENCODED = 0x8
    DATA_ENCRYPTED = 0x80
    NOT_ALIGNED = 0x100
    DATA_INLINE = 0x200
    DATA_TAIL = 0x400
    UNWRITTEN = 0x800
    MERGED = 0x1000
    SHARED = 0x2000


# With one of these, `device_offset` is not where the bytes can be found.
_NO_PLACE: Final = (
    FiemapFlag.UNKNOWN
    | FiemapFlag.DELALLOC
    | FiemapFlag.ENCODED
    | FiemapFlag.DATA_ENCRYPTED
    | FiemapFlag.NOT_ALIGNED
    | FiemapFlag.DATA_INLINE
    | FiemapFlag.DATA_TAIL
)


class FiemapExtent(NamedTuple):
    """`length` bytes at `offset` of the file lie at `device_offset` of its device; in bytes."""

    offset: int
    device_offset: int
    length: int
    flags: FiemapFlag

    @property
    def is_written(self) -> bool:
        """Whether it holds data: an unwritten extent reads as zeros."""
        return not self.flags & FiemapFlag.UNWRITTEN

    @property
    def is_shared(self) -> bool:
        """Whether other files have the same blocks (reflink)."""
        return bool(self.flags & FiemapFlag.SHARED)

    @property
    def has_place(self) -> bool:
        """Whether the bytes stand as they are at `device_offset`."""
        return not self.flags & _NO_PLACE


def file_extents(
    fd: int, within: Extent | None = None, *, sync: bool = True
) -> list[FiemapExtent] | Unknown:
    """The extents that touch a range of the file, or all of them; ascending.

    Some file systems cut them to the range, or to something larger. With `sync` dirty data is
    written back first; without, what has no place yet says so. `Unknown` where the file system has
    no FIEMAP; raises `OSError` for everything else that goes wrong.
    """
    whole = Extent(0, MAX_OFFSET) if within is None else within
    found: list[FiemapExtent] = []
    offset = whole.offset
    while offset < whole.end:
        try:
            some = _ask(fd, offset, whole.end - offset, sync)
        except OSError as error:
            if error.errno in _UNSUPPORTED and not found:
                return Unknown("its file system does not tell where files lie (no FIEMAP)")
            raise
        found += some
        if not some or some[-1].flags & FiemapFlag.LAST:
            break
        offset = some[-1].offset + some[-1].length
    return found


def _ask(fd: int, offset: int, length: int, sync: bool) -> list[FiemapExtent]:
    answer = bytearray(_HEAD.size + _COUNT * _EXTENT.size)
    _HEAD.pack_into(answer, 0, offset, length, _FLAG_SYNC if sync else 0, 0, _COUNT, 0)
    fcntl.ioctl(fd, FS_IOC_FIEMAP, answer)
    return unpack_fiemap(answer)


def unpack_fiemap(answer: bytes | bytearray) -> list[FiemapExtent]:
    """The extents of the kernel's answer."""
    mapped: int = _HEAD.unpack_from(answer)[3]
    end = _HEAD.size + mapped * _EXTENT.size
    rows = _EXTENT.iter_unpack(memoryview(answer)[_HEAD.size : end])
    return [FiemapExtent(at, place, length, FiemapFlag(flags)) for at, place, length, flags in rows]


def device_of(fd: int) -> int | Unknown:
    """The device number of the block device that holds the file, to which FIEMAP's places refer."""
    device = os.fstat(fd).st_dev
    if os.major(device) == 0:
        return Unknown("its file system is not on one block device")
    if _is_realtime(fd):
        return Unknown("it lies on the realtime device of its file system")
    return device


def _is_realtime(fd: int) -> bool:
    """Whether XFS keeps the file on another device than st_dev says."""
    answer = bytearray(_FSXATTR_SIZE)
    try:
        fcntl.ioctl(fd, FS_IOC_FSGETXATTR, answer)
    except OSError:
        return False  # file systems that do not know the ioctl have no such device
    flags: int = _XFLAGS.unpack_from(answer)[0]
    return bool(flags & _XFLAG_REALTIME)
