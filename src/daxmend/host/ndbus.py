"""The bus of persistent memory (libnvdimm): regions, namespaces and their modes (sysfs).

    ndbus0/region0/namespace0.0           the bytes of a namespace
    ndbus0/region0/pfn0.1/block/pmem0     fsdax: its disk begins behind the namespace's own data
    ndbus0/region0/dax0.1/dax0.0          devdax: so does its character device
    ndbus0/region0/btt0.1/block/pmem0s    sector: the disk's sectors move about in the namespace
    ndbus0/region0/namespace0.0/block/pmem0        raw: the disk is the namespace

A region's bad-block record counts from the region's start, a disk's from the disk's.
Where something begins is its `resource`, a physical address that only root may read.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from struct import Struct
from typing import Final, NamedTuple

from daxmend.extent import Extent
from daxmend.host.badblocks import Recorded, read_badblocks_file
from daxmend.host.sysfsfile import SYSFS, read_number, read_text
from daxmend.host.unknown import Unknown

_REGION: Final = re.compile(r"region\d+")
_BUS: Final = re.compile(r"ndbus\d+")
_NAMESPACE: Final = re.compile(r"namespace\d+\.\d+")

ND_IOCTL_ARS_CAP: Final = 0xC0204E01  # _IOWR('N', 1, struct nd_cmd_ars_cap)
_ARS_CAP: Final = Struct("=QQIIIHH")  # address, length, status, max_out, clear_err_unit, flags, -


class Mode(StrEnum):
    """What a namespace shows, in ndctl's words."""

    FSDAX = "fsdax"
    DEVDAX = "devdax"
    SECTOR = "sector"
    RAW = "raw"


_MODES: Final = {  # the kernel's words
    "memory": Mode.FSDAX,
    "dax": Mode.DEVDAX,
    "safe": Mode.SECTOR,
    "raw": Mode.RAW,
}


class Bus(NamedTuple):
    """A bus: `name` as ndbus0."""

    name: str
    directory: Path

    @property
    def scrub_file(self) -> Path:
        """Where a scrub is started and asked about; only a bus of real NVDIMMs has it."""
        return self.directory / "nfit" / "scrub"


class Region(NamedTuple):
    """A region of a bus: `size` in bytes, `directory` in sysfs, without links."""

    name: str
    size: int
    directory: Path

    @property
    def badblocks_file(self) -> Path:
        """Its record, in sectors from the region's start."""
        return self.directory / "badblocks"


class Namespace(NamedTuple):
    """A namespace: `extent` in bytes of its region; `holder` is what claims it (pfn0.1), or ''."""

    name: str
    mode: Mode | Unknown
    extent: Extent | Unknown
    holder: str


def region_of(directory: Path) -> Region | Unknown:
    """The region that a device belongs to, given by its directory in sysfs, without links."""
    for parent in (directory, *directory.parents):
        if _REGION.fullmatch(parent.name):
            size = read_number(parent / "size")
            return size if isinstance(size, Unknown) else Region(parent.name, size, parent)
    return Unknown(f"{directory.name} is no persistent memory")


def bus_of(directory: Path) -> Bus | Unknown:
    """The bus that a device belongs to, given by its directory in sysfs, without links."""
    for parent in (directory, *directory.parents):
        if _BUS.fullmatch(parent.name):
            return Bus(parent.name, parent)
    return Unknown(f"{directory.name} is on no bus of persistent memory")


def iter_regions(sysfs: Path = SYSFS) -> Iterator[Region | Unknown]:
    """The regions of all buses."""
    devices = sysfs / "bus" / "nd" / "devices"
    names = sorted(os.listdir(devices)) if devices.is_dir() else []
    for name in names:
        if _REGION.fullmatch(name):
            yield region_of((devices / name).resolve())


def iter_namespaces(region: Region) -> Iterator[Namespace]:
    """The namespaces of a region; those of size 0 are the kernel's spare ones, and left out."""
    for directory in sorted(region.directory.iterdir()):
        if not _NAMESPACE.fullmatch(directory.name) or read_number(directory / "size") == 0:
            continue
        word = read_text(directory / "mode")
        mode = word if isinstance(word, Unknown) else _mode(word)
        holder = read_text(directory / "holder")
        yield Namespace(
            directory.name,
            mode,
            extent_in_region(directory, region),
            "" if isinstance(holder, Unknown) else holder,
        )


def _mode(word: str) -> Mode | Unknown:
    return _MODES.get(word) or Unknown(f"the mode '{word}' is not known to daxmend")


