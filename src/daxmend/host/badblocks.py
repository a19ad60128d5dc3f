"""What the kernel's driver has recorded as bad: sysfs `badblocks` of a disk or a region (R9).

The file is the whole disk's, in sectors of the disk; of a partition the range that is its own is
given, counted from the partition's start. It has at most a page, so a long record is cut.

It can be polled (POLLPRI) for what the driver finds and clears; a write to the file itself, which
is how tests make bad blocks, wakes nobody.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final, NamedTuple

from daxmend.errors import UsageError
from daxmend.extent import Extent, parse_badblocks_line
from daxmend.host.sysfsfile import SYSFS
from daxmend.host.unknown import Unknown

_MAX_LINE: Final = 40  # "18446744073709551615 18446744073709551615\n", and less
_PAGE: Final = 4096


class Recorded(NamedTuple):
    """The record in bytes of the device asked for; without `is_complete` there is more of it."""

    extents: list[Extent]
    is_complete: bool


def device_number(path: str | os.PathLike[str]) -> int:
    """Of a block device itself, or of the one that holds the file. Raises `OSError`."""
    found = os.stat(path)
    return found.st_rdev if stat.S_ISBLK(found.st_mode) else found.st_dev


def read_badblocks(device: int, sysfs: Path = SYSFS) -> Recorded | Unknown:
    """The record of a block device, given by its number, a partition's cut to it.

    `Unknown` where it is no block device, the driver keeps no record, or it may not be read.
    """
    name = f"{os.major(device)}:{os.minor(device)}"
    directory = sysfs / "dev" / "block" / name
    if os.major(device) == 0 or not directory.exists():
        return Unknown(f"{name} is not a block device that the kernel shows")
    directory = directory.resolve()
    try:
        window = _partition(directory)
    except (OSError, ValueError) as error:
        return Unknown(f"where {directory.name} lies on its disk cannot be read: {error}")
    disk = directory if window is None else directory.parent
    found = read_badblocks_file(disk / "badblocks", directory.name)
    return found if isinstance(found, Unknown) or window is None else _cut(found, window)


def read_badblocks_file(path: Path, name: str) -> Recorded | Unknown:
    """The record in a `badblocks` file; `name` is whose it is, for messages."""
    try:
        return parse_badblocks(path.read_text(encoding="ascii"), name)
    except FileNotFoundError:
        return Unknown(f"the kernel keeps no bad-block record of {name}")
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        return Unknown(f"the bad-block record of {name} cannot be read: {why}")


def _partition(directory: Path) -> Extent | None:
    """Where on its disk a partition lies; None for a whole disk."""
    if not (directory / "partition").exists():
        return None
    sector, count = (int((directory / file).read_text()) for file in ("start", "size"))
    return Extent.of_sectors(sector, count)


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


def _cut(recorded: Recorded, window: Extent) -> Recorded:
    parts = (extent.intersection(window) for extent in recorded.extents)
    extents = [part.shifted(-window.offset) for part in parts if part.length]
    return Recorded(extents, recorded.is_complete)
