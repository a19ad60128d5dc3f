"""Performs a scenario's steps with real system calls, and notes the results as observations do.

The read calls use one descriptor that stays open over the steps, so that what it has cached must
follow the device (R27); every write opens and closes, so that the close can tell of a dropped half
(R50). `Target` is what a mount must offer: tests/conformance/mount.py, or a plain directory.
"""

import ctypes
import errno
import mmap
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from answer import UNTOUCHED_START, Mapping, end_of
from judge import Done, Transcript
from scenario import Scenario, Step
from state import FILE, FIRST_PAGES, OTHER, PAGE, PER_PAGE, SECTOR, UNWRITTEN, WRITTEN, format_runs

Result = dict[str, Any]

FALLOCATE_MODES = {
    "alloc": 0x00, "punch": 0x03, "zero": 0x10, "collapse": 0x08, "insert": 0x20,
    "write_zeroes": 0x80,
}  # fmt: skip
SI_CODES = {2: "BUS_ADRERR", 4: "BUS_MCEERR_AR", 5: "BUS_MCEERR_AO"}
EXTENTS_XATTR = "user.daxmend.extents"
CLEAR_SECONDS = 10.0

_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


class Target(Protocol):
    """A fresh file system and the control files over it."""

    directory: Path
    helper: Path  # the program of touch.c

    def read_badblocks(self) -> list[tuple[int, int]]:
        """The record: sector and count, from the device's start."""

    def inject(self, sector: int) -> None:
        """Make a sector of the device bad, with a record."""

    def mapping(self, path: Path) -> list[tuple[int, int, int, str]] | None:
        """File offset, device offset, length, kind; None if the target cannot say."""

    @property
    def device(self) -> Path:
        """The raw device as a file."""

    def remount(self) -> None:
        """Unmount and mount."""


def fallocate(fd: int, mode: int, offset: int, length: int) -> int:
    """fallocate(2)."""
    if _LIBC.fallocate(fd, mode, offset, length):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return 0


def _errno_name(error: OSError) -> str:
    return errno.errorcode.get(error.errno or 0, str(error.errno))


def attempt(call: Callable[[], int]) -> Result:
    """`ret`, or `errno` by name."""
    try:
        return {"ret": call()}
    except OSError as error:
        return {"errno": _errno_name(error)}


def with_open(path: Path, flags: int, call: Callable[[int], int]) -> Result:
    """`attempt` on a fresh descriptor; `close` tells of a close that failed (R50)."""
    try:
        fd = os.open(path, flags, 0o644)
    except OSError as error:
        return {"errno": _errno_name(error)}
    result = attempt(lambda: call(fd))
    try:
        os.close(fd)
    except OSError as error:
        result["close"] = _errno_name(error)
    return result


# -- memory --------------------------------------------------------------------------------


def aligned(data: bytes) -> memoryview:
    """The data in page-aligned, resident memory."""
    memory = mmap.mmap(-1, max(len(data), 1))
    memory[: len(data)] = data
    return memoryview(memory)[: len(data)]


def unaligned(data: bytes) -> memoryview:
    """The data in resident memory that begins in mid-page."""
    return aligned(b"#" * 1001 + data)[1001:]


def untouched(data: bytes) -> memoryview:
    """The data in pages that this process has not touched, not from their first byte on."""
    fd = os.memfd_create("untouched")
    try:
        size = UNTOUCHED_START + len(data)
        os.ftruncate(fd, size)
        for done in range(0, len(data), 1 << 20):
            os.pwrite(fd, data[done : done + (1 << 20)], UNTOUCHED_START + done)
        return memoryview(mmap.mmap(fd, size, prot=mmap.PROT_READ))[UNTOUCHED_START:]
    finally:
        os.close(fd)


BUFFERS = {"aligned": aligned, "unaligned": unaligned, "untouched": untouched}


def _o_direct(step: Step) -> int:
    return os.O_DIRECT if step.get("direct") else 0


def _byte(step: Step, usual: str) -> bytes:
    return bytes([ord(step.get("byte", usual))])


