"""Targets: one protocol over a pool that nobody has open and over a mount's control directory.

A command that is given a locked pool goes through its mount, and the answer is the same (design,
"The pool").
"""

import errno
import json
import os
import select
import stat
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

from daxmend.errors import BusyError, DaxmendError, UnknownStateError, UsageError
from daxmend.extent import Extent, check_bounds, format_badblocks, merged, parse_badblocks_line
from daxmend.faults import Fault, FaultKind
from daxmend.host.mountinfo import Mount, find_mount, find_mount_of
from daxmend.host.mountprobe import MountState, probe_mount
from daxmend.media.pool import is_pool, open_pool, read_owner
from daxmend.pmem.device import PmemDevice
from daxmend.units import CACHELINE

CONTROL_DIRECTORY = ".daxmend"
_FILE_SYSTEM_TYPE = "fuse.daxmend"
_LINES_A_WRITE = 1000  # well below the size of one request, so that none is cut inside a line
_PROGRESS_MS = 200


class Range(NamedTuple):
    """A bad range and what is known of it: `poison`, `recorded` or `lost` (R1)."""

    extent: Extent
    kind: str


class Target(Protocol):
    """What every command can ask. Offsets are bytes from the start of the device (R47)."""

    name: str
    notices: list[str]  # what the operator should know of the target itself

    def badblocks(self) -> list[Extent]:
        """The record, merged."""

    def ranges(self) -> list[Range]:
        """The record with its states, and poison where the target can know it."""

    def inject(self, faults: Iterable[Fault]) -> None:
        """Make ranges bad, each in its way (R2); all of them, or with `UsageError` none."""

    def uninject(self, extent: Extent) -> Extent:
        """Take the poison of the range's cachelines; returns them."""

    def scrub(self, extent: Extent | None) -> Iterator[Extent]:
        """Look for latent poison in the range, or everywhere; yields what has been done (R4)."""

    def status(self) -> dict[str, object]:
        """What the target says of itself, as JSON types; lengths in bytes."""

    def close(self) -> None:
        """Let go of it."""


def open_target(path: Path, *, writable: bool = False) -> Target:
    """The target that `path` names: a mount (its directory or what lies in it), or a pool.

    Raises `UsageError` for what is neither, `UnknownStateError` where it may not be asked.
    """
    mount = find_mount_of(path)
    if mount is not None and mount.fstype == _FILE_SYSTEM_TYPE:
        return _open_mount(mount, str(path))
    try:
        if stat.S_ISDIR(path.stat().st_mode):
            raise UsageError(
                f"{path} is a directory without a daxmend mount; mount a pool there first"
            )
        if not is_pool(path):
            raise UsageError(f"{path} is not a daxmend pool, nor a daxmend mount")
        owner = read_owner(path)
    except PermissionError as error:
        raise UnknownStateError(f"{path}: cannot be read: {error.strerror}") from None
    if owner is None:
        return PoolTarget(path, writable=writable)
    pid, mounted_at = owner
    mount = find_mount(mounted_at) if mounted_at else None
    if mount is None or mount.fstype != _FILE_SYSTEM_TYPE:
        raise BusyError(f"{path} is in use by process {pid}; end it, or wait for it")
    return _open_mount(mount, str(path))


def _open_mount(mount: Mount, name: str) -> Target:
    """The mount, if its server can be asked (R44)."""
    where = mount.mount_point
    complaint = {
        MountState.DEAD: f"the server of {where} has died; clean up with: daxmend umount {where}",
        MountState.SILENT: f"the server of {where} does not answer; force it with: "
        f"daxmend umount -F {where}",
        MountState.CLOSED: f"{where} is another user's own mount; only its owner can ask",
    }.get(probe_mount(mount))
    if complaint:
        raise UnknownStateError(f"{name}: {complaint}")
    return MountTarget(Path(where), name)


