"""A mount, as a target: through the plain files of its control directory."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import select
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

from daxmend.errors import BusyError, DaxmendError, UnknownStateError, UsageError
from daxmend.extent import Extent, check_bounds, format_badblocks, parse_badblocks_line
from daxmend.faults import Fault, FaultKind
from daxmend.host.fileioctl import iter_extents
from daxmend.rescue.controlreader import ControlReader
from daxmend.rescue.target import (
    CONTROL_DIRECTORY,
    FileExtent,
    FilePlaces,
    Range,
    inner_path,
    is_no_file,
)
from daxmend.units import CACHELINE

if TYPE_CHECKING:
    from daxmend.fs import Finding, Plan

_LINES_A_WRITE = 1000  # well below the size of one request, so that none is cut inside a line
_PROGRESS_MS = 200
_ANSWER_BYTES = 1 << 20
_OWNED_BY_FILE = "file:"


class MountTarget(ControlReader):
    """Implements `DeviceTarget`."""

    def __init__(self, mountpoint: Path, name: str) -> None:
        self.name = name
        self.notices: list[str] = []
        self.unknown: list[str] = []
        self._mountpoint = mountpoint
        self._control = mountpoint / CONTROL_DIRECTORY
        try:
            device = self._find_device(mountpoint)
            self._size = device.stat().st_size
        except OSError as error:
            raise UnknownStateError(_why_unreachable(mountpoint, error)) from None
        self.content = "fs" if device.parent == self._control else "raw"

    def _find_device(self, mountpoint: Path) -> Path:
        """The file `device`: with a file system mounted it is in the control directory."""
        device = self._control / "device"
        try:
            device.stat()
        except OSError as error:
            shown = mountpoint / "device"
            if not shown.exists():
                raise error from None
            return shown
        return device

    def badblocks(self) -> list[Extent]:
        """See `Target`."""
        return [parse_badblocks_line(line) for line in self._lines("badblocks")]

    def ranges(self) -> list[Range]:
        """See `Target`."""
        return [_parse_owned(line) for line in self._lines("owners")]

    def find_file(self, path: bytes) -> FilePlaces:
        """See `DeviceTarget`."""
        if self.content != "fs":
            raise UsageError(f"{self.name} shows a raw device, without a file system")
        try:
            with _opened_below(self._mountpoint, path) as fd:
                mode = os.fstat(fd).st_mode
                if not stat.S_ISREG(mode):
                    raise is_no_file(self._path_of(path), mode, str(self._mountpoint))
                # Opening anew, because the file itself never was: a FIFO would wait, for one.
                reader = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY)
                try:
                    extents = [FileExtent(*each) for each in iter_extents(reader)]
                    return FilePlaces(os.fstat(reader).st_size, extents)
                finally:
                    os.close(reader)
        except PermissionError as error:
            what = f"{self._path_of(path)}: {error.strerror}; ask its owner, or root"
            raise UnknownStateError(what) from None
        except OSError as error:
            raise OSError(error.errno, error.strerror, self._path_of(path)) from None

    def _path_of(self, path: bytes) -> str:
        return str(self._mountpoint) + os.fsdecode(path)

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
        return {"mounted": str(self._mountpoint), **self._read_status()}

    def events(self) -> list[dict[str, object]] | None:
        """See `Target`."""
        return [json.loads(line) for line in self._lines("history")]

    def check(self) -> list[Finding]:
        """See `DeviceTarget`."""
        if self.content != "fs":
            raise UsageError(f"{self.name} shows a raw device: there is no file system to check")
        return [_parse_finding(line) for line in self._lines("check")]

    def plan_repair(self) -> Plan:
        """See `DeviceTarget`."""
        raise BusyError(
            f"{self.name} is mounted at {self._mountpoint}, and a repair needs it alone; first: "
            f"daxmend umount {self._mountpoint}"
        )

    def apply_repair(self, plan: Plan) -> None:
        """See `DeviceTarget`."""
        raise AssertionError("there is no plan for a mount")

    def send_message(self, text: str) -> str:
        """See `DeviceTarget`; the lock keeps other messages off until the answer is read."""
        with open(self._control / "message", "r+b", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            try:
                file.write(text.encode("ascii"))
            except UnicodeEncodeError:
                raise UsageError(f"'{text}': a message to a mount is ASCII") from None
            except OSError as error:
                said = os.pread(file.fileno(), _ANSWER_BYTES, 0).decode().strip()
                kind = UsageError if error.errno == errno.EINVAL else DaxmendError
                raise kind(said) from None
            return os.pread(file.fileno(), _ANSWER_BYTES, 0).decode()

    def close(self) -> None:
        """Nothing is held."""

    def _write(self, name: str, text: str) -> None:
        with open(self._control / name, "w", encoding="utf-8") as file:
            file.write(text)


def _why_unreachable(mountpoint: Path, error: OSError) -> str:
    if error.errno == errno.ENOTCONN:
        return f"{mountpoint} is a dead mount, its server has gone: daxmend umount {mountpoint}"
    return f"{mountpoint}: {error.strerror}; only its owner can ask"


def _parse_owned(line: str) -> Range:
    """A line of `owners`: `OFFSET LENGTH STATE OWNER FILE_OFFSET`."""
    offset, length, kind, owner, file_offset = line.split(" ")
    extent = Extent(int(offset), int(length))
    if owner == "-":
        return Range(extent, kind, extent.offset)
    if not owner.startswith(_OWNED_BY_FILE):
        return Range(extent, kind, extent.offset, owner)
    name = owner.removeprefix(_OWNED_BY_FILE)
    path = b"" if name.startswith("#") else unquote_to_bytes(name)
    return Range(extent, kind, extent.offset, "file", path, int(file_offset))


def _parse_finding(line: str) -> Finding:
    """A line of `check`."""
    from daxmend.fs import Finding, Invariant  # the whole file system: only where it is needed

    said = json.loads(line)
    path = os.fsencode(said["path"] or "")
    return Finding(Invariant(said["invariant"]), said["text"], path, said["is_healed"])


@contextlib.contextmanager
def _opened_below(directory: Path, path: bytes) -> Iterator[int]:
    """A descriptor (O_PATH) of what lies at `path` below the directory; no link is followed."""
    fd = os.open(directory, os.O_PATH | os.O_DIRECTORY)
    try:
        names = inner_path(path)
        for at, name in enumerate(names, 1):
            way = os.O_DIRECTORY if at < len(names) else 0
            below = os.open(name, os.O_PATH | os.O_NOFOLLOW | way, dir_fd=fd)
            os.close(fd)
            fd = below
        yield fd
    finally:
        os.close(fd)
