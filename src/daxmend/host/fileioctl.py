"""The three ioctls of a file on a daxmend mount, and clients for them.

ZEROINIT  `_IOW(0xDA, 1, struct { u64 offset; u64 length; })`: set the range of a file that is open
          for writing to zeros and clear its poison, in place (R29, R30). Holes stay holes; what
          lies beyond the end of the file is left alone. Returns 0, or EIO and nothing changed
          where an edge cannot be healed.
EXTENTS   `_IOWR(0xDA, 2, struct { u64 offset; u32 count; u32 more; struct extent[511]; })`: where a
          file lies on the device, from file offset `offset` (in) on: `count` extents, each
          `{ u64 offset; u64 device_offset; u64 length; u32 written; u32 reserved; }`, all in
          bytes. `more` is 1 where there are others behind the last one: ask again from its end.
SALVAGE   `_IOWR(0xDA, 3, struct { u64 offset; u32 length; u32 count; struct { u32 offset; u32
          length; } lost[128]; u8 data[4096]; })`: everything that can be had of the page at
          `offset` (in, a multiple of 4096) of a file that is open for reading, by cachelines, and
          what recoveries kept of it (R12, R18). `length` bytes, less than a page at the end of the
          file; `count` ranges of `data` are lost, ascending, and zeros.

Everything is in native byte order. A file elsewhere answers ENOTTY.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterable, Iterator
from struct import Struct
from typing import Final, NamedTuple

from daxmend.extent import Extent
from daxmend.units import PAGE

_TYPE: Final = 0xDA
_WRITE, _READ = 1, 2  # directions, as the kernel's _IOC has them: seen from the caller
_RANGE: Final = Struct("=QQ")
_HEAD: Final = Struct("=QII")
_EXTENT: Final = Struct("=QQQI4x")

_SAVED: Final = Struct("=QII")
_LOST: Final = Struct("=II")
_LOST_COUNT: Final = 128

EXTENTS_COUNT: Final = 511  # what fits into the 14 bits that a number has for a size
EXTENTS_SIZE: Final = _HEAD.size + EXTENTS_COUNT * _EXTENT.size


def _ioc(direction: int, number: int, size: int) -> int:
    return direction << 30 | size << 16 | _TYPE << 8 | number


ZEROINIT: Final = _ioc(_WRITE, 1, _RANGE.size)
EXTENTS: Final = _ioc(_WRITE | _READ, 2, EXTENTS_SIZE)
_DATA_AT: Final = _SAVED.size + _LOST_COUNT * _LOST.size
SALVAGE_SIZE: Final = _DATA_AT + PAGE
SALVAGE: Final = _ioc(_WRITE | _READ, 3, SALVAGE_SIZE)


class FileExtent(NamedTuple):
    """A piece of a file: `length` bytes at `offset` lie at `device_offset`; unwritten is zeros."""

    offset: int
    device_offset: int
    length: int
    is_written: bool


class SavedPage(NamedTuple):
    """What can be had of a page of a file, or of its last bytes; `lost` in bytes of the page."""

    data: bytes
    lost: list[Extent]


def salvage(fd: int, offset: int) -> SavedPage:
    """The page of the file at `offset`, a multiple of 4096."""
    answer = bytearray(SALVAGE_SIZE)
    _SAVED.pack_into(answer, 0, offset, 0, 0)
    fcntl.ioctl(fd, SALVAGE, answer)
    return unpack_salvage(answer)


def zeroinit(fd: int, offset: int, length: int) -> None:
    """Set a range of the file to zeros in place and heal it; bytes, any alignment (R29)."""
    fcntl.ioctl(fd, ZEROINIT, _RANGE.pack(offset, length))


def iter_extents(fd: int, offset: int = 0) -> Iterator[FileExtent]:
    """The file's extents from `offset` on, however many, ascending; lazily."""
    is_more = True
    while is_more:
        answer = bytearray(EXTENTS_SIZE)
        _HEAD.pack_into(answer, 0, offset, 0, 0)
        fcntl.ioctl(fd, EXTENTS, answer)
        extents, is_more = unpack_extents(answer)
        yield from extents
        if extents:
            offset = extents[-1].offset + extents[-1].length


# For the server


def unpack_zeroinit(data: bytes) -> tuple[int, int]:
    """Offset and length."""
    offset, length = _RANGE.unpack(data)
    return offset, length


def unpack_extents_start(data: bytes) -> int:
    """The file offset that EXTENTS was asked from."""
    start: int = _HEAD.unpack_from(data)[0]
    return start


def unpack_salvage_start(data: bytes) -> int:
    """The file offset that SALVAGE was asked for."""
    start: int = _SAVED.unpack_from(data)[0]
    return start


def pack_salvage(start: int, page: SavedPage) -> bytes:
    """The answer to SALVAGE: behind more lost ranges than fit, all counts as lost."""
    packed = bytearray(SALVAGE_SIZE)
    packed[_DATA_AT : _DATA_AT + len(page.data)] = page.data
    lost = page.lost[:_LOST_COUNT]
    if len(lost) < len(page.lost):
        lost[-1] = Extent.between(lost[-1].offset, len(page.data))
        packed[_DATA_AT + lost[-1].offset :] = bytes(PAGE - lost[-1].offset)
    _SAVED.pack_into(packed, 0, start, len(page.data), len(lost))
    for index, run in enumerate(lost):
        _LOST.pack_into(packed, _SAVED.size + index * _LOST.size, *run)
    return bytes(packed)


def unpack_salvage(answer: bytes | bytearray) -> SavedPage:
    """What an answer says."""
    _, length, count = _SAVED.unpack_from(answer)
    rows = _LOST.iter_unpack(memoryview(answer)[_SAVED.size :][: count * _LOST.size])
    return SavedPage(bytes(answer[_DATA_AT : _DATA_AT + length]), [Extent(*row) for row in rows])


def pack_extents(start: int, extents: Iterable[FileExtent]) -> bytes:
    """The answer to EXTENTS: as many of `extents` as fit."""
    packed = bytearray(EXTENTS_SIZE)
    count = more = 0
    for extent in extents:
        if count == EXTENTS_COUNT:
            more = 1
            break
        _EXTENT.pack_into(packed, _HEAD.size + count * _EXTENT.size, *extent)
        count += 1
    _HEAD.pack_into(packed, 0, start, count, more)
    return bytes(packed)


def unpack_extents(answer: bytes | bytearray) -> tuple[list[FileExtent], bool]:
    """The extents of an answer, and whether there are more."""
    _, count, more = _HEAD.unpack_from(answer)
    end = _HEAD.size + count * _EXTENT.size
    rows = _EXTENT.iter_unpack(memoryview(answer)[_HEAD.size : end])
    return [FileExtent(at, device, length, bool(w)) for at, device, length, w in rows], bool(more)
