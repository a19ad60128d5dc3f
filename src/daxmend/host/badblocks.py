"""What the kernel's driver has recorded as bad: sysfs `badblocks` of a disk or a region (R9).

The file is the whole disk's, in its sectors (a partition has none: `topology.py` says where it
lies). It has at most a page, so a long record is cut.

It can be polled (POLLPRI) for what the driver finds and clears; a write to the file itself, which
is how tests make bad blocks, wakes nobody.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple

from daxmend.errors import UsageError
from daxmend.extent import Extent, parse_badblocks_line
from daxmend.host.unknown import Unknown

_MAX_LINE: Final = 40  # "18446744073709551615 18446744073709551615\n", and less
_PAGE: Final = 4096


class Recorded(NamedTuple):
    """The record in bytes of the disk or region; without `is_complete` there is more of it."""

    extents: list[Extent]
    is_complete: bool


def read_badblocks_file(path: Path, name: str) -> Recorded | Unknown:
    """The record in a `badblocks` file; `name` is whose it is, for messages."""
    try:
        return parse_badblocks(path.read_text(encoding="ascii"), name)
    except FileNotFoundError:
        return Unknown(f"the kernel keeps no bad-block record of {name}")
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        return Unknown(f"the bad-block record of {name} cannot be read: {why}")


def parse_badblocks(text: str, name: str) -> Recorded | Unknown:
    """The record in the text of a `badblocks` file."""
    if text == "\n":  # a disk whose driver has made no record answers so; an empty one with nothing
        return Unknown(f"the driver of {name} keeps no bad-block record")
    is_complete = len(text) < _PAGE - _MAX_LINE
    lines = text.splitlines()
    if not is_complete:
        lines.pop()  # it may be cut in the middle of a number
    try:
        extents = [parse_badblocks_line(line) for line in lines if line.strip()]
    except UsageError as error:
        return Unknown(f"the bad-block record of {name} makes no sense: {error}")
    return Recorded(extents, is_complete)
