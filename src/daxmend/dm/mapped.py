"""A mapped device: the lines of a table as one `DaxDevice` (R36).

The loops over lines and pieces, the prefix that counts (R17), what members tell translated upwards
(R42), and the one lock of the stack are here, once; how a line maps is its target's (`target.py`).
"""

from __future__ import annotations

import contextlib
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import attrgetter
from threading import RLock
from typing import TYPE_CHECKING, NamedTuple

from daxmend.dax.api import (
    AccessMode,
    Capability,
    DaxDevice,
    ErrorManagement,
    Holder,
    Salvage,
    SectorState,
    Window,
    capabilities_of,
)
from daxmend.dm.line import Line
from daxmend.dm.near import NO_GAP, NOWHERE, HasCleanGap, Near, WayDown, near
from daxmend.dm.relay import Relay, joined
from daxmend.dm.table import check_uses, format_table, make_targets
from daxmend.dm.target import Context, Target, extent_of, moved
from daxmend.errors import FaultError, MediaError, TableError, UsageError
from daxmend.events import CopyHealed, Event, EventHub, ScrubDone, ZeroinitDone
from daxmend.extent import Extent, check_bounds, check_pages, merged
from daxmend.units import CACHELINE, MIB, SECTOR, is_aligned

if TYPE_CHECKING:
    from typing_extensions import Buffer

_SCRUB_SLICE = 64 * MIB  # bytes that a scrub looks at before others have a turn


class _Part(NamedTuple):
    """A range of one line: `extent` counts from the line's `start`."""

    target: Target
    start: int
    extent: Extent

    @property
    def mapped(self) -> Extent:
        """The range in the mapped device."""
        return self.extent.shifted(self.start)


