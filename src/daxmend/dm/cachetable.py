"""The metadata of a write cache: in memory, and twice on the medium (docs/dm.md, writecache).

A change takes effect in memory at once and on the medium with `commit`: what was stored to the
slots first, then copy 0, then copy 1, each behind a fence, so that one whole copy is there at
every instant. A page of it that goes bad is written again from memory (R38, R43).
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from daxmend.dm.cacheformat import (
    COPIES,
    DIRTY,
    FREE,
    LINES,
    MAP_BLOCKS,
    NO_ENTRY,
    UNKNOWN,
    Entry,
    Layout,
    MapLine,
    Superblock,
    pack_entry,
    pack_map_line,
)
from daxmend.dm.cacheload import Loaded, load
from daxmend.dm.cachemedium import CacheMedium
from daxmend.errors import MediaError
from daxmend.extent import Extent, ExtentSet
from daxmend.units import CACHELINE, PAGE

if TYPE_CHECKING:
    from daxmend.dax.api import DaxDevice

_BITS = MAP_BLOCKS // 8


class _Line(NamedTuple):
    """A line of the entries or of the map."""

    is_map: bool
    number: int


class CacheTable:
    """Which blocks of the origin are dirty, and in which slots.

    After `start`: `dirty` (block → slot), `free` slots, `lost` (bytes of the origin whose newest
    content was in a slot that nobody knows any more), and `damage`: what was bad of the metadata.
    """

    def __init__(self, device: DaxDevice, area: Extent, blocks: int) -> None:
        self.layout = Layout.of_area(area, blocks)
        self.medium = CacheMedium(device)
        self.blocks = blocks
        self.dirty: dict[int, int] = {}
        self.free: list[int] = []
        self.unknown: list[int] = []
        self.lost = ExtentSet(PAGE)
        self.damage: list[tuple[str, int]] = []
        self.unusable: set[int] = set()  # slots whose entries cannot be written
        self.is_healed = True  # whether what was bad could be written again
        self._superblock = Superblock(self.layout.slot_count, blocks, area.offset, bytes(16))
        self._entries: list[Entry] = []
        self._on_medium = bytearray(self.layout.slot_count)  # the states that were committed
        self._sequence = 0
        self._bits = bytearray(-(-blocks // MAP_BLOCKS) * _BITS)
        self._line_sequences = [0] * (len(self._bits) // _BITS)
        self._changed: set[_Line] = set()
        self._bad_pages: set[int] = set()  # of the metadata
        self._is_writable = True

    # -- start -----------------------------------------------------------------------------

    def start(self, *, writable: bool = True) -> None:
        """Read what is there, heal what can be, or begin an empty cache; durable on return.

        Without `writable` all that is in memory alone. Raises as `cacheload.load`.
        """
        self._is_writable = writable
        found = load(self.medium, self.layout, self._superblock)
        if found is not None:
            self._take(found)
            self._heal(found)
            return
        self._entries = [NO_ENTRY] * self.layout.slot_count
        self.free = list(range(self.layout.slot_count - 1, -1, -1))
        if writable:
            self._format()

    def _format(self) -> None:
        for copy in COPIES:
            for area in (self.layout.entries[copy], self.layout.map[copy]):
                for offset in range(area.offset, area.end, PAGE):
                    self.medium.put_page(offset, self._pack_page(offset))
        self.medium.fence()
        self._superblock = self._superblock._replace(uuid=uuid.uuid4().bytes)
        self._write_superblocks(COPIES)

    def _write_superblocks(self, copies: tuple[int, ...]) -> None:
        for copy in copies:
            self.medium.put_page(self.layout.superblock[copy].offset, self._superblock.pack())
            self.medium.fence()

    def _take(self, found: Loaded) -> None:
        self.damage = found.damage
        self._superblock = found.superblock or self._superblock._replace(uuid=uuid.uuid4().bytes)
        self._entries = found.entries
        self._on_medium = bytearray(entry.state for entry in found.entries)
        self._sequence = max(entry.sequence for entry in found.entries)
        self._line_sequences = [line.sequence for line in found.map]
        self._bits = bytearray(b"".join(line.bits for line in found.map))
        self.lost = found.lost
        for slot, entry in enumerate(found.entries):
            if entry.state == DIRTY:
                self.dirty[entry.block] = slot
            elif entry.state == UNKNOWN:
                self.unknown.append(slot)
            else:
                self.free.append(slot)
        self._correct_map()
        self._forget_unknown()

    def _correct_map(self) -> None:
        """What the map says beyond what is known of it: a stop came between, or a copy was bad."""
        wanted = bytearray(len(self._bits))
        for block in self.dirty:
            wanted[block // 8] |= 1 << block % 8
        for run in self.lost:
            for block in range(run.offset // PAGE, run.end // PAGE):
                wanted[block // 8] |= 1 << block % 8
        for number in range(len(self._line_sequences)):
            place = slice(number * _BITS, (number + 1) * _BITS)
            if wanted[place] != self._bits[place]:
                self._change_line(number)
        self._bits = wanted

    def _heal(self, found: Loaded) -> None:
        """Copy 0 first, all of it, so that copy 1 is whole meanwhile, where it is."""
        if not self._is_writable:
            self.is_healed = False
            return
        for copy in COPIES:
            lines = [_Line(False, slot) for slot in found.wrong_entries[copy]]
            lines += [_Line(True, number) for number in found.wrong_map[copy]]
            refused: set[int] = set()  # pages
            for line in sorted(lines):
                page = self._place(copy, line) // PAGE
                if page not in refused and not self._is_put(copy, line):
                    refused.add(page)
            self.medium.fence()
            self.is_healed = self.is_healed and not refused
        try:
            self._write_superblocks(tuple(found.wrong_superblocks))
        except MediaError:
            self.is_healed = False
        self.commit()

    def _is_put(self, copy: int, line: _Line) -> bool:
        try:
            self._put_line(copy, line)
        except MediaError:
            return False
        return True

    # -- changes -----------------------------------------------------------------------------

    def set_dirty(self, block: int, slot: int) -> None:
        """The newest content of a block is in the slot."""
        self.dirty[block] = slot
        self._set_entry(slot, DIRTY, block)
        self._set_bit(block, is_set=True)
        self.lost.discard(Extent(block * PAGE, PAGE))
        self._forget_unknown()

    def set_clean(self, block: int) -> None:
        """The origin has the newest content, durably. The slot is not free before a commit."""
        self._set_entry(self.dirty.pop(block), FREE, block)
        self._set_bit(block, is_set=False)

    def set_found(self, block: int) -> None:
        """A lost block was written again, and the origin has it durably."""
        self._set_bit(block, is_set=False)
        self.lost.discard(Extent(block * PAGE, PAGE))
        self._forget_unknown()

    def _forget_unknown(self) -> None:
        """Slots of which nothing is known stand in the way only while something is lost."""
        if self.lost or not self.unknown:
            return
        for slot in self.unknown:
            self._set_entry(slot, FREE, 0)
        self.free += self.unknown
        self.unknown = []

    def _set_entry(self, slot: int, state: int, block: int) -> None:
        self._sequence += 1
        self._entries[slot] = Entry(state, block, self._sequence)
        self._changed.add(_Line(False, slot))

    def _set_bit(self, block: int, *, is_set: bool) -> None:
        mask = 1 << block % 8
        if bool(self._bits[block // 8] & mask) != is_set:
            self._bits[block // 8] ^= mask
            self._change_line(block // MAP_BLOCKS)

    def _change_line(self, number: int) -> None:
        self._line_sequences[number] += 1
        self._changed.add(_Line(True, number))

    # -- the medium ----------------------------------------------------------------------------

    def commit(self) -> list[int]:
        """Make slots and metadata durable, in this order. Returns the dirty blocks whose entries
        can be written to no copy: they are not durable, and need another place (`forget`)."""
        if not (self._is_writable and (self._changed or self._bad_pages)):
            return []
        self.medium.fence()
        self._heal_pages()
        failed = self._write_changes(0) & self._write_changes(1)
        written = self._changed - failed
        self._changed = set()
        for line in written:
            if not line.is_map:
                self._on_medium[line.number] = self._entries[line.number].state
        return [
            block
            for line in sorted(failed)
            if not line.is_map
            for block in self._give_up(line.number)
        ]

    def _give_up(self, slot: int) -> Iterator[int]:
        """An entry cannot be written: what the medium says of the slot must go on to be true."""
        entry = self._entries[slot]
        self.unusable.add(slot)
        if entry.state == DIRTY:
            self._changed.add(_Line(False, slot))  # until it is forgotten
            yield entry.block
        elif self._on_medium[slot] == DIRTY:
            self._entries[slot] = entry._replace(state=DIRTY)
            self.dirty[entry.block] = slot
            self._set_bit(entry.block, is_set=True)
        elif slot in self.free:
            self.free.remove(slot)

    def forget(self, block: int) -> int:
        """The origin has a block of which `commit` said that it needs that; its slot."""
        slot = self.dirty.pop(block)
        self._entries[slot] = NO_ENTRY
        self._changed.discard(_Line(False, slot))
        self._set_bit(block, is_set=False)
        return slot

    def _write_changes(self, copy: int) -> set[_Line]:
        """Write the changed lines of a copy; those that could not be. Durable on return."""
        failed = {line for line in sorted(self._changed) if not self._is_put(copy, line)}
        self.medium.fence()
        return failed

    def _put_line(self, copy: int, line: _Line) -> None:
        place = self._place(copy, line)
        page = place - place % PAGE
        self.medium.put(place, self._pack(line), lambda: self._pack_page(page))

    def _place(self, copy: int, line: _Line) -> int:
        areas = self.layout.map if line.is_map else self.layout.entries
        return areas[copy].offset + line.number * CACHELINE

    def _pack(self, line: _Line) -> bytes:
        if not line.is_map:
            if line.number >= len(self._entries):
                return bytes(CACHELINE)
            return pack_entry(line.number, self._entries[line.number])
        if line.number >= len(self._line_sequences):
            return bytes(CACHELINE)
        bits = bytes(self._bits[line.number * _BITS : (line.number + 1) * _BITS])
        return pack_map_line(line.number, MapLine(self._line_sequences[line.number], bits))

    def _pack_page(self, offset: int) -> bytes:
        """What a page of the metadata is to hold, by its place."""
        for is_map, areas in ((False, self.layout.entries), (True, self.layout.map)):
            for area in areas:
                if area.covers(Extent(offset, PAGE)):
                    first = (offset - area.offset) // CACHELINE
                    return b"".join(self._pack(_Line(is_map, first + at)) for at in range(LINES))
        return self._superblock.pack()

    # -- pages that go bad ---------------------------------------------------------------------

    def metadata(self) -> Iterator[Extent]:
        """All of it, on the device."""
        layout = self.layout
        yield from (*layout.superblock, *layout.entries, *layout.map)

    def note_failure(self, extent: Extent) -> None:
        """Pages of the metadata that the range touches are written again with the next commit."""
        for area in self.metadata():
            part = area.intersection(extent.widened(PAGE))
            self._bad_pages.update(range(part.offset, part.end, PAGE))

    def _heal_pages(self) -> None:
        """Each page at once (R20). What cannot be healed stays bad; its other copy serves."""
        for page in sorted(self._bad_pages):
            with contextlib.suppress(MediaError):
                self.medium.recover(page, self._pack_page(page))
        self._bad_pages.clear()
