"""A mirrored, checksummed, append-and-compact log of small facts (format.md §3).

Two copies hold the same bytes. An entry is one append, under one checksum, so a stop tears it or
leaves it whole. Everything is true if either copy can prove it; the other is then rewritten.

Order (persistence.md §2): an appended entry is durable after the next fence. A compaction writes
the new generation into one copy, fences, writes that copy's header, fences, and only then touches
the other; nothing is appended in between, so at every instant one complete copy exists.
"""

import contextlib
import struct
import time
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from xxhash import xxh3_64_intdigest

from daxmend.errors import CorruptionError, DaxmendError
from daxmend.extent import Extent
from daxmend.media.backing import Backing
from daxmend.units import MIB, align_up

JOURNAL_VERSION = 1

_HEADER_MAGIC = b"DMJOURNL"
# magic, version, length, generation, snapshot_end, snapshot_checksum, checksum
_HEADER = struct.Struct("<8sIIQQQQ")
_HEADER_BODY = struct.Struct("<8sIIQQQ")
HEADER_LENGTH = 64  # bytes; the rest of the 64 is zero

_ENTRY_MAGIC = 0x454A4D44  # "DMJE"
# magic, kind, version, sequence, durable_sequence, length, reserved, checksum
_ENTRY = struct.Struct("<IHHQQIIQ")
_ENTRY_BODY = struct.Struct("<IHHQQII")
_SEAL = 0  # the journal's own kind: it holds nothing, and says that all before it is durable
_ALIGN = 8
_SCAN_CHUNK = MIB
_COMPACT_ABOVE = MIB  # bytes appended before a compaction pays


class Entry(NamedTuple):
    """One fact: what kind, and its payload in the owner's own layout."""

    kind: int
    payload: bytes


class _Slot(NamedTuple):
    """An entry as found: with its numbers, and where the next one begins."""

    kind: int
    payload: bytes
    sequence: int
    durable_sequence: int
    end: int


class _Header(NamedTuple):
    generation: int
    snapshot_end: int
    snapshot_checksum: int


class Repair(NamedTuple):
    """A copy that had to be rewritten from the other, and why."""

    copy: int
    reason: str


