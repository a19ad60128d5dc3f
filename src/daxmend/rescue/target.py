"""What commands work on: a device with what is on it, or one file of a file system.

A *device target* is a pool that nobody has open (`pool.py`) or a mount, through its control
directory (`mount.py`): a command that is given a locked pool goes through its mount, and the answer
is the same (format.md §2). A *file target* (`file.py`) is a file in either.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple, Protocol

from daxmend.errors import UsageError
from daxmend.extent import Extent, merged

if TYPE_CHECKING:
    from daxmend.faults import Fault
    from daxmend.fs import Finding, Plan

CONTROL_DIRECTORY = ".daxmend"


class Place(NamedTuple):
    """Where something begins on a device; `device` is its node, or a path."""

    device: str
    offset: int

    def shifted(self, distance: int) -> Place:
        """The place so many bytes further."""
        return Place(self.device, self.offset + distance)


class Range(NamedTuple):
    """A bad range of the thing named and what is known of it.

    `kind` is `poison`, `recorded`, `lost` (R1) or `quarantined` (R31). `owner` is `file`,
    `metadata` or `free` (R42), None where that is not known; of a file, where in it the range
    begins, and its path: absolute in the file system, empty for a file without a name. `places`
    are where it lies on each device of the running system, the deepest first; none in a pool.
    """

    extent: Extent
    kind: str
    device_offset: int
    owner: str | None = None
    path: bytes = b""
    file_offset: int | None = None
    places: tuple[Place, ...] = ()

    @property
    def is_recorded(self) -> bool:
        """Whether the record has it; what is poison alone is latent, or said twice."""
        return self.kind != "poison"

    def part(self, extent: Extent) -> Range:
        """What of it lies in a range of the thing named."""
        inside = self.extent.intersection(extent)
        distance = inside.offset - self.extent.offset
        return self._replace(
            extent=inside,
            device_offset=self.device_offset + distance,
            file_offset=None if self.file_offset is None else self.file_offset + distance,
            places=tuple(place.shifted(distance) for place in self.places),
        )

    def continues(self, other: Range) -> bool:
        """Whether this is more of `other`: behind it in all that is named, owned and mapped.

        Files without a name are not told apart, and never continue each other.
        """
        length = other.extent.length
        if (self.kind, self.owner, self.path) != (other.kind, other.owner, other.path):
            return False
        if self.extent.offset != other.extent.end:
            return False
        if self.device_offset != other.device_offset + length:
            return False
        if self.places != tuple(place.shifted(length) for place in other.places):
            return False
        if self.file_offset is None or other.file_offset is None:
            return self.file_offset == other.file_offset
        return bool(self.path) and self.file_offset == other.file_offset + length


class FileExtent(NamedTuple):
    """A piece of a file: `length` bytes at `offset` lie at `device_offset`; unwritten is zeros."""

    offset: int
    device_offset: int
    length: int
    is_written: bool


class Target(Protocol):
    """What every command can ask. Offsets are bytes from the start of the thing named (R47)."""

    name: str
    notices: list[str]  # what the operator should know of the target itself; some come late
    unknown: list[str]  # why more may be bad than is told (R44); complete after `badblocks`
    content: str  # `raw`, `fs`: a device with that on it; `file`: a file; `host`: a real device

    def badblocks(self) -> list[Extent]:
        """The record, merged, in whole sectors."""

    def ranges(self) -> list[Range]:
        """The record with its states, and poison where the target can know it; ascending."""

    def inject(self, faults: Iterable[Fault]) -> None:
        """Make ranges bad, each in its way (R2); all of them, or with `UsageError` none."""

    def uninject(self, extent: Extent) -> Extent:
        """Take the poison of the range's cachelines; returns them."""

    def scrub(self, extent: Extent | None) -> Iterator[Extent]:
        """Look for latent poison in the range, or everywhere; yields what has been done (R4)."""

    def status(self) -> dict[str, object]:
        """What the target says of itself, as JSON types; lengths in bytes.

        A mount has the keys of a pool and more. `mounted` is where, or None.
        """

    def events(self) -> list[dict[str, object]] | None:
        """What happened to it, oldest first, as docs/events.md has it; None: nobody keeps that.

        Of a pool what attaching it now has told, of a mount what its server still knows. Offsets
        are the device's; a file has those that touch it.
        """

    def close(self) -> None:
        """Let go of it."""


class DeviceTarget(Target, Protocol):
    """A whole device, and the file system on it if there is one."""

    def find_file(self, path: bytes) -> FilePlaces:
        """Where a regular file lies; `path` is absolute in the file system, without links.

        Raises `OSError` as open(2) does, `UsageError` for what is no regular file.
        """

    def check(self) -> list[Finding]:
        """What is wrong with the file system (format.md §6.5). `UsageError` if there is none."""

    def plan_repair(self) -> Plan:
        """What a repair would do; changes nothing. Raises `BusyError` while it is mounted."""

    def apply_repair(self, plan: Plan) -> None:
        """Do it; durable on return."""

    def send_message(self, text: str) -> str:
        """Tell a target of the device's table something (`stack.send_message`); its answer."""


class FilePlaces(NamedTuple):
    """The size of a file, and all its extents, ascending."""

    size: int
    extents: list[FileExtent]


def locate(target: Target) -> list[Range]:
    """The recorded bad ranges of the target, ascending; merged where all that is known goes on."""
    return merged_ranges(target.ranges())


def merged_ranges(ascending: Iterable[Range]) -> list[Range]:
    """What of the ranges is recorded, merged where all that is known goes on."""
    found: list[Range] = []
    for bad in ascending:
        if not bad.is_recorded:
            continue
        if found and bad.continues(found[-1]):
            last = found[-1]
            found[-1] = last._replace(extent=Extent.between(last.extent.offset, bad.extent.end))
        else:
            found.append(bad)
    return found


def recorded_sectors(ranges: Iterable[Range], unit: int) -> list[Extent]:
    """Ascending ranges of the record, widened to `unit` and merged."""
    return merged(found.extent.widened(unit) for found in ranges if found.is_recorded)


def is_no_file(name: str, mode: int, whole: str) -> UsageError:
    """What `name`, with that st_mode, is instead of a regular file, and what to name."""
    if stat.S_ISDIR(mode):
        return UsageError(f"{name} is a directory; name a file, or for all of it {whole}")
    if stat.S_ISLNK(mode):
        return UsageError(f"{name} is a symbolic link, no regular file; name what it points to")
    return UsageError(f"{name} is no regular file: no bytes of the device are its own")


def inner_path(path: bytes) -> list[bytes]:
    """The names of an absolute path inside a file system; `..` goes up, and links are no matter."""
    normal = os.path.normpath(b"/" + path.lstrip(b"/"))
    return [name for name in normal.split(b"/") if name]
