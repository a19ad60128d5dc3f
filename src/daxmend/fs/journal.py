"""The journal: the changes since the checkpoint, one entry a commit (format.md §6.3).

Both copies hold the same bytes. A commit is durable before the next one begins, so an entry proves
that all before it were: where one is missing before another of the same generation, both copies
have lost it.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

from xxhash import xxh3_64_intdigest

from daxmend.errors import MediaError
from daxmend.extent import Extent
from daxmend.fs.mirror import COPIES, Mirror
from daxmend.units import PAGE, align_down, align_up

if TYPE_CHECKING:
    from daxmend.dax.api import DaxDevice

_MAGIC = b"DMFJ"
_ENTRY = struct.Struct("<4sIQQQ")  # magic, length of the payload, generation, sequence, checksum
_ALIGN = 8
_MAX_LOOKS = 64  # times a copy's length, spent on what may be entries behind the end


class Replay(NamedTuple):
    """What the journal holds: the payloads of its entries, and what is wrong with its copies."""

    payloads: list[bytes]
    damaged: list[tuple[int, Extent]]  # copy and range in the journal; bytes
    lost: str  # what both copies have lost, or nothing
    log: bytes  # all entries, as both copies should hold them


NO_ENTRIES = Replay([], [], "", b"")


class FsJournal:
    """Appends entries of one generation. Used under the device's lock."""

    def __init__(self, device: DaxDevice, areas: tuple[Extent, Extent], generation: int) -> None:
        self.mirror = Mirror(device, ([areas[0]], [areas[1]]))
        self._device = device
        self.restart(generation)

    def restart(self, generation: int) -> None:
        """An empty log; what is on the medium is of another generation. `begin` comes next."""
        self._generation = generation
        self._is_out = False  # of use: a copy took no mark
        self._end = 0
        self._sequence = 1
        self._has_changes = False
        self._tail = b""  # the bytes of the last page before `_end`

    @property
    def marks(self) -> Mirror:
        """The first page of both copies, where `begin` writes."""
        first, second = (Extent(copy[0].offset, PAGE) for copy in self.mirror.copies)
        return Mirror(self._device, ([first], [second]))

    @property
    def is_empty(self) -> bool:
        """True if nothing was committed since the checkpoint."""
        return not self._has_changes

    def begin(self) -> None:
        """Mark the generation as the one that counts, if it is not; durable on return.

        The mark is an entry without changes. The superblock comes first: then the mark can say of
        superblocks that are behind it that they are old, and of checkpoints that they never counted
        (ADR 0006). Raises like `append`; then the journal has no room for anything.
        """
        if self._sequence == 1:
            self._is_out = True
            self.append(b"")
            self._is_out = False

    def has_room(self, length: int) -> bool:
        """True if an entry with a payload of `length` bytes fits."""
        return (
            not self._is_out
            and self._end + align_up(_ENTRY.size + length, _ALIGN) <= self.mirror.length
        )

    def append(self, payload: bytes) -> None:
        """Commit: the entry, and all that was stored before, is durable on return.

        Whole pages are written, with what they held before: so a bad page of the journal heals like
        any other (R14). Raises `MediaError` if a copy takes no more writes; the other one has it.
        """
        self._device.fence()
        entry = self._pack(payload)
        start = self._end - len(self._tail)
        data = self._tail + entry
        pages = data.ljust(align_up(len(data), PAGE), b"\0")
        failure: MediaError | None = None
        for copy in COPIES:
            try:
                self.mirror.write(copy, start, pages)
            except MediaError as error:
                failure = error  # no reason for the other copy to keep an old mark
        self._device.fence()
        if failure is not None:
            raise failure
        self._end += len(entry)
        self._sequence += 1
        self._tail = data[align_down(len(data), PAGE) :]
        self._has_changes = self._has_changes or bool(payload)

    def _pack(self, payload: bytes) -> bytes:
        checksum = _checksum(self._generation, self._sequence, payload)
        head = _ENTRY.pack(_MAGIC, len(payload), self._generation, self._sequence, checksum)
        return (head + payload).ljust(align_up(len(head) + len(payload), _ALIGN), b"\0")

    def read(self) -> Replay:
        """Everything that was committed; the journal goes on behind it."""
        whole = Extent(0, self.mirror.length)
        areas = [bytes(self.mirror.read(copy, whole)) for copy in COPIES]
        payloads: list[bytes] = []
        damaged: list[tuple[int, Extent]] = []
        log = bytearray()  # of good entries alone: what else a good copy holds may be wrong
        while True:
            found = [self._entry_at(area, self._end) for area in areas]
            payload = next((each for each in found if each is not None), None)
            if payload is None:
                break
            extent = Extent(self._end, align_up(_ENTRY.size + len(payload), _ALIGN))
            damaged += [(copy, extent) for copy in COPIES if found[copy] is None]
            payloads.append(payload)
            log += areas[found.index(payload)][extent.offset : extent.end]
            self._tail = bytes(log[align_down(extent.end, PAGE) :])
            self._end = extent.end
            self._sequence += 1
            self._has_changes = self._has_changes or bool(payload)
        lost = self._what_is_lost(areas) or self._what_is_unreadable(areas)
        return Replay(payloads, damaged, lost, bytes(log))

    def _entry_at(self, area: bytes, offset: int) -> bytes | None:
        """The payload of the entry that is next, if it stands at `offset`."""
        if offset + _ENTRY.size > len(area):
            return None
        magic, length, generation, sequence, checksum = _ENTRY.unpack_from(area, offset)
        if magic != _MAGIC or generation != self._generation or sequence != self._sequence:
            return None
        payload = area[offset + _ENTRY.size : offset + _ENTRY.size + length]
        if len(payload) < length or _checksum(generation, sequence, payload) != checksum:
            return None
        return payload

    def _what_is_lost(self, areas: list[bytes]) -> str:
        """A later entry of this generation behind the end proves that one is missing."""
        for area in areas:
            looked_at = 0
            at = area.find(_MAGIC, self._end)
            while at >= 0:
                payload = self._later_payload(area, at) if at % _ALIGN == 0 else None
                if payload is not None:
                    _, _, generation, sequence, checksum = _ENTRY.unpack_from(area, at)
                    if _checksum(generation, sequence, payload) == checksum:
                        return f"commits {self._sequence} to {sequence}, or more"
                    looked_at += len(payload)
                if looked_at > _MAX_LOOKS * len(area):  # somebody made them: no end of work
                    return f"commit {self._sequence} and what came after it, if there was any"
                at = area.find(_MAGIC, at + 1)
        return ""

    def _later_payload(self, area: bytes, at: int) -> bytes | None:
        """What would be the payload, if a later entry of this generation stands there."""
        if at + _ENTRY.size > len(area):
            return None
        _, length, generation, sequence, _ = _ENTRY.unpack_from(area, at)
        start = at + _ENTRY.size
        if generation != self._generation or sequence <= self._sequence:
            return None
        return area[start : start + length] if start + length <= len(area) else None

    def _what_is_unreadable(self, areas: list[bytes]) -> str:
        """Where neither copy can be read nobody knows whether one more commit is there."""
        needed = Extent(self._end, _ENTRY.size)
        for area in areas:
            if self._end + _ENTRY.size <= len(area):
                magic, length, *which, _ = _ENTRY.unpack_from(area, self._end)
                if (magic, *which) == (_MAGIC, self._generation, self._sequence):
                    needed = Extent(self._end, _ENTRY.size + length)
        needed = needed.intersection(Extent(0, self.mirror.length))
        if needed.length and all(self._is_bad(copy, needed) for copy in COPIES):
            return f"commit {self._sequence} and what came after it, if there was any"
        return ""

    def _is_bad(self, copy: int, extent: Extent) -> bool:
        places = self.mirror.device_extents(copy, extent.widened(PAGE))
        return any(bad for place in places for bad in self._device.badblocks(place))

    def heal(self, replay: Replay) -> None:
        """Rewrite damaged entries of a copy, page by page."""
        log = replay.log.ljust(align_up(len(replay.log), PAGE), b"\0")
        for copy, extent in replay.damaged:
            pages = extent.widened(PAGE)
            self.mirror.write(copy, pages.offset, log[pages.offset : pages.end])


def _checksum(generation: int, sequence: int, payload: bytes) -> int:
    return xxh3_64_intdigest(payload, seed=(generation * 1_000_003 + sequence) & (2**64 - 1))


def marked_generation(device: DaxDevice, areas: tuple[Extent, Extent]) -> int | None:
    """The generation that `FsJournal.begin` marked last; None where no copy has a mark."""
    mirror = Mirror(device, ([areas[0]], [areas[1]]))
    found = []
    for copy in COPIES:
        page = mirror.read(copy, Extent(0, PAGE))
        magic, length, generation, sequence, checksum = _ENTRY.unpack_from(page)
        is_mark = (magic, length, sequence) == (_MAGIC, 0, 1)
        if is_mark and _checksum(generation, sequence, b"") == checksum:
            found.append(generation)
    return max(found, default=None)
