"""An independent reader of dm-log-writes' format (drivers/md/dm-log-writes.c, version 1).

It knows nothing of daxmend: what it and `daxmend.dm.logformat` read of one log must be the same.
"""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

MAGIC = 0x6A736677736872
DISCARD, MARK = 4, 8


class Logged(NamedTuple):
    """An entry: where on the data device in bytes, flags, its data, or a mark's name."""

    offset: int
    length: int
    flags: int
    data: bytes
    mark: str


def read_log(path: Path) -> Iterator[Logged]:
    """The entries of the log on a device."""
    with path.open("rb") as file:
        magic, version, count, unit = struct.unpack("<QQQI", file.read(28))
        assert (magic, version) == (MAGIC, 1)
        file.seek(unit)
        for _ in range(count):
            block = file.read(unit)
            sector, sectors, flags, named = struct.unpack_from("<QQQQ", block)
            has_data = not flags & (DISCARD | MARK)
            data = file.read(sectors * unit) if has_data else b""
            name = block[32 : 32 + named].decode() if flags & MARK else ""
            yield Logged(sector * unit, sectors * unit, flags, data, name)


def replayed(entries: list[Logged], size: int) -> bytes:
    """What a device of zeros holds after the entries."""
    out = bytearray(size)
    for entry in entries:
        if entry.flags & DISCARD:
            out[entry.offset : entry.offset + entry.length] = bytes(entry.length)
        elif not entry.flags & MARK:
            out[entry.offset : entry.offset + len(entry.data)] = entry.data
    return bytes(out)
