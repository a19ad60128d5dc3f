"""Start of a write cache: what its metadata says, as far as it can be read (R38).

Of each structure the copy that proves itself counts; what both copies have lost is worked out from
the others, and what cannot be is called unknown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Generic, NamedTuple, TypeVar

from daxmend.dm.cacheformat import (
    COPIES,
    DIRTY,
    FREE,
    LINES,
    MAP_BLOCKS,
    NO_BITS,
    NO_ENTRY,
    UNKNOWN,
    Entry,
    Layout,
    MapLine,
    Superblock,
    unpack_entry,
    unpack_map_line,
    unpack_superblock,
)
from daxmend.dm.cachemedium import CacheMedium, PageRead
from daxmend.errors import CorruptionError, DaxmendError, UsageError
from daxmend.extent import Extent, ExtentSet
from daxmend.units import CACHELINE, PAGE

_T = TypeVar("_T", Entry, MapLine)


class Lines(NamedTuple, Generic[_T]):
    """All lines of a structure, None where both copies are gone."""

    chosen: list[_T | None]
    wrong: tuple[set[int], set[int]]  # of each copy: must be written again
    damaged: set[int]  # copies in which a line proves nothing; others are only behind, by a stop
    empty: set[int]  # lines that read as zeros in both, where nothing is recorded


class Loaded(NamedTuple):
    """What was found. `wrong…` are the copies, and the lines of each, to be written again."""

    superblock: Superblock | None  # None where both copies are gone
    entries: list[Entry]
    map: list[MapLine]
    lost: ExtentSet  # of the origin: dirty, and nobody knows in which slot
    wrong_superblocks: set[int]
    wrong_entries: tuple[set[int], set[int]]
    wrong_map: tuple[set[int], set[int]]
    damage: list[tuple[str, int]]  # structure and copy


def load(medium: CacheMedium, layout: Layout, wanted: Superblock) -> Loaded | None:
    """The cache that is there; None if there is none yet: both superblocks are empty.

    Raises `UsageError` where something else is there, or a cache of another table.
    """
    superblock, wrong_superblocks, empty = _load_superblock(medium, layout, wanted)
    if len(empty) == len(COPIES):
        return None
    damaged_superblocks = wrong_superblocks - empty
    entries = _load_entries(medium, layout, is_formatted=superblock is not None)
    known = _newest(
        [each if each is None or each.block < wanted.blocks else None for each in entries.chosen]
    )
    for slot, (was, entry) in enumerate(zip(entries.chosen, known, strict=True)):
        if was != entry:
            for wrong in entries.wrong:
                wrong.add(slot)
    lines = _load_map(medium, layout, wanted.blocks, is_formatted=superblock is not None)
    damage = [
        (structure, copy)
        for structure, copies in (
            ("cache superblock", damaged_superblocks),
            ("cache entries", entries.damaged),
            ("cache map", lines.damaged),
        )
        for copy in sorted(copies)
    ]
    return Loaded(
        superblock,
        known,
        [line or NO_BITS for line in lines.chosen],
        _lost_blocks(known, lines.chosen, wanted.blocks),
        wrong_superblocks,
        entries.wrong,
        lines.wrong,
        damage,
    )


def _load_superblock(
    medium: CacheMedium, layout: Layout, wanted: Superblock
) -> tuple[Superblock | None, set[int], set[int]]:
    """The superblock, which copies of it are wrong, and which of these were never written."""
    found: dict[int, Superblock] = {}
    empty: set[int] = set()
    foreign: DaxmendError | None = None
    for copy in COPIES:
        offset = layout.superblock[copy].offset
        page = medium.read_page(offset)
        if not any(page.data[:CACHELINE]):
            if not page.is_recorded:
                empty.add(copy)
            continue
        try:
            found[copy] = unpack_superblock(page.data, medium.name, offset)
        except CorruptionError:
            pass
        except DaxmendError as error:
            foreign = error
    wrong = set(COPIES) - set(found)
    for superblock in found.values():
        if superblock[:3] != wanted[:3]:
            raise UsageError(
                f"{medium.name} is the cache of another table: of {superblock.blocks} blocks, with "
                f"{superblock.slots} slots; this line makes {wanted.blocks} and {wanted.slots}"
            )
        return superblock, wrong, empty
    if foreign is not None:
        raise foreign
    return None, wrong, empty


def _pages(medium: CacheMedium, copies: tuple[Extent, Extent]) -> Iterator[tuple[PageRead, ...]]:
    """Both copies, page by page."""
    for at in range(0, copies[0].length, PAGE):
        yield tuple(medium.read_page(copy.offset + at) for copy in copies)


def _choose(
    pages: Iterator[tuple[PageRead, ...]], count: int, unpack: Callable[[int, bytes], _T | None]
) -> Lines[_T]:
    """Of each line the copy with the highest sequence."""
    chosen: list[_T | None] = []
    wrong: tuple[set[int], set[int]] = (set(), set())
    damaged: set[int] = set()
    empty: set[int] = set()
    for number, pair in enumerate(pages):
        for at in range(min(LINES, count - number * LINES)):
            place = slice(at * CACHELINE, (at + 1) * CACHELINE)
            line = number * LINES + at
            copies = [
                None if at in page.bad_lines else unpack(line, page.data[place]) for page in pair
            ]
            valid = [copy for copy in copies if copy is not None]
            best = max(valid, key=lambda each: each.sequence) if valid else None
            chosen.append(best)
            for copy in COPIES:
                if copies[copy] is None or copies[copy] != best:
                    wrong[copy].add(line)
            damaged.update(copy for copy in COPIES if copies[copy] is None)
            if not any(page.is_recorded or any(page.data[place]) for page in pair):
                empty.add(line)
    return Lines(chosen, wrong, damaged, empty)


def _load_entries(medium: CacheMedium, layout: Layout, *, is_formatted: bool) -> Lines[Entry]:
    lines = _choose(_pages(medium, layout.entries), layout.slot_count, unpack_entry)
    if not is_formatted:  # the superblocks are bad, and perhaps always were
        for slot in lines.empty:
            lines.chosen[slot] = NO_ENTRY
    return lines


def _load_map(
    medium: CacheMedium, layout: Layout, blocks: int, *, is_formatted: bool
) -> Lines[MapLine]:
    lines = _choose(_pages(medium, layout.map), -(-blocks // MAP_BLOCKS), unpack_map_line)
    if not is_formatted:
        for number in lines.empty:
            lines.chosen[number] = NO_BITS
    return lines


def _newest(entries: list[Entry | None]) -> list[Entry]:
    """One slot for a block; entries that both copies have lost become `UNKNOWN`."""
    known = [entry or Entry(UNKNOWN, 0, 0) for entry in entries]
    newest: dict[int, int] = {}  # block → slot
    for slot, entry in enumerate(known):
        if entry.state != DIRTY:
            continue
        other = newest.get(entry.block)
        if other is None or known[other].sequence < entry.sequence:
            newest[entry.block] = slot
    return [
        entry._replace(state=FREE)
        if entry.state == DIRTY and newest[entry.block] != slot
        else entry
        for slot, entry in enumerate(known)
    ]


def _lost_blocks(known: list[Entry], lines: list[MapLine | None], blocks: int) -> ExtentSet:
    """What must have been in the unknown slots: what the map says and no entry explains."""
    lost = ExtentSet(PAGE)
    if all(entry.state != UNKNOWN for entry in known):
        return lost
    for number, line in enumerate(lines):
        first = number * MAP_BLOCKS
        count = min(MAP_BLOCKS, blocks - first)
        if line is None:
            lost.add(Extent(first * PAGE, count * PAGE))
            continue
        bits = int.from_bytes(line.bits, "little")
        while bits:
            bit = (bits & -bits).bit_length() - 1
            lost.add(Extent((first + bit) * PAGE, PAGE))
            bits &= bits - 1
    for entry in known:
        if entry.state == DIRTY:
            lost.discard(Extent(entry.block * PAGE, PAGE))
    return lost
