"""log-writes: a member as it is, and a log of what became durable on it
(`log-writes DATA_MEMBER LOG_MEMBER`, as dmsetup has it).

A store waits, with a copy of the sectors it changed, until a fence has made it durable; then it
goes into the log, in the order of the stores, and an entry with FLUSH behind it (R39). What is
durable on return (`recovery_write`, `zeroinit`, the block path) is logged on return, with FUA, and
what waited before it. Memory that was handed out is looked at when its range is flushed.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Self

from xxhash import xxh3_64_intdigest

from daxmend.dax.api import AccessMode, DaxDevice, ExposedMemory, Window
from daxmend.dm.line import Line
from daxmend.dm.logformat import MAX_MARK, Entry, LogFlag
from daxmend.dm.logwriter import LogWriter, Write
from daxmend.dm.membermemory import MemberMemory
from daxmend.dm.target import Context, Piece, Target, Use
from daxmend.errors import UsageError
from daxmend.extent import Extent, merged
from daxmend.units import MIB, SECTOR

if TYPE_CHECKING:
    from typing_extensions import Buffer

_END_MARK = "dm-log-writes-end"  # the kernel's name for it
_CUT_MARK = "daxmend-log-cut"  # the session before did not end its log
_DURABLE = LogFlag.FLUSH | LogFlag.FUA


class LogWrites(Target):
    """All of `data`, and the log of its writes on `log`.

    A log that is there already is gone on with. Where it cannot be written any more, or is full,
    logging ends, and `status` says so; the data's own operations go on (as in the kernel).
    """

    name = "log-writes"
    usage = ("DATA_MEMBER", "LOG_MEMBER")

    def __init__(self, size: int, data: DaxDevice, log: DaxDevice) -> None:
        super().__init__(size, [Use(data, Extent(0, size)), Use(log, Extent(0, log.size))])
        self._data = data
        self._piece = Piece(Extent(0, size), 0, 0)
        self._waiting: list[Write] = []
        self._exposed: weakref.WeakKeyDictionary[ExposedMemory, _Shown] = (
            weakref.WeakKeyDictionary()
        )
        self.log = LogWriter(log)

    @classmethod
    def parse(cls, line: Line, context: Context) -> Self:
        """See `Target`."""
        line.check_count(cls.usage)
        data, log = (context.open_member(word) for word in line.arguments)
        return cls(line.extent.length, data, log)

    def start(self) -> None:
        """See `Target`: begin the log, or go on with the one that is there."""
        self.log.start(writable=self.is_writable)
        if self.log.logged_entries and self.log.last_mark not in (_END_MARK, _CUT_MARK):
            self.log.append([Write(Entry(Extent(0, 0), LogFlag.MARK, _CUT_MARK))])

    # -- how it maps -----------------------------------------------------------------------

    def piece_at(self, offset: int) -> Piece:
        """See `Target`."""
        return self._piece

    def cover(self, index: int, extent: Extent) -> Extent:
        """See `Target`: the log mirrors nothing of the line."""
        return extent if index == 0 else Extent(0, 0)

    def unmap(self, index: int, extent: Extent) -> Iterator[Extent]:
        """See `Target`."""
        if index == 0:
            yield extent

    # -- stores, which wait for the fence --------------------------------------------------

    def direct_access(self, extent: Extent, mode: AccessMode) -> Window:
        """See `Target`."""
        window = super().direct_access(extent, mode)
        return Window(_LoggedMemory(self, window, extent.offset), extent.offset, window.length)

    def note_store(self, offset: int, data: Buffer) -> None:
        """A store reached the member: its sectors as they are now wait for the fence."""
        extent = Extent(offset, memoryview(data).nbytes)
        if extent.length == 0 or not self.log.is_enabled:
            return
        sectors = extent.widened(SECTOR)
        content = bytes(data) if sectors == extent else self._content(sectors, extent, data)
        with self._data.lock:
            self._waiting.append(Write(Entry(sectors, LogFlag(0)), content))

    def _content(self, sectors: Extent, extent: Extent, data: Buffer) -> bytes:
        """The sectors that a store changed; of what is lost in them nothing is known: zeros."""
        content = self._salvaged(sectors)
        start = extent.offset - sectors.offset
        content[start : start + extent.length] = memoryview(data).cast("B")
        return bytes(content)

    def _salvaged(self, extent: Extent) -> bytearray:
        return self._data.recovery_read(extent).data

    # -- what is durable on return ---------------------------------------------------------

    def recovery_write(self, offset: int, data: Buffer, keep: Iterable[Extent] = ()) -> int:
        """See `Target`; logged as a write (R39)."""
        done = super().recovery_write(offset, data, keep)
        self._log_durable(offset, memoryview(data).cast("B")[:done])
        return done

    def write_sectors(self, offset: int, data: Buffer) -> int:
        """See `Target`; logged as a write."""
        done = super().write_sectors(offset, data)
        self._log_durable(offset, memoryview(data).cast("B")[:done])
        return done

    def zeroinit(self, extent: Extent) -> int:
        """See `Target`; logged as a write of zeros: what a discard leaves on the device that a
        kernel's log is replayed to is not said anywhere, and need not be zeros (R29, R39)."""
        done = super().zeroinit(extent)
        self._log_durable(extent.offset, memoryview(bytes(done)))
        return done

    def _log_durable(self, offset: int, data: memoryview) -> None:
        """Log what is durable already, after what was stored before it, which must become so."""
        if not data:
            return
        if self._waiting:
            self._data.fence()
        pieces = [
            Write(
                Entry(Extent(offset + at, len(data[at : at + MIB])), _DURABLE),
                bytes(data[at : at + MIB]),
            )
            for at in range(0, len(data), MIB)
        ]
        self._end_waiting(pieces)

    # -- fences ------------------------------------------------------------------------------

    def flush(self, extent: Extent) -> None:
        """See `Target`. What changed in memory that was handed out waits for the fence, too."""
        super().flush(extent)
        with self._data.lock:
            for shown in list(self._exposed.values()):
                for run in shown.changes(extent):
                    self._waiting.append(Write(Entry(run, LogFlag(0)), bytes(self._salvaged(run))))

    def after_fence(self) -> None:
        """See `Target`: what waited is durable now."""
        if self._waiting:
            self._end_waiting([Write(Entry(Extent(0, 0), LogFlag.FLUSH))])

    def _end_waiting(self, more: list[Write]) -> None:
        waiting, self._waiting = self._waiting, []
        self.log.append([*waiting, *more])

    # -- memory that was handed out ------------------------------------------------------------

    def expose(self, window: Window, extent: Extent, *, writable: bool) -> ExposedMemory:
        """The member's memory, whose changes are found when its range is flushed."""
        exposed = window.expose(writable=writable)
        if writable:
            self._exposed[exposed] = _Shown(self, extent)
        return exposed

    def digests(self, extent: Extent) -> list[int]:
        """What tells whether a sector has changed."""
        content = memoryview(self._salvaged(extent))
        return [
            xxh3_64_intdigest(content[at : at + SECTOR]) for at in range(0, extent.length, SECTOR)
        ]

    # -- dmsetup's verbs ---------------------------------------------------------------------

    def mark(self, name: str) -> None:
        """Put a mark behind what is durable by now; the log is durable on return.

        Raises `UsageError` for a name that does not fit, and if logging has ended.
        """
        if not self.is_writable:
            raise UsageError(f"{self.name}: {self.log.name} is open read-only: it takes no mark")
        encoded = name.encode()
        if not 0 < len(encoded) <= MAX_MARK or "\0" in name:
            raise UsageError(f"a mark has 1 to {MAX_MARK} bytes, without a zero among them")
        self.log.append([Write(Entry(Extent(0, 0), LogFlag.MARK, name))])
        if not self.log.is_enabled:
            raise UsageError(f"{self.name}: {self.log.name}: logging has ended: {self.log.reason}")

    def message(self, words: Sequence[str]) -> str:
        """See `Target`: `mark NAME`."""
        if len(words) != 2 or words[0].lower() != "mark":
            raise UsageError(f"{self.name} takes one message: mark NAME")
        self.mark(words[1])
        return ""

    def status(self) -> str:
        """See `Target`: how many entries, the last sector they take, and whether it goes on; as the
        kernel has it."""
        text = f"{self.log.logged_entries} {self.log.next_offset // SECTOR - 1}"
        return text if self.log.is_enabled else f"{text} logging_disabled"

    def close(self) -> None:
        """See `Target`: the log ends with a mark, as the kernel's does."""
        self._data.fence()
        waiting, self._waiting = self._waiting, []
        if waiting or self.log.last_mark != _END_MARK:
            self.log.append([*waiting, Write(Entry(Extent(0, 0), LogFlag.MARK, _END_MARK))])