class MappedDevice:
    """Targets, one behind the other, as a device (implements `DaxDevice`, `FaultInjection`).

    Takes its members for itself: they get its lock, its holder's place and its switch of R23.
    Whoever opened the members closes them, after `close`. Without `writable` nothing is ever
    written to them. Raises `TableError` as `check_uses`.
    """

    def __init__(
        self,
        name: str,
        targets: Sequence[Target],
        events: EventHub | None = None,
        *,
        writable: bool = True,
    ) -> None:
        if not targets:
            raise TableError(1, "the table is empty")
        check_uses(targets)
        self.name = name
        self.targets = tuple(targets)
        self.events = events or EventHub()
        self.lock = RLock()
        self._starts: list[int] = []
        self.size = 0
        for target in self.targets:
            self._starts.append(self.size)
            self.size += target.size
        self.members = list(dict.fromkeys(use.device for t in targets for use in t.uses))
        clocks = self._leaves()
        self._clock = clocks[0] if len(clocks) == 1 else _Clocks(clocks)
        self._near = NOWHERE  # of the last access
        self._ways = {id(member): _way_down(member) for member in self.members}
        self._holder: Holder | None = None
        self._relays: dict[int, Relay] = {}  # by the member's id
        self._gathered: list[list[Event]] = []  # of the operations under way, the innermost last
        self._quiet: list[type[Event] | None] = []  # what each of them tells itself
        self._allows_recovery = True
        self.error_management: ErrorManagement | None = _TableErrorManagement(self)
        self._take_members()
        for target in self.targets:
            target.is_writable = writable
            target.start()

    @classmethod
    def from_table(
        cls, name: str, text: str, context: Context, events: EventHub | None = None
    ) -> MappedDevice:
        """The device of a table's text. Raises as `make_targets`."""
        return cls(name, make_targets(text, context), events)

    def _leaves(self) -> list[DaxDevice | Target]:
        """What counts changes of a record, in the whole stack below."""
        leaves: list[DaxDevice | Target] = [t for t in self.targets if t.has_state]
        for member in self.members:
            leaves += member._leaves() if isinstance(member, MappedDevice) else [member]
        return leaves

    def _take_members(self) -> None:
        self.share_lock(self.lock)
        for start, target in zip(self._starts, self.targets, strict=True):
            target.tell = self._teller(start)
            target.notify = self._notifier(start)
        for member in self.members:
            relay = self._relays[id(member)] = Relay(self.targets, member)
            member.set_holder(relay)
            member.events.subscribe(self._listener(member))

    def _teller(self, start: int) -> Callable[[Event], None]:
        def tell(event: Event) -> None:
            extent = extent_of(event)
            self._publish(event if extent is None else moved(event, extent.shifted(start)))

        return tell

    def _notifier(self, start: int) -> Callable[[Extent], None]:
        def notify(extent: Extent) -> None:
            if self._holder is not None:
                self._holder.notify_failure(extent.shifted(start))

        return notify

    def _listener(self, member: DaxDevice) -> Callable[[Event], None]:
        return lambda event: self.relay(member, event)

    def share_lock(self, lock: RLock) -> None:
        """See `DaxDevice`: the whole stack below has one lock."""
        self.lock = lock
        for member in self.members:
            member.share_lock(lock)

    # -- the table -------------------------------------------------------------------------

    @property
    def table(self) -> str:
        """The lines as text, as they were given."""
        return format_table(self._lines())

    def status(self) -> str:
        """The lines, each with what its target says of itself behind it (dmsetup status)."""
        lines = zip(self._lines(), self.targets, strict=True)
        return "".join(f"{line} {target.status()}".rstrip() + "\n" for line, target in lines)

    def _lines(self) -> Iterator[Line]:
        for number, (start, target) in enumerate(zip(self._starts, self.targets, strict=True), 1):
            made = Line(number, start // SECTOR, target.size // SECTOR, target.name, ())
            yield target.line or made

    def message(self, sector: int, words: Sequence[str]) -> str:
        """Tell the target of the line that holds `sector` something (dmsetup message)."""
        check_bounds(Extent.of_sectors(sector, 1), self.size, self.name)
        with self.lock:
            return self._part_at(sector * SECTOR).target.message(words)

    def close(self) -> None:
        """Make everything durable; the members stay open."""
        with self.lock:
            for target in self.targets:
                target.close()

    # -- finding the line --------------------------------------------------------------------

    def _part_at(self, offset: int) -> _Part:
        """The whole line at `offset`: O(log n) of the number of lines."""
        at = bisect_right(self._starts, min(offset, self.size - 1)) - 1
        target = self.targets[at]
        return _Part(target, self._starts[at], Extent(0, target.size))

    def _lines_of(self, extent: Extent) -> Iterator[_Part]:
        """The range, cut at the ends of lines."""
        offset = extent.offset
        while offset < extent.end:
            target, start, whole = self._part_at(offset)
            part = whole.intersection(extent.shifted(-start))
            yield _Part(target, start, part)
            offset = start + part.end

    def _pieces_of(self, extent: Extent) -> Iterator[_Part]:
        """The range, cut where a target's mapping is."""
        for target, start, part in self._lines_of(extent):
            offset = part.offset
            while offset < part.end:
                end = min(target.piece_at(offset).extent.end, part.end)
                yield _Part(target, start, Extent.between(offset, end))
                offset = end

    @contextlib.contextmanager
    def _naming(self, start: int) -> Iterator[None]:
        """Errors of the target at `start` become this device's."""
        try:
            yield
        except FaultError as error:
            raise type(error)(
                self.name, error.offset + start, error.length, error.code, error.hint
            ) from error

    # -- access ------------------------------------------------------------------------------

    # See `DaxDevice`: what all members and targets count. Asked twice at each read, so without a
    # function of Python's between.
    sequence = property(attrgetter("_clock.sequence"))

    def direct_access(self, extent: Extent, mode: AccessMode) -> Window:
        """See `DaxDevice`; a window ends with its piece. Near the last access none is searched."""
        offset, length = extent
        start, end, member, distance = self._near
        if not (start <= offset and offset + length <= end):
            check_bounds(extent, self.size, self.name)
            self._near = start, end, member, distance = self._near_of(offset)
            length = min(length, end - offset)
        window = member.clean_window(offset + distance, length)
        if window is None:
            window = self._search(Extent(offset, length), mode)
        window.origin = (self.name, offset)
        return window

    def read_clean(self, offset: int, length: int) -> bytes | None:
        """See `DaxDevice`: of a range in one piece, what the member below all targets answers."""
        start, end, member, distance = self._near
        if not (start <= offset and offset + length <= end):
            if not 0 <= offset <= offset + length <= self.size:
                return None
            self._near = start, end, member, distance = self._near_of(offset)
            if offset + length > end:
                return None
        return member.read_clean(offset + distance, length)

    def view_clean(self, offset: int, length: int) -> memoryview | None:
        """See `DaxDevice`."""
        start, end, member, distance = self._near
        if start <= offset and offset + length <= end:
            return member.view_clean(offset + distance, length)
        return None

    def _search(self, extent: Extent, mode: AccessMode) -> Window:
        """A window as the line's target gives it."""
        target, start, _ = self._part_at(extent.offset)
        with self._naming(start):
            return target.direct_access(extent.shifted(-start), mode)

    def _near_of(self, offset: int) -> Near:
        at = bisect_right(self._starts, min(offset, self.size - 1)) - 1
        return near(self.targets[at], self._starts[at], min(offset, self.size - 1), self._ways)

    def recovery_read(self, extent: Extent) -> Salvage:
        """See `DaxDevice`."""
        check_bounds(extent, self.size, self.name)
        data = bytearray()
        lost: list[Extent] = []
        with self._operation():
            for target, start, part in self._pieces_of(extent):
                with self._naming(start):
                    salvage = target.recovery_read(part)
                data += salvage.data
                lost += [run.shifted(start) for run in salvage.lost]
        return Salvage(data, merged(lost))

    def read_sectors(self, sector: int, count: int) -> bytes:
        """See `DaxDevice`."""
        extent = Extent.of_sectors(sector, count)
        check_bounds(extent, self.size, self.name)
        data = bytearray()
        with self._operation():
            for target, start, part in self._pieces_of(extent):
                with self._naming(start):
                    data += target.read_sectors(part)
        return bytes(data)

    def flush(self, extent: Extent) -> None:
        """See `DaxDevice`."""
        check_bounds(extent, self.size, self.name)
        for target, _, part in self._lines_of(extent):
            target.flush(part)

    def fence(self) -> None:
        """See `DaxDevice`: each member once, whatever number of lines it is in."""
        with self.lock:
            for target in self.targets:
                target.before_fence()
            for member in self.members:
                member.fence()
            for target in self.targets:
                target.after_fence()

    # -- recovery (R17, R37) -------------------------------------------------------------------

    def _each_piece(self, extent: Extent, work: Callable[[_Part], int]) -> int:
        """How many bytes `work` did, from the start on: it ends where it did less than a piece."""
        done = 0
        with self._operation():
            for part in self._pieces_of(extent):
                try:
                    with self._naming(part.start):
                        count = work(part)
                except MediaError:
                    if done == 0:
                        raise
                    break
                done += count
                if count < part.extent.length:
                    break
        return done

    def recovery_write(self, offset: int, data: Buffer, keep: Iterable[Extent] = ()) -> int:
        """See `DaxDevice`. Where a member cannot recover it ends: `NoRecoveryError` names it."""
        view = memoryview(data).cast("B")
        extent = Extent(offset, len(view))
        check_pages(extent, self.size, self.name)
        kept = list(keep)

        def recover(part: _Part) -> int:
            mapped = part.mapped
            parts = (k.intersection(mapped) for k in kept if k.overlaps(mapped))
            return part.target.recovery_write(
                part.extent.offset,
                view[mapped.offset - offset : mapped.end - offset],
                [k.shifted(-part.start) for k in parts],
            )

        return self._each_piece(extent, recover)

    def write_sectors(self, sector: int, data: Buffer) -> int:
        """See `DaxDevice`."""
        view = memoryview(data).cast("B")
        extent = Extent(sector * SECTOR, len(view))
        if not is_aligned(len(view), SECTOR):
            raise UsageError(f"{self.name}: {len(view)} bytes are not whole sectors of {SECTOR}")
        check_bounds(extent, self.size, self.name)

        def write(part: _Part) -> int:
            start = part.mapped.offset - extent.offset
            return part.target.write_sectors(
                part.extent.offset, view[start : start + part.extent.length]
            )

        return self._each_piece(extent, write)

    def zeroinit(self, extent: Extent) -> int:
        """See `DaxDevice`."""
        check_pages(extent, self.size, self.name)
        with self._operation(quiet=ZeroinitDone):
            done = self._each_piece(extent, lambda part: part.target.zeroinit(part.extent))
        self.events.publish(ZeroinitDone(Extent(extent.offset, done)))
        return done

    def hold(self, offset: int, data: bytes, unit: int) -> None:
        """See `DaxDevice`."""
        extent = Extent(offset, len(data))
        check_bounds(extent, self.size, self.name)
        with self._operation():
            for part in self._pieces_of(extent):
                start = part.mapped.offset - offset
                with self._naming(part.start):
                    piece = data[start : start + part.extent.length]
                    part.target.hold(part.extent.offset, piece, unit)

    def drop_hold(self, extent: Extent) -> None:
        """See `DaxDevice`."""
        check_bounds(extent, self.size, self.name)
        with self._operation():
            for target, _, part in self._pieces_of(extent):
                target.drop_hold(part)

    def keep_zeros(self, extent: Extent) -> None:
        """See `DaxDevice`."""
        check_bounds(extent, self.size, self.name)
        with self._operation():
            for target, _, part in self._pieces_of(extent):
                target.keep_zeros(part)

    @property
    def allows_recovery(self) -> bool:
        """See `DaxDevice`; the members follow it (R23)."""
        return self._allows_recovery

    @allows_recovery.setter
    def allows_recovery(self, allowed: bool) -> None:
        """Switch it for the whole stack below."""
        self._allows_recovery = allowed
        for member in self.members:
            member.allows_recovery = allowed
        for target in self.targets:
            target.allows_recovery = allowed

    # -- what is known of it -------------------------------------------------------------------

    def capabilities(self, extent: Extent) -> list[Capability]:
        """See `DaxDevice`: range by range (R37)."""
        check_bounds(extent, self.size, self.name)
        return capabilities_of(self.error_management, extent)

    def badblocks(self, extent: Extent) -> Iterator[tuple[Extent, SectorState]]:
        """See `DaxDevice`."""
        check_bounds(extent, self.size, self.name)
        found: list[tuple[Extent, SectorState]] = []
        with self.lock:
            for target, start, part in self._lines_of(extent):
                for run, state in target.badblocks(part):
                    run = run.shifted(start)
                    if found and found[-1][0].end == run.offset and found[-1][1] is state:
                        run = Extent.between(found.pop()[0].offset, run.end)
                    found.append((run, state))
        return iter(found)

    def iter_stored(self, extent: Extent) -> Iterator[Extent]:
        """See `SparseDevice`."""
        check_bounds(extent, self.size, self.name)
        last: Extent | None = None
        for target, start, part in self._lines_of(extent):
            for run in target.stored(part):
                run = run.shifted(start)
                if last is not None and last.end == run.offset:
                    run = Extent.between(last.offset, run.end)
                elif last is not None:
                    yield last
                last = run
        if last is not None:
            yield last

    def scrub(self, extent: Extent) -> Iterator[Extent]:
        """See `DaxDevice`."""
        check_bounds(extent, self.size, self.name)
        found = 0
        for at in range(extent.offset, extent.end, _SCRUB_SLICE):
            piece = Extent(at, _SCRUB_SLICE).intersection(extent)
            with self._operation(quiet=ScrubDone):
                found -= self._recorded(piece)
                for target, start, part in self._lines_of(piece):
                    with self._naming(start):
                        target.scrub(part)
                found += self._recorded(piece)
            yield piece
        if extent.length:
            self.events.publish(ScrubDone(extent, found))

    def _recorded(self, extent: Extent) -> int:
        return sum(run.length for run, _ in self.badblocks(extent))

    # -- injection (R2) --------------------------------------------------------------------------

    def inject(self, extent: Extent, *, latent: bool = False) -> None:
        """See `FaultInjection`. `UnsupportedError` names a member that takes none; then nothing
        has changed."""
        check_bounds(extent, self.size, self.name)
        lines = extent.widened(CACHELINE if latent else SECTOR)
        self._each_line(lines, lambda target, part: target.inject(part, latent=latent))

    def inject_once(self, extent: Extent) -> None:
        """See `FaultInjection`."""
        check_bounds(extent, self.size, self.name)
        lines = extent.widened(CACHELINE)
        self._each_line(lines, lambda target, part: target.inject_once(part))

    def uninject(self, extent: Extent) -> None:
        """See `FaultInjection`."""
        check_bounds(extent, self.size, self.name)
        lines = extent.widened(CACHELINE)
        self._each_line(lines, lambda target, part: target.uninject(part))

    def _each_line(self, extent: Extent, work: Callable[[Target, Extent], None]) -> None:
        with self._operation():
            self.check_injectable(extent)
            for target, start, part in self._lines_of(extent):
                with self._naming(start):
                    work(target, part)

    def check_injectable(self, extent: Extent) -> None:
        """See `HasInjectableParts`."""
        for target, _, part in self._lines_of(extent):
            target.check_injectable(part)

    def poison(self, extent: Extent) -> Iterator[Extent]:
        """See `FaultInjection`."""
        check_bounds(extent, self.size, self.name)
        with self.lock:
            found = [
                run.shifted(start)
                for target, start, part in self._lines_of(extent)
                for run in target.poison(part)
            ]
        return iter(merged(found))

    # -- what comes up (R42) ---------------------------------------------------------------------

    def set_holder(self, holder: Holder | None) -> None:
        """See `DaxDevice`."""
        self._holder = holder

    def relay(self, member: DaxDevice, event: Event) -> None:
        """Publish what a member published, for every place where the member is mapped.

        What is about bytes that are not mapped is nobody's here.
        """
        if type(event) in self._quiet:
            return
        extent = extent_of(event)
        if extent is not None:
            for target, index, part in self._relays[id(member)].parts(extent):
                target.on_member_event(index, event, part)
        elif isinstance(event, CopyHealed):
            structure = f"{member.name}: {event.structure}"
            self._publish(CopyHealed(structure, event.copy, event.reason))
        else:
            self._publish(event)

    def _publish(self, event: Event) -> None:
        if self._gathered:
            self._gathered[-1].append(event)
        else:
            self.events.publish(event)

    @contextlib.contextmanager
    def _operation(self, quiet: type[Event] | None = None) -> Iterator[None]:
        """One operation under the lock: what its pieces tell is merged and told at its end.

        Events of the type `quiet` are the operation's own to tell.
        """
        with self.lock:
            self._gathered.append([])
            self._quiet.append(quiet)
            try:
                yield
            finally:
                self._quiet.pop()
                for event in joined(self._gathered.pop()):
                    self._publish(event)


def _way_down(member: DaxDevice) -> WayDown:
    """What finds the stretch around an offset of a member."""
    if isinstance(member, MappedDevice):
        return member._near_of
    whole = (0, member.size, member if isinstance(member, HasCleanGap) else NO_GAP, 0)
    return lambda offset: whole


_sequence_of: Callable[[DaxDevice | Target], int] = attrgetter("sequence")


class _Clocks:
    """The sum of what several count (R19)."""

    def __init__(self, clocks: Sequence[DaxDevice | Target]) -> None:
        self._clocks = clocks

    @property
    def sequence(self) -> int:
        """Grows whenever one of theirs does."""
        return sum(map(_sequence_of, self._clocks))


class _TableErrorManagement:
    """Asks the targets (implements `ErrorManagement`)."""

    def __init__(self, device: MappedDevice) -> None:
        self._device = device

    def capabilities(self, extent: Extent) -> list[Capability]:
        """See `ErrorManagement`."""
        found: list[Capability] = []
        for target, start, part in self._device._lines_of(extent):
            for each in target.capabilities(part):
                each = each._replace(extent=each.extent.shifted(start))
                if found and found[-1][1:] == each[1:]:
                    each = each._replace(
                        extent=Extent.between(found.pop().extent.offset, each.extent.end)
                    )
                found.append(each)
        return found
