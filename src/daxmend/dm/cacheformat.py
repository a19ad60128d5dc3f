"""What a write cache keeps on its device: places, and three structures (docs/dm.md, writecache).

Blocks are pages. The area holds, in this order: superblock, entries and map (copy 0), the slots,
map, entries and superblock (copy 1). Every structure carries its own checksum, which is seeded with
its place, so that none passes for another. Little-endian.
"""

from __future__ import annotations

import struct
from typing import NamedTuple, Self

from xxhash import xxh3_64_intdigest

from daxmend.errors import CorruptionError, UnsupportedError, UsageError
from daxmend.extent import Extent
from daxmend.units import CACHELINE, PAGE

MAGIC = b"dmWCACHE"
VERSION = 1
COPIES = (0, 1)
LINES = PAGE // CACHELINE  # entries, or lines of the map, in a page
MAP_BLOCKS = 48 * 8  # blocks of the origin in one line of the map

FREE, DIRTY, UNKNOWN = 0, 1, 2  # states of a slot

_SUPER = struct.Struct("<8sIIQQQ16sQ")  # magic … slots, blocks, start, uuid; checksum
_ENTRY = struct.Struct("<4sIQQ32xQ")  # magic, state, block, sequence; checksum
_ENTRY_MAGIC = b"dmWE"
_LINE = struct.Struct("<Q48sQ")  # sequence, bits; checksum
_MAP_SEED = 1 << 48  # beyond any slot's number


class Layout(NamedTuple):
    """Where everything lies: byte extents of the cache device."""

    superblock: tuple[Extent, Extent]
    entries: tuple[Extent, Extent]
    map: tuple[Extent, Extent]
    slots: Extent

    @classmethod
    def of_area(cls, area: Extent, blocks: int) -> Self:
        """The layout of a cache in `area` for an origin of so many blocks, and nothing else counts.

        Raises `UsageError` if the area has no room for one slot.
        """
        map_pages = -(-blocks // (MAP_BLOCKS * LINES))
        room = area.length // PAGE - 2 - 2 * map_pages
        slots = room * LINES // (LINES + 2)
        while slots + 2 * -(-slots // LINES) > room:
            slots -= 1
        if slots < 1:
            needed = 2 + 2 * map_pages + 3
            raise UsageError(f"a cache for {blocks} blocks needs {needed} pages and has {room}")
        entry_pages = -(-slots // LINES)
        sizes = (1, entry_pages, map_pages, slots, map_pages, entry_pages, 1)
        places = []
        offset = area.offset
        for pages in sizes:
            places.append(Extent(offset, pages * PAGE))
            offset += pages * PAGE
        return cls(
            (places[0], places[6]), (places[1], places[5]), (places[2], places[4]), places[3]
        )

    @property
    def slot_count(self) -> int:
        """How many blocks the cache has."""
        return self.slots.length // PAGE

    def slot(self, slot: int) -> Extent:
        """Where the block of a slot lies."""
        return Extent(self.slots.offset + slot * PAGE, PAGE)

    def slots_in(self, extent: Extent) -> range:
        """The slots that a range of the device touches."""
        part = extent.intersection(self.slots).shifted(-self.slots.offset)
        return range(part.offset // PAGE, -(-part.end // PAGE)) if part.length else range(0)


class Superblock(NamedTuple):
    """What the cache belongs to; `slots` and `blocks` must be what the table's line makes them."""

    slots: int
    blocks: int
    start: int  # where the area begins on its device, in bytes
    uuid: bytes

    def pack(self) -> bytes:
        """Its page."""
        packed = _SUPER.pack(MAGIC, VERSION, PAGE, *self, 0)
        body = packed[:-8]
        return (body + struct.pack("<Q", xxh3_64_intdigest(body))).ljust(PAGE, b"\0")


def unpack_superblock(raw: bytes, name: str, offset: int) -> Superblock:
    """The superblock of a page. Raises `UsageError` for something else, `UnsupportedError` for
    another version, `CorruptionError` for a damaged one."""
    magic, version, block_size, slots, blocks, start, uuid, checksum = _SUPER.unpack_from(raw)
    if magic != MAGIC:
        raise UsageError(f"{name} holds something that is no write cache; zero its first page")
    if checksum != xxh3_64_intdigest(raw[: _SUPER.size - 8]):
        raise CorruptionError(f"{name}: cache superblock", offset, "checksum", "right", "wrong")
    if version != VERSION or block_size != PAGE:
        raise UnsupportedError(f"{name}: write cache version {version}, block size {block_size}")
    return Superblock(slots, blocks, start, uuid)


class Entry(NamedTuple):
    """What a slot holds. Of two copies, and of two slots, the higher sequence counts."""

    state: int
    block: int  # of the origin
    sequence: int


NO_ENTRY = Entry(FREE, 0, 0)  # of a slot that was never used


def pack_entry(slot: int, entry: Entry) -> bytes:
    """A line."""
    packed = _ENTRY.pack(_ENTRY_MAGIC, *entry, 0)[:-8]
    return packed + struct.pack("<Q", xxh3_64_intdigest(packed, slot))


def unpack_entry(slot: int, raw: bytes) -> Entry | None:
    """The entry of a line; None if it is none."""
    magic, state, block, sequence, checksum = _ENTRY.unpack(raw)
    if magic != _ENTRY_MAGIC or checksum != xxh3_64_intdigest(raw[:-8], slot):
        return None
    return Entry(state, block, sequence)


class MapLine(NamedTuple):
    """Which of `MAP_BLOCKS` blocks have their newest content in the cache; bit 0 comes first."""

    sequence: int
    bits: bytes


NO_BITS = MapLine(0, bytes(MAP_BLOCKS // 8))


def pack_map_line(number: int, line: MapLine) -> bytes:
    """A line."""
    packed = _LINE.pack(*line, 0)[:-8]
    return packed + struct.pack("<Q", xxh3_64_intdigest(packed, _MAP_SEED + number))


def unpack_map_line(number: int, raw: bytes) -> MapLine | None:
    """The line, None if it is none."""
    sequence, bits, checksum = _LINE.unpack(raw)
    if checksum != xxh3_64_intdigest(raw[:-8], _MAP_SEED + number):
        return None
    return MapLine(sequence, bits)