class PoolTarget:
    """A pool that nobody has open for writing."""

    def __init__(self, path: Path, *, writable: bool) -> None:
        self.name = str(path)
        self._device = PmemDevice(open_pool(path, writable=writable))
        self._whole = Extent(0, self._device.size)
        self.notices = self._device.notices

    def badblocks(self) -> list[Extent]:
        """See `Target`."""
        return merged(run for run, _ in self._device.badblocks(self._whole))

    def ranges(self) -> list[Range]:
        """See `Target`."""
        recorded = [
            Range(run, "lost" if state.value == "lost" else "recorded")
            for run, state in self._device.badblocks(self._whole)
        ]
        return sorted(recorded + [Range(run, "poison") for run in self._device.poison(self._whole)])

    def inject(self, faults: Iterable[Fault]) -> None:
        """See `Target`."""
        plan = list(faults)
        for fault in plan:
            check_bounds(fault.extent, self._device.size, self.name)
        for fault in plan:
            if fault.kind is FaultKind.ONCE:
                self._device.inject_once(fault.extent)
            else:
                self._device.inject(fault.extent, latent=fault.kind is FaultKind.LATENT)

    def uninject(self, extent: Extent) -> Extent:
        """See `Target`."""
        self._device.uninject(extent)
        return extent.widened(CACHELINE)

    def scrub(self, extent: Extent | None) -> Iterator[Extent]:
        """See `Target`."""
        return self._device.scrub(self._whole if extent is None else extent)

    def status(self) -> dict[str, object]:
        """See `Target`."""
        header = self._device.pool.header
        lengths = Counter[str]()
        for found in self.ranges():
            lengths[found.kind] += found.extent.length
        return {
            "device": self.name,
            "size": self._device.size,
            "mounted": None,
            "medium": header.medium.value,
            "durability": header.durability.value,
            "recorded": lengths["recorded"] + lengths["lost"],
            "lost": lengths["lost"],
            "poison": lengths["poison"],
        }

    def close(self) -> None:
        """See `Target`."""
        self._device.close()


class MountTarget:
    """A mount, through the plain files of its control directory."""

    def __init__(self, mountpoint: Path, name: str) -> None:
        self.name = name
        self.notices: list[str] = []
        self._control = mountpoint / CONTROL_DIRECTORY
        try:
            self._size = (mountpoint / "device").stat().st_size
        except OSError as error:
            raise UnknownStateError(_why_unreachable(mountpoint, error)) from None

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

    def inject(self, faults: Iterable[Fault]) -> None:
        """See `Target`."""
        recorded: list[Extent] = []
        poison: list[str] = []
        for fault in faults:
            check_bounds(fault.extent, self._size, self.name)
            if fault.kind is FaultKind.UNTIL_WRITTEN:
                recorded.append(fault.extent)
            else:
                once = " once" if fault.kind is FaultKind.ONCE else ""
                poison.append(f"{fault.extent.offset} {fault.extent.length}{once}\n")
        for name, lines in (
            ("badblocks", format_badblocks(recorded).splitlines(keepends=True)),
            ("poison", poison),
        ):
            for start in range(0, len(lines), _LINES_A_WRITE):
                self._write(name, "".join(lines[start : start + _LINES_A_WRITE]))

    def uninject(self, extent: Extent) -> Extent:
        """See `Target`."""
        check_bounds(extent, self._size, self.name)
        lines = extent.widened(CACHELINE)
        self._write("poison", f"-{lines.offset} {lines.length}\n")
        return lines

    def scrub(self, extent: Extent | None) -> Iterator[Extent]:
        """See `Target`."""
        whole = Extent(0, self._size) if extent is None else extent
        check_bounds(whole, self._size, self.name)
        self._write("scrub", f"{whole.offset} {whole.length}\n")
        done = 0
        with open(self._control / "scrub", "rb", buffering=0) as file:
            poll = select.poll()
            poll.register(file, select.POLLPRI)
            while True:
                is_running = b"+" in os.pread(file.fileno(), 64, 0)
                scrub = self.status()["scrub"]
                assert isinstance(scrub, dict)
                if scrub["error"]:
                    raise DaxmendError(f"{self.name}: the scrub stopped: {scrub['error']}")
                now = scrub["scrubbed"] if is_running else whole.length
                yield Extent(whole.offset + done, now - done)
                done = now
                if not is_running:
                    return
                poll.poll(_PROGRESS_MS)

    def status(self) -> dict[str, object]:
        """See `Target`."""
        document: dict[str, object] = json.loads("\n".join(self._lines("status")))
        return {"mounted": str(self._control.parent), **document}

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
        with open(self._control / name, "w", encoding="utf-8") as file:
            file.write(text)


def _why_unreachable(mountpoint: Path, error: OSError) -> str:
    if error.errno == errno.ENOTCONN:
        return f"{mountpoint} is a dead mount, its server has gone: daxmend umount {mountpoint}"
    return f"{mountpoint}: {error.strerror}; only its owner can ask"
