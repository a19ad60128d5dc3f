"""Half-open byte ranges and sets of them: the only interval arithmetic in daxmend."""

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple, Self

from pyroaring import BitMap

from daxmend.errors import UsageError
from daxmend.units import MAX_OFFSET, PAGE, SECTOR, align_down, align_up, is_aligned

_LINE = re.compile(r"(\d{1,30})\s+(\d{1,30})", re.ASCII)

_LOW_BITS = 32
_LOW_SIZE = 1 << _LOW_BITS
_LOW_MASK = _LOW_SIZE - 1


class Extent(NamedTuple):
    """The bytes `[offset, offset + length)` of a named thing."""

    offset: int
    length: int

    @property
    def end(self) -> int:
        """The offset of the first byte after the extent."""
        return self.offset + self.length

    @classmethod
    def between(cls, offset: int, end: int) -> Self:
        """`[offset, end)`; empty where `end` is not above `offset`."""
        return cls(offset, max(end - offset, 0))

    @classmethod
    def of_sectors(cls, sector: int, count: int) -> Self:
        """`count` sectors of 512 bytes from `sector` on."""
        return cls(sector * SECTOR, count * SECTOR)

    def overlaps(self, other: "Extent") -> bool:
        """True if a byte is in both."""
        return max(self.offset, other.offset) < min(self.end, other.end)

    def covers(self, other: "Extent") -> bool:
        """True if every byte of `other` is in this extent."""
        return self.offset <= other.offset and other.end <= self.end

    def intersection(self, other: "Extent") -> "Extent":
        """The bytes in both, perhaps none."""
        return Extent.between(max(self.offset, other.offset), min(self.end, other.end))

    def shifted(self, distance: int) -> "Extent":
        """The same length, `distance` bytes further (a layer's translation)."""
        return Extent(self.offset + distance, self.length)

    def widened(self, unit: int) -> "Extent":
        """The smallest extent aligned to `unit` that covers this one; empty if this one is."""
        start = align_down(self.offset, unit)
        return Extent(start, align_up(self.end, unit) - start if self.length else 0)

    def narrowed(self, unit: int) -> "Extent":
        """The largest extent aligned to `unit` inside this one, perhaps empty."""
        return Extent.between(align_up(self.offset, unit), align_down(self.end, unit))

    def __str__(self) -> str:
        return f"[{self.offset}, {self.end})"


def check_bounds(extent: Extent, size: int, name: str) -> None:
    """Raise `UsageError` unless `extent` lies inside `[0, size)` of the thing called `name`."""
    if extent.offset < 0 or extent.length < 0:
        raise UsageError(
            f"{name}: offset {extent.offset}, length {extent.length}: neither may be negative"
        )
    if extent.end > size:
        raise UsageError(f"{name}: {extent} reaches beyond its end at {size}")


def check_pages(extent: Extent, size: int, name: str) -> None:
    """Raise `UsageError` unless `extent` is whole pages inside `[0, size)` of `name`."""
    if not (is_aligned(extent.offset, PAGE) and is_aligned(extent.length, PAGE)):
        raise UsageError(f"{name}: {extent} is not aligned to {PAGE} bytes")
    check_bounds(extent, size, name)


def parse_badblocks_line(line: str) -> Extent:
    """The extent of a `SECTOR COUNT` line, the kernel's own format (R9)."""
    match = _LINE.fullmatch(line.strip())
    if match is None:
        raise UsageError(f"'{line.strip()}' is not a 'SECTOR COUNT' line of two whole numbers")
    extent = Extent.of_sectors(int(match[1]), int(match[2]))
    if extent.length == 0:
        raise UsageError(f"'{line.strip()}': a count of 0 sectors names nothing")
    if extent.end > MAX_OFFSET:
        raise UsageError(f"'{line.strip()}': sector {match[1]} + {match[2]} overflows")
    return extent


def merged(extents: Iterable[Extent]) -> list[Extent]:
    """The same bytes, ascending, with what touches or overlaps made one."""
    result: list[Extent] = []
    for extent in sorted(extents):
        if result and extent.offset <= result[-1].end:
            last = result[-1]
            result[-1] = Extent.between(last.offset, max(last.end, extent.end))
        else:
            result.append(extent)
    return result


def format_badblocks(extents: Iterable[Extent]) -> str:
    """`SECTOR COUNT` lines for sector-aligned extents, as the kernel prints them (R9)."""
    return "".join(f"{e.offset // SECTOR} {e.length // SECTOR}\n" for e in extents)


