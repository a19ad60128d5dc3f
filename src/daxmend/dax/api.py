"""What every DAX device offers, in the words of the patches of 2021.

A pmem driver, a mapped table and a fault injector are interchangeable behind it.
Arguments are bytes and page-aligned unless named sector.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple, NoReturn, Protocol, runtime_checkable

from daxmend.errors import FaultError, UsageError
from daxmend.extent import Extent

if TYPE_CHECKING:
    from threading import RLock

    from typing_extensions import Buffer

    from daxmend.events import EventHub


class AccessMode(Enum):
    """How `direct_access` treats pages with recorded bad sectors."""

    NORMAL = "normal"  # refuses them
    RECOVERY = "recovery"  # maps them; loads of poison fail, good cachelines can be had


class Recovery(Enum):
    """Whether a call may take the recovery path (R23)."""

    NEVER = "never"  # a bad page is EIO, and nobody but the caller is told
    AUTO = "auto"  # after a normal access failed
    ALWAYS = "always"  # without trying a normal access first


class SectorState(Enum):
    """Why a sector stands in the record (R1)."""

    BAD = "bad"  # the medium failed there
    LOST = "lost"  # cleared and not rewritten: readable perhaps, but its content is gone


class PageState(Enum):
    """What callers' windows may do with a page (R28)."""

    WRITE_BACK = "write-back"  # normal
    NOT_PRESENT = "not-present"  # bad: every access faults
    UNCACHED = "uncached"  # recovery works on it through a private alias; windows still fault


class Salvage(NamedTuple):
    """What `recovery_read` could get: `data` is whole, with zeros where `lost` says so (R12)."""

    data: bytearray
    lost: list[Extent]  # on the device, merged and ascending; lines or sectors, less kept bytes


class Capability(NamedTuple):
    """What a range of a device can do about errors, and if not all of it, why not (R41)."""

    extent: Extent
    can_recover: bool
    can_zero: bool
    can_scrub: bool
    reason: str


class ErrorManagement(Protocol):
    """What a driver registers for a device that can deal with media errors (R41).

    A device without it is a full member of any stack, and cannot recover (R40).
    """

    def capabilities(self, extent: Extent) -> list[Capability]:
        """What each part of the range can do, ascending and without gaps."""


def capabilities_of(management: ErrorManagement | None, extent: Extent) -> list[Capability]:
    """What a device answers for a range, by what was registered for it, or was not (R40, R41)."""
    if management is None:
        return [Capability(extent, False, False, False, "the device has no error management")]
    return management.capabilities(extent)


class ExposedMemory(Protocol):
    """Real memory over device bytes; a load of a bad page raises a signal."""

    @property
    def address(self) -> int: ...
    @property
    def memory(self) -> memoryview: ...
    def close(self) -> None: ...


class WindowMemory(Protocol):
    """The memory that windows look into; offsets are its own.

    `settle` is not None while a recovery's last step waits for a fence: called before a store to a
    range, it fences if the recovery healed bytes of that (persistence.md §3.3).
    """

    settle: Callable[[Extent], None] | None

    def load(self, offset: int, length: int) -> bytes: ...
    def view(self, offset: int, length: int) -> memoryview: ...
    def store(self, offset: int, data: Buffer) -> None: ...
    def store_line(self, offset: int, line: Buffer) -> None: ...
    def flush(self, offset: int, length: int) -> None: ...
    def expose(self, extent: Extent, *, writable: bool = True) -> ExposedMemory: ...