class _Shown:
    """What memory that was handed out held when it was looked at last."""

    def __init__(self, target: LogWrites, extent: Extent) -> None:
        self._target = target
        self._extent = extent
        self._digests = target.digests(extent)

    def changes(self, within: Extent) -> list[Extent]:
        """The sectors inside the range that hold something else than at the last look."""
        part = within.widened(SECTOR).intersection(self._extent)
        if not part.length:
            return []
        first = (part.offset - self._extent.offset) // SECTOR
        found = self._target.digests(part)
        before = self._digests[first : first + len(found)]
        self._digests[first : first + len(found)] = found
        return merged(
            Extent(part.offset + at * SECTOR, SECTOR)
            for at, (new, old) in enumerate(zip(found, before, strict=True))
            if new != old
        )


class _LoggedMemory(MemberMemory):
    """A member's window, whose stores are noted."""

    def __init__(self, target: LogWrites, window: Window, base: int) -> None:
        super().__init__(target, window, base)
        self._target = target

    def store(self, offset: int, data: Buffer) -> None:
        """See `MemberMemory`."""
        super().store(offset, data)
        self._target.note_store(offset, data)

    def store_line(self, offset: int, line: Buffer) -> None:
        """See `MemberMemory`."""
        super().store_line(offset, line)
        self._target.note_store(offset, line)