class Replay:
    """One scenario on one target, from the fresh file to the end state."""

    def __init__(self, target: Target, buffer: str = "aligned") -> None:
        self._target = target
        self._buffer = BUFFERS[buffer]
        self._file = target.directory / FILE
        self._other = target.directory / OTHER
        self._reader: int | None = None
        self._base = 0

    def run(self, scenario: Scenario) -> Transcript:
        """Perform all steps."""
        self._prepare()
        steps = tuple(self._perform(step) for step in scenario.steps)
        end = self._end()
        self._close_reader()
        return Transcript(steps, end, tuple(self._wait_for_clearing()))

    def _prepare(self) -> None:
        """64 pages of `A`; the place of the first is where sectors are counted from."""
        data = aligned(b"A" * (FIRST_PAGES * PAGE))
        fd = os.open(self._file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        try:
            if (count := os.pwrite(fd, data, 0)) != len(data):
                raise AssertionError(f"only {count} bytes of the first file were written")
            os.fsync(fd)
        finally:
            os.close(fd)
        extents = self._target.mapping(self._file)
        if extents is None:
            return
        self._base = extents[0][1]
        if self._mapping(self._file) != {n: (n, WRITTEN) for n in range(FIRST_PAGES)}:
            raise AssertionError(f"a fresh file is not one written extent: {extents}")
        if self._bad_after():
            raise AssertionError(f"a fresh device has bad sectors: {self._bad_after()}")

    def _perform(self, step: Step) -> Done:
        act: Callable[[Step], Result] = getattr(self, f"_do_{step['op']}")
        result = act(step)
        mappings = self._mappings()
        result["bad_after"] = self._bad_after()
        return Done(result, mappings)

    # -- what is seen of the file system ---------------------------------------------------

    def _bad_after(self) -> list[int]:
        first = self._base // SECTOR
        return sorted(
            sector - first
            for start, count in self._target.read_badblocks()
            for sector in range(start, start + count)
        )

    def _mapping(self, path: Path) -> Mapping | None:
        extents = self._target.mapping(path)
        if extents is None:
            return None
        mapping: Mapping = {}
        for offset, place, length, kind in extents:
            if (offset | place | length) % PAGE or kind not in (WRITTEN, UNWRITTEN):
                raise AssertionError(f"{path.name} has a strange extent in {extents}")
            for done in range(0, length, PAGE):
                mapping[(offset + done) // PAGE] = ((place + done - self._base) // PAGE, kind)
        return mapping

    def _mappings(self) -> dict[str, Mapping] | None:
        """Of both files, as far as they exist."""
        found = {}
        for path in (self._file, self._other):
            if path.exists():
                if (mapping := self._mapping(path)) is None:
                    return None
                found[path.name] = mapping
        return found

    def _end(self) -> dict[str, Any]:
        if not self._file.exists():
            return {}
        size = self._file.stat().st_size
        mapping = self._mapping(self._file)
        return {"size": size} if mapping is None else end_of(mapping, size)

    def _wait_for_clearing(self) -> list[int]:
        """Poll until no free page of the first 64 has a bad sector (R31); those that stay."""
        deadline = time.monotonic() + CLEAR_SECONDS
        while True:
            mappings = self._mappings() or {}
            used = {phys for mapping in mappings.values() for phys, _ in mapping.values()}
            free = set(range(FIRST_PAGES)) - used
            left = [sector for sector in self._bad_after() if sector // PER_PAGE in free]
            if not left or time.monotonic() > deadline:
                return left
            time.sleep(0.01)

    # -- reading ---------------------------------------------------------------------------

    def _close_reader(self) -> None:
        if self._reader is not None:
            os.close(self._reader)
            self._reader = None

    def _read_with(self, step: Step, call: Callable[[int], int]) -> Result:
        if step.get("direct"):
            return with_open(self._file, os.O_RDONLY | os.O_DIRECT, call)
        if self._reader is None:
            try:
                self._reader = os.open(self._file, os.O_RDONLY)
            except OSError as error:
                return {"errno": _errno_name(error)}
        reader = self._reader
        return attempt(lambda: call(reader))

    def _do_pread(self, step: Step) -> Result:
        return self._do_preadv({**step, "lens": [step["len"]]})

    def _do_preadv(self, step: Step) -> Result:
        pieces = [aligned(b"!" * length) for length in step["lens"]]
        result = self._read_with(step, lambda fd: os.preadv(fd, pieces, step["off"]))
        if "ret" in result:
            result["data"] = format_runs(b"".join(pieces)[: result["ret"]])
        return result

    def _do_sendfile(self, step: Step) -> Result:
        out = os.memfd_create("sendfile")
        try:
            result = self._read_with(
                step, lambda fd: os.sendfile(out, fd, step["off"], step["len"])
            )
            if "ret" in result:
                result["data"] = format_runs(os.pread(out, result["ret"] + 1, 0))
        finally:
            os.close(out)
        return result

    def _do_copy_range(self, step: Step) -> Result:
        """Into a new file, which is read back and removed."""
        path = self._target.directory / "copy"
        out = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o644)
        try:
            result = self._read_with(
                step, lambda fd: os.copy_file_range(fd, out, step["len"], step["off"], 0)
            )
            if "ret" in result:
                result["data"] = format_runs(os.pread(out, result["ret"] + 1, 0))
        finally:
            os.close(out)
            path.unlink()
        return result

    # -- writing ---------------------------------------------------------------------------

    def _do_pwrite(self, step: Step) -> Result:
        return self._do_pwritev({**step, "lens": [step["len"]]})

    def _do_pwritev(self, step: Step) -> Result:
        byte = _byte(step, "B")
        pieces = [self._buffer(byte * length) for length in step["lens"]]
        flags = os.O_WRONLY | _o_direct(step)
        return with_open(self._file, flags, lambda fd: os.pwritev(fd, pieces, step["off"]))

    def _do_other_file_write(self, step: Step) -> Result:
        """Writes, reads back what was written, and sees whose pages it was given."""
        data = self._buffer(_byte(step, "o") * step["len"])
        offset = step.get("off", 0)
        flags = os.O_CREAT | os.O_RDWR
        result = with_open(self._other, flags, lambda fd: os.pwritev(fd, [data], offset))
        seen = with_open(self._other, os.O_RDONLY, lambda fd: self._read_back(fd, step, offset))
        if seen.get("errno") not in (None, "EIO"):
            raise AssertionError(f"the second file cannot be read: {seen}")
        result["data"] = self._read_back_data if "ret" in seen else ""
        mapping = self._mapping(self._other)
        if mapping is not None:
            got = {phys for phys, _ in mapping.values()}
            result["got_pages_of_first_file"] = len(got & set(range(FIRST_PAGES)))
        return result

    def _read_back(self, fd: int, step: Step, offset: int) -> int:
        data = os.pread(fd, step["len"], offset)
        self._read_back_data = format_runs(data)
        return len(data)

    def _do_truncate(self, step: Step) -> Result:
        return attempt(lambda: os.truncate(self._file, step["len"]) or 0)

    def _do_fallocate(self, step: Step) -> Result:
        mode = FALLOCATE_MODES[step["mode"]]
        return with_open(
            self._file, os.O_RDWR, lambda fd: fallocate(fd, mode, step["off"], step["len"])
        )

    def _do_fsync(self, step: Step) -> Result:
        return with_open(self._file, os.O_RDWR, lambda fd: os.fsync(fd) or 0)

    def _do_unlink(self, step: Step) -> Result:
        """Nobody has it open, so that its blocks are free."""
        self._close_reader()
        return attempt(lambda: os.unlink(self._file) or 0)

    def _do_remount(self, step: Step) -> Result:
        self._close_reader()
        return attempt(lambda: self._target.remount() or 0)

    # -- mapped access ---------------------------------------------------------------------

    def _do_load(self, step: Step) -> Result:
        return self._touch("load", step["off"])

    def _do_store(self, step: Step) -> Result:
        return self._touch("store", step["off"])

    def _touch(self, verb: str, offset: int) -> Result:
        command = [str(self._target.helper), str(self._file), verb, str(offset)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
        kind, *values = done.stdout.splitlines()[0].split()
        if kind == "errno":
            return {"errno": errno.errorcode[int(values[0])]}
        if kind == "ok":
            byte = chr(int(values[0], 16))
            return {"ok": f"load ok {byte}" if verb == "load" else "store ok"}
        code, address, lsb = map(int, values)
        return {
            "signal": "SIGBUS",
            "si_code": SI_CODES.get(code, str(code)),
            "si_addr_offset": address,
            "si_addr_lsb": lsb,
        }

    # -- the device ------------------------------------------------------------------------

    def _do_inject(self, step: Step) -> Result:
        first = self._base // SECTOR + step["sector"]
        for sector in range(first, first + step["count"]):
            self._target.inject(sector)
        return {}

    def _on_device(self, call: Callable[[int], int]) -> Result:
        """O_DIRECT: the sector is the unit in both modes (R33)."""
        return with_open(self._target.device, os.O_RDWR | os.O_DIRECT, call)

    def _do_bdev_pread(self, step: Step) -> Result:
        data = aligned(b"!" * step["len"])
        place = self._base + step["off"]
        result = self._on_device(lambda fd: os.preadv(fd, [data], place))
        if "ret" in result:
            result["data"] = format_runs(data[: result["ret"]])
        return result

    def _do_bdev_pwrite(self, step: Step) -> Result:
        data = aligned(_byte(step, "R") * step["len"])
        place = self._base + step["off"]
        return self._on_device(lambda fd: os.pwritev(fd, [data], place))

    def _do_bdev_zeroout(self, step: Step) -> Result:
        """BLKZEROOUT does not reach a file: ZERO_RANGE (field notes)."""
        mode = FALLOCATE_MODES["zero"]
        place = self._base + step["off"]
        return self._on_device(lambda fd: fallocate(fd, mode, place, step["len"]))