class Journal:
    """One log in two areas of a backing. Not locked: its owner's lock holds.

    `snapshot` yields the owner's whole state as entries; a compaction asks for it.
    `name` is what errors call the log.
    """

    def __init__(
        self,
        backing: Backing,
        areas: tuple[Extent, Extent],
        name: str,
        snapshot: Callable[[], Iterable[Entry]],
    ) -> None:
        self.name = name
        self.repairs: list[Repair] = []
        self._backing = backing
        self._areas = areas
        self._snapshot = snapshot
        self._generation = 0
        self._snapshot_end = HEADER_LENGTH
        self._end = HEADER_LENGTH
        self._sequence = 0  # of the last entry written
        self._durable = 0  # of the last entry known to be durable
        self._damaged_slots: list[tuple[int, int, _Slot]] = []  # copy, position, the good one
        self._stale_copies: list[int] = []
        self._is_tail_torn = False
        self._is_sealed = False

    # -- writing ---------------------------------------------------------------------------

    def append(self, kind: int, payload: bytes) -> None:
        """Write one entry to both copies; durable after the next `fence`.

        Raises `DaxmendError` if it does not fit after a compaction; nothing is changed then.
        """
        length = _entry_length(len(payload))
        appended = self._end - self._snapshot_end
        if self._end + length > self._areas[0].length or (
            appended > _COMPACT_ABOVE and appended > self._snapshot_end
        ):
            self.compact()
        if self._end + length > self._areas[0].length:
            raise DaxmendError(
                f"{self.name}: no room for an entry of {length} bytes in an area of "
                f"{self._areas[0].length} bytes; create a larger pool"
            )
        data = _pack_entry(kind, payload, self._sequence + 1, self._durable, self._generation)
        try:
            for area in self._areas:
                self._store(area.offset + self._end, data)
        except OSError:
            for area in self._areas:  # no copy may prove what the caller is refused
                with contextlib.suppress(OSError):
                    self._store(area.offset + self._end, bytes(_ENTRY.size))
            raise
        self._sequence += 1
        self._end += length
        self._is_sealed = kind == _SEAL

    def fence(self) -> None:
        """Everything appended so far is durable on return."""
        self._backing.fence()
        self._durable = self._sequence

    def seal(self) -> None:
        """At the end of a life: say durably that everything is durable.

        Without it, entries behind the last fence but one that are damaged in both copies would look
        like appends that no fence covered.
        """
        if not self._is_sealed:
            self.fence()
            self.append(_SEAL, b"")
            self.fence()

    def compact(self) -> None:
        """Rewrite both copies as a snapshot of the owner's state; durable on return."""
        # Of the clock: never a number that an interrupted compaction used for other entries.
        generation = max(self._generation + 1, time.time_ns())
        packed = bytearray()
        sequence = 0
        for kind, payload in self._snapshot():
            sequence += 1
            packed += _pack_entry(kind, payload, sequence, sequence, generation)
        end = HEADER_LENGTH + len(packed)
        if end > self._areas[0].length:
            raise DaxmendError(
                f"{self.name}: its state takes {end} bytes, the area holds {self._areas[0].length}"
            )
        header = _pack_header(generation, end, packed)
        self._backing.fence()
        for area in self._areas:
            self._store(area.offset + HEADER_LENGTH, packed)
            self._backing.fence()
            self._store(area.offset, header)
            self._backing.fence()
            # From the first copy on, a restart reads this generation, whatever the other becomes.
            self._generation, self._snapshot_end, self._end = generation, end, end
            self._sequence = self._durable = sequence
            self._is_sealed = True  # by the snapshot's checksum

    def _store(self, offset: int, data: bytes | bytearray) -> None:
        self._backing.store(offset, data)
        self._backing.flush(offset, len(data))

    # -- reading ---------------------------------------------------------------------------

    def read(self) -> list[Entry]:
        """Every entry, oldest first; afterwards the journal is ready to append.

        `repairs` then says which copy is damaged or behind; `heal` rewrites it. Raises
        `CorruptionError` if what fences promised cannot be proven from either copy.
        """
        intact = {
            copy: header
            for copy in (0, 1)
            if (header := self._read_header(copy)) and self._is_snapshot_intact(copy, header)
        }
        if not intact:
            raise CorruptionError(self.name, self._areas[0].offset, "both copies", "intact", "bad")
        newest = max(intact.values(), key=lambda header: header.generation)
        current = [copy for copy in intact if intact[copy].generation == newest.generation]
        self._generation, self._snapshot_end = newest.generation, newest.snapshot_end
        self._stale_copies = [copy for copy in (0, 1) if copy not in current]
        self.repairs = [
            Repair(copy, "behind" if copy in intact else "header or snapshot damaged")
            for copy in self._stale_copies
        ]
        return self._read_entries(current)

    def heal(self) -> None:
        """Make both copies whole again after `read`; durable on return.

        What one copy misses comes from the other in place, so no instant has fewer proofs than
        before. A torn end is compacted away: a later append must not bring its remains to life.
        """
        for copy, position, slot in self._damaged_slots:
            self._store(self._areas[copy].offset + position, self._pack_slot(slot))
        for copy in self._stale_copies:
            self._rewrite_copy(copy)
        self._backing.fence()
        if self._is_tail_torn:
            self.compact()
        self._damaged_slots, self._stale_copies, self._is_tail_torn = [], [], False

    def _rewrite_copy(self, copy: int) -> None:
        source, target = self._areas[1 - copy].offset, self._areas[copy].offset
        body = self._backing.load(source + HEADER_LENGTH, self._end - HEADER_LENGTH)
        self._store(target + HEADER_LENGTH, body)
        self._backing.fence()
        self._store(target, self._backing.load(source, HEADER_LENGTH))

    def _pack_slot(self, slot: _Slot) -> bytes:
        return _pack_entry(
            slot.kind, slot.payload, slot.sequence, slot.durable_sequence, self._generation
        )

    def _read_header(self, copy: int) -> _Header | None:
        area = self._areas[copy]
        raw = self._backing.load(area.offset, HEADER_LENGTH)
        magic, version, length, generation, end, snapshot_checksum, checksum = _HEADER.unpack_from(
            raw
        )
        valid = (
            magic == _HEADER_MAGIC
            and version == JOURNAL_VERSION
            and length == HEADER_LENGTH
            and checksum == xxh3_64_intdigest(raw[: _HEADER_BODY.size])
            and HEADER_LENGTH <= end <= area.length
            and not any(raw[_HEADER.size :])
        )
        return _Header(generation, end, snapshot_checksum) if valid else None

    def _is_snapshot_intact(self, copy: int, header: _Header) -> bool:
        start = self._areas[copy].offset + HEADER_LENGTH
        snapshot = self._backing.load(start, header.snapshot_end - HEADER_LENGTH)
        return xxh3_64_intdigest(snapshot) == header.snapshot_checksum

    def _read_entries(self, current: list[int]) -> list[Entry]:
        """What either copy proves: a stale one may too, and its generation tells if it cannot.

        Where one of the `current` copies lacks an entry, it is to be repaired.
        """
        entries: list[Entry] = []
        position, self._sequence = HEADER_LENGTH, 0
        self._is_sealed = self._snapshot_end == HEADER_LENGTH
        self._damaged_slots, self._is_tail_torn = [], False
        while True:
            found = [self._read_slot(copy, position) for copy in (0, 1)]
            slot = found[0] or found[1]
            if slot is None:
                break
            for copy in (copy for copy in current if found[copy] is None):
                self._damaged_slots.append((copy, position, slot))
                self.repairs.append(Repair(copy, f"entry {slot.sequence} damaged"))
            self._is_sealed = slot.kind == _SEAL or slot.end == self._snapshot_end
            if slot.kind != _SEAL:
                entries.append(Entry(slot.kind, slot.payload))
            position, self._sequence = slot.end, slot.sequence
        self._check_end(position)
        self._end, self._durable = position, self._sequence
        return entries

    def _read_slot(self, copy: int, position: int) -> _Slot | None:
        """The entry at `position` of a copy, or None if there is none that proves itself."""
        slot = self._read_any_slot(copy, position)
        return slot if slot is not None and slot.sequence == self._sequence + 1 else None

    def _read_any_slot(self, copy: int, position: int) -> _Slot | None:
        area = self._areas[copy]
        if position + _ENTRY.size > area.length:
            return None
        raw = self._backing.load(area.offset + position, _ENTRY.size)
        magic, kind, version, sequence, durable, length, _, checksum = _ENTRY.unpack(raw)
        end = position + _entry_length(length)
        if magic != _ENTRY_MAGIC or version != JOURNAL_VERSION or end > area.length:
            return None
        start = position + _ENTRY.size
        rest = self._backing.load(area.offset + start, end - start)
        payload, padding = rest[:length], rest[length:]
        if checksum != _checksum(raw[: _ENTRY_BODY.size], payload, self._generation):
            return None
        return None if any(padding) else _Slot(kind, payload, sequence, durable, end)

    def _check_end(self, position: int) -> None:
        """Tell a torn last append, which a stop explains, from a hole in what was promised.

        Entries appended after the last fence may reach the medium in any order, so a later entry
        may be there and an earlier one not. Each says what was durable when it was written: if
        that includes the missing one, both copies lost a promised entry.
        """
        for copy in (0, 1):
            for slot in self._scan(copy, position):
                self._is_tail_torn = True
                if slot.durable_sequence > self._sequence:
                    raise CorruptionError(
                        self.name,
                        self._areas[copy].offset + position,
                        f"entry {self._sequence + 1}",
                        "intact in one copy",
                        "damaged in both",
                    )

    def _scan(self, copy: int, position: int) -> Iterator[_Slot]:
        """Every entry of this generation that lies behind the end of the log.

        An entry can be missing without a trace and a later one be there: all of the area is looked
        at, as far as anything was ever stored in it.
        """
        area = self._areas[copy]
        magic = struct.pack("<I", _ENTRY_MAGIC)
        start = area.offset + position
        while (data := self._backing.next_data(start, area.end)) is not None:
            chunk = self._backing.load(data.offset, min(_SCAN_CHUNK, data.length))
            at = chunk.find(magic)
            while at >= 0:
                found = data.offset + at - area.offset
                slot = self._read_any_slot(copy, found) if found % _ALIGN == 0 else None
                if slot is not None:
                    yield slot
                at = chunk.find(magic, at + 1)
            start = data.offset + len(chunk)


