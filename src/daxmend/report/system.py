"""File systems to compare strategies on: daxmend's own, ext4 and XFS on a disk, a directory.

Each gives a *stage*, new for every case: a directory for the file, a way to make bytes of it bad,
and afterwards an answer to what is bad of the device and nobody's.
"""

from __future__ import annotations

import os
import tempfile
import time
from bisect import bisect_right
from collections.abc import Generator, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from pathlib import Path
from typing import Final, NamedTuple, Protocol

from daxmend.errors import UnknownStateError, UnsupportedError, UsageError
from daxmend.extent import Extent
from daxmend.faults import Fault
from daxmend.host.fiemap import file_extents
from daxmend.host.unknown import Unknown
from daxmend.report.disk import (
    Disk,
    ProgramFailedError,
    RealDisk,
    find_program,
    loop_disk,
    mounted_pool,
    open_own,
    run_program,
    why_no_loop_disk,
)
from daxmend.report.interrupt import hold, release
from daxmend.rescue.file import FileTarget
from daxmend.rescue.hosttarget import HostTarget
from daxmend.rescue.mount import MountTarget
from daxmend.rescue.opening import find_own_mount
from daxmend.rescue.target import Range, merged_ranges
from daxmend.units import MIB, align_up

_SETTLE_SECONDS: Final = 5.0
_LOOK_SECONDS: Final = 0.01
_PREFIX: Final = ".daxmend-compare-"  # of directories on other people's mounts
_MKFS: Final = {
    "ext4": ("mkfs.ext4", "-q", "-F", "-b", "4096", "-E", "lazy_itable_init=0,nodiscard"),
    "xfs": ("mkfs.xfs", "-q", "-f", "-K"),
}
_LEAST_SIZE: Final = {"ext4": 64 * MIB, "xfs": 304 * MIB}  # mkfs.xfs wants 300 MiB
FSTYPES: Final = tuple(_MKFS)


class Left(NamedTuple):
    """Bytes of the device that are bad and no file's. `why` there may be more, or is empty."""

    length: int
    why: str = ""


class Stage(Protocol):
    """Where one case is played; `directory` is for its file."""

    directory: Path

    def make_bad(self, path: Path, extents: list[Extent]) -> None:
        """Make whole sectors of the file bad; the file is durable, and none of its own business."""

    def left(self) -> Left:
        """What is bad and nobody's, once the system has done what it does by itself."""


class System(Protocol):
    """`name` says which file system, `about` on what."""

    name: str
    about: str

    def stage(self) -> AbstractContextManager[Stage]:
        """A new one; nothing is left of it in the end."""


# -- daxmend's own -------------------------------------------------------------------------


class OwnStage:
    """Implements `Stage` in a directory on a daxmend mount."""

    def __init__(self, directory: Path, mountpoint: Path) -> None:
        self.directory = directory
        self._mountpoint = mountpoint
        self._target = open_own(mountpoint)
        self._before = self._free()

    def make_bad(self, path: Path, extents: list[Extent]) -> None:
        """See `Stage`."""
        faults = map(Fault.of, extents)
        if not isinstance(self._target, MountTarget):
            with closing(open_own(path)) as target:
                target.inject(faults)
            return
        inside = os.fsencode("/" + os.path.relpath(path, self._mountpoint))
        FileTarget(self._target, inside, str(path)).inject(faults)

    def left(self) -> Left:
        """See `Stage`: freed bad blocks are in quarantine until they are cleared (R31)."""
        end = time.monotonic() + _SETTLE_SECONDS
        while (free := self._free() - self._before) > 0 and time.monotonic() < end:
            time.sleep(_LOOK_SECONDS)
        return Left(max(free, 0))

    def _free(self) -> int:
        return _length_of_nobody(merged_ranges(self._target.ranges()))

    def close(self) -> None:
        """Let go of the mount."""
        self._target.close()


def _length_of_nobody(ranges: list[Range]) -> int:
    return sum(each.extent.length for each in ranges if each.owner in ("free", None))


class OwnSystem:
    """A file system in a pool below `base`, mounted for each stage."""

    name = "daxmend"

    def __init__(self, base: Path, file_size: int) -> None:
        self._base = base
        self._size = 4 * align_up(file_size, 16 * MIB)
        self.about = f"its own file system, on a pool of {self._size // MIB} MiB"

    @contextmanager
    def stage(self) -> Iterator[Stage]:
        """See `System`."""
        base = self._base / "own"
        with (
            mounted_pool(base, self._size, raw=False) as mountpoint,
            closing(OwnStage(mountpoint, mountpoint)) as stage,
        ):
            yield stage


class DirectorySystem:
    """A directory on a daxmend mount, or on a shadow mount."""

    def __init__(self, directory: Path) -> None:
        mount = find_own_mount(str(directory))
        if mount is None:
            raise UnsupportedError(
                f"{directory} is on no daxmend mount: nothing there can be made bad. Without an "
                "argument, file systems are made for the comparison; a device of persistent "
                "memory, all of which is overwritten, can be given with --yes (/dev/pmem0)"
            )
        self.name = str(directory)
        self.about = f"a daxmend mount of {mount.source}"
        self._directory = directory
        self._mountpoint = Path(mount.mount_point)

    @contextmanager
    def stage(self) -> Iterator[Stage]:
        """See `System`."""
        with (
            tempfile.TemporaryDirectory(prefix=_PREFIX, dir=self._directory) as name,
            closing(OwnStage(Path(name), self._mountpoint)) as stage,
        ):
            yield stage


