"""The emulated medium over a pool's data area: bytes that can be poisoned, line by line (R1).

Every way to read it passes `_refuse_poison`; memory that is handed out (`expose`) really faults.
Offsets count from the start of the data area, which is the start of the device (R47).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from daxmend.errors import PoisonError, UsageError
from daxmend.extent import Extent, ExtentSet, check_bounds
from daxmend.media.exposure import Exposure
from daxmend.media.journal import Entry, Journal
from daxmend.media.runs import batched_runs, pack_runs, pack_snapshot, unpack_runs
from daxmend.units import CACHELINE, PAGE, is_aligned

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from daxmend.media.pool import Pool

_POISONED = 1
_HEALED = 2

# What poisoned bytes hold, so that a leak shows (R2).
LEAK_PATTERN = b"POISONED-POISONED-POISONED-POISONED-LEAK-DO-NOT-TRUST-THESE-64B\n"


class Medium:
    """A pool's data area as a persistent medium with poison. Not locked: the driver's lock holds.

    Poison is the medium's own state: it changes at once, without flush or fence, and survives
    every stop. `on_consumed` is the machine check: it is told the poisoned lines before an access
    that met them fails (R3). `not_present` names what the driver keeps from callers' memory besides
    poison (R28); after a change of that, the driver calls `show`.
    """

    def __init__(self, pool: Pool) -> None:
        header = pool.header
        self.name = pool.name
        self.size = header.layout.data.length
        self.clear_unit = header.clear_unit
        self.on_consumed: Callable[[Extent], None] = _ignore
        self.not_present: Callable[[Extent], Iterable[Extent]] = _nothing
        self._base = header.layout.data.offset
        self._backing = pool.backing
        self._memory = memoryview(pool.backing.memory)
        self._poison = ExtentSet(CACHELINE)
        self._exposures: WeakKeyDictionary[Exposure, Extent] = WeakKeyDictionary()
        # The clean gap: no poison in [_gap_start, _gap_end). One comparison on the normal path.
        self._gap_start = self._gap_end = 0
        self.journal = Journal(
            pool.backing, header.layout.poison, f"{pool.name}: poison journal", self._snapshot
        )
        self._replay()

    # -- reading ---------------------------------------------------------------------------

    def load(self, offset: int, length: int) -> bytes:
        """A copy of the bytes. Raises `PoisonError` at the first poisoned line among them."""
        if not (self._gap_start <= offset and offset + length <= self._gap_end):
            self._refuse_poison(offset, length)
        return self._backing.load(self._base + offset, length)

    def load_into(self, offset: int, target: Buffer) -> None:
        """Fill `target` with the bytes at `offset`; raises like `load`."""
        length = len(memoryview(target))
        if not (self._gap_start <= offset and offset + length <= self._gap_end):
            self._refuse_poison(offset, length)
        self._backing.load_into(self._base + offset, target)

    def view(self, offset: int, length: int) -> memoryview:
        """The bytes themselves, read-only and not guarded: for system calls, to be used at once.

        Raises like `load`. Poison that comes later does not reach a view that is kept.
        """
        if not (self._gap_start <= offset and offset + length <= self._gap_end):
            self._refuse_poison(offset, length)
        start = self._base + offset
        return self._memory[start : start + length].toreadonly()

    def _refuse_poison(self, offset: int, length: int) -> None:
        """Find the clean gap that holds the range, or fail as a load of the medium would."""
        check_bounds(Extent(offset, length), self.size, self.name)
        first = self._poison.next_offset(offset)
        if first is not None and first < offset + length:
            lines = next(self._poison.extents(Extent.between(first, offset + length)))
            self.on_consumed(lines.widened(CACHELINE))
            raise PoisonError(self.name, lines.offset, lines.length)
        self._gap_start, self._gap_end = offset, self.size if first is None else first

    # -- writing ---------------------------------------------------------------------------

    def store(self, offset: int, data: Buffer) -> None:
        """An ordinary store: never clears poison (R5). Durable after `flush` and `fence`."""
        length = len(memoryview(data))
        if offset < 0 or offset + length > self.size:
            check_bounds(Extent(offset, length), self.size, self.name)
        self._backing.store(self._base + offset, data)

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
        extent = Extent(offset, length)
        check_bounds(extent, self.size, self.name)
        if not (is_aligned(offset, self.clear_unit) and is_aligned(length, self.clear_unit)):
            raise UsageError(
                f"{self.name}: clear of {extent} is not aligned to {self.clear_unit} bytes"
            )
        self._backing.poke(self._base + offset, bytes(length))
        if self._poison.overlaps(extent):
            self._change_poison(_HEALED, [extent])
        return length

    # -- poison ----------------------------------------------------------------------------

    def find_poison(self, extent: Extent) -> Iterator[Extent]:
        """What a scrub of the range finds (R4): poisoned lines, merged and cut to it."""
        return self._poison.extents(extent)

    def has_poison(self, extent: Extent) -> bool:
        """True if a scrub of the range would find something."""
        return self._poison.overlaps(extent)

    def inject(self, extents: Iterable[Extent]) -> None:
        """Poison the lines that the extents touch and overwrite them (R2); durable on return."""
        lines = [extent.widened(CACHELINE) for extent in extents]
        for line in lines:
            check_bounds(line, self.size, self.name)
        self._change_poison(_POISONED, lines)
        for line in lines:
            self._backing.poke(self._base + line.offset, LEAK_PATTERN * (line.length // CACHELINE))
        self.journal.fence()

    def uninject(self, extents: Iterable[Extent]) -> None:
        """Take poison from the lines that the extents touch; what they hold stays (R2)."""
        lines = [extent.widened(CACHELINE) for extent in extents]
        for line in lines:
            check_bounds(line, self.size, self.name)
        self._change_poison(_HEALED, lines)
        self.journal.fence()

    def _change_poison(self, kind: int, extents: list[Extent]) -> None:
        for part in batched_runs(extents):
            self.journal.append(kind, pack_runs(part, CACHELINE))
            self._apply(kind, part)
        for extent in extents:
            self.show(extent)

    def _apply(self, kind: int, extents: Iterable[Extent]) -> None:
        change = self._poison.add if kind == _POISONED else self._poison.discard
        for extent in extents:
            change(extent)
        self._gap_start = self._gap_end = 0

    def _replay(self) -> None:
        for entry in self.journal.read():
            self._apply(entry.kind, unpack_runs(entry.payload, CACHELINE))

    def _snapshot(self) -> Iterator[Entry]:
        return (Entry(_POISONED, payload) for payload in pack_snapshot(self._poison))

    # -- memory for callers ----------------------------------------------------------------

    def expose(self, extent: Extent, *, writable: bool = True) -> Exposure:
        """Real memory over a page-aligned range, whose bad pages really fault (R24, R25, R28)."""
        check_bounds(extent, self.size, self.name)
        exposure = Exposure(
            self._backing.fd, self._base + extent.offset, extent.length, writable=writable
        )
        self._exposures[exposure] = extent
        self.show(extent)
        return exposure

    def is_exposed(self, extent: Extent) -> bool:
        """True if somebody holds real memory over bytes of the range."""
        return any(exposed.overlaps(extent) for exposed in self._exposures.values())

    def show(self, extent: Extent) -> None:
        """Make the exposed pages of `extent` agree with poison and with what is not present."""
        for exposure, exposed in list(self._exposures.items()):
            pages = extent.widened(PAGE).intersection(exposed)
            if not pages.length:
                continue
            faulting = ExtentSet(PAGE)
            faulting.update(e.widened(PAGE) for e in self._poison.extents(pages))
            faulting.update(e.widened(PAGE) for e in self.not_present(pages))
            exposure.make_accessible(pages.offset - exposed.offset, pages.length)
            for page in faulting:
                exposure.make_faulting(page.offset - exposed.offset, page.length)


def _ignore(lines: Extent) -> None:
    """No driver is attached that could be told."""


def _nothing(pages: Extent) -> Iterable[Extent]:
    return ()