class ExtentSet:
    """A set of bytes in units of `grain`, kept merged; every extent given is aligned to `grain`.

    Backed by compressed bitmaps of units, one for each 2**32 units: adding, removing and asking
    cost O(log n), a million scattered units about 18 MiB. Not locked; the owner's lock holds.
    """

    __slots__ = ("_maps", "grain")

    def __init__(self, grain: int, extents: Iterable[Extent] = ()) -> None:
        self.grain = grain
        self._maps: dict[int, BitMap] = {}
        self.update(extents)

    def _pieces(self, extent: Extent) -> Iterator[tuple[int, int, int]]:
        """`(high, first, last + 1)` of the unit range, cut where a bitmap's 32 bits end."""
        grain = self.grain
        first, rest = divmod(extent.offset, grain)
        last, rest2 = divmod(extent.offset + extent.length, grain)
        if rest or rest2:
            raise ValueError(f"{extent} is not aligned to {grain} bytes")
        while first < last:
            high = first >> _LOW_BITS
            stop = min(last, (high + 1) << _LOW_BITS)
            yield high, first & _LOW_MASK, stop - (high << _LOW_BITS)
            first = stop

    def add(self, extent: Extent) -> None:
        """Put every byte of `extent` into the set."""
        for high, first, stop in self._pieces(extent):
            bitmap = self._maps.get(high)
            if bitmap is None:
                bitmap = self._maps[high] = BitMap()
            bitmap.add_range(first, stop)

    def discard(self, extent: Extent) -> None:
        """Take every byte of `extent` out of the set."""
        if not self._maps:
            return
        for high, first, stop in self._pieces(extent):
            bitmap = self._maps.get(high)
            if bitmap is not None:
                bitmap.remove_range(first, stop)
                if not bitmap:
                    del self._maps[high]

    def clear(self) -> None:
        """Take everything out."""
        self._maps.clear()

    def overlaps(self, extent: Extent) -> bool:
        """True if any byte of `extent` (of any alignment) is in the set."""
        offset, length = extent
        if not self._maps or length <= 0:
            return False
        first, last = offset // self.grain, (offset + length - 1) // self.grain
        high = first >> _LOW_BITS
        if high == last >> _LOW_BITS:  # nearly always, and worth the short way
            bitmap = self._maps.get(high)
            return bitmap is not None and bool(
                bitmap.range_cardinality(first & _LOW_MASK, (last & _LOW_MASK) + 1)
            )
        found = self.next_offset(offset)
        return found is not None and found < offset + length

    def covers(self, extent: Extent) -> bool:
        """True if every byte of `extent` (of any alignment) is in the set."""
        return all(
            high in self._maps and self._maps[high].contains_range(first, stop)
            for high, first, stop in self._pieces(extent.widened(self.grain))
        )

    def next_offset(self, offset: int) -> int | None:
        """The offset of the first byte in the set that is not below `offset`, or None."""
        unit = offset // self.grain
        high = unit >> _LOW_BITS
        bitmap = self._maps.get(high)
        if bitmap is not None:
            try:
                found = (high << _LOW_BITS) + bitmap.next_set_bit(unit & _LOW_MASK)
            except ValueError:  # none; asking for max() first would walk every container
                pass
            else:
                return max(found * self.grain, offset)
        later = [h for h in self._maps if h > high]
        if not later:
            return None
        high = min(later)
        return ((high << _LOW_BITS) + self._maps[high].next_set_bit(0)) * self.grain

    def extents(self, within: Extent | None = None) -> Iterator[Extent]:
        """The merged extents in ascending order, cut to `within`; lazily.

        The set must not change under the iteration.
        """
        position: int | None = 0 if within is None else within.offset
        end = None if within is None else within.end
        while (
            position is not None
            and (position := self.next_offset(position)) is not None
            and (end is None or position < end)
        ):
            stop = self._run_end(position)
            yield Extent.between(position, stop if end is None else min(stop, end))
            position = stop

    def gaps(self, within: Extent) -> Iterator[Extent]:
        """The parts of an extent that are not in the set, ascending; as lazy as `extents`."""
        position = within.offset
        for run in self.extents(within):
            if run.offset > position:
                yield Extent.between(position, run.offset)
            position = run.end
        if position < within.end:
            yield Extent.between(position, within.end)

    def _run_end(self, offset: int) -> int:
        """Where the run of bytes that holds `offset` ends."""
        unit = offset // self.grain
        while True:
            high, low = unit >> _LOW_BITS, unit & _LOW_MASK
            bitmap = self._maps.get(high)
            if bitmap is None or low not in bitmap:
                return unit * self.grain
            low = _first_gap(bitmap, low)
            unit = (high << _LOW_BITS) + low
            if low < _LOW_SIZE:
                return unit * self.grain

    @property
    def length(self) -> int:
        """Bytes in the set."""
        return sum(len(bitmap) for bitmap in self._maps.values()) * self.grain

    def copy(self) -> "ExtentSet":
        """An independent set of the same bytes."""
        twin = ExtentSet(self.grain)
        twin._maps = {high: bitmap.copy() for high, bitmap in self._maps.items()}
        return twin

    def without(self, other: "ExtentSet") -> "ExtentSet":
        """A new set: the bytes that are not in `other`."""
        rest = self.copy()
        for extent in other:
            rest.discard(extent)
        return rest

    def update(self, other: Iterable[Extent]) -> None:
        """Put every byte of each extent into the set."""
        for extent in other:
            self.add(extent)

    def __iter__(self) -> Iterator[Extent]:
        return self.extents()

    def __bool__(self) -> bool:
        return bool(self._maps)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ExtentSet):
            return NotImplemented
        return self.grain == other.grain and self._maps == other._maps

    __hash__ = None  # type: ignore[assignment]  # mutable

    def __repr__(self) -> str:
        return f"ExtentSet({self.grain}, {[str(e) for e in self]})"


def _first_gap(bitmap: BitMap, low: int) -> int:
    """The first unit not in `bitmap` from `low` on: gallop, then halve; O(log) of the run."""
    step = 1
    while low + step < _LOW_SIZE and bitmap.contains_range(low, low + step + 1):
        step *= 2
    good, bad = low, min(low + step, _LOW_SIZE)
    if bad == _LOW_SIZE and bitmap.contains_range(low, _LOW_SIZE):
        return _LOW_SIZE
    while bad - good > 1:
        middle = (good + bad) // 2
        if bitmap.contains_range(low, middle + 1):
            good = middle
        else:
            bad = middle
    return bad
