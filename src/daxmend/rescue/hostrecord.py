"""What the running kernel has recorded as bad of a device or a file, however deep the record lies.

Down from the thing asked: a file lies on its file system's device (FIEMAP), a loop device on a
file, a partition and a dm device on others, until there is a record: a disk's, a region's of
persistent memory, or that of a daxmend mount. What could not be followed is said, never taken for
clean (R44).
"""

from __future__ import annotations

import os
import re
import stat
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Final, NamedTuple

from daxmend.errors import DaxmendError
from daxmend.extent import Extent
from daxmend.host import ndbus
from daxmend.host.badblocks import Recorded, read_badblocks_file
from daxmend.host.fiemap import FiemapExtent, device_of, file_extents
from daxmend.host.sysfsfile import SYSFS, read_text
from daxmend.host.topology import (
    BlockDevice,
    Linear,
    OnFile,
    Piece,
    find_block_device,
    layout,
    slaves,
)
from daxmend.host.unknown import Unknown
from daxmend.rescue.target import Place, Target
from daxmend.units import PAGE, align_up

_BTT: Final = re.compile(r"btt\d+\.\d+")
_CUT: Final = "the kernel shows no more than a page of the record of {}; there may be more"

OpenOwn = Callable[[str], Target | None]


class Bad(NamedTuple):
    """A bad range of the thing asked; `places` are where it lies on each device, deepest first."""

    extent: Extent
    kind: str
    places: tuple[Place, ...]

    def part(self, extent: Extent) -> Bad:
        """What of it is in a range."""
        inside = self.extent.intersection(extent)
        distance = inside.offset - self.extent.offset
        return Bad(inside, self.kind, tuple(place.shifted(distance) for place in self.places))


class Findings(NamedTuple):
    """Bad ranges, ascending, and why there may be more."""

    bad: list[Bad]
    unknown: list[str]


class HostRecords:
    """Looks each device up once. `open_own` opens what lies on a daxmend mount; None elsewhere."""

    def __init__(self, open_own: OpenOwn, sysfs: Path = SYSFS) -> None:
        self._open_own = open_own
        self._sysfs = sysfs
        self._found: dict[int, Findings] = {}
        self.record_files: dict[str, Path] = {}  # of the disks and regions that were asked
        self.own_paths: list[str] = []  # on daxmend mounts, that were asked

    @property
    def devices(self) -> frozenset[int]:
        """The block devices that were looked up."""
        return frozenset(self._found)

    def forget(self) -> None:
        """Ask the kernel again from now on."""
        self._found.clear()

    def of_device(self, number: int) -> Findings:
        """Of a block device, given by its number."""
        if number not in self._found:
            self._found[number] = Findings([], ["it lies on itself"])
            self._found[number] = self._of_device(number)
        return self._found[number]

    def _of_device(self, number: int) -> Findings:
        device = find_block_device(number, self._sysfs)
        if isinstance(device, Unknown):
            return Findings([], [device.why])
        pieces = layout(device)
        if isinstance(pieces, Unknown):
            return self._by_slaves(device, pieces.why)
        if pieces:
            return _joined(device.node, (self._of_piece(piece) for piece in pieces))
        if _BTT.fullmatch(device.directory.parents[1].name):
            return self._of_sector_mode(device)
        return self._of_disk(device)

    def _of_piece(self, piece: Piece) -> Findings:
        if isinstance(piece, Linear):
            return _moved(self.of_device(piece.below), piece.above, piece.offset)
        if isinstance(piece, OnFile):
            return _moved(self.of_path(piece.path), piece.above, piece.offset)
        found: list[Bad] = []
        unknown: list[str] = []
        for member in {device for device, _ in piece.members}:
            below = self.of_device(member)
            unknown += below.unknown
            for bad in below.bad:
                for above, at in piece.up(member, bad.extent):
                    inside = bad.part(Extent(at, above.length))
                    found.append(inside._replace(extent=above))
        return Findings(sorted(found), unknown)

    def _by_slaves(self, device: BlockDevice, why: str) -> Findings:
        """A device whose layout is not known is clean if everything below it is."""
        below = [self.of_device(number) for number in slaves(device)]
        if below and not any(each.bad or each.unknown for each in below):
            return Findings([], [])
        reasons = [reason for each in below for reason in each.unknown]
        if any(each.bad for each in below):
            reasons.append(f"something below {device.node} is bad")
        return Findings([], [why, *reasons])

    def _of_disk(self, device: BlockDevice) -> Findings:
        path = device.directory / "badblocks"
        found = read_badblocks_file(path, device.node)
        if not isinstance(found, Unknown):
            self.record_files[device.node] = path
        return _recorded(found, device.node)

    def _of_sector_mode(self, device: BlockDevice) -> Findings:
        """The region knows what is bad, but the disk's sectors move about in the namespace."""
        claim = device.directory.parents[1]
        region = ndbus.region_of(claim)
        if isinstance(region, Unknown):
            return Findings([], [region.why])
        name = read_text(claim / "namespace")
        whole = Extent(0, region.size)
        within: Extent | Unknown = whole
        if isinstance(name, str):
            within = ndbus.extent_in_region(region.directory / name, region)
        found = self._of_region(region, whole if isinstance(within, Unknown) else within)
        if found.bad:
            length = sum(bad.extent.length for bad in found.bad)
            return Findings([], [
                f"{length} bytes below {device.node} are bad, but it is in sector mode, which "
                "moves its sectors about, and the kernel does not tell which of them those are"
            ])  # fmt: skip
        return found

    def of_dax(self, number: int) -> Findings:
        """Of a dax character device, given by its number."""
        device = ndbus.find_dax_device(number, self._sysfs)
        if isinstance(device, Unknown):
            return Findings([], [device.why])
        region = ndbus.region_of(device.directory)
        if isinstance(region, Unknown):
            return Findings([], [region.why])
        if (device.directory / "mapping1").exists():
            return Findings([], [f"/dev/{device.name} is made of several ranges"])
        within = ndbus.extent_in_region(device.directory, region)
        if isinstance(within, Unknown):
            whole = self._of_region(region, Extent(0, region.size))
            if not whole.bad and not whole.unknown:
                return whole
            return Findings([], [within.why, *whole.unknown])
        found = self._of_region(region, within)
        return _joined(f"/dev/{device.name}", [found])

    def _of_region(self, region: ndbus.Region, within: Extent) -> Findings:
        found = ndbus.read_region_badblocks(region, within)
        if not isinstance(found, Unknown):
            self.record_files[region.name] = region.badblocks_file
        named = _recorded(found, region.name)
        moved = [
            bad._replace(places=tuple(place.shifted(within.offset) for place in bad.places))
            for bad in named.bad
        ]
        return Findings(moved, named.unknown)

    # -- files -----------------------------------------------------------------------------

    def of_path(self, path: str) -> Findings:
        """Of what lies at the path: a file, or a device's node."""
        try:
            own = self._open_own(path)
            if own is not None:
                self.own_paths.append(path)
                with closing(own):
                    return _of_own(own, path)
            found = os.stat(path)
            if stat.S_ISBLK(found.st_mode):
                return self.of_device(found.st_rdev)
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except DaxmendError as error:
            return Findings([], [str(error)])
        except OSError as error:
            return Findings([], [f"{path}: {error.strerror}"])
        try:
            below = self.of_open_file(fd, path)
            return Findings(
                [each._replace(places=(*each.places, Place(path, each.extent.offset)))
                 for each in below.bad],
                below.unknown,
            )  # fmt: skip
        finally:
            os.close(fd)

    def of_open_file(self, fd: int, name: str) -> Findings:
        """Of a regular file, in its bytes; the last place is on its file system's device.

        What lies behind its end, in its last page, is in it: that page cannot be read for it.
        """
        device = device_of(fd)
        if isinstance(device, Unknown):
            return Findings([], [f"{name}: {device.why}"])
        try:
            extents = file_extents(fd)
        except OSError as error:
            extents = Unknown(f"where it lies cannot be asked: {error.strerror}")
        if not isinstance(extents, Unknown) and not extents:
            return Findings([], [])  # nothing of it lies anywhere
        below = self.of_device(device)
        if isinstance(extents, Unknown):
            if not below.bad:
                return below
            return Findings([], [f"{name}: {extents.why}", *below.unknown])
        return _of_extents(below, extents, os.fstat(fd).st_size, name)


