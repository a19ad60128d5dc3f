"""The persistent-memory driver: a medium and its record as one `DaxDevice`.

Recovery is one operation (R20): the intent becomes durable, the medium clears, the new data is
written, fenced and read back, and one append drops the sectors (persistence.md §3).
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from daxmend.dax.api import (
    AccessMode,
    Capability,
    ErrorManagement,
    Holder,
    PageState,
    Salvage,
    SectorState,
    Window,
    capabilities_of,
)
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
    RecoveryRefused,
    ScrubDone,
    ZeroinitDone,
)
from daxmend.extent import Extent, ExtentSet, check_bounds, check_pages
from daxmend.media.medium import Medium
from daxmend.pmem.clearunit import complete_units
from daxmend.pmem.errormanagement import PmemErrorManagement
from daxmend.pmem.healer import MAX_INTENT, Healer
from daxmend.pmem.intent import Hold, Kept, Request
from daxmend.pmem.record import Record
from daxmend.units import CACHELINE, MIB, PAGE, SECTOR, align_down, is_aligned

if TYPE_CHECKING:
    from threading import RLock

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
        self.error_management: ErrorManagement | None = PmemErrorManagement(
            self, self._record.badblocks
        )
        self.notices: list[str] = []  # what whoever opened it should be told (R45)
        self._look_at_copies()
        for intent in list(self._record.intents.values()):
            self._healer.judge(intent)
        self._release_leftovers()

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

    def _release_leftovers(self) -> None:
        """The halves that a stop left: nobody can complete them, and their writers think that they
        are written (R50)."""
        holds = list(self._record.holds)
        for unit in dict.fromkeys(hold.kept.extent.widened(hold.unit) for hold in holds):
            reason = "the half of a write was acknowledged before a stop, and the rest never came"
            self.notices.append(f"{self.name}: {unit}: {reason}; write all of this range again")
            self.events.publish(RecoveryRefused(unit, reason))
        with contextlib.suppress(OSError, DaxmendError):  # without room: at the next attach again
            for hold in holds:
                self._record.release(hold.kept.extent)
            if holds:
                self.fence()

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
        return capabilities_of(self.error_management, extent)

    # -- access ----------------------------------------------------------------------------

    def direct_access(self, extent: Extent, mode: AccessMode) -> Window:
        """See `DaxDevice`. In NORMAL mode a clean gap costs one comparison (R22)."""
        offset, length = extent
        start, end = self._gap
        if not (start <= offset <= offset + length <= end):
            check_bounds(extent, self.size, self.name)
            if mode is AccessMode.NORMAL:
                with self.lock:
                    length = self._find_gap(offset, length)
        return Window(self._medium, offset, length)

    def clean_window(self, offset: int, length: int) -> Window | None:
        """What `direct_access` gives for a range in the clean gap, and None for any other (R22)."""
        start, end = self._gap
        if start <= offset and offset + length <= end:
            return Window(self._medium, offset, length)
        return None

    def read_clean(self, offset: int, length: int) -> bytes | None:
        """See `DaxDevice`. The gap is a new object with every change of the record."""
        gap = self._gap
        if gap[0] <= offset <= offset + length <= gap[1]:
            data = self._medium.load_clean(offset, length)
            if self._gap is gap:  # else the record changed under the copy (R19)
                return data
        return None

    def view_clean(self, offset: int, length: int) -> memoryview | None:
        """See `DaxDevice`."""
        start, end = self._gap
        if start <= offset <= offset + length <= end:
            return self._medium.view_clean(offset, length)
        return None

    def _find_gap(self, offset: int, length: int) -> int:
        """How much of the range a normal access may have; none is `BadBlockError` (R24)."""
        start = align_down(offset, PAGE)
        first = self._record.badblocks.recorded.next_offset(start)
        gap_end = self.size if first is None else align_down(first, PAGE)
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
        """Put in what recoveries kept (R18) and what is held (R50); returns what is missing."""
        missing = ExtentSet(1, lost.extents(extent))
        for kept in (*self._record.kept, *(hold.kept for hold in self._record.holds)):
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
            self._medium.settle = None
            self._drop_healed_lines()

    def _settle(self, extent: Extent) -> None:
        """Before a store to healed bytes: the recovery's last step must be durable (R18)."""
        with self.lock:
            if self._healer.unfenced.overlaps(extent):
                self.fence()

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
        for run in list(sectors):  # of lost ones, what else they held is gone all the same
            for lost in list(self._record.badblocks.lost.extents(run)):
                sectors.discard(lost)
        self._healed_lines.clear()
        self._record.clear(sectors)
        for run in sectors:
            self._forget_gap(run)

    # -- recovery --------------------------------------------------------------------------

    def recovery_write(self, offset: int, data: Buffer, keep: Iterable[Extent] = ()) -> int:
        """See `DaxDevice`."""
        view = memoryview(data).cast("B")
        check_pages(Extent(offset, len(view)), self.size, self.name)
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
        self._check_recovery_allowed(Extent(offset, len(data)), grain)
        done = 0
        with self.lock:
            self._record_found(Extent(offset, len(data)))  # a recovery leaves no poison behind
            self._change_record()  # before: who is copying now must look again (R19)
            while done < len(data):
                piece = data[done : done + MAX_INTENT]
                extent = Extent(offset + done, len(piece))
                request = Request(extent, piece, keep, grain)
                if self._medium.clear_unit > grain:
                    unit, salvage = self._medium.clear_unit, self._healer.salvage
                    request = complete_units(request, unit, self._record, salvage)
                end = self._healer.write(request)
                done = max(min(end, extent.end) - offset, done)
                if offset + done < extent.end:
                    break
        if done == 0 and len(data):
            raise PoisonError(
                self.name, offset, min(grain, len(data)), hint="the medium did not clear it"
            )
        return done

    def _check_recovery_allowed(self, extent: Extent, grain: int) -> None:
        """Raise, and tell (R48), if the range needs a recovery that the device must not do."""
        first = self._record.badblocks.first(extent)
        if first is None or (self.allows_recovery and self.error_management is not None):
            return
        reason = "recovery is switched off for this device"
        if self.error_management is None:
            reason = "the device has no error management"
        self.events.publish(RecoveryRefused(Extent(first, 1).widened(grain), reason))
        if self.error_management is None:
            raise UnsupportedError(f"{self.name}: {extent}: {reason}")
        raise BadBlockError(self.name, extent.offset, extent.length, hint=reason)

    def _check_writable(self) -> None:
        if not self.pool.is_writable:
            raise UnsupportedError(f"{self.name}: the pool is open read-only")

    def hold(self, offset: int, data: bytes, unit: int) -> None:
        """See `DaxDevice`."""
        check_bounds(Extent(offset, len(data)), self.size, self.name)
        self._check_writable()
        with self.lock:
            self._record.hold(Hold(Kept(Extent(offset, len(data)), data), unit))
            self.fence()

    def drop_hold(self, extent: Extent) -> None:
        """See `DaxDevice`."""
        with self.lock:
            self._record.release(extent)

    def keep_zeros(self, extent: Extent) -> None:
        """See `DaxDevice`."""
        check_bounds(extent, self.size, self.name)
        self._check_writable()
        with self.lock:
            self._healer.end_leftovers(extent)  # they keep bytes, too
            self._record.keep_zeros(extent)

    def zeroinit(self, extent: Extent) -> int:
        """See `DaxDevice`."""
        check_pages(extent, self.size, self.name)
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

    def iter_stored(self, extent: Extent) -> Iterator[Extent]:
        """See `SparseDevice`."""
        check_bounds(extent, self.size, self.name)
        base = self.pool.header.layout.data.offset
        at = base + extent.offset
        while (data := self.pool.backing.next_data(at, base + extent.end)) is not None:
            yield data.shifted(-base)
            at = data.end

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

    def share_lock(self, lock: RLock) -> None:
        """See `DaxDevice`."""
        self.lock = self._medium.lock = lock

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
        self._tell(runs, events)

    def _tell(self, runs: list[Extent], events: list[Event]) -> None:
        """Sectors have entered the record; exposed pages come last, for they can be refused."""
        self._change_record()
        for run, event in zip(runs, events, strict=True):
            self.events.publish(event)
            if self._holder is not None:
                self._holder.notify_failure(run)
        for run in runs:
            self._medium.show(run)

    def _forget_gap(self, extent: Extent) -> None:
        """The record changed: no gap is known any more, and exposed pages follow it (R28)."""
        self._change_record()
        self._medium.show(extent)

    def _change_record(self) -> None:
        self._gap = (0, 0)
        self.sequence += 1
        self._medium.settle = self._settle if self._healer.unfenced else None

    # -- injection (R2) --------------------------------------------------------------------

    def inject(self, extent: Extent, *, latent: bool = False) -> None:
        """See `FaultInjection`."""
        check_bounds(extent, self.size, self.name)
        self._check_writable()
        with self.lock:
            lines = extent.widened(CACHELINE if latent else SECTOR)
            with self._explaining_injection(lines):
                if latent:
                    self._inject_latent(lines)
                else:
                    self._inject_recorded(lines)

    def _inject_latent(self, lines: Extent) -> None:
        try:
            self._medium.inject([lines])
        finally:
            if self._medium.is_poisoned(lines):  # and perhaps not shown where it was handed out
                self.events.publish(FaultInjected(lines, "latent"))

    def _inject_recorded(self, sectors: Extent) -> None:
        """The record first, so that no failure leaves poison that it does not know (R8)."""
        known = list(self._record.badblocks.recorded.extents(sectors))
        self._record.reserve([sectors])
        try:
            self.fence()
            self._medium.inject([sectors])
        finally:
            if self._medium.is_poisoned(sectors):  # and perhaps not shown where it was handed out
                self._tell([sectors], [FaultInjected(sectors, "until-written")])
            else:
                self._take_back(sectors, known)

    def _take_back(self, sectors: Extent, known: list[Extent]) -> None:
        """Nothing was poisoned: the record is not to make anything up (R8)."""
        fresh = ExtentSet(SECTOR, [sectors])
        for run in known:
            fresh.discard(run)
        self._change_record()
        with contextlib.suppress(OSError):  # without space they stay: EIO, and all can be salvaged
            self._record.clear(fresh)
            self._record.fence()
            self._change_record()

    @contextlib.contextmanager
    def _explaining_injection(self, extent: Extent) -> Iterator[None]:
        """Say what a disk that is full keeps from being injected, and what to do."""
        try:
            yield
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise OSError(
                error.errno,
                f"{self.name}: {extent} is not injected, or not wholly: {error.strerror}; then "
                "inject it again",
                self.name,
            ) from error

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
