"""The log of log-writes on its device: the format of the kernel's dm-log-writes, version 1.

The super block is in the log's first sector; entries follow from the second on, each in a sector of
its own with the data it wrote behind it (Linux v6.12 drivers/md/dm-log-writes.c, and docs/dm.md).
Everything is little-endian. `sectorsize` is the unit of all numbers of sectors in a log: 512 in
ours, perhaps 4096 in a kernel's.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from enum import IntFlag
from typing import NamedTuple

from daxmend.dax import io
from daxmend.dax.api import DaxDevice
from daxmend.errors import CorruptionError, MediaError, UnsupportedError, UsageError
from daxmend.extent import Extent
from daxmend.units import PAGE, SECTOR

MAGIC = 0x6A736677736872
VERSION = 1
_SUPER = struct.Struct("<QQQI")  # magic, version, nr_entries, sectorsize
_ENTRY = struct.Struct("<QQQQ")  # sector, nr_sectors, flags, data_len
MAX_MARK = SECTOR - _ENTRY.size - 1  # bytes; the kernel ends a mark with a zero


class LogFlag(IntFlag):
    """What an entry is, and when it became durable; the values are the kernel's."""

    FLUSH = 1  # everything before it is durable
    FUA = 2  # it is durable itself
    DISCARD = 4  # has no data: the range reads as zeros
    MARK = 8  # has a name instead of data
    METADATA = 16


class Super(NamedTuple):
    """The super block; the field names are the kernel's."""

    nr_entries: int
    sectorsize: int = SECTOR

    def pack(self) -> bytes:
        """Its sector."""
        packed = _SUPER.pack(MAGIC, VERSION, self.nr_entries, self.sectorsize)
        return packed.ljust(SECTOR, b"\0")


class Entry(NamedTuple):
    """One thing that became durable: bytes of the device, or the mark `mark`."""

    extent: Extent
    flags: LogFlag
    mark: str = ""

    def pack(self) -> bytes:
        """Its first sector, in a log whose sectors have 512 bytes."""
        name = self.mark.encode()
        numbers = (self.extent.offset // SECTOR, self.extent.length // SECTOR)
        return (_ENTRY.pack(*numbers, self.flags, len(name)) + name).ljust(SECTOR, b"\0")

    @property
    def data_length(self) -> int:
        """How many bytes of data follow the entry in the log."""
        has_none = LogFlag.DISCARD in self.flags or LogFlag.MARK in self.flags
        return 0 if has_none else self.extent.length


class Placed(NamedTuple):
    """An entry, its number from 0, and where its data lies in the log."""

    number: int
    entry: Entry
    data: Extent


def read_super(log: DaxDevice) -> Super | None:
    """The super block; None if the first sector is empty: no log was begun there.

    Raises `UsageError` if something else is there, `UnsupportedError` for another version and
    `CorruptionError` for sizes that cannot be.
    """
    raw = read_data(log, Extent(0, SECTOR))
    magic, version, nr_entries, sectorsize = _SUPER.unpack_from(raw)
    if not any(raw):
        return None
    if magic != MAGIC:
        raise UsageError(f"{log.name} is no log of log-writes: its magic is {magic:#x}")
    if version != VERSION:
        raise UnsupportedError(f"{log.name}: version {version} of the log; {VERSION} is known")
    if not SECTOR <= sectorsize <= PAGE or sectorsize.bit_count() != 1:
        raise CorruptionError(
            f"{log.name}: log super block", 0, "sectorsize", f"a power of two from {SECTOR}",
            sectorsize,
        )  # fmt: skip
    return Super(nr_entries, sectorsize)


def iter_entries(log: DaxDevice) -> Iterator[Placed]:
    """What the log holds, in its order. Raises as `read_super`; `MediaError` for bad blocks of the
    log, and `CorruptionError` for an entry that reaches beyond the log or is none."""
    found = read_super(log)
    if found is None:
        return
    offset = found.sectorsize
    for number in range(found.nr_entries):
        if offset + found.sectorsize > log.size:
            raise _wrong(log, offset, "place", "inside the log", "beyond its end")
        raw = read_data(log, Extent(offset, found.sectorsize))
        entry = _unpack(log, offset, raw, found.sectorsize)
        data = Extent(offset + found.sectorsize, entry.data_length)
        if data.end > log.size:
            raise _wrong(log, offset, "nr_sectors", "inside the log", data.length // SECTOR)
        yield Placed(number, entry, data)
        offset = data.end


def _unpack(log: DaxDevice, offset: int, raw: bytes, unit: int) -> Entry:
    sector, nr_sectors, bits, data_len = _ENTRY.unpack_from(raw)
    if bits not in range(1 << len(LogFlag)):
        raise _wrong(log, offset, "flags", "known", bits)
    flags = LogFlag(bits)
    extent = Extent(sector * unit, nr_sectors * unit)
    if LogFlag.MARK not in flags:
        return Entry(extent, flags)
    if data_len > unit - _ENTRY.size:
        raise _wrong(log, offset, "data_len", f"at most {unit - _ENTRY.size}", data_len)
    name = raw[_ENTRY.size : _ENTRY.size + data_len]
    return Entry(Extent(0, 0), flags, name.decode(errors="backslashreplace"))


def read_data(log: DaxDevice, extent: Extent) -> bytes:
    """Bytes of the log, all of them; `MediaError` otherwise."""
    data = io.read(log, extent)
    if len(data) < extent.length:
        done = len(data)
        raise MediaError(log.name, extent.offset + done, extent.length - done)
    return data


def _wrong(
    log: DaxDevice, offset: int, field: str, expected: object, got: object
) -> CorruptionError:
    return CorruptionError(f"{log.name}: log entry", offset, field, expected, got)
