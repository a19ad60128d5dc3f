"""striped: chunks in turn from each of several members (`striped COUNT CHUNK MEMBER OFFSET …`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Self

from daxmend.dax.api import DaxDevice
from daxmend.dm.line import Line, parse_sectors
from daxmend.dm.target import Context, Piece, Target, Use
from daxmend.errors import UsageError
from daxmend.extent import Extent
from daxmend.units import PAGE, SECTOR, is_aligned

_tuple = tuple.__new__  # what a NamedTuple's own constructor does, in half the time


class Striped(Target):
    """`size` bytes in chunks of `chunk`, which go round `stripes`: members and where they begin.

    Raises `UsageError` unless every stripe is as long and has whole chunks, and chunks whole pages.
    """

    name = "striped"
    usage = ("COUNT", "CHUNK", "MEMBER OFFSET", "[MEMBER OFFSET]…")

    def __init__(self, size: int, chunk: int, stripes: Sequence[tuple[DaxDevice, int]]) -> None:
        count = len(stripes)
        if not stripes or chunk <= 0 or not is_aligned(chunk, PAGE):
            raise UsageError(
                f"CHUNK {chunk // SECTOR} must be a positive multiple of a page "
                f"({PAGE // SECTOR} sectors), and there must be a stripe"
            )
        if size % (count * chunk):
            raise UsageError(
                f"LENGTH {size // SECTOR} does not divide into chunks of {chunk // SECTOR} on "
                f"each of {count} stripes"
            )
        length = size // count
        super().__init__(size, [Use(member, Extent(start, length)) for member, start in stripes])
        self._chunk = chunk
        self._count = count
        self._offsets = [start for _, start in stripes]

    @classmethod
    def parse(cls, line: Line, context: Context) -> Self:
        """See `Target`."""
        if len(line.arguments) < 2:
            raise line.refused(f"striped takes {' '.join(cls.usage)}")
        count = parse_sectors(line.number, line.arguments[0], "COUNT")
        chunk = line.sectors(line.arguments[1], "CHUNK", positive=True) * SECTOR
        words = line.arguments[2:]
        if count == 0 or len(words) != 2 * count:
            raise line.refused(
                f"striped {count} takes {count} times MEMBER OFFSET, and has {len(words)} arguments"
            )
        starts = [line.sectors(word, "OFFSET") * SECTOR for word in words[1::2]]
        members = [context.open_member(word) for word in words[::2]]
        return cls(line.extent.length, chunk, list(zip(members, starts, strict=True)))

    def piece_at(self, offset: int) -> Piece:
        """See `Target`."""
        chunk = self._chunk
        number = offset // chunk
        row, index = divmod(number, self._count)
        place = self._offsets[index] + row * chunk
        return _tuple(Piece, (_tuple(Extent, (number * chunk, chunk)), index, place))

    def cover(self, index: int, extent: Extent) -> Extent:
        """See `Target`."""
        start, end = (self._bytes_before(index, at) for at in (extent.offset, extent.end))
        return Extent.between(start, end).shifted(self.uses[index].extent.offset)

    def _bytes_before(self, index: int, offset: int) -> int:
        """How many bytes of stripe `index` lie before `offset`."""
        row, rest = divmod(offset, self._chunk * self._count)
        return row * self._chunk + min(max(rest - index * self._chunk, 0), self._chunk)

    def unmap(self, index: int, extent: Extent) -> Iterator[Extent]:
        """See `Target`."""
        chunk = self._chunk
        offset, end = (at - self.uses[index].extent.offset for at in (extent.offset, extent.end))
        while offset < end:
            row, inside = divmod(offset, chunk)
            length = min(chunk - inside, end - offset)
            yield Extent((row * self._count + index) * chunk + inside, length)
            offset += length
