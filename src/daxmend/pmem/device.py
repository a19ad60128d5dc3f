"""The persistent-memory driver: a medium and its record as one `DaxDevice`.

Recovery is one operation (R20): the intent becomes durable, the medium clears, the new data is
written, fenced and read back, and one append drops the sectors (persistence.md §3).
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from xxhash import xxh3_64_intdigest

from daxmend.dax.api import AccessMode, Holder, PageState, Salvage, SectorState, Window
from daxmend.errors import BadBlockError, PoisonError, UsageError
from daxmend.events import (
    CopyHealed,
    Event,
    EventHub,
    FaultInjected,
    FaultRemoved,
    IntentReplayed,
    PoisonConsumed,
    RecoveryDone,
    RecoveryRefused,
)
from daxmend.extent import Extent, ExtentSet, check_bounds
from daxmend.media.medium import Medium
from daxmend.pmem.intent import Intent
from daxmend.pmem.record import Record
from daxmend.units import CACHELINE, MIB, PAGE, SECTOR, align_down, is_aligned

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from daxmend.media.pool import Pool

_MAX_RECOVERY = 64 * MIB  # bytes under one intent, so that intents stay small


class PmemDevice:
    """A pool as a DAX device with error management (implements `DaxDevice`, `FaultInjection`).

    Attaching judges the recoveries that a stop interrupted (R18) and heals damaged copies of
    record and poison journal; of a pool that is open read-only, the device only answers what stands
    on it. Owns `pool`. Mutations hold `lock`.
    """

    def __init__(self, pool: Pool) -> None:
        self.name = pool.name
        self.size = pool.header.layout.data.length
        self.events = EventHub()
        self.lock = threading.RLock()
        self.pool = pool
        self._medium = Medium(pool)
        self._record = Record(pool)
        self._holder: Holder | None = None
        self._recovering: Extent | None = None
        # The clean gap: no recorded sector in the pages of [_gap_start, _gap_end).
        self._gap_start = self._gap_end = 0
        # Healed, and the append that says so not yet fenced. A store there before that fence would
        # make the leftover intent's checksum lie after a crash, so the first access fences.
        self._unfenced = ExtentSet(SECTOR)
        self._medium.on_consumed = self._record_consumed
        self._medium.not_present = self._record.badblocks.recorded.extents
        if pool.is_writable:
            self._attach()

    def _attach(self) -> None:
        for structure, repairs in (
            ("header", self.pool.repairs),
            ("record", self._record.repairs),
            ("poison", self._medium.journal.repairs),
        ):
            for repair in repairs:
                self.events.publish(CopyHealed(structure, repair.copy, repair.reason))
        self._record.heal()
        self._medium.journal.heal()
        for intent in list(self._record.intents.values()):
            self._judge(intent)

    def close(self) -> None:
        """Make everything durable and give the pool back."""
        self.pool.close()

    # -- access ----------------------------------------------------------------------------

    def direct_access(self, extent: Extent, mode: AccessMode) -> Window:
        """See `DaxDevice`. In NORMAL mode a clean gap costs one comparison (R22)."""
        offset, length = extent
        if not (self._gap_start <= offset and offset + length <= self._gap_end):
            check_bounds(extent, self.size, self.name)
            if self._unfenced.overlaps(extent.widened(PAGE)):
                self.fence()
            if mode is AccessMode.NORMAL:
                length = self._find_gap(offset, length)
        return Window(self._medium, offset, length)

    def _find_gap(self, offset: int, length: int) -> int:
        """How much of the range a normal access may have; none is `BadBlockError` (R24)."""
        start = align_down(offset, PAGE)
        first = self._record.badblocks.recorded.next_offset(start)
        unfenced = self._unfenced.next_offset(start)
        gap_end = min(
            align_down(end, PAGE) for end in (first, unfenced, self.size) if end is not None
        )
        if first is not None and gap_end <= offset:
            run = next(self._record.badblocks.recorded.extents(Extent(first, PAGE)))
            raise BadBlockError(
                self.name, run.offset, run.length, hint="write the whole page to heal it"
            )
        self._gap_start, self._gap_end = start, gap_end
        return min(length, gap_end - offset)

    def page_state(self, offset: int) -> PageState:
        """The state of the page at `offset` (R28)."""
        page = Extent(offset, 1).widened(PAGE)
        if not self._record.badblocks.check(page):
            return PageState.WRITE_BACK
        recovering = self._recovering
        if recovering is not None and recovering.overlaps(page):
            return PageState.UNCACHED
        return PageState.NOT_PRESENT

    def read_sectors(self, sector: int, count: int) -> bytes:
        """See `DaxDevice`."""
        extent = Extent.of_sectors(sector, count)
        check_bounds(extent, self.size, self.name)
        first = self._record.badblocks.first(extent)
        if first is not None:
            raise BadBlockError(self.name, first, SECTOR, hint="write the sector to heal it")
        return self._medium.load(extent.offset, extent.length)

    def recovery_read(self, extent: Extent) -> Salvage:
        """See `DaxDevice`."""
        check_bounds(extent, self.size, self.name)
        data = bytearray(extent.length)
        lost = ExtentSet(CACHELINE)
        with self.lock:
            self._salvage_lines(extent, data, lost)
            for run in self._record.badblocks.lost.extents(extent.widened(CACHELINE)):
                lost.add(run)
            self._restore_kept(extent, data, lost)
        missing = list(lost.extents(extent))
        for run in missing:
            start = run.offset - extent.offset
            data[start : start + run.length] = bytes(run.length)
        return Salvage(data, missing)

    def _salvage_lines(self, extent: Extent, data: bytearray, lost: ExtentSet) -> None:
        target = memoryview(data)
        position = extent.offset
        while position < extent.end:
            end = extent.end
            try:
                self._medium.load_into(position, target[position - extent.offset :])
            except PoisonError as poison:
                end = max(poison.offset, position)
                bad = Extent(poison.offset, poison.length).widened(CACHELINE)
                lost.add(bad)
                good = target[position - extent.offset : end - extent.offset]
                self._medium.load_into(position, good)
                end = bad.end
            position = end

    def _restore_kept(self, extent: Extent, data: bytearray, lost: ExtentSet) -> None:
        """Good bytes that an interrupted recovery kept (R18)."""
        for kept in self._record.kept:
            part = kept.extent.intersection(extent)
            if part.length and not self._medium.has_poison(part):
                start = part.offset - extent.offset
                source = part.offset - kept.extent.offset
                data[start : start + part.length] = kept.data[source : source + part.length]
                lost.discard(part.narrowed(CACHELINE))

    def flush(self, extent: Extent) -> None:
        """See `DaxDevice`."""
        self._medium.flush(extent.offset, extent.length)

    def fence(self) -> None:
        """See `DaxDevice`."""
        with self.lock:
            self._record.fence()
            self._unfenced.clear()

    # -- recovery --------------------------------------------------------------------------

    def recovery_write(self, offset: int, data: Buffer, keep: Iterable[Extent] = ()) -> int:
        """See `DaxDevice`."""
        if not is_aligned(offset, PAGE) or not is_aligned(len(memoryview(data)), PAGE):
            raise UsageError(
                f"{self.name}: recovery write of {len(memoryview(data))} bytes at offset {offset} "
                f"is not aligned to {PAGE} bytes"
            )
        return self._write(offset, memoryview(data).cast("B"), tuple(keep), PAGE)

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
        done = 0
        with self.lock:
            while done < len(data):
                piece = data[done : done + _MAX_RECOVERY]
                written = self._write_piece(offset + done, piece, keep, grain)
                done += written
                if written < len(piece):
                    break
        if done == 0 and len(data):
            raise PoisonError(
                self.name, offset, min(grain, len(data)), hint="the medium did not clear it"
            )
        return done

    def _write_piece(
        self, offset: int, data: memoryview, keep: tuple[Extent, ...], grain: int
    ) -> int:
        """Heal the bad units of a piece, then store the good ones; returns the prefix written."""
        extent = Extent(offset, len(data))
        bad = ExtentSet(grain)
        for run in self._record.badblocks.recorded.extents(extent):
            bad.add(run.widened(grain))
        end = self._recover(extent, data, tuple(bad), keep, grain) if bad else extent.end
        good = [extent]
        if bad:
            whole = ExtentSet(grain, [extent])
            for run in bad:
                whole.discard(run)
            good = list(whole.extents(Extent.between(offset, end)))
        for run in good:
            self._store(run, data, offset)
        if good:
            self.fence()
        return end - offset

    def _store(self, run: Extent, data: memoryview, offset: int) -> None:
        self._medium.store(run.offset, data[run.offset - offset : run.end - offset])
        self._medium.flush(run.offset, run.length)

    def _recover(
        self,
        extent: Extent,
        data: memoryview,
        runs: tuple[Extent, ...],
        keep: tuple[Extent, ...],
        grain: int,
    ) -> int:
        """Heal `runs` in one operation; returns where it ended: the first byte not proven good."""
        intent = Intent.to_write(self._record.next_id(), grain, runs, extent.offset, data, keep)
        self._record.begin(intent)
        self.fence()
        self._recovering = extent  # NP → UC: only this call may touch the pages (R28)
        cleared: list[Extent] = []
        try:
            end = self._clear(runs, extent.end, cleared, grain)
            for run in _below(runs, end):
                self._store(run, data, extent.offset)
            self.fence()
            end = self._verify(intent, end)
            self._complete(intent, cleared, end)
        except OSError:
            self._complete(intent, cleared, extent.offset)  # nothing is proven good
            raise
        finally:
            self._recovering = None
            if self._medium.is_exposed(extent):
                self.fence()  # before mapped stores can reach the healed pages, see `_unfenced`
            self._forget_gap(extent)
        return end

    def _clear(self, runs: tuple[Extent, ...], end: int, cleared: list[Extent], grain: int) -> int:
        """Clear the medium, noting what it did; the first refused unit, else `end` (R21)."""
        for run in runs:
            count = self._medium.clear(run.offset, run.length)
            cleared.append(Extent(run.offset, count))
            if count < run.length:
                return align_down(run.offset + count, grain)
        return end

    def _verify(self, intent: Intent, end: int) -> int:
        """Read back: the offset of the first unit that is not as it should be, else `end` (R21)."""
        for unit, checksum in intent.units():
            if unit.offset >= end or not self._holds(unit, checksum):
                return min(unit.offset, end)
        return end

    def _holds(self, unit: Extent, checksum: int) -> bool:
        try:
            return xxh3_64_intdigest(self._medium.view(*unit)) == checksum
        except PoisonError:
            return False

    def _complete(self, intent: Intent, cleared: list[Extent], end: int) -> None:
        """Drop what is proven good; what was cleared beyond it is lost."""
        healed = _below(intent.runs, end)
        lost = [Extent.between(max(run.offset, end), run.end) for run in cleared if run.end > end]
        self._record.set_lost(lost)
        self._record.keep(k for k in intent.kept if any(k.extent.overlaps(run) for run in lost))
        self._record.complete(intent, healed)
        self._unfenced.update(healed)
        for run in healed:
            self.events.publish(RecoveryDone(run))
        if end < intent.runs[-1].end:
            self.fence()
            refused = Extent(end, intent.grain)
            self.events.publish(RecoveryRefused(refused, "the medium did not clear it"))

    def _judge(self, intent: Intent) -> None:
        """What became of a recovery that a stop interrupted (R18)."""
        outcomes: dict[str, ExtentSet] = {}
        for unit, checksum in intent.units():
            if self._medium.has_poison(unit):
                outcome = "bad"
            else:
                outcome = "complete" if self._holds(unit, checksum) else "lost"
            outcomes.setdefault(outcome, ExtentSet(intent.grain)).add(unit)
        lost = outcomes.get("lost", ExtentSet(intent.grain))
        self._record.set_lost(lost)
        self._record.keep(kept for kept in intent.kept if lost.overlaps(kept.extent))
        self._record.complete(intent, outcomes.get("complete", ()))
        self.fence()
        for outcome, extents in outcomes.items():
            for run in extents:
                self.events.publish(IntentReplayed(run, outcome))

    # -- failures --------------------------------------------------------------------------

    def set_holder(self, holder: Holder | None) -> None:
        """See `DaxDevice`."""
        self._holder = holder

    def badblocks(self, extent: Extent) -> Iterator[tuple[Extent, SectorState]]:
        """See `DaxDevice`."""
        check_bounds(extent, self.size, self.name)
        return self._record.states(extent)

    def _record_consumed(self, lines: Extent) -> None:
        """The machine check: an access met poison; its sectors enter the record (R3)."""
        with self.lock:
            sectors = lines.widened(SECTOR)
            if self._record.badblocks.recorded.covers(sectors):
                return
            self._enter(sectors, PoisonConsumed(sectors))

    def _enter(self, sectors: Extent, event: Event) -> None:
        self._record.set([sectors])
        self.fence()
        self._forget_gap(sectors)
        self.events.publish(event)
        if self._holder is not None:
            self._holder.notify_failure(sectors)

    def _forget_gap(self, extent: Extent) -> None:
        """The record changed: no gap is known any more, and exposed pages follow it (R28)."""
        self._gap_start = self._gap_end = 0
        self._medium.show(extent)

    # -- injection (R2) --------------------------------------------------------------------

    def inject(self, extent: Extent, *, latent: bool = False) -> None:
        """See `FaultInjection`."""
        check_bounds(extent, self.size, self.name)
        with self.lock:
            if latent:
                lines = extent.widened(CACHELINE)
                self._medium.inject([lines])
                self.events.publish(FaultInjected(lines, latent=True))
            else:
                sectors = extent.widened(SECTOR)
                self._medium.inject([sectors])
                self._enter(sectors, FaultInjected(sectors, latent=False))

    def uninject(self, extent: Extent) -> None:
        """See `FaultInjection`."""
        check_bounds(extent, self.size, self.name)
        lines = extent.widened(CACHELINE)
        with self.lock:
            self._medium.uninject([lines])
            self.events.publish(FaultRemoved(lines))

    def poison(self, extent: Extent) -> Iterator[Extent]:
        """See `FaultInjection`."""
        check_bounds(extent, self.size, self.name)
        return self._medium.find_poison(extent)


def _below(runs: Iterable[Extent], end: int) -> list[Extent]:
    """The parts of `runs` before `end`."""
    return [Extent.between(run.offset, min(run.end, end)) for run in runs if run.offset < end]