def format_journal(backing: Backing, areas: tuple[Extent, Extent], name: str) -> None:
    """Write an empty journal into both areas; durable on return."""
    Journal(backing, areas, name, lambda: ()).compact()


def _entry_length(payload_length: int) -> int:
    return align_up(_ENTRY.size + payload_length, _ALIGN)


def _checksum(body: bytes, payload: bytes, generation: int) -> int:
    return xxh3_64_intdigest(body + payload, seed=generation)


def _pack_entry(kind: int, payload: bytes, sequence: int, durable: int, generation: int) -> bytes:
    body = _ENTRY_BODY.pack(_ENTRY_MAGIC, kind, JOURNAL_VERSION, sequence, durable, len(payload), 0)
    packed = body + struct.pack("<Q", _checksum(body, payload, generation)) + payload
    return packed.ljust(_entry_length(len(payload)), b"\0")


def _pack_header(generation: int, snapshot_end: int, snapshot: bytes | bytearray) -> bytes:
    body = _HEADER_BODY.pack(
        _HEADER_MAGIC,
        JOURNAL_VERSION,
        HEADER_LENGTH,
        generation,
        snapshot_end,
        xxh3_64_intdigest(snapshot),
    )
    return (body + struct.pack("<Q", xxh3_64_intdigest(body))).ljust(HEADER_LENGTH, b"\0")
