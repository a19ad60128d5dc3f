"""The emulated medium over a pool's data area: bytes that can be poisoned, line by line (R1).

Every way to read it passes `_find_gap`; memory that is handed out (`expose`) really faults.
Offsets count from the start of the data area, which is the start of the device (R47).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from threading import RLock
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from daxmend import _native
from daxmend.errors import MediaError, PoisonError, UsageError
from daxmend.extent import Extent, ExtentSet, check_bounds
from daxmend.media.exposure import Exposure
from daxmend.media.journal import Entry, Journal
from daxmend.media.pool import MediumKind
from daxmend.media.runs import batched_runs, pack_runs, pack_snapshot, unpack_runs
from daxmend.units import CACHELINE, PAGE, align_down, is_aligned

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from daxmend.media.pool import Pool

_POISONED = 1
_HEALED = 2
_ONCE = 3
_SPENT = 4

# What poisoned bytes hold, so that a leak shows (R2).
LEAK_PATTERN = b"POISONED-POISONED-POISONED-POISONED-LEAK-DO-NOT-TRUST-THESE-64B\n"

_LEAK = memoryview(LEAK_PATTERN * 4096)


class Medium:
    """A pool's data area as a persistent medium with poison.

    Changes hold `lock`, which is the driver's too; a load takes it only outside the clean gap.
    Poison is the medium's own state: it changes at once, without flush or fence, and survives
    every stop. `on_consumed` is the machine check: it is told the poisoned lines before an access
    that met them fails (R3). `on_healed` is told the lines that a store healed (R6). `not_present`
    names what the driver keeps from callers' memory besides poison (R28); after a change of that,
    the driver calls `show`.
    """

    def __init__(self, pool: Pool) -> None:
        header = pool.header
        self.name = pool.name
        self.size = header.layout.data.length
        self.clear_unit = header.clear_unit
        self.kind = header.medium
        self.lock = RLock()
        self.on_consumed: Callable[[Extent], None] = _ignore
        self.on_healed: Callable[[list[Extent]], None] = _ignore_all
        self.not_present: Callable[[Extent], Iterable[Extent]] = _nothing
        self.settle: Callable[[Extent], None] | None = None  # the driver's, see `WindowMemory`
        self._base = header.layout.data.offset
        self._backing = pool.backing
        self._memory: Buffer = pool.backing.memory  # not through a view: that is 20 ns a load
        self._view = memoryview(self._memory).toreadonly()
        self._poison = ExtentSet(CACHELINE)
        self._once = ExtentSet(CACHELINE)  # lines of which one access is going to fail
        self._exposures: WeakKeyDictionary[Exposure, Extent] = WeakKeyDictionary()
        # The clean gap [start, end): nothing fails there. One comparison on the normal path, and a
        # new object with every change of poison, so that a reader sees what happened meanwhile.
        self._gap = (0, 0)
        self.journal = Journal(
            pool.backing, header.layout.poison, f"{pool.name}: poison journal", self._snapshot
        )
        self._replay()

    # -- reading ---------------------------------------------------------------------------

    def load_clean(self, offset: int, length: int) -> bytes | None:
        """A copy of a range in the clean gap; None for any other, or if that changed meanwhile."""
        gap = self._gap
        if gap[0] <= offset and offset + length <= gap[1]:
            try:
                data = _native.read(self._memory, self._base + offset, length)
            except _native.MemoryFault:
                return None  # the backing explains it in `load`
            if self._gap is gap:  # nothing changed under the copy
                return data
        return None

    def load(self, offset: int, length: int) -> bytes:
        """A copy of the bytes. Raises `PoisonError` at the first poisoned line among them.

        A fault that was injected to fail one access raises a plain `MediaError`, once.
        """
        data = self.load_clean(offset, length)
        if data is not None:
            return data
        with self.lock:
            self._find_gap(offset, length)
            return self._backing.load(self._base + offset, length)

    def load_into(self, offset: int, target: Buffer) -> None:
        """Fill `target` with the bytes at `offset`; raises like `load`."""
        with self.lock:
            self._find_gap(offset, memoryview(target).nbytes)
            self._backing.load_into(self._base + offset, target)

    def view_clean(self, offset: int, length: int) -> memoryview | None:
        """What `view` gives for a range in the clean gap, and None for any other."""
        start, end = self._gap
        if start <= offset and offset + length <= end:
            at = self._base + offset
            return self._view[at : at + length]
        return None

    def view(self, offset: int, length: int) -> memoryview:
        """The bytes themselves, read-only and not guarded: for system calls, to be used at once.

        Raises like `load`. Poison that comes later does not reach a view that is kept.
        """
        with self.lock:
            self._find_gap(offset, length)
        at = self._base + offset
        return self._view[at : at + length]

    def checksum(self, offset: int, length: int, grain: int) -> bytes:
        """The checksums of the units of `grain` bytes in the range; raises like `load`."""
        with self.lock:
            self._find_gap(offset, length)
            return self._backing.checksum(self._base + offset, length, grain)

    def _find_gap(self, offset: int, length: int) -> None:
        """Find the clean gap that holds the range, or fail as a load of the medium would."""
        extent = Extent(offset, length)
        check_bounds(extent, self.size, self.name)
        once = self._once.next_offset(offset)
        if once is not None and once < extent.end:
            self._fail_once(once)
        first = self._poison.next_offset(offset)
        if first is not None and first < extent.end:
            lines = next(self._poison.extents(Extent.between(first, extent.end)))
            self.on_consumed(lines.widened(CACHELINE))
            raise PoisonError(self.name, lines.offset, lines.length)
        ends = (end for end in (first, once, self.size) if end is not None)
        self._gap = (offset, min(ends))

    def _fail_once(self, offset: int) -> None:
        fault = next(self._once.extents(Extent.between(offset, self.size)))
        self._change(_SPENT, [fault])
        raise MediaError(self.name, fault.offset, fault.length, hint="it fails once; try again")

    # -- writing ---------------------------------------------------------------------------

    def store(self, offset: int, data: Buffer) -> None:
        """An ordinary store: clears no poison (R5), but on a medium that heals on full writes the
        lines that it covers (R6). Durable after `flush` and `fence`.
        """
        length = memoryview(data).nbytes
        if offset < 0 or offset + length > self.size:
            check_bounds(Extent(offset, length), self.size, self.name)
        self._backing.store(self._base + offset, data)
        if self.kind is MediumKind.HEALS_ON_WRITE:
            self._heal_lines(Extent(offset, length).narrowed(CACHELINE))

    def store_line(self, offset: int, line: Buffer) -> None:
        """A direct store of one aligned 64-byte line, which may clear its poison (R6).

        Durable after `flush` and `fence`. Raises `UsageError` if it is not one aligned line.
        """
        extent = Extent(offset, memoryview(line).nbytes)
        check_bounds(extent, self.size, self.name)
        if extent.length != CACHELINE or not is_aligned(offset, CACHELINE):
            raise UsageError(f"{self.name}: {extent} is not one aligned line of {CACHELINE} bytes")
        self._backing.store_line(self._base + offset, line)
        if self.kind in (MediumKind.CLEARS_LINES, MediumKind.HEALS_ON_WRITE):
            self._heal_lines(extent)

    def _heal_lines(self, lines: Extent) -> None:
        if self._poison.overlaps(lines):
            with self.lock:
                # The data first: a stop must not leave a line healed with its old content.
                self._backing.flush(self._base + lines.offset, lines.length)
                self._backing.fence()
                healed = list(self._poison.extents(lines))
                self._change(_HEALED, healed)
                self.on_healed(healed)

    def flush(self, offset: int, length: int) -> None:
        """Send stored bytes on their way; they are durable after the next `fence`."""
        self._backing.flush(self._base + offset, length)

    def fence(self) -> None:
        """Every flushed store is durable on return."""
        self._backing.fence()

    def clear(self, offset: int, length: int) -> int:
        """The clear command: private to the driver. Returns how many bytes were cleared (R7).

        Offset and length are multiples of `clear_unit`, else `UsageError` and nothing changed.
        Cleared bytes read as zero.
        """
        cleared = self._cleared_by_command(Extent(offset, length))
        if self.kind is not MediumKind.LIES:
            self._backing.poke_zeros(self._base + offset, cleared.length)
            self._drop_poison(cleared)
        return cleared.length

    def clear_and_store(self, offset: int, data: Buffer) -> int:
        """The clear command over the range of `data`, and `data` stored to what it cleared (R20).

        Aligned like `clear`, and returns what it would. Durable after `fence`. The bytes come
        before the poison goes: at no instant can what was poisoned be read, and a stop between the
        two leaves it bad.
        """
        view = memoryview(data)
        cleared = self._cleared_by_command(Extent(offset, view.nbytes))
        self._backing.store_flush(self._base + offset, view[: cleared.length])
        if self.kind is not MediumKind.LIES:
            self._drop_poison(cleared)
        return cleared.length

    def _drop_poison(self, cleared: Extent) -> None:
        if self._poison.overlaps(cleared):
            self._change(_HEALED, [cleared])

    def _cleared_by_command(self, extent: Extent) -> Extent:
        """What this kind of medium says that it cleared of an aligned range."""
        check_bounds(extent, self.size, self.name)
        if any(not is_aligned(number, self.clear_unit) for number in extent):
            raise UsageError(
                f"{self.name}: clear of {extent} is not aligned to {self.clear_unit} bytes"
            )
        # A reader that is copying must not take what follows for good (R19).
        self._gap = (0, 0)
        if self.kind is MediumKind.REFUSES:
            return Extent(extent.offset, 0)
        if self.kind is MediumKind.CLEARS_PART:
            return Extent(extent.offset, align_down(extent.length // 2, self.clear_unit))
        return extent

    # -- poison ----------------------------------------------------------------------------

    def find_poison(self, extent: Extent) -> Iterator[Extent]:
        """What a scrub of the range finds (R4): poisoned lines, merged and cut to it."""
        return self._poison.extents(extent)

    def has_poison(self, extent: Extent) -> bool:
        """True if a scrub of the range would find something."""
        return self._poison.overlaps(extent)

    def is_poisoned(self, extent: Extent) -> bool:
        """True if no line of the range can be read."""
        return self._poison.covers(extent)

    def inject(self, extents: Iterable[Extent]) -> None:
        """Poison the lines that the extents touch and overwrite them (R2); durable on return."""
        lines = [extent.widened(CACHELINE) for extent in extents]
        for line in lines:
            check_bounds(line, self.size, self.name)
        self._change(_POISONED, lines)
        self.journal.fence()  # before the bytes go: a stop must not leave them wrong and readable
        for line in lines:
            for at in range(line.offset, line.end, len(_LEAK)):
                self._backing.poke(self._base + at, _LEAK[: line.end - at])
        self.journal.fence()

    def uninject(self, extents: Iterable[Extent]) -> None:
        """Take poison from the lines that the extents touch; what they hold stays (R2)."""
        lines = [extent.widened(CACHELINE) for extent in extents]
        for line in lines:
            check_bounds(line, self.size, self.name)
        self._change(_HEALED, lines)
        self.journal.fence()

    def inject_once(self, extent: Extent) -> None:
        """Let one access to the range's lines fail; a store is no access. Durable on return."""
        lines = extent.widened(CACHELINE)
        check_bounds(lines, self.size, self.name)
        self._change(_ONCE, [lines])
        self.journal.fence()

    def _change(self, kind: int, extents: list[Extent]) -> None:
        for part in batched_runs(extents):
            self.journal.append(kind, pack_runs(part, CACHELINE))
            self._apply(kind, part)
        for extent in extents:
            self.show(extent)

    def _apply(self, kind: int, extents: Iterable[Extent]) -> None:
        change = {
            _POISONED: self._poison.add,
            _HEALED: self._poison.discard,
            _ONCE: self._once.add,
            _SPENT: self._once.discard,
        }[kind]
        for extent in extents:
            change(extent)
        self._gap = (0, 0)

    def _replay(self) -> None:
        for entry in self.journal.read():
            self._apply(entry.kind, unpack_runs(entry.payload, CACHELINE))

    def _snapshot(self) -> Iterator[Entry]:
        for kind, lines in ((_POISONED, self._poison), (_ONCE, self._once)):
            for payload in pack_snapshot(lines):
                yield Entry(kind, payload)

    def close(self) -> None:
        """Let go of the pool's mapping, so that it can end; loads then raise `ValueError`."""
        self._view.release()
        self._memory = self._view

    # -- memory for callers ----------------------------------------------------------------

    def expose(self, extent: Extent, *, writable: bool = True) -> Exposure:
        """Real memory over a page-aligned range, whose bad pages really fault (R24, R25, R28)."""
        check_bounds(extent, self.size, self.name)
        exposure = Exposure(
            self._backing.fd, self._base + extent.offset, extent.length, writable=writable
        )
        with self.lock:
            self._exposures[exposure] = extent
            self.show(extent)
        return exposure

    def is_exposed(self, extent: Extent) -> bool:
        """True if somebody holds real memory over bytes of the range."""
        return any(exposed.overlaps(extent) for exposed in self._exposures.values())

    def show(self, extent: Extent) -> None:
        """Make the exposed pages of `extent` agree with poison and with what is not present.

        The lock is held: what one thread makes faulting, another must not make accessible.
        """
        for exposure, exposed in list(self._exposures.items()):
            pages = extent.widened(PAGE).intersection(exposed)
            if not pages.length:
                continue
            wanted = ExtentSet(PAGE)
            wanted.update(e.widened(PAGE) for e in self._poison.extents(pages))
            wanted.update(e.widened(PAGE) for e in self.not_present(pages))
            present = ExtentSet(PAGE, (e.shifted(exposed.offset) for e in exposure.faulting))
            # Only the difference: another thread must not see a bad page for an instant.
            for run in wanted.without(present):
                exposure.make_faulting(run.offset - exposed.offset, run.length)
            for run in present.without(wanted).extents(pages):
                exposure.make_accessible(run.offset - exposed.offset, run.length)


def _ignore(lines: Extent) -> None:
    """No driver is attached that could be told."""


def _ignore_all(lines: list[Extent]) -> None:
    """As `_ignore`."""


def _nothing(pages: Extent) -> Iterable[Extent]:
    return ()
