"""Who owns the blocks of a mounted file system: the GETFSMAP ioctl (Linux, linux/fsmap.h).

The time it takes is that of the range asked for, not of the files. XFS with a reverse map (mkfs
`-m rmapbt=1`) names the inode, and where in it, to who has CAP_SYS_ADMIN; ext4, and XFS else, tell
free space and metadata from the rest. Numbers are the kernel's, defined here: Python has none.
"""

from __future__ import annotations

import errno
import fcntl
from enum import IntFlag
from struct import Struct
from typing import Final, NamedTuple

from daxmend.extent import Extent
from daxmend.host.devicenumber import decode_device, encode_device
from daxmend.host.unknown import Unknown

FS_IOC_GETFSMAP: Final = 0xC0C0583B  # _IOWR('X', 59, struct fsmap_head), 192 bytes
_HEAD: Final = Struct("=IIII48x")  # iflags, oflags, count, entries; then two keys
_RECORD: Final = Struct("=IIQQQQ24x")  # device, flags, physical, owner, offset, length
_START: Final = _HEAD.size + 2 * _RECORD.size
_COUNT: Final = 256  # records an answer
_MAX: Final = (1 << 64) - 1

_FREE: Final = 1  # FMR_OWN_FREE; the kinds below 2**32 mean the same on every file system
_UNKNOWN: Final = 2

_UNSUPPORTED: Final = frozenset({errno.EOPNOTSUPP, errno.ENOTTY, errno.EINVAL, errno.ENOSYS})


class FsmapFlag(IntFlag):
    """`FMR_OF_*`."""

    PREALLOC = 0x1
    ATTR_FORK = 0x2
    EXTENT_MAP = 0x4
    SHARED = 0x8
    SPECIAL_OWNER = 0x10
    LAST = 0x20


class FsmapRecord(NamedTuple):
    """`extent`, in bytes of the device `device`, is `owner`'s from `offset` of it on."""

    device: int
    extent: Extent
    flags: FsmapFlag
    owner: int
    offset: int

    @property
    def is_free(self) -> bool:
        """Whether nobody has it."""
        return bool(self.flags & FsmapFlag.SPECIAL_OWNER) and self.owner == _FREE

    @property
    def is_untold(self) -> bool:
        """Whether somebody has it, and the file system does not tell who."""
        return bool(self.flags & FsmapFlag.SPECIAL_OWNER) and self.owner == _UNKNOWN

    @property
    def is_metadata(self) -> bool:
        """Whether the file system itself has it, or it is an inode's map or attributes."""
        if self.flags & FsmapFlag.SPECIAL_OWNER:
            return not (self.is_free or self.is_untold)
        return bool(self.flags & (FsmapFlag.ATTR_FORK | FsmapFlag.EXTENT_MAP))

    @property
    def ino(self) -> int | None:
        """The inode that has it; None where it is not one, or that is not told."""
        return None if self.flags & FsmapFlag.SPECIAL_OWNER else self.owner


def read_fsmap(fd: int, device: int, extent: Extent) -> list[FsmapRecord] | Unknown:
    """The owners of a range of a file system's device, ascending, cut to it; bytes.

    `fd` is anything in the file system, `device` the number (st_dev). `Unknown` where the file
    system cannot tell; raises `OSError` for everything else.
    """
    found: list[FsmapRecord] = []
    low = _pack_key(device, extent.offset, 0, 0, 0)
    while True:
        try:
            records = _ask(fd, device, low, extent)
        except OSError as error:
            if error.errno in _UNSUPPORTED:
                return Unknown("its file system does not tell who owns a block (no GETFSMAP)")
            raise
        found += [record for record in records if record.device == device]
        if len(records) < _COUNT or records[-1].flags & FsmapFlag.LAST:
            return [cut for record in found if (cut := _cut(record, extent)).extent.length]
        last = records[-1]
        # The kernel goes on behind the low key if that is what it answered last.
        low = _RECORD.pack(
            encode_device(last.device), last.flags, last.extent.offset, last.owner, last.offset,
            last.extent.length,
        )  # fmt: skip


def _cut(record: FsmapRecord, extent: Extent) -> FsmapRecord:
    part = record.extent.intersection(extent)
    moved = part.offset - record.extent.offset
    return record._replace(extent=part, offset=record.offset + moved)


def _ask(fd: int, device: int, low: bytes, extent: Extent) -> list[FsmapRecord]:
    answer = bytearray(_START + _COUNT * _RECORD.size)
    _HEAD.pack_into(answer, 0, 0, 0, _COUNT, 0)
    answer[_HEAD.size : _HEAD.size + _RECORD.size] = low
    high = _pack_key(device, extent.end - 1, (1 << 32) - 1, _MAX, _MAX)
    answer[_HEAD.size + _RECORD.size : _START] = high
    fcntl.ioctl(fd, FS_IOC_GETFSMAP, answer)
    return unpack_fsmap(answer)


def _pack_key(device: int, physical: int, flags: int, owner: int, offset: int) -> bytes:
    return _RECORD.pack(encode_device(device), flags, physical, owner, offset, 0)


def unpack_fsmap(answer: bytes | bytearray) -> list[FsmapRecord]:
    """The records of the kernel's answer."""
    entries = _HEAD.unpack_from(answer)[3]
    rows = _RECORD.iter_unpack(memoryview(answer)[_START : _START + entries * _RECORD.size])
    return [
        FsmapRecord(decode_device(device), Extent(at, length), FsmapFlag(flags), owner, offset)
        for device, flags, at, owner, offset, length in rows
    ]
