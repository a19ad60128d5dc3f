"""The persistent-memory driver: a medium and its record as one `DaxDevice`.

Recovery is one operation (R20): the intent becomes durable, the medium clears, the new data is
written, fenced and read back, and one append drops the sectors (persistence.md §3).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from daxmend.dax.api import AccessMode, Capability, Holder, PageState, Salvage, SectorState, Window
from daxmend.errors import (
    BadBlockError,
    DaxmendError,
    MediaError,
    PoisonError,
    UnsupportedError,
    UsageError,
)
from daxmend.events import (
    CopyHealed,
    Event,
    EventHub,
    FaultInjected,
    FaultRemoved,
    PoisonConsumed,
    PoisonFound,
    ScrubDone,
    ZeroinitDone,
)
from daxmend.extent import Extent, ExtentSet, check_bounds
from daxmend.media.medium import Medium
from daxmend.pmem.healer import MAX_INTENT, Healer
from daxmend.pmem.intent import Kept, Request
from daxmend.pmem.record import Record
from daxmend.units import CACHELINE, MIB, PAGE, SECTOR, align_down, is_aligned

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from daxmend.media.pool import Pool

_SCRUB_SLICE = 64 * MIB  # bytes that a scrub looks at before others have a turn
_ZEROS = memoryview(bytes(MIB))


class PmemDevice:
    """A pool as a DAX device with error management (implements `DaxDevice`, `FaultInjection`).

    Attaching heals damaged copies of record and poison journal and judges the recoveries that a
    stop interrupted (R18), and tells the subscribers of `events`; of a pool that is open read-only,
    what is judged or found stays in memory. Owns `pool`. Mutations hold `lock`.
    """

    def __init__(self, pool: Pool, events: EventHub | None = None) -> None:
        self.name = pool.name
        self.size = pool.header.layout.data.length
        self.events = events or EventHub()
        self.pool = pool
        self.allows_recovery = True  # the switch of R23: off, a bad page stays EIO
        self._medium = Medium(pool)
        self.lock = self._medium.lock
        self._record = Record(pool)
        self._holder: Holder | None = None
        self._healed_lines: list[Extent] = []
        # The clean gap [start, end): no recorded sector in its pages (R22).
        self._gap = (0, 0)
        self.sequence = 0
        self._healer = Healer(self._medium, self._record, self.events, self.fence, self._forget_gap)
        self._medium.on_healed = self._healed_lines.extend
        self._medium.on_consumed = self._record_consumed
        self._medium.not_present = self._record.badblocks.recorded.extents
        self.notices: list[str] = []  # what whoever opened it should be told (R45)
        self._look_at_copies()
        for intent in list(self._record.intents.values()):
            self._healer.judge(intent)

    def _look_at_copies(self) -> None:
        """Rewrite damaged copies, if the pool is open for that; either way, say so."""
        if self.pool.is_writable:
            self._record.heal()
            self._medium.journal.heal()
        for structure, repairs in (
            ("header", self.pool.repairs),
            ("record", self._record.repairs),
            ("poison", self._medium.journal.repairs),
        ):
            for repair in repairs:
                what = f"{self.name}: {structure}, copy {repair.copy}: {repair.reason}"
                if self.pool.is_writable:
                    self.notices.append(f"{what}; rewritten from the other copy")
                    self.events.publish(CopyHealed(structure, repair.copy, repair.reason))
                else:
                    self.notices.append(f"{what}; the other copy is used")

    def close(self) -> None:
        """Make everything durable and give the pool back."""
        with self.lock:
            if self.pool.is_writable and self.pool.is_open:
                with contextlib.suppress(OSError, DaxmendError):  # a seal is worth no failure
                    self._record.seal()
                    self._medium.journal.seal()
            self._medium.close()
            self.pool.close()

    def capabilities(self, extent: Extent) -> list[Capability]:
        """See `DaxDevice`."""
        check_bounds(extent, self.size, self.name)
        if not self.pool.is_writable:
            return [Capability(extent, False, False, False, "the pool is open read-only")]
        if not self.allows_recovery:
            can_zero = not self._record.badblocks.check(extent)
            return [Capability(extent, False, can_zero, True, "recovery is switched off")]
        return [Capability(extent, True, True, True, "")]

    # -- access ----------------------------------------------------------------------------

    def direct_access(self, extent: Extent, mode: AccessMode) -> Window:
        """See `DaxDevice`. In NORMAL mode a clean gap costs one comparison (R22)."""
        offset, length = extent
        gap = self._gap
        if not (gap[0] <= offset <= offset + length <= gap[1]):
            check_bounds(extent, self.size, self.name)
            with self.lock:
                if self._healer.unfenced.overlaps(extent.widened(PAGE)):
                    self.fence()
                if mode is AccessMode.NORMAL:
                    length = self._find_gap(offset, length)
        return Window(self._medium, offset, length)

    def _find_gap(self, offset: int, length: int) -> int:
        """How much of the range a normal access may have; none is `BadBlockError` (R24)."""
        start = align_down(offset, PAGE)
        first = self._record.badblocks.recorded.next_offset(start)
        unfenced = self._healer.unfenced.next_offset(start)
        gap_end = min(
            align_down(end, PAGE) for end in (first, unfenced, self.size) if end is not None
        )
        if first is not None and gap_end <= offset:
            run = next(self._record.badblocks.recorded.extents(Extent(first, PAGE)))
            raise BadBlockError(
                self.name, run.offset, run.length, hint="write the whole page to heal it"
            )
        self._gap = (start, gap_end)
        return min(length, gap_end - offset)

    def page_state(self, offset: int) -> PageState:
        """The state of the page at `offset` (R28)."""
        page = Extent(offset, 1).widened(PAGE)
        if not self._record.badblocks.check(page):
            return PageState.WRITE_BACK
        recovering = self._healer.recovering
        if recovering is not None and recovering.overlaps(page):
            return PageState.UNCACHED
        return PageState.NOT_PRESENT

    def read_sectors(self, sector: int, count: int) -> bytes:
        """See `DaxDevice`."""
        extent = Extent.of_sectors(sector, count)
        check_bounds(extent, self.size, self.name)
        with self.lock:
            first = self._record.badblocks.first(extent)
            if first is not None:
                raise BadBlockError(self.name, first, SECTOR, hint="write the sector to heal it")
            return self._medium.load(extent.offset, extent.length)

    def recovery_read(self, extent: Extent) -> Salvage:
        """See `DaxDevice`."""
        check_bounds(extent, self.size, self.name)
        with self.lock:
            data, lost = self._healer.salvage(extent)
            for run in self._record.badblocks.lost.extents(extent.widened(CACHELINE)):
                lost.add(run)
            missing = self._restore_kept(extent, data, lost)
        for run in missing:
            start = run.offset - extent.offset
            data[start : start + run.length] = bytes(run.length)
        return Salvage(data, missing)

    def _restore_kept(self, extent: Extent, data: bytearray, lost: ExtentSet) -> list[Extent]:
        """Put in the good bytes that interrupted recoveries kept; returns what is missing (R18)."""
        missing = ExtentSet(1, lost.extents(extent))
        for kept in self._record.kept:
            part, kept_data = kept.inside(extent)
            start = part.offset - extent.offset
            data[start : start + part.length] = kept_data
            missing.discard(part)
        return list(missing)

    def flush(self, extent: Extent) -> None:
        """See `DaxDevice`."""
        self._medium.flush(extent.offset, extent.length)

    def fence(self) -> None:
        """See `DaxDevice`."""
        with self.lock:
            self._record.fence()
            self._healer.unfenced.clear()
            self._drop_healed_lines()

    def _drop_healed_lines(self) -> None:
        """Stores have healed lines by themselves: sectors without poison leave the record (R6)."""
        if not self._healed_lines:
            return
        sectors = ExtentSet(SECTOR)
        for lines in self._healed_lines:
            for at in range(lines.widened(SECTOR).offset, lines.end, SECTOR):
                sector = Extent(at, SECTOR)
                if not self._medium.has_poison(sector):
                    sectors.add(sector)
        for lost in self._record.badblocks.lost:  # what else they held is gone all the same
            sectors.discard(lost)
        self._healed_lines.clear()
        self._record.clear(sectors)
        for run in sectors:
            self._forget_gap(run)

    # -- recovery --------------------------------------------------------------------------

    def recovery_write(self, offset: int, data: Buffer, keep: Iterable[Extent] = ()) -> int:
        """See `DaxDevice`."""
        view = memoryview(data).cast("B")
        _check_pages(Extent(offset, len(view)), self.name)
        return self._write(offset, view, tuple(keep), PAGE)

    def write_sectors(self, sector: int, data: Buffer) -> int:
        """See `DaxDevice`."""
        view = memoryview(data).cast("B")
        offset = sector * SECTOR
        if not is_aligned(len(view), SECTOR):
            raise UsageError(f"{self.name}: {len(view)} bytes are not whole sectors of {SECTOR}")
        is_whole_pages = is_aligned(offset, PAGE) and is_aligned(len(view), PAGE)
        return self._write(offset, view, (), PAGE if is_whole_pages else SECTOR)

    def _write(self, offset: int, data: memoryview, keep: tuple[Extent, ...], grain: int) -> int:
        check_bounds(Extent(offset, len(data)), self.size, self.name)
        self._check_writable()
        if not self.allows_recovery and self._record.badblocks.check(Extent(offset, len(data))):
            raise BadBlockError(
                self.name, offset, len(data), hint="recovery is switched off for this device"
            )
        done = 0
        with self.lock:
            self._record_found(Extent(offset, len(data)))  # a recovery leaves no poison behind
            while done < len(data):
                piece = data[done : done + MAX_INTENT]
                extent = Extent(offset + done, len(piece))
                done = self._healer.write(Request(extent, piece, keep, grain)) - offset
                if offset + done < extent.end:
                    break
        if done == 0 and len(data):
            raise PoisonError(
                self.name, offset, min(grain, len(data)), hint="the medium did not clear it"
            )
        return done

    def _check_writable(self) -> None:
        if not self.pool.is_writable:
            raise UnsupportedError(f"{self.name}: the pool is open read-only")

    def hold(self, offset: int, data: bytes) -> None:
        """See `DaxDevice`."""
        check_bounds(Extent(offset, len(data)), self.size, self.name)
        self._check_writable()
        with self.lock:
            self._record.keep([Kept(Extent(offset, len(data)), data)])
            self.fence()

    def drop_hold(self, extent: Extent) -> None:
        """See `DaxDevice`."""
        with self.lock:
            self._record.drop_kept(extent)

    def zeroinit(self, extent: Extent) -> int:
        """See `DaxDevice`."""
        _check_pages(extent, self.name)
        check_bounds(extent, self.size, self.name)
        done = 0
        with self.lock:
            while done < extent.length:
                piece = _ZEROS[: extent.length - done]
                try:
                    written = self._write(extent.offset + done, piece, (), PAGE)
                except MediaError:
                    if done == 0:
                        raise
                    break
                done += written
                if written < len(piece):
                    break
        self.events.publish(ZeroinitDone(Extent(extent.offset, done)))
        return done

    def scrub(self, extent: Extent) -> Iterator[Extent]:
        """See `DaxDevice`."""
        check_bounds(extent, self.size, self.name)
        found = 0
        for start in range(extent.offset, extent.end, _SCRUB_SLICE):
            piece = Extent(start, _SCRUB_SLICE).intersection(extent)
            with self.lock:
                found += self._record_found(piece)
            yield piece
        if extent.length:
            self.events.publish(ScrubDone(extent, found))

    def _record_found(self, extent: Extent) -> int:
        """Enter the latent poison of the range; returns how many bytes were new to the record."""
        sectors = ExtentSet(SECTOR)
        for lines in self._medium.find_poison(extent):
            sectors.add(lines.widened(SECTOR))
        for run in list(sectors):
            for known in list(self._record.badblocks.recorded.extents(run)):
                sectors.discard(known)
        new = list(sectors)
        self._enter(new, [PoisonFound(run) for run in new])
        return sum(run.length for run in new)

    # -- failures --------------------------------------------------------------------------

    def set_holder(self, holder: Holder | None) -> None:
        """See `DaxDevice`."""
        self._holder = holder

    def badblocks(self, extent: Extent) -> Iterator[tuple[Extent, SectorState]]:
        """See `DaxDevice`."""
        check_bounds(extent, self.size, self.name)
        with self.lock:
            return iter(list(self._record.states(extent)))

    def _record_consumed(self, lines: Extent) -> None:
        """The machine check: an access met poison; its sectors enter the record (R3)."""
        with self.lock:
            sectors = lines.widened(SECTOR)
            if self._record.badblocks.recorded.covers(sectors):
                return
            self._enter([sectors], [PoisonConsumed(sectors)])

    def _enter(self, runs: list[Extent], events: list[Event]) -> None:
        """Enter sectors with one fence, and tell everybody."""
        if not runs:
            return
        self._record.set(runs)
        self.fence()
        for run, event in zip(runs, events, strict=True):
            self._forget_gap(run)
            self.events.publish(event)
            if self._holder is not None:
                self._holder.notify_failure(run)

    def _forget_gap(self, extent: Extent) -> None:
        """The record changed: no gap is known any more, and exposed pages follow it (R28)."""
        self._gap = (0, 0)
        self.sequence += 1
        self._medium.show(extent)

    # -- injection (R2) --------------------------------------------------------------------

    def inject(self, extent: Extent, *, latent: bool = False) -> None:
        """See `FaultInjection`."""
        check_bounds(extent, self.size, self.name)
        self._check_writable()
        with self.lock:
            if latent:
                lines = extent.widened(CACHELINE)
                self._medium.inject([lines])
                self.events.publish(FaultInjected(lines, "latent"))
            else:
                sectors = extent.widened(SECTOR)
                self._medium.inject([sectors])
                self._enter([sectors], [FaultInjected(sectors, "until-written")])

    def inject_once(self, extent: Extent) -> None:
        """See `FaultInjection`."""
        self._check_writable()
        with self.lock:
            self._medium.inject_once(extent)
            self.events.publish(FaultInjected(extent.widened(CACHELINE), "once"))

    def uninject(self, extent: Extent) -> None:
        """See `FaultInjection`."""
        check_bounds(extent, self.size, self.name)
        self._check_writable()
        lines = extent.widened(CACHELINE)
        with self.lock:
            self._medium.uninject([lines])
            self.events.publish(FaultRemoved(lines))

    def poison(self, extent: Extent) -> Iterator[Extent]:
        """See `FaultInjection`."""
        check_bounds(extent, self.size, self.name)
        with self.lock:
            return iter(list(self._medium.find_poison(extent)))


def _check_pages(extent: Extent, name: str) -> None:
    if not (is_aligned(extent.offset, PAGE) and is_aligned(extent.length, PAGE)):
        raise UsageError(f"{name}: {extent} is not aligned to {PAGE} bytes")
