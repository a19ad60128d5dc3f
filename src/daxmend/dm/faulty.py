"""faulty: a range of a member in which chosen bytes fail (`faulty PLAN MEMBER OFFSET`). Ours.

PLAN is `-` for none, a list `OFFSET:LENGTH:KIND,…`, or the path of a fault plan; offsets count from
the line's start. Poison and record are kept here, in memory, over those of the member: so a member
without either (R40) can be damaged, and heals, by a write that covers the bad page, as long as the
member stores. A new start of the table applies the plan again; other damage is forgotten.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol, Self, runtime_checkable
from weakref import WeakKeyDictionary

from daxmend.dax.api import (
    AccessMode,
    Capability,
    DaxDevice,
    ExposedMemory,
    Salvage,
    SectorState,
    Window,
)
from daxmend.dm.line import Line
from daxmend.dm.linear import Linear
from daxmend.dm.membermemory import MemberMemory
from daxmend.dm.target import Context
from daxmend.errors import BadBlockError, MediaError, PoisonError, UsageError
from daxmend.events import (
    Event,
    FaultInjected,
    FaultRemoved,
    PoisonConsumed,
    PoisonFound,
    RecoveryDone,
    RecoveryRefused,
)
from daxmend.extent import Extent, ExtentSet, check_bounds
from daxmend.faults import NO_FILES, Fault, FaultKind, format_plan, parse_plan
from daxmend.units import CACHELINE, PAGE, SECTOR, is_aligned

if TYPE_CHECKING:
    from typing_extensions import Buffer

_INLINE = re.compile(r"[^/,:]+:[^/,:]+:[a-z-]+(,[^/,:]+:[^/,:]+:[a-z-]+)*")
_LEAK = b"POISONED" * (CACHELINE // 8)  # what poisoned bytes hold, so that a leak shows (R2)


class _Held(NamedTuple):
    """What a writer was promised of a bad unit (R50)."""

    extent: Extent
    data: bytes


@runtime_checkable
class _Faulting(Protocol):
    """Exposed memory whose pages can be made to fault (`media.exposure.Exposure`)."""

    @property
    def faulting(self) -> list[Extent]: ...
    def make_faulting(self, offset: int, length: int) -> None: ...
    def make_accessible(self, offset: int, length: int) -> None: ...


class Faulty(Linear):
    """Poison of its own over a linear mapping. Raises `UsageError` for a fault outside of it."""

    name = "faulty"
    usage = ("PLAN", "MEMBER", "OFFSET")
    has_state = True

    def __init__(
        self, size: int, member: DaxDevice, offset: int, plan: Iterable[Fault] = ()
    ) -> None:
        super().__init__(size, member, offset)
        self._member = member
        self._poison = ExtentSet(CACHELINE)
        self._once = ExtentSet(CACHELINE)
        self._record = ExtentSet(SECTOR)
        self._held: list[_Held] = []
        self._exposed: WeakKeyDictionary[ExposedMemory, Extent] = WeakKeyDictionary()
        for fault in plan:
            self._plan(fault)

    def _plan(self, fault: Fault) -> None:
        check_bounds(fault.extent, self.size, "fault plan")
        if fault.pattern != NO_FILES:
            raise UsageError(f"'{fault}': there are no files here; the pattern is '-'")
        lines = self._once if fault.kind is FaultKind.ONCE else self._poison
        lines.add(fault.extent)
        if fault.kind is FaultKind.UNTIL_WRITTEN:
            self._record.add(fault.extent)

    @classmethod
    def parse(cls, line: Line, context: Context) -> Self:
        """See `Target`."""
        line.check_count(cls.usage)
        text, member, start = line.arguments
        offset = line.sectors(start, "OFFSET") * SECTOR
        plan = parse_plan(_plan_text(text, context))
        return cls(line.extent.length, context.open_member(member), offset, plan)

    def status(self) -> str:
        """See `Target`: sectors in its record, cachelines poisoned."""
        return f"{self._record.length // SECTOR} {self._poison.length // CACHELINE}"

    def message(self, words: Sequence[str]) -> str:
        """See `Target`: `plan` answers with what is poisoned now, as a fault plan."""
        if list(words) != ["plan"]:
            raise UsageError(f"{self.name} knows the message 'plan', not '{' '.join(words)}'")
        recorded = [Fault(run, FaultKind.UNTIL_WRITTEN) for run in self._record]
        latent = self._poison.copy()
        for run in self._record:
            latent.discard(run)
        return format_plan(recorded + [Fault(run, FaultKind.LATENT) for run in latent])

    # -- access ------------------------------------------------------------------------------

    def direct_access(self, extent: Extent, mode: AccessMode) -> Window:
        """See `Target`."""
        offset, length = extent
        if mode is AccessMode.NORMAL:
            page = extent.widened(PAGE) if length else extent
            bad = next(self._record.extents(page), None)
            if bad is not None:
                start = bad.widened(PAGE).offset
                if start <= offset:
                    raise BadBlockError(
                        self.name,
                        *next(self._record.extents(Extent(start, PAGE))),
                        hint="write the whole page to heal it",
                    )
                length = start - offset
        window = super().direct_access(Extent(offset, length), mode)
        window.origin = (self.name, offset)
        memory = _FaultyMemory(self, window, offset)
        return Window(memory, offset, window.length)

    def check_access(self, extent: Extent) -> None:
        """Fail as a load of the medium would (R3)."""
        if not (self._poison or self._once):
            return
        with self._member.lock:
            once = next(self._once.extents(extent), None)
            if once is not None:
                self._spend(once.widened(CACHELINE))
                raise MediaError(self.name, *once, hint="it fails once; try again")
            lines = next(self._poison.extents(extent), None)
            if lines is not None:
                self._consume(lines.widened(CACHELINE))
                raise PoisonError(self.name, *lines)

    def _spend(self, lines: Extent) -> None:
        """One access fails for all of a fault, also for what the access does not reach."""
        start = lines.offset
        while self._once.overlaps(Extent(start - 1, 1)):
            start -= CACHELINE
        self._once.discard(next(self._once.extents(Extent.between(start, self.size))))
        self.sequence += 1

    def _consume(self, lines: Extent) -> None:
        sectors = lines.widened(SECTOR)
        if not self._record.covers(sectors):
            self._enter(sectors, PoisonConsumed(sectors))

    def _enter(self, sectors: Extent, event: Event) -> None:
        """Sectors enter the record, and everybody is told (R42)."""
        self._record.add(sectors)
        self.sequence += 1
        self.tell(event)
        self.notify(sectors)
        self._show(sectors)

    def read_sectors(self, extent: Extent) -> bytes:
        """See `Target`."""
        first = next(self._record.extents(extent), None)
        if first is not None:
            raise BadBlockError(self.name, first.offset, SECTOR, hint="write the sector to heal it")
        self.check_access(extent)
        return super().read_sectors(extent)

    def recovery_read(self, extent: Extent) -> Salvage:
        """See `Target`."""
        for once in list(self._once.extents(extent)):
            self._spend(once.widened(CACHELINE))
        data, lost = super().recovery_read(extent)
        missing = ExtentSet(1, lost)
        for lines in list(self._poison.extents(extent)):
            self._consume(lines.widened(CACHELINE))
            missing.add(lines)
        for held in self._held:
            part = held.extent.intersection(extent)
            if part.length:
                start, at = part.offset - held.extent.offset, part.offset - extent.offset
                data[at : at + part.length] = held.data[start : start + part.length]
                missing.discard(part)
        for run in missing:
            data[run.offset - extent.offset : run.end - extent.offset] = bytes(run.length)
        return Salvage(data, list(missing))

    # -- recovery ------------------------------------------------------------------------------

    def recovery_write(self, offset: int, data: Buffer, keep: Iterable[Extent] = ()) -> int:
        """See `Target`: the member takes the data first, then the poison goes (R46)."""
        extent = Extent(offset, memoryview(data).nbytes)
        self._look(extent, PAGE)
        done = super().recovery_write(offset, data, keep)
        self._heal(Extent(offset, done), PAGE)
        return done

    def write_sectors(self, offset: int, data: Buffer) -> int:
        """See `Target`."""
        extent = Extent(offset, memoryview(data).nbytes)
        grain = PAGE if all(is_aligned(number, PAGE) for number in extent) else SECTOR
        self._look(extent, grain)
        done = super().write_sectors(offset, data)
        self._heal(Extent(offset, done), grain)
        return done

    def zeroinit(self, extent: Extent) -> int:
        """See `Target`."""
        self._look(extent, PAGE)
        done = super().zeroinit(extent)
        self._heal(Extent(extent.offset, done), PAGE)
        return done

    def _look(self, extent: Extent, grain: int) -> None:
        """Latent poison enters the record: none stays behind. Raises if nothing may heal (R23)."""
        first = next(self._record.extents(extent), None)
        if first is not None and not self.allows_recovery:
            reason = "recovery is switched off for this device"
            self.tell(RecoveryRefused(Extent(first.offset, 1).widened(grain), reason))
            raise BadBlockError(self.name, *extent, hint=reason)
        self._find(extent)

    def _find(self, extent: Extent) -> None:
        new = ExtentSet(SECTOR)
        for lines in self._poison.extents(extent):
            new.add(lines.widened(SECTOR))
        for run in new.without(self._record):
            self._enter(run, PoisonFound(run))

    def _heal(self, extent: Extent, grain: int) -> None:
        """What was bad in a range that has been written is good."""
        units = ExtentSet(grain)
        for run in self._record.extents(extent):
            units.add(run.widened(grain))
        if not units:
            return
        self._poison.discard(extent)
        self._record.discard(extent)
        self.drop_hold(extent)
        self.sequence += 1
        for run in units:
            self.tell(RecoveryDone(run))
            self._show(run)

    def hold(self, offset: int, data: bytes, unit: int) -> None:
        """See `Target`; kept in memory, as the damage is."""
        self._held.append(_Held(Extent(offset, len(data)), data))

    def drop_hold(self, extent: Extent) -> None:
        """See `Target`."""
        self._held = [held for held in self._held if not held.extent.overlaps(extent)]

    def keep_zeros(self, extent: Extent) -> None:
        """See `Target`: nothing is lost here but what the member lost."""
        self.drop_hold(extent)
        super().keep_zeros(extent)

    # -- what is known of it -------------------------------------------------------------------

    def capabilities(self, extent: Extent) -> list[Capability]:
        """See `Target`: also where the member cannot recover, if it has nothing bad there."""
        if not self.allows_recovery:
            reason = "recovery is switched off"
            return [Capability(extent, False, not self._record.overlaps(extent), True, reason)]
        found = []
        for each in super().capabilities(extent):
            is_bad = any(True for _ in super().badblocks(each.extent))
            heals = each.can_recover or not is_bad
            found.append(Capability(each.extent, heals, heals, True, "" if heals else each.reason))
        return found

    def badblocks(self, extent: Extent) -> list[tuple[Extent, SectorState]]:
        """See `Target`: its own record, and the member's beside it."""
        found = [(run, SectorState.BAD) for run in self._record.extents(extent)]
        for run, state in super().badblocks(extent):
            found += [(part, state) for part in self._record.gaps(run)]
        return sorted(found, key=lambda each: each[0])

    def scrub(self, extent: Extent) -> None:
        """See `Target`."""
        super().scrub(extent)
        self._find(extent)

    # -- injection (R2) --------------------------------------------------------------------------

    def check_injectable(self, extent: Extent) -> None:
        """See `Target`: all of it is."""

    def inject(self, extent: Extent, *, latent: bool = False) -> None:
        """See `Target`."""
        self._poison.add(extent)
        self.sequence += 1
        self._overwrite(extent)
        if latent:
            self.tell(FaultInjected(extent, FaultKind.LATENT.value))
            self._show(extent)
        else:
            self._enter(extent, FaultInjected(extent, FaultKind.UNTIL_WRITTEN.value))

    def _overwrite(self, lines: Extent) -> None:
        """What the poisoned lines held is gone, for the member too."""
        while lines.length:
            window = super().direct_access(lines, AccessMode.RECOVERY)
            window.store(0, _LEAK * (window.length // CACHELINE))
            lines = Extent.between(lines.offset + window.length, lines.end)

    def inject_once(self, extent: Extent) -> None:
        """See `Target`."""
        self._once.add(extent)
        self.sequence += 1
        self.tell(FaultInjected(extent, FaultKind.ONCE.value))

    def uninject(self, extent: Extent) -> None:
        """See `Target`."""
        self._poison.discard(extent)
        self.sequence += 1
        self.tell(FaultRemoved(extent))
        self._show(extent)

    def poison(self, extent: Extent) -> list[Extent]:
        """See `Target`."""
        lines = ExtentSet(CACHELINE, super().poison(extent))
        lines.update(self._poison.extents(extent))
        return list(lines)

    # -- memory that was handed out (R28) ----------------------------------------------------------

    def expose(self, window: Window, extent: Extent, *, writable: bool) -> ExposedMemory:
        """The member's memory, in which the pages that are bad here fault as well."""
        exposed = window.expose(writable=writable)
        with self._member.lock:
            self._exposed[exposed] = extent
            self._show(extent)
        return exposed

    def _show(self, changed: Extent) -> None:
        for exposed, place in list(self._exposed.items()):
            pages = changed.widened(PAGE).intersection(place)
            if not (pages.length and isinstance(exposed, _Faulting)):
                continue
            wanted = ExtentSet(PAGE)
            for bad in (*self._poison.extents(pages), *self._record.extents(pages)):
                wanted.add(bad.widened(PAGE))
            wanted.update(run.widened(PAGE) for run, _ in super().badblocks(pages))
            present = ExtentSet(PAGE, (run.shifted(place.offset) for run in exposed.faulting))
            for run in wanted.without(present):
                exposed.make_faulting(run.offset - place.offset, run.length)
            for run in present.without(wanted).extents(pages):
                exposed.make_accessible(run.offset - place.offset, run.length)


class _FaultyMemory(MemberMemory):
    """A member's window behind the faults."""

    def __init__(self, target: Faulty, window: Window, base: int) -> None:
        super().__init__(target, window, base)
        self._target = target

    def load(self, offset: int, length: int) -> bytes:
        """See `MemberMemory`."""
        self._target.check_access(Extent(offset, length))
        return super().load(offset, length)

    def view(self, offset: int, length: int) -> memoryview:
        """See `MemberMemory`."""
        self._target.check_access(Extent(offset, length))
        return super().view(offset, length)


def _plan_text(word: str, context: Context) -> str:
    """The plan that a table's word stands for, as text."""
    if word == NO_FILES:
        return ""
    if _INLINE.fullmatch(word):
        faults: Iterator[str] = (fault.replace(":", " ") for fault in word.split(","))
        return "".join(f"{NO_FILES} {fault}\n" for fault in faults)
    return context.read_text(word)
