"""What the core's trap has done, in words: faults, and what is not known."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import IntEnum
from struct import Struct
from typing import Final, NamedTuple

from daxmend.extent import Extent

ENTRY: Final = Struct("=QQii")


class Done(IntEnum):
    """As `enum done` of the core's watch.h has them."""

    LOST = 0
    COPIED = 1
    UNKNOWN = 2


class Fault(NamedTuple):
    """Pages of a file that could not be accessed, in bytes of it.

    `code` is what the signal said (`BUS_ADRERR`, `BUS_MCEERR_AR`), or `EFAULT` where the kernel was
    asked; `is_beyond`: they lie past the end of the file.
    """

    offset: int
    length: int
    code: str
    is_beyond: bool = False

    @property
    def extent(self) -> Extent:
        """The same as a range."""
        return Extent(self.offset, self.length)


class Entry(NamedTuple):
    """One line of the trap's list, in bytes of the watched range."""

    offset: int
    length: int
    code: int
    done: int


def unpack_entries(data: bytes) -> Iterator[Entry]:
    """What `_native.Watch.take` returns."""
    return map(Entry._make, ENTRY.iter_unpack(data))


def merged_faults(faults: Iterable[Fault]) -> list[Fault]:
    """Ascending, and neighbours of one kind as one."""
    found: list[Fault] = []
    for fault in sorted(faults):
        last = found[-1] if found else None
        if last is None or last[2:] != fault[2:] or fault.offset > last.offset + last.length:
            found.append(fault)
            continue
        end = max(last.offset + last.length, fault.offset + fault.length)
        found[-1] = last._replace(length=end - last.offset)
    return found
