"""Memory as a device without error management: RAM, and a shared window of a file (R40).

Such a device is a full member of any stack. It knows of no bad bytes, keeps no record and takes no
injected faults; put a `faulty` target on it for those. What the file below cannot give back is an
error at the access, and stays one.
"""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING, NoReturn

from daxmend.dax.api import (
    AccessMode,
    Capability,
    ErrorManagement,
    Holder,
    Salvage,
    SectorState,
    Window,
    capabilities_of,
)
from daxmend.errors import (
    BusyError,
    FaultError,
    MediaError,
    NoRecoveryError,
    UnsupportedError,
    UsageError,
)
from daxmend.events import EventHub, RecoveryRefused, ScrubDone, ZeroinitDone
from daxmend.extent import Extent, check_bounds, check_pages, merged
from daxmend.media.backing import Backing, Durability
from daxmend.media.exposure import Exposure
from daxmend.units import MIB, PAGE, SECTOR, align_down, is_aligned

if TYPE_CHECKING:
    from typing_extensions import Buffer

_ZEROS = memoryview(bytes(MIB))
_REASON = "the device has no error management"


class PlainDevice:
    """The bytes of `backing`, as they are (implements `DaxDevice`). Owns it."""

    def __init__(self, backing: Backing, size: int) -> None:
        self.name = backing.name
        self.size = size
        self.events = EventHub()
        self.lock = RLock()
        self.error_management: ErrorManagement | None = None
        self.allows_recovery = True
        self.sequence = 0
        self.notices: list[str] = []
        self._backing = backing
        self._memory = _BackingMemory(backing)

    @property
    def is_cheap_to_fence(self) -> bool:
        """Whether a fence costs no system call."""
        return self._backing.durability is Durability.PROCESS

    def close(self) -> None:
        """Make everything durable and close the file."""
        self._memory.close()
        self._backing.close()

    def share_lock(self, lock: RLock) -> None:
        """See `DaxDevice`."""
        self.lock = lock

    def set_holder(self, holder: Holder | None) -> None:
        """See `DaxDevice`; it never has anything to tell."""

    def capabilities(self, extent: Extent) -> list[Capability]:
        """See `DaxDevice`."""
        check_bounds(extent, self.size, self.name)
        return capabilities_of(self.error_management, extent)

    def direct_access(self, extent: Extent, mode: AccessMode) -> Window:
        """See `DaxDevice`."""
        check_bounds(extent, self.size, self.name)
        return Window(self._memory, extent.offset, extent.length)

    def clean_window(self, offset: int, length: int) -> Window | None:
        """What `direct_access` gives for a range inside the device, and None for any other."""
        if offset + length <= self.size:
            return Window(self._memory, offset, length)
        return None

    def read_clean(self, offset: int, length: int) -> bytes | None:
        """See `DaxDevice`."""
        if 0 <= offset <= offset + length <= self.size:
            try:
                return self._memory.load(offset, length)
            except FaultError:  # `io.read` says what can be had
                pass
        return None

    def view_clean(self, offset: int, length: int) -> memoryview | None:
        """See `DaxDevice`."""
        if 0 <= offset <= offset + length <= self.size:
            return self._memory.view(offset, length)
        return None

    def recovery_read(self, extent: Extent) -> Salvage:
        """See `DaxDevice`; page by page where the file below fails (R12)."""
        check_bounds(extent, self.size, self.name)
        data = bytearray()
        lost: list[Extent] = []
        while len(data) < extent.length:
            rest = Extent.between(extent.offset + len(data), extent.end)
            try:
                data += self._memory.load(*rest)
            except FaultError as error:
                good = Extent.between(rest.offset, align_down(error.offset, PAGE))
                data += self._memory.load(*good)
                bad = Extent(max(error.offset, rest.offset), 1).widened(PAGE).intersection(rest)
                data += bytes(bad.length)
                lost.append(bad)
        return Salvage(data, merged(lost))

    def recovery_write(self, offset: int, data: Buffer, keep: Iterable[Extent] = ()) -> int:
        """See `DaxDevice`: a store. Where the file below fails, nothing can be healed (R40)."""
        check_pages(Extent(offset, memoryview(data).nbytes), self.size, self.name)
        return self._store(offset, data)

    def write_sectors(self, sector: int, data: Buffer) -> int:
        """See `DaxDevice`."""
        length = memoryview(data).nbytes
        if not is_aligned(length, SECTOR):
            raise UsageError(f"{self.name}: {length} bytes are not whole sectors of {SECTOR}")
        check_bounds(Extent.of_sectors(sector, length // SECTOR), self.size, self.name)
        return self._store(sector * SECTOR, data)

    def zeroinit(self, extent: Extent) -> int:
        """See `DaxDevice`."""
        check_pages(extent, self.size, self.name)
        for at in range(extent.offset, extent.end, len(_ZEROS)):
            self._store(at, _ZEROS[: extent.end - at])
        self.events.publish(ZeroinitDone(extent))
        return extent.length

    def _store(self, offset: int, data: Buffer) -> int:
        extent = Extent(offset, memoryview(data).nbytes)
        with self.lock:
            try:
                self._memory.store(offset, data)
            except MediaError as error:
                self.events.publish(RecoveryRefused(extent, _REASON))
                raise NoRecoveryError(self.name, *extent, "EOPNOTSUPP", _REASON) from error
            self._memory.flush(*extent)
            self.fence()
        return extent.length

    def hold(self, offset: int, data: bytes, unit: int) -> NoReturn:
        """See `DaxDevice`; no unit of it is ever bad."""
        check_bounds(Extent(offset, len(data)), self.size, self.name)
        raise UnsupportedError(f"{self.name}: {_REASON}")

    def drop_hold(self, extent: Extent) -> None:
        """See `DaxDevice`."""

    def keep_zeros(self, extent: Extent) -> None:
        """See `DaxDevice`; nothing is ever lost here, or kept."""

    def scrub(self, extent: Extent) -> Iterator[Extent]:
        """See `DaxDevice`; it finds nothing, and has looked at nothing (`capabilities`, R44)."""
        check_bounds(extent, self.size, self.name)
        if extent.length:
            yield extent
            self.events.publish(ScrubDone(extent, 0))

    def read_sectors(self, sector: int, count: int) -> bytes:
        """See `DaxDevice`."""
        extent = Extent.of_sectors(sector, count)
        check_bounds(extent, self.size, self.name)
        return self._memory.load(*extent)

    def flush(self, extent: Extent) -> None:
        """See `DaxDevice`."""
        self._memory.flush(*extent)

    def fence(self) -> None:
        """See `DaxDevice`."""
        self._backing.fence()

    def badblocks(self, extent: Extent) -> Iterator[tuple[Extent, SectorState]]:
        """See `DaxDevice`; there is no record."""
        check_bounds(extent, self.size, self.name)
        return iter(())


class _BackingMemory:
    """Implements `WindowMemory`. Errors are the file's; its offsets are the device's."""

    settle: Callable[[Extent], None] | None = None

    def __init__(self, backing: Backing) -> None:
        self._backing = backing
        self._view = memoryview(backing.memory).toreadonly()

    def load(self, offset: int, length: int) -> bytes:
        return self._backing.load(offset, length)

    def view(self, offset: int, length: int) -> memoryview:
        return self._view[offset : offset + length]

    def store(self, offset: int, data: Buffer) -> None:
        self._backing.store(offset, data)

    def store_line(self, offset: int, line: Buffer) -> None:
        self._backing.store_line(offset, line)

    def flush(self, offset: int, length: int) -> None:
        self._backing.flush(offset, length)

    def expose(self, extent: Extent, *, writable: bool = True) -> Exposure:
        return Exposure(self._backing.fd, extent.offset, extent.length, writable=writable)

    def close(self) -> None:
        """Let go of the mapping, so that it can end."""
        self._view.release()


def open_ram(size: int, name: str) -> PlainDevice:
    """Empty memory of its own, gone when it is closed. Raises `UsageError` for half pages."""
    if size <= 0 or not is_aligned(size, PAGE):
        raise UsageError(f"{name}: RAM has a positive multiple of {PAGE} bytes, not {size}")
    fd = os.memfd_create("daxmend-ram", os.MFD_CLOEXEC)
    try:
        os.truncate(fd, size)
        return PlainDevice(Backing(fd, name, Durability.PROCESS), size)
    except BaseException:
        os.close(fd)
        raise


def open_window(path: Path, name: str, *, writable: bool = True) -> PlainDevice:
    """The whole pages of a file, of a block device that nobody else has, or of a devdax device.

    Mapped shared. A fence makes stores to a file or block device durable; to a devdax device it
    orders them only. Raises `BusyError` if another daxmend has it, `OSError` (EBUSY) if the system
    has it, `UsageError` for what has no whole page.
    """
    status = path.stat()
    flags = os.O_CLOEXEC | (os.O_RDWR if writable else os.O_RDONLY)
    dax_size = None
    if stat.S_ISBLK(status.st_mode):
        flags |= os.O_EXCL
    elif stat.S_ISCHR(status.st_mode):
        dax_size = _devdax_size(path, status)
    elif not stat.S_ISREG(status.st_mode):
        raise UsageError(f"{path} is neither a file nor a device")
    fd = os.open(path, flags)
    try:
        _lock(fd, path, writable=writable)
        size = align_down(os.lseek(fd, 0, os.SEEK_END) if dax_size is None else dax_size, PAGE)
        if size == 0:
            raise UsageError(f"{path} is smaller than the page of {PAGE} bytes that a window maps")
        durability = Durability.MACHINE if dax_size is None else Durability.PROCESS
        return PlainDevice(Backing(fd, name, durability, writable=writable, size=size), size)
    except BaseException:
        os.close(fd)
        raise


def _devdax_size(path: Path, status: os.stat_result) -> int:
    """Asked before it is opened: a device of another kind (a tape, a watchdog) would act."""
    number = f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"
    size = Path(f"/sys/dev/char/{number}/size")
    if not size.exists():
        raise UsageError(f"{path} is not a devdax device")
    return int(size.read_text())


def _lock(fd: int, path: Path, *, writable: bool) -> None:
    try:
        fcntl.flock(fd, (fcntl.LOCK_EX if writable else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BlockingIOError:
        raise BusyError(f"{path} is in use by another daxmend") from None
