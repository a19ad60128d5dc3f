"""What a device-mapper target is: the interface, and all that a target need not do itself.

A target fills one line of a table. *Everything it takes, returns, raises and tells counts from the
start of its line, in bytes*; `MappedDevice` shifts by the line's start, loops over lines and
pieces, counts prefixes (R17), merges and names things. So a simple target is three functions of
arithmetic (`linear.py`): `piece_at`, `cover` and `unmap`. One that does more overrides the
operation in question (`error.py`, `faulty.py`), each of which `MappedDevice` calls for one piece at
a time, under the stack's lock (but `direct_access` and `flush`: take it if you need it), with a
range inside `piece_at`.

To add a target: one file with one class that has a `name`, a `usage`, a `parse`, and the rest as
needed; a line in `dm/table.py`'s `TARGETS`; a man page, `docs/man`; a line in the contract
tests.

- State of its own that can be bad: override `badblocks`, `recovery_read`, `poison` …, let
  `sequence` grow with each change and set `has_state`; tell with `tell` and `notify`.
- Stores through windows must be seen: override `direct_access` and return a `Window` over memory of
  its own (`dax.api.WindowMemory`), as `faulty.py` does. `flush` and `fence` come afterwards.
- Members that do not mirror the line (a log, a cache): leave `unmap` empty for them and override
  `on_member_event` and `on_member_failure` if the line is concerned after all.
- Order of durability: `before_fence` is called before the members are fenced, each once;
  `after_fence` when all are. Either may fence a member itself.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol, Self, runtime_checkable

from daxmend.dax.api import (
    AccessMode,
    Capability,
    DaxDevice,
    FaultInjection,
    Salvage,
    SectorState,
    SparseDevice,
    Window,
)
from daxmend.errors import FaultError, NoRecoveryError, UnsupportedError
from daxmend.events import RecoveryRefused
from daxmend.extent import Extent, merged
from daxmend.units import SECTOR

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from daxmend.dm.line import Line
    from daxmend.events import Event


class Context(Protocol):
    """What a target may ask for while it is made from a line."""

    def open_member(self, spec: str) -> DaxDevice:
        """The device that a word of the table names; the same for the same name.

        Raises `DaxmendError` or `OSError` where it cannot be opened.
        """

    def read_text(self, path: str) -> str:
        """A file that a word of the table names."""


@runtime_checkable
class HasInjectableParts(Protocol):
    """A device parts of which may take no injected faults."""

    def check_injectable(self, extent: Extent) -> None:
        """Raise `UnsupportedError` unless all of the range can be made bad."""


class Use(NamedTuple):
    """A range of a member that a target has for itself."""

    device: DaxDevice
    extent: Extent


class Piece(NamedTuple):
    """A stretch of the line that lies in one piece: in `uses[use]`, at `offset` of its device.

    `use` is None where no member is below.
    """

    extent: Extent
    use: int | None = None
    offset: int = 0


class Target:
    """A line of a table (see the module's docstring). `uses` are the members' ranges it takes."""

    name: ClassVar[str]
    usage: ClassVar[tuple[str, ...]]  # its arguments, as the documentation writes them
    has_state: ClassVar[bool] = False  # whether it overrides `sequence`
    sequence: int = 0  # grows with each change of a record of its own (R19)
    allows_recovery: bool = True  # the mapped device's switch (R23); members have their own
    is_writable: bool = True  # False: the members are open read-only; set by the mapped device

    def __init__(self, size: int, uses: Sequence[Use] = ()) -> None:
        self.size = size
        self.uses = tuple(uses)
        self.line: Line | None = None  # which made it; set by the table
        self.notices: list[str] = []  # what whoever opened the table should be told
        # Set by the mapped device; they take the target's own offsets.
        self.tell: Callable[[Event], None] = _ignore
        self.notify: Callable[[Extent], None] = _ignore

    @classmethod
    def parse(cls, line: Line, context: Context) -> Self:
        """The target of a line. Raises `TableError`; what `context` raises is made one."""
        raise NotImplementedError

    def start(self) -> None:
        """Look at what the members hold, once the table is checked and before anything is asked.

        `tell` and `notify` can be used.
        """

    # -- how it maps -----------------------------------------------------------------------

    def piece_at(self, offset: int) -> Piece:
        """The whole piece that `offset` lies in; page-aligned at both ends."""
        return Piece(Extent(0, self.size))

    def cover(self, index: int, extent: Extent) -> Extent:
        """What of `uses[index].device` the range reaches, exactly; perhaps nothing."""
        return Extent(0, 0)

    def unmap(self, index: int, extent: Extent) -> Iterator[Extent]:
        """Where a range of `uses[index].device`, inside the use, is in the line; ascending."""
        return iter(())

    def _places(self, extent: Extent) -> Iterator[tuple[int, DaxDevice, Extent]]:
        """The members that the range reaches, and where."""
        for index, use in enumerate(self.uses):
            place = self.cover(index, extent)
            if place.length:
                yield index, use.device, place

    def _unmapped(self, index: int, run: Extent, within: Extent) -> Iterator[Extent]:
        for part in self.unmap(index, run.intersection(self.uses[index].extent)):
            if part.overlaps(within):
                yield part.intersection(within)

    def place_of(self, extent: Extent) -> tuple[DaxDevice, Extent]:
        """The member under a range that lies in one piece, and the range there."""
        piece = self.piece_at(extent.offset)
        assert piece.use is not None, "a target without members overrides what needs one"
        start = extent.offset - piece.extent.offset + piece.offset
        return self.uses[piece.use].device, Extent(start, extent.length)

    @contextlib.contextmanager
    def _below(self, extent: Extent) -> Iterator[tuple[DaxDevice, Extent]]:
        """`place_of`, for a block whose errors become the target's own and name the member."""
        device, place = self.place_of(extent)
        try:
            yield device, place
        except FaultError as error:
            hint = f"on {device.name} at {error.offset}"
            hint = f"{error.hint}; {hint}" if error.hint else hint
            offset = error.offset - place.offset + extent.offset
            raise type(error)(self.name, offset, error.length, error.code, hint) from error
        except UnsupportedError as error:
            hint = f"{device.name}: {place}: {error}"
            raise NoRecoveryError(self.name, *extent, "EOPNOTSUPP", hint) from error

    # -- the operations, for a range inside one piece ---------------------------------------

    def direct_access(self, extent: Extent, mode: AccessMode) -> Window:
        """See `DaxDevice`. Its errors count from the target's start, the window's own do not."""
        with self._below(extent) as (device, place):
            return device.direct_access(place, mode)

    def recovery_read(self, extent: Extent) -> Salvage:
        """See `DaxDevice`."""
        with self._below(extent) as (device, place):
            data, lost = device.recovery_read(place)
        distance = extent.offset - place.offset
        return Salvage(data, [run.shifted(distance) for run in lost])

    def recovery_write(self, offset: int, data: Buffer, keep: Iterable[Extent] = ()) -> int:
        """See `DaxDevice`. Where the member cannot recover: `NoRecoveryError` (R37)."""
        extent = Extent(offset, memoryview(data).nbytes)
        with self._below(extent) as (device, place):
            distance = place.offset - offset
            return device.recovery_write(place.offset, data, [k.shifted(distance) for k in keep])

    def zeroinit(self, extent: Extent) -> int:
        """See `DaxDevice`. `ZeroinitDone` is the mapped device's to tell."""
        with self._below(extent) as (device, place):
            return device.zeroinit(place)

    def hold(self, offset: int, data: bytes, unit: int) -> None:
        """See `DaxDevice`."""
        with self._below(Extent(offset, len(data))) as (device, place):
            device.hold(place.offset, data, unit)

    def drop_hold(self, extent: Extent) -> None:
        """See `DaxDevice`."""
        with self._below(extent) as (device, place):
            device.drop_hold(place)

    def keep_zeros(self, extent: Extent) -> None:
        """See `DaxDevice`."""
        with self._below(extent) as (device, place):
            device.keep_zeros(place)

    def read_sectors(self, extent: Extent) -> bytes:
        """See `DaxDevice`; whole sectors, in bytes."""
        with self._below(extent) as (device, place):
            return device.read_sectors(place.offset // SECTOR, place.length // SECTOR)

    def write_sectors(self, offset: int, data: Buffer) -> int:
        """See `DaxDevice`; whole sectors, in bytes."""
        with self._below(Extent(offset, memoryview(data).nbytes)) as (device, place):
            return device.write_sectors(place.offset // SECTOR, data)

    # -- the operations, for a range of many pieces -----------------------------------------

    def capabilities(self, extent: Extent) -> list[Capability]:
        """See `DaxDevice` (R37, R41): range by range, and a reason names the member."""
        found: list[tuple[int, Capability]] = []
        for index, device, place in self._places(extent):
            for each in device.capabilities(place):
                reason = each.reason and f"{device.name}: {each.reason}"
                found.append((index, each._replace(reason=reason)))
        kinds = {each[1:] for _, each in found}
        if len(kinds) == 1:  # so that a wide stripe does not become a list of its chunks
            return [Capability(extent, *kinds.pop())]
        return sorted(
            each._replace(extent=part)
            for index, each in found
            for part in self._unmapped(index, each.extent, extent)
        )

    def badblocks(self, extent: Extent) -> list[tuple[Extent, SectorState]]:
        """See `DaxDevice`. Costs by what is bad, not by the number of pieces."""
        found = [
            (part, state)
            for index, device, place in self._places(extent)
            for run, state in device.badblocks(place)
            for part in self._unmapped(index, run, extent)
        ]
        return sorted(found, key=lambda each: each[0])

    def stored(self, extent: Extent) -> list[Extent]:
        """See `SparseDevice.iter_stored`; a member that does not know may hold something."""
        return sorted(
            part
            for index, device, place in self._places(extent)
            for run in (
                device.iter_stored(place) if isinstance(device, SparseDevice) else iter([place])
            )
            for part in self._unmapped(index, run, extent)
        )

    def scrub(self, extent: Extent) -> None:
        """See `DaxDevice`; a whole slice. `ScrubDone` is the mapped device's to tell."""
        for _, device, place in self._places(extent):
            for _ in device.scrub(place):
                pass

    def flush(self, extent: Extent) -> None:
        """See `DaxDevice`."""
        for _, device, place in self._places(extent):
            device.flush(place)

    def before_fence(self) -> None:
        """What has to be done before the members are fenced."""

    def after_fence(self) -> None:
        """What has to be done when all members have been fenced."""

    # -- injection (R2): forwarded to the members that have it ------------------------------

    def check_injectable(self, extent: Extent) -> None:
        """Raise `UnsupportedError` unless all of the range can be made bad."""
        for _, device, place in self._places(extent):
            if isinstance(device, HasInjectableParts):
                device.check_injectable(place)
            elif not isinstance(device, FaultInjection):
                raise UnsupportedError(
                    f"{device.name}: {place}: takes no injected faults; put a faulty target on it"
                )

    def _injectable(self, extent: Extent) -> Iterator[tuple[int, FaultInjection, Extent]]:
        """The members under the range that take faults."""
        for index, device, place in self._places(extent):
            if isinstance(device, FaultInjection):
                yield index, device, place

    def inject(self, extent: Extent, *, latent: bool = False) -> None:
        """See `FaultInjection`."""
        for _, device, place in self._injectable(extent):
            device.inject(place, latent=latent)

    def inject_once(self, extent: Extent) -> None:
        """See `FaultInjection`."""
        for _, device, place in self._injectable(extent):
            device.inject_once(place)

    def uninject(self, extent: Extent) -> None:
        """See `FaultInjection`."""
        for _, device, place in self._injectable(extent):
            device.uninject(place)

    def poison(self, extent: Extent) -> list[Extent]:
        """See `FaultInjection`; of members that have none, nothing is known."""
        return sorted(
            part
            for index, device, place in self._injectable(extent)
            for run in device.poison(place)
            for part in self._unmapped(index, run, extent)
        )

    # -- what members tell (R42) -------------------------------------------------------------

    def on_member_failure(self, index: int, extent: Extent) -> None:
        """A range inside `uses[index]` went bad: pass it on, translated."""
        for part in merged(self.unmap(index, extent)):
            self.notify(part)

    def on_member_event(self, index: int, event: Event, extent: Extent) -> None:
        """An event about a range inside `uses[index]`: pass it on, translated.

        Of a refusal it is said which member refused (R37).
        """
        if isinstance(event, RecoveryRefused):
            event = replace(event, reason=f"{self.uses[index].device.name}: {event.reason}")
        for part in merged(self.unmap(index, extent)):
            self.tell(moved(event, part))

    # -- dmsetup's verbs ---------------------------------------------------------------------

    def status(self) -> str:
        """What `status` says of it besides its line; words that tools can read."""
        return ""

    def message(self, words: Sequence[str]) -> str:
        """What `message` tells it; returns the answer. Raises `UsageError` for unknown words."""
        raise UnsupportedError(f"{self.name} takes no messages")

    def close(self) -> None:
        """Make everything durable, before the members are closed."""


def moved(event: Event, extent: Extent) -> Event:
    """The same event about another range."""
    values: dict[str, Any] = {"extent": extent}
    return replace(event, **values)


def extent_of(event: Event) -> Extent | None:
    """The range that an event is about."""
    return event.extent if any(f.name == "extent" for f in fields(event)) else None  # type: ignore[attr-defined]


def _ignore(what: object) -> None:
    """The target is in no device yet."""