class Window:
    """Direct access to a range of a device: memory that is checked in software at every access.

    Offsets count from the window's start. A window is good for the call it was asked for; one
    that is kept sees later poison, but not later changes of the record. It may be kept across a
    recovery (R49): the first store to healed bytes waits until the recovery's last step is durable,
    so that a crash does not call them lost (persistence.md §3.3).
    """

    __slots__ = ("_memory", "_offset", "length", "origin")

    # Whose window it is, and where it begins there, if that is not the device of the memory: a
    # mapped device sets it, and errors are translated. Else it is not set.
    origin: tuple[str, int]

    def __init__(self, memory: WindowMemory, offset: int, length: int) -> None:
        self._memory = memory
        self._offset = offset
        self.length = length

    def load(self, offset: int, length: int) -> bytes:
        """A copy of the bytes. Raises `PoisonError` if a poisoned line is among them (R3)."""
        if not 0 <= offset <= offset + length <= self.length:
            self._refuse(offset, length)
        try:
            return self._memory.load(self._offset + offset, length)
        except FaultError as error:
            raise self._translated(error) from None

    def view(self, offset: int, length: int) -> memoryview:
        """The bytes themselves, read-only, for a system call at once. Raises like `load`."""
        if not 0 <= offset <= offset + length <= self.length:
            self._refuse(offset, length)
        try:
            return self._memory.view(self._offset + offset, length)
        except FaultError as error:
            raise self._translated(error) from None

    def store(self, offset: int, data: Buffer) -> None:
        """An ordinary store: clears nothing (R5). Durable after the device's flush and fence."""
        length = memoryview(data).nbytes
        if not 0 <= offset <= offset + length <= self.length:
            self._refuse(offset, length)
        if self._memory.settle is not None:
            self._memory.settle(Extent(self._offset + offset, length))
        try:
            self._memory.store(self._offset + offset, data)
        except FaultError as error:
            raise self._translated(error) from None
        self._memory.flush(self._offset + offset, length)

    def store_line(self, offset: int, line: Buffer) -> None:
        """A direct store of one aligned 64-byte line, which some media clear its poison for (R6).

        The record follows with the device's next fence.
        """
        length = memoryview(line).nbytes
        if not 0 <= offset <= offset + length <= self.length:
            self._refuse(offset, length)
        if self._memory.settle is not None:
            self._memory.settle(Extent(self._offset + offset, length))
        self._memory.store_line(self._offset + offset, line)
        self._memory.flush(self._offset + offset, length)

    def _translated(self, error: FaultError) -> FaultError:
        """The error of the memory as that of the device whose window this is."""
        origin = getattr(self, "origin", None)
        if origin is None:
            return error
        offset = error.offset - self._offset + origin[1]
        return type(error)(origin[0], offset, error.length, error.code, error.hint)

    def _refuse(self, offset: int, length: int) -> NoReturn:
        raise UsageError(
            f"offset {offset}, length {length}: outside a window of {self.length} bytes"
        )

    def expose(self, *, writable: bool = True) -> ExposedMemory:
        """Real memory over the window, to be closed; its bad pages raise SIGBUS (R24, R28)."""
        extent = Extent(self._offset, self.length)
        if self._memory.settle is not None:  # stores to it pass nobody
            self._memory.settle(extent)
        return self._memory.expose(extent, writable=writable)


class Holder(Protocol):
    """Who sits on a device and wants to hear of its failures."""

    def notify_failure(self, extent: Extent) -> None:
        """Bytes of the device went bad; offsets are the device's. Called under its lock."""


