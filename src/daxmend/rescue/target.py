"""Targets: one protocol over a pool that nobody has open and over a mount's control directory.

A command that is given a locked pool goes through its mount, and the answer is the same (design,
"The pool").
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

from daxmend.errors import BusyError, UnknownStateError, UsageError
from daxmend.extent import Extent, check_bounds, format_badblocks, parse_badblocks_line
from daxmend.host.mountinfo import find_mount_of
from daxmend.media.pool import is_pool, open_pool, read_owner
from daxmend.pmem.device import PmemDevice
from daxmend.units import CACHELINE, SECTOR

CONTROL_DIRECTORY = ".daxmend"
_FILE_SYSTEM_TYPE = "fuse.daxmend"


class Range(NamedTuple):
    """A bad range and what is known of it: `poison`, `recorded` or `lost` (R1)."""

    extent: Extent
    kind: str


class Target(Protocol):
    """What every command can ask. Offsets are bytes from the start of the device (R47)."""

    name: str

    def badblocks(self) -> list[Extent]:
        """The record, merged."""

    def ranges(self) -> list[Range]:
        """The record with its states, and poison where the target can know it."""

    def inject(self, extent: Extent, *, latent: bool) -> Extent:
        """Make the range bad, widened to sectors or, latent, to cachelines; returns what is bad."""

    def uninject(self, extent: Extent) -> Extent:
        """Take the poison of the range's cachelines; returns them."""

    def close(self) -> None:
        """Let go of it."""


def open_target(path: Path, *, writable: bool = False) -> Target:
    """The target that `path` names: a mount (its directory or what lies in it), or a pool.

    Raises `UsageError` for what is neither, `UnknownStateError` where it may not be asked.
    """
    mountpoint = _daxmend_mount_of(path)
    if mountpoint is not None:
        return MountTarget(mountpoint, str(path))
    if path.is_dir():
        raise UsageError(f"{path} is a directory without a daxmend mount; mount a pool there first")
    try:
        if not is_pool(path):
            raise UsageError(f"{path} is not a daxmend pool, nor a daxmend mount")
        owner = read_owner(path)
    except PermissionError as error:
        raise UnknownStateError(f"{path}: cannot be read: {error.strerror}") from None
    if owner is None:
        return PoolTarget(path, writable=writable)
    pid, mounted_at = owner
    if not mounted_at:
        raise BusyError(f"{path} is in use by process {pid}")
    return MountTarget(Path(mounted_at), str(path))


class PoolTarget:
    """A pool that nobody has open for writing."""

    def __init__(self, path: Path, *, writable: bool) -> None:
        self.name = str(path)
        self._device = PmemDevice(open_pool(path, writable=writable))
        self._whole = Extent(0, self._device.size)

    def badblocks(self) -> list[Extent]:
        """See `Target`."""
        return _merged(run for run, _ in self._device.badblocks(self._whole))

    def ranges(self) -> list[Range]:
        """See `Target`."""
        recorded = [
            Range(run, "lost" if state.value == "lost" else "recorded")
            for run, state in self._device.badblocks(self._whole)
        ]
        return sorted(recorded + [Range(run, "poison") for run in self._device.poison(self._whole)])

    def inject(self, extent: Extent, *, latent: bool) -> Extent:
        """See `Target`."""
        self._device.inject(extent, latent=latent)
        return extent.widened(CACHELINE if latent else SECTOR)

    def uninject(self, extent: Extent) -> Extent:
        """See `Target`."""
        self._device.uninject(extent)
        return extent.widened(CACHELINE)

    def close(self) -> None:
        """See `Target`."""
        self._device.close()


class MountTarget:
    """A mount, through the plain files of its control directory."""

    def __init__(self, mountpoint: Path, name: str) -> None:
        self.name = name
        self._control = mountpoint / CONTROL_DIRECTORY
        self._size = (mountpoint / "device").stat().st_size

    def badblocks(self) -> list[Extent]:
        """See `Target`."""
        return [parse_badblocks_line(line) for line in self._lines("badblocks")]

    def ranges(self) -> list[Range]:
        """See `Target`."""
        found = []
        for line in self._lines("ranges"):
            offset, length, kind, _ = line.split(maxsplit=3)
            found.append(Range(Extent(int(offset), int(length)), kind))
        return found

    def inject(self, extent: Extent, *, latent: bool) -> Extent:
        """See `Target`."""
        check_bounds(extent, self._size, self.name)
        if latent:
            lines = extent.widened(CACHELINE)
            self._write("poison", f"{lines.offset} {lines.length}\n")
            return lines
        sectors = extent.widened(SECTOR)
        self._write("badblocks", format_badblocks([sectors]))
        return sectors

    def uninject(self, extent: Extent) -> Extent:
        """See `Target`."""
        check_bounds(extent, self._size, self.name)
        lines = extent.widened(CACHELINE)
        self._write("poison", f"-{lines.offset} {lines.length}\n")
        return lines

    def close(self) -> None:
        """Nothing is held."""

    def _lines(self, name: str) -> list[str]:
        try:
            return (self._control / name).read_text().splitlines()
        except PermissionError as error:
            raise UnknownStateError(
                f"{self._control / name}: {error.strerror}; ask its owner, or root"
            ) from None

    def _write(self, name: str, text: str) -> None:
        with open(self._control / name, "w", encoding="ascii") as file:
            file.write(text)


def _daxmend_mount_of(path: Path) -> Path | None:
    """The mount point that holds `path`, if that is a daxmend mount."""
    found = find_mount_of(path)
    return Path(found.mount_point) if found and found.fstype == _FILE_SYSTEM_TYPE else None


def _merged(extents: Iterator[Extent]) -> list[Extent]:
    merged: list[Extent] = []
    for extent in extents:
        if merged and merged[-1].end == extent.offset:
            merged[-1] = Extent.between(merged[-1].offset, extent.end)
        else:
            merged.append(extent)
    return merged
