"""What is wrong with a file system: the invariants that it breaks (format.md §6.5)."""

from enum import StrEnum
from typing import NamedTuple


class Invariant(StrEnum):
    """The invariants of format.md §6.5."""

    SUPERBLOCK = "F1"
    CHECKPOINT = "F2"
    JOURNAL = "F3"
    RECORD = "F4"
    PLACE = "F5"
    ROOT = "F6"
    NAME = "F7"
    LINKS = "F8"
    PARENT = "F9"
    REACHED = "F10"
    NUMBER = "F11"
    SIZE = "F12"


class Finding(NamedTuple):
    """One thing that is wrong. `path` is the file's, where it has one.

    With `is_healed` the other copy has it all: the next mount, or a repair, rewrites it.
    """

    invariant: Invariant
    text: str
    path: bytes = b""
    is_healed: bool = False

    def __str__(self) -> str:
        where = f"{self.path.decode(errors='backslashreplace')}: " if self.path else ""
        return f"{self.invariant}: {where}{self.text}"