# -- other file systems --------------------------------------------------------------------


class DiskStage:
    """Implements `Stage` on a file system of its own on a disk."""

    def __init__(self, directory: Path, disk: Disk) -> None:
        self.directory = directory
        self._disk = disk

    def make_bad(self, path: Path, extents: list[Extent]) -> None:
        """See `Stage`: the sectors of the disk on which those of the file lie."""
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            found = file_extents(fd)
        finally:
            os.close(fd)
        if isinstance(found, Unknown):
            raise UnsupportedError(f"{path}: {found.why}")
        places = []
        for each in found:
            first = bisect_right(extents, each.offset, key=lambda extent: extent.end)
            for extent in extents[first:]:
                part = extent.intersection(Extent(each.offset, each.length))
                if not part.length:
                    break
                places.append(part.shifted(each.device_offset - each.offset))
        self._disk.make_bad(sorted(places))

    def left(self) -> Left:
        """See `Stage`."""
        with closing(open_own(self.directory)) as target:
            if not isinstance(target, HostTarget):
                raise UnknownStateError(f"{self.directory} is no file system of the kernel's")
            ranges = target.locate(lambda done, total: None)
            return Left(_length_of_nobody(ranges), "; ".join(target.unknown))


class DiskSystem:
    """ext4 or XFS, made anew on a disk for each stage."""

    def __init__(self, fstype: str, disk: Disk, mountpoint: Path, about: str) -> None:
        self.name = " ".join((fstype, *disk.mount_options))
        self.about = about
        self._fstype = fstype
        self._disk = disk
        self._mountpoint = mountpoint

    @contextmanager
    def stage(self) -> Iterator[Stage]:
        """See `System`."""
        with ExitStack() as stack:
            stack.callback(release)
            hold()
            stack.callback(self._disk.clear)
            run_program(*_MKFS[self._fstype], self._disk.node)
            self._mountpoint.mkdir()
            stack.callback(self._mountpoint.rmdir)
            node = self._disk.node
            words = ("mount", "-t", self._fstype, *self._disk.mount_options, node)
            run_program(*words, self._mountpoint)
            stack.callback(run_program, "umount", self._mountpoint)
            stack.callback(hold)
            release()
            yield DiskStage(self._mountpoint, self._disk)


@contextmanager
def loop_system(fstype: str, base: Path, file_size: int) -> Iterator[DiskSystem]:
    """ext4 or XFS on a loop device; its disk is a pool below `base`."""
    size = max(_LEAST_SIZE[fstype], 4 * align_up(file_size, 16 * MIB))
    with loop_disk(base / f"{fstype}-disk", size) as disk:
        about = f"on a loop device of {size // MIB} MiB, on a raw daxmend mount"
        yield DiskSystem(fstype, disk, base / fstype, about)


def why_no_program(fstype: str) -> str | None:
    """Which program is missing to make such a file system; None if none is."""
    missing = [name for name in (_MKFS[fstype][0], "mount") if find_program(name) is None]
    return f"{missing[0]} is missing: install it first" if missing else None


# -- which of them -------------------------------------------------------------------------


def iter_systems(
    where: Sequence[str], base: Path, file_size: int, fstypes: Sequence[str], *, overwrite: bool
) -> Generator[System | tuple[str, str]]:
    """daxmend's own, then what was named; if nothing was, `fstypes` on loop devices.

    What cannot be had is its name, and why. To be closed; everything made lies below `base`.
    Raises `UsageError` for a device that may not be overwritten, and for what is no device.
    """
    disks = [name for name in where if not os.path.isdir(name)]
    if disks and not overwrite:
        raise UsageError(f"everything on {disks[0]} is overwritten; if that is meant, say --yes")
    named = [RealDisk(name) if name in disks else DirectorySystem(Path(name)) for name in where]
    yield OwnSystem(base, file_size)
    for each in named:
        if isinstance(each, DirectorySystem):
            yield each
            continue
        for fstype in fstypes:
            about = f"on {each.node}"
            missing = why_no_program(fstype)
            if missing is not None:
                yield f"{fstype} on {each.node}", missing
            else:
                yield DiskSystem(fstype, each, base / fstype, about)
    for fstype in () if where else fstypes:
        yield from _iter_loop(fstype, base, file_size)


def _iter_loop(fstype: str, base: Path, file_size: int) -> Iterator[System | tuple[str, str]]:
    missing = why_no_loop_disk() or why_no_program(fstype)
    if missing is not None:
        yield f"{fstype} on a loop device", missing
        return
    with ExitStack() as stack:
        try:
            system = stack.enter_context(loop_system(fstype, base, file_size))
        except ProgramFailedError as error:
            yield f"{fstype} on a loop device", str(error)
            return
        yield system
