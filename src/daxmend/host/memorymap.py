"""What is mapped where in this process, read from /proc/self/maps."""

from __future__ import annotations

import mmap
import os
import re
from typing import NamedTuple

_ESCAPE = re.compile(rb"\\012")
_DELETED = b" (deleted)"
_ANONYMOUS = b"/dev/zero (deleted)"  # what the kernel calls shared memory without a file


class MappedFile(NamedTuple):
    """One line of it: `length` bytes at `address` show a file from `offset` on.

    `inode` is 0 for memory without a file. `path` is the name by which it was
    opened, as it is now; None where that was deleted.
    """

    address: int
    length: int
    protection: int
    is_shared: bool
    offset: int
    device: int
    inode: int
    path: str | None

    @property
    def end(self) -> int:
        """The address behind it."""
        return self.address + self.length

    @property
    def is_file(self) -> bool:
        """Whether there is a file behind it."""
        return self.inode != 0


def parse_map(line: bytes) -> MappedFile:
    """One line of /proc/PID/maps, without its newline."""
    words = line.split(None, 5)
    start, end = (int(part, 16) for part in words[0].split(b"-"))
    permissions = words[1]
    protection = (
        (mmap.PROT_READ if permissions[0:1] == b"r" else 0)
        | (mmap.PROT_WRITE if permissions[1:2] == b"w" else 0)
        | (mmap.PROT_EXEC if permissions[2:3] == b"x" else 0)
    )
    major, minor = (int(part, 16) for part in words[3].split(b":"))
    name = _ESCAPE.sub(b"\n", words[5]) if len(words) > 5 else b""
    path = None if name.endswith(_DELETED) else os.fsdecode(name)
    return MappedFile(
        start,
        end - start,
        protection,
        permissions[3:4] == b"s",
        int(words[2], 16),
        os.makedev(major, minor),
        0 if name == _ANONYMOUS else int(words[4]),
        path,
    )


def find_maps(address: int, length: int) -> list[MappedFile]:
    """Everything mapped in the range, ascending. Costs a look at each mapping of the process."""
    found = []
    with open("/proc/self/maps", "rb") as maps:
        for line in maps:
            first, _, rest = line.partition(b"-")
            if int(first, 16) >= address + length:
                break
            if int(rest[: rest.index(b" ")], 16) > address:
                found.append(parse_map(line.rstrip(b"\n")))
    return found
