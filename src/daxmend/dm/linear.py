"""linear: a range of a member, as it is (`linear MEMBER OFFSET`)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Self

from daxmend.dax.api import DaxDevice
from daxmend.dm.line import Line
from daxmend.dm.target import Context, Piece, Target, Use
from daxmend.extent import Extent
from daxmend.units import SECTOR


class Linear(Target):
    """`size` bytes of `member` from `offset` on."""

    name = "linear"
    usage: ClassVar[tuple[str, ...]] = ("MEMBER", "OFFSET")

    def __init__(self, size: int, member: DaxDevice, offset: int) -> None:
        super().__init__(size, [Use(member, Extent(offset, size))])
        self._offset = offset
        self._piece = Piece(Extent(0, size), 0, offset)

    @classmethod
    def parse(cls, line: Line, context: Context) -> Self:
        """See `Target`."""
        line.check_count(cls.usage)
        member, start = line.arguments
        offset = line.sectors(start, "OFFSET") * SECTOR
        return cls(line.extent.length, context.open_member(member), offset)

    def piece_at(self, offset: int) -> Piece:
        """See `Target`."""
        return self._piece

    def cover(self, index: int, extent: Extent) -> Extent:
        """See `Target`."""
        return extent.shifted(self._offset)

    def unmap(self, index: int, extent: Extent) -> Iterator[Extent]:
        """See `Target`."""
        yield extent.shifted(-self._offset)
