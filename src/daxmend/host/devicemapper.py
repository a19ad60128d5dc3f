"""The table of a running dm device: the DM_TABLE_STATUS ioctl (Linux, linux/dm-ioctl.h).

`parse_target` knows the targets whose bytes have a fixed place below; of the others it says so.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
from collections.abc import Iterator
from struct import Struct
from typing import Final, NamedTuple

from daxmend.extent import Extent
from daxmend.host.devicenumber import encode_device
from daxmend.host.unknown import Unknown
from daxmend.units import MIB, SECTOR

_CONTROL: Final = "/dev/mapper/control"
DM_TABLE_STATUS: Final = 0xC138FD0C  # _IOWR(0xfd, 12, struct dm_ioctl)
_STATUS_TABLE_FLAG: Final = 1 << 4  # the table, not the status
_BUFFER_FULL_FLAG: Final = 1 << 8
# version[3], data_size, data_start, target_count, open_count, flags, event_nr, padding, dev,
# name[128], uuid[129], data[7]
_HEAD: Final = Struct("=3IIIIiIIIQ128s129s7s")
_VERSION: Final = (4, 0, 0)
_TARGET: Final = Struct("=QQiI16s")  # sector_start, length, status, next, target_type
_FIRST_SIZE: Final = 64 << 10

_DEVICE: Final = re.compile(r"(\d+):(\d+)")


class TableLine(NamedTuple):
    """A line of a table: `extent` in bytes of the dm device; `arguments` as the kernel prints."""

    extent: Extent
    target: str
    arguments: str


class Striped(NamedTuple):
    """`above` lies in chunks of `chunk` bytes, in turn, on members: device number and offset."""

    above: Extent
    chunk: int
    members: tuple[tuple[int, int], ...]

    def up(self, below: int, extent: Extent) -> Iterator[tuple[Extent, int]]:
        """What of `above` lies in a range of device `below`, and where below each part begins."""
        rows = self.above.length // (self.chunk * len(self.members))
        for index, (device, offset) in enumerate(self.members):
            if device != below:
                continue
            inside = extent.intersection(Extent(offset, rows * self.chunk))
            at = inside.offset
            while at < inside.end:
                row, within = divmod(at - offset, self.chunk)
                length = min(self.chunk - within, inside.end - at)
                start = (row * len(self.members) + index) * self.chunk + within
                yield Extent(self.above.offset + start, length), at
                at += length


def read_table(number: int) -> list[TableLine] | Unknown:
    """The table of a dm device, given by its number; only root may ask."""
    try:
        fd = os.open(_CONTROL, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        return Unknown(f"{_CONTROL} cannot be opened: {error.strerror}; only root may ask")
    try:
        return _ask(fd, number)
    except OSError as error:
        return Unknown(f"the kernel does not tell it: {error.strerror}")
    finally:
        os.close(fd)


def _ask(fd: int, number: int) -> list[TableLine]:
    size = _FIRST_SIZE
    while True:
        answer = bytearray(size)
        flags = _STATUS_TABLE_FLAG
        device = encode_device(number)
        _HEAD.pack_into(
            answer, 0, *_VERSION, size, _HEAD.size, 0, 0, flags, 0, 0, device, b"", b"", b""
        )
        fcntl.ioctl(fd, DM_TABLE_STATUS, answer)
        if not _HEAD.unpack_from(answer)[7] & _BUFFER_FULL_FLAG:
            return unpack_table(answer)
        size *= 4
        if size > 16 * MIB:
            raise OSError(errno.EMSGSIZE, os.strerror(errno.EMSGSIZE))


def unpack_table(answer: bytes | bytearray) -> list[TableLine]:
    """The lines of the kernel's answer."""
    head = _HEAD.unpack_from(answer)
    start, count = head[4], head[5]
    lines = []
    at = start
    for _ in range(count):
        sector, length, _, following, kind = _TARGET.unpack_from(answer, at)
        text = bytes(answer[at + _TARGET.size : answer.index(0, at + _TARGET.size)])
        lines.append(
            TableLine(
                Extent.of_sectors(sector, length), kind.split(b"\0")[0].decode(), text.decode()
            )
        )
        at = start + following  # from the first one, in what the kernel answers
    return lines


def parse_target(line: TableLine) -> tuple[Extent, int, int] | Striped | Unknown | None:
    """Where a target lies: range, device number and offset there, or stripes; None on nothing.

    `Unknown` for a target whose bytes have no fixed place below.
    """
    words = line.arguments.split()
    if line.target in ("zero", "error"):
        return None
    try:
        if line.target in ("linear", "log-writes", "flakey", "delay"):
            # log-writes: its device and no offset; the others: DEVICE OFFSET first
            offset = 0 if line.target == "log-writes" else int(words[1])
            return line.extent, _device(words[0]), offset * SECTOR
        if line.target == "striped":
            count, chunk = int(words[0]), int(words[1])
            pairs = zip(words[2 : 2 + 2 * count : 2], words[3 : 3 + 2 * count : 2], strict=True)
            members = tuple((_device(device), int(offset) * SECTOR) for device, offset in pairs)
            if len(members) != count or not count or not chunk:
                raise ValueError(line.arguments)
            return Striped(line.extent, chunk * SECTOR, members)
    except (IndexError, ValueError):
        return Unknown(f"target {line.target} with '{line.arguments}' makes no sense")
    return Unknown(f"where the bytes of target {line.target} lie below cannot be told")


def _device(text: str) -> int:
    match = _DEVICE.fullmatch(text)
    if match is None:
        raise ValueError(text)
    return os.makedev(int(match[1]), int(match[2]))