def extent_in_region(directory: Path, region: Region) -> Extent | Unknown:
    """Where a namespace, or what claims it, or a dax device lies: in bytes of its region.

    Of a claim (pfn, dax) that is its data, behind what it keeps for itself. `Unknown` for all but
    root.
    """
    size = read_number(directory / "size")
    start = read_number(directory / "resource")
    base = read_number(region.directory / "resource")
    for number in (size, start, base):
        if isinstance(number, Unknown):
            return number
    assert isinstance(size, int)
    assert isinstance(start, int)
    assert isinstance(base, int)
    found = Extent(start - base, size)
    if found.offset < 0 or found.end > region.size:
        return Unknown(f"{directory.name} does not lie in {region.name}, by what the kernel says")
    return found


def read_region_badblocks(region: Region, within: Extent) -> Recorded | Unknown:
    """What a region's record has of a range of it, counted from the range's start."""
    found = read_badblocks_file(region.badblocks_file, region.name)
    if isinstance(found, Unknown):
        return found
    parts = (extent.intersection(within) for extent in found.extents)
    inside = [part.shifted(-within.offset) for part in parts if part.length]
    return Recorded(inside, found.is_complete)


# -- dax devices ---------------------------------------------------------------------------


class DaxCharacterDevice(NamedTuple):
    """/dev/daxX.Y: `size` in bytes, `directory` in sysfs, without links."""

    number: int
    name: str
    size: int
    directory: Path


def find_dax_device(number: int, sysfs: Path = SYSFS) -> DaxCharacterDevice | Unknown:
    """The dax device of that number (st_rdev of a character device)."""
    directory = sysfs / "dev" / "char" / f"{os.major(number)}:{os.minor(number)}"
    if not directory.exists():
        return Unknown(f"{directory.name} is not a device that the kernel shows")
    subsystem = os.path.basename(os.path.realpath(directory / "subsystem"))
    directory = directory.resolve()
    if subsystem != "dax":
        return Unknown(f"{directory.name} is a character device, and no dax device")
    size = read_number(directory / "size")
    if isinstance(size, Unknown):
        return size
    return DaxCharacterDevice(number, directory.name, size, directory)


# -- scrub and clear unit ------------------------------------------------------------------


class ScrubState(NamedTuple):
    """`done` scrubs have ended since the bus was there."""

    done: int
    is_running: bool


def read_scrub(bus: Bus) -> ScrubState | Unknown:
    """How far the bus is (R4)."""
    text = read_text(bus.scrub_file)
    if isinstance(text, Unknown):
        return Unknown(f"{bus.name} has no scrub that can be asked: {text.why}")
    return parse_scrub(text)


def parse_scrub(text: str) -> ScrubState | Unknown:
    """`N`, or `N+` while one is running."""
    number, is_running, rest = text.strip().partition("+")
    if not number.isdigit() or rest:
        return Unknown(f"'{text.strip()}' is no state of a scrub")
    return ScrubState(int(number), bool(is_running))


def start_scrub(bus: Bus) -> None:
    """Start a scrub of the whole bus. Raises `OSError`: EBUSY if one is running."""
    fd = os.open(bus.scrub_file, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, b"1\n")
    finally:
        os.close(fd)


def clear_unit(bus: Bus, region: Region) -> int | Unknown:
    """The bytes that the clear command of a region works in (R7); only root may ask."""
    base = read_number(region.directory / "resource")
    if isinstance(base, Unknown):
        return base
    node = f"/dev/ndctl{bus.name.removeprefix('ndbus')}"
    try:
        fd = os.open(node, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        return Unknown(f"{node} cannot be opened: {error.strerror}")
    try:
        answer = bytearray(_ARS_CAP.pack(base, region.size, 0, 0, 0, 0, 0))
        fcntl.ioctl(fd, ND_IOCTL_ARS_CAP, answer)
    except OSError as error:
        return Unknown(f"{bus.name} does not tell its clear unit: {error.strerror}")
    finally:
        os.close(fd)
    return unpack_clear_unit(answer)


def unpack_clear_unit(answer: bytes | bytearray) -> int | Unknown:
    """The clear unit of the bus' answer."""
    _, _, status, _, unit, _, _ = _ARS_CAP.unpack(answer)
    if status & 0xFFFF or not unit:
        return Unknown(f"the bus answers with status {status:#x} and clear unit {unit}")
    return int(unit)
