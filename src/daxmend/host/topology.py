"""Which device lies below or above another, and at which offsets: partition, dm, loop (sysfs).

A device is named by its number (st_rdev). `layout` goes one step down: a partition and a loop
device lie in one piece on what is below, a dm device as its table says (`devicemapper.py`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from daxmend.extent import Extent
from daxmend.host import devicemapper
from daxmend.host.devicemapper import Striped
from daxmend.host.sysfsfile import SYSFS, read_number, read_text
from daxmend.host.unknown import Unknown
from daxmend.units import SECTOR

_DELETED: Final = " (deleted)"


class BlockDevice(NamedTuple):
    """A block device: `size` in bytes; `directory` is its own in sysfs, without links."""

    number: int
    name: str  # the kernel's: pmem0, dm-0
    size: int
    directory: Path

    @property
    def node(self) -> str:
        """Where its node usually is; a name for messages."""
        return f"/dev/{self.name.replace('!', '/')}"


class Linear(NamedTuple):
    """`above` of a device lies on device `below` from `offset` on."""

    above: Extent
    below: int
    offset: int


class OnFile(NamedTuple):
    """`above` of a loop device lies in a file (or another device's node) from `offset` on."""

    above: Extent
    path: str
    offset: int


Piece = Linear | Striped | OnFile


def find_block_device(number: int, sysfs: Path = SYSFS) -> BlockDevice | Unknown:
    """The device of that number (st_rdev)."""
    name = f"{os.major(number)}:{os.minor(number)}"
    directory = sysfs / "dev" / "block" / name
    if os.major(number) == 0 or not directory.exists():
        return Unknown(f"{name} is not a block device that the kernel shows")
    directory = directory.resolve()
    sectors = read_number(directory / "size")
    if isinstance(sectors, Unknown):
        return sectors
    return BlockDevice(number, directory.name, sectors * SECTOR, directory)


def layout(device: BlockDevice) -> list[Piece] | Unknown:
    """What the device lies on, one step down, ascending; empty for a disk: nothing is below.

    `Unknown` where the kernel does not say: a dm target that has no fixed place, a table that may
    not be read, an array, a loop device whose file has no name any more.
    """
    if (device.directory / "partition").exists():
        return _of_partition(device)
    if (device.directory / "dm").is_dir():
        return _of_dm(device)
    if (device.directory / "loop").is_dir():
        return _of_loop(device)
    if slaves(device):
        return Unknown(f"how {device.node} lies on the devices below it is not known to daxmend")
    return []


def _of_partition(device: BlockDevice) -> list[Piece] | Unknown:
    start = read_number(device.directory / "start")
    disk = _number(device.directory.parent)
    if isinstance(start, Unknown):
        return start
    if isinstance(disk, Unknown):
        return disk
    return [Linear(Extent(0, device.size), disk, start * SECTOR)]


def _of_dm(device: BlockDevice) -> list[Piece] | Unknown:
    lines = devicemapper.read_table(device.number)
    if isinstance(lines, Unknown):
        return Unknown(f"the table of {device.node}: {lines.why}")
    return dm_layout(lines, device.node)


def dm_layout(lines: list[devicemapper.TableLine], name: str) -> list[Piece] | Unknown:
    """The pieces of a dm table, as the kernel prints it; `name` is for messages."""
    pieces: list[Piece] = []
    for line in lines:
        found = devicemapper.parse_target(line)
        if isinstance(found, Unknown):
            return Unknown(f"the table of {name}: {found.why}")
        if isinstance(found, Striped):
            pieces.append(found)
        elif found is not None:
            pieces.append(Linear(*found))
    return pieces


def _of_loop(device: BlockDevice) -> list[Piece] | Unknown:
    path = read_text(device.directory / "loop" / "backing_file")
    offset = read_number(device.directory / "loop" / "offset")
    if isinstance(path, Unknown):
        return path
    if isinstance(offset, Unknown):
        return offset
    if path.endswith(_DELETED):
        return Unknown(f"the file below {device.node} was removed: {path}")
    return [OnFile(Extent(0, device.size), path, offset)]


def slaves(device: BlockDevice) -> list[int]:
    """The devices that one of them (dm, md) is made of, as the kernel lists them."""
    return sorted(_numbers(device.directory / "slaves"))


def holders(device: BlockDevice, sysfs: Path = SYSFS) -> list[int]:
    """The devices that lie on this one, one step up: partitions, dm and md, loops on its node."""
    found = list(_numbers(device.directory / "holders"))
    for entry in _entries(device.directory):
        if (entry / "partition").exists():
            number = _number(entry)
            found += [] if isinstance(number, Unknown) else [number]
    return sorted({*found, *_loops_on(device, sysfs)})


def _loops_on(device: BlockDevice, sysfs: Path) -> Iterator[int]:
    for entry in _entries(sysfs / "block"):
        path = read_text(entry / "loop" / "backing_file")
        number = _number(entry)
        if isinstance(path, str) and isinstance(number, int) and _is_node_of(path, device.number):
            yield number


def _is_node_of(path: str, number: int) -> bool:
    try:
        return path.startswith("/dev/") and os.stat(path).st_rdev == number
    except OSError:
        return False


def _entries(directory: Path) -> list[Path]:
    try:
        return sorted(entry for entry in directory.iterdir() if entry.is_dir())
    except OSError:
        return []


def _numbers(directory: Path) -> Iterator[int]:
    for entry in _entries(directory):
        number = _number(entry)
        if isinstance(number, int):
            yield number


def _number(directory: Path) -> int | Unknown:
    text = read_text(directory / "dev")
    if isinstance(text, Unknown):
        return text
    major, _, minor = text.partition(":")
    if not (major.isdigit() and minor.isdigit()):
        return Unknown(f"{directory / 'dev'} says '{text}', which is no device number")
    return os.makedev(int(major), int(minor))