def _of_own(target: Target, path: str) -> Findings:
    """Of what a daxmend mount shows: the record is its own."""
    return Findings(
        [
            Bad(each.extent, each.kind, (Place(path, each.extent.offset),))
            for each in target.ranges()
            if each.is_recorded
        ],
        [],
    )


def _of_extents(below: Findings, extents: list[FiemapExtent], size: int, name: str) -> Findings:
    found: list[Bad] = []
    unknown = list(below.unknown)
    for each in extents:
        if not each.has_place:
            if below.bad:
                unknown.append(
                    f"{name}: the file system does not tell where {each.length} bytes at offset "
                    f"{each.offset} lie"
                )
            continue
        for bad in overlapping(below.bad, Extent(each.device_offset, each.length)):
            moved = bad.extent.shifted(each.offset - each.device_offset)
            inside = moved.intersection(Extent(0, align_up(size, PAGE)))
            if inside.length:
                found.append(bad._replace(extent=moved).part(inside))
    return Findings(sorted(found), unknown)


def overlapping(ascending: list[Bad], extent: Extent) -> Iterator[Bad]:
    """The parts of disjoint bad ranges that lie in a range."""
    at = bisect_left(ascending, extent.offset, key=lambda bad: bad.extent.end)
    while at < len(ascending) and ascending[at].extent.offset < extent.end:
        inside = ascending[at].part(extent)
        if inside.extent.length:
            yield inside
        at += 1


def _recorded(found: Recorded | Unknown, name: str) -> Findings:
    if isinstance(found, Unknown):
        return Findings([], [found.why])
    bad = [Bad(each, "recorded", (Place(name, each.offset),)) for each in found.extents]
    return Findings(sorted(bad), [] if found.is_complete else [_CUT.format(name)])


def _moved(below: Findings, above: Extent, offset: int) -> Findings:
    """What of `below` lies under `above`, which begins there at `offset`."""
    window = Extent(offset, above.length)
    moved = [
        bad._replace(extent=bad.extent.shifted(above.offset - offset))
        for bad in overlapping(below.bad, window)
    ]
    return Findings(moved, below.unknown)


def _joined(node: str, parts: Iterable[Findings]) -> Findings:
    """The pieces of a device as one, each range with its place on it."""
    bad: list[Bad] = []
    unknown: list[str] = []
    for part in parts:
        bad += [
            each._replace(places=(*each.places, Place(node, each.extent.offset)))
            for each in part.bad
        ]
        unknown += [reason for reason in part.unknown if reason not in unknown]
    return Findings(sorted(bad), unknown)