class DaxDevice(Protocol):
    """A device with direct access and error management.

    One thread mutates it at a time (architecture.md, "Objects, owners, locks"). Offsets outside
    `[0, size)` or not aligned raise `UsageError` and change nothing.
    """

    name: str
    size: int
    events: EventHub
    lock: RLock  # whoever changes the device, or what lies on it, holds it
    error_management: ErrorManagement | None  # registered by the driver, or not (R40, R41)
    allows_recovery: bool  # "whether to attempt recovery or not" (R23)

    @property
    def sequence(self) -> int:
        """Grows with every change of the record; readers validate with it (R19)."""

    def capabilities(self, extent: Extent) -> list[Capability]:
        """What each part of the range can do, ascending and without gaps (`capabilities_of`)."""

    def direct_access(self, extent: Extent, mode: AccessMode) -> Window:
        """A window from `extent.offset` on, at most `extent.length` long, at least one page.

        In NORMAL mode it ends before the first page with a recorded bad sector; `BadBlockError`
        if that is the first (R22, R24). In RECOVERY mode bad pages are in it (R49).
        """

    def read_clean(self, offset: int, length: int) -> bytes | None:
        """A copy of a range that lies in the clean gap of the last access, whole and checked (R19).

        None for any other, or if something changed under the copy: `io.read` looks. Takes no lock,
        and neither raises for a fault nor spends one.
        """

    def view_clean(self, offset: int, length: int) -> memoryview | None:
        """The bytes themselves, read-only, for a system call at once; None as for `read_clean`."""

    def recovery_read(self, extent: Extent) -> Salvage:
        """Every readable cacheline, and what is lost (R12). Never raises for poison."""

    def recovery_write(self, offset: int, data: Buffer, keep: Iterable[Extent] = ()) -> int:
        """Heal in one call: clear poison, write, verify, update the record (R14, R20).

        `keep`: the parts of `data` (as device extents) that came from the medium and must survive
        a crash; they are durable before anything is cleared (R16, R18, R46). Returns the bytes
        written from the start, whole pages; fewer than asked if a page could not be healed (R17,
        R21). Raises `MediaError` if that is none. Durable on return.
        """

    def hold(self, offset: int, data: bytes, unit: int) -> None:
        """Keep what a writer was promised of a bad unit of `unit` bytes, until that heals (R50).

        Durable on return; `recovery_read` returns them. After a stop nobody can complete them: the
        next attach drops them, and names the unit in a notice and a `RecoveryRefused`.
        """

    def drop_hold(self, extent: Extent) -> None:
        """Forget what `hold` kept in the range, and nothing that a recovery kept there (R18)."""

    def keep_zeros(self, extent: Extent) -> None:
        """Whoever owned the bytes gave them up: what is kept or held of them is zeros now (R32).

        Bytes, any alignment. Lost sectors stay lost, and `recovery_read` finds zeros in this part
        of them; all else stays as it is. Durable after the next `fence`.
        """

    def zeroinit(self, extent: Extent) -> int:
        """Set whole pages to zeros and clear their poison, in place (R29).

        Returns, raises and is durable like `recovery_write`.
        """

    def scrub(self, extent: Extent) -> Iterator[Extent]:
        """Look for poison and enter it into the record (R4), a slice at each step of the iterator.

        Yields what has been scrubbed; between two slices others may use the device.
        """

    def read_sectors(self, sector: int, count: int) -> bytes:
        """Sectors through the block path. Raises `BadBlockError` or `PoisonError` (R33)."""

    def write_sectors(self, sector: int, data: Buffer) -> int:
        """Write whole sectors through the block path; bad ones heal (R33). Returns and raises
        like `recovery_write`."""

    def flush(self, extent: Extent) -> None:
        """Send stores to the range on their way; durable after the next `fence`."""

    def fence(self) -> None:
        """Every flushed store is durable on return."""

    def badblocks(self, extent: Extent) -> Iterator[tuple[Extent, SectorState]]:
        """The record inside the range: sector-aligned extents, ascending (R9)."""

    def set_holder(self, holder: Holder | None) -> None:
        """Who is told of failures from now on."""

    def share_lock(self, lock: RLock) -> None:
        """Use `lock` from now on: one lock for a whole stack, so that no two wait for each other.

        For who builds the stack, before anybody else knows the device.
        """


@runtime_checkable
class SparseDevice(Protocol):
    """A device that knows where nothing was ever stored: a search need not read that."""

    def iter_stored(self, extent: Extent) -> Iterator[Extent]:
        """The parts of the range that may hold something, ascending; all else reads as zeros."""


@runtime_checkable
class FaultInjection(Protocol):
    """A device whose medium can be made bad on purpose (R2). Durable on return."""

    def inject(self, extent: Extent, *, latent: bool = False) -> None:
        """Poison the range, widened to sectors; with `latent`, to cachelines and unrecorded."""

    def inject_once(self, extent: Extent) -> None:
        """Let one access to the range's cachelines fail; nothing is poisoned.

        Ranges that touch or overlap become one fault: one access is spent on all of it.
        """

    def uninject(self, extent: Extent) -> None:
        """Take the poison of the range's cachelines; the record stays."""

    def poison(self, extent: Extent) -> Iterator[Extent]:
        """The poisoned cachelines in the range, merged, recorded or latent."""
