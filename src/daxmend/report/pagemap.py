"""Ranges on a strip: a device or a file from its first byte to its last, in so many parts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from daxmend.extent import Extent

PARTS: Final = 256  # one part is wide enough to be seen on the narrowest screen

Bars = list[tuple[int, int]]  # first part and number of parts, ascending


class Lane(NamedTuple):
    """One strip of the map: `name` is its kind, `title` and `hint` say what that is."""

    name: str
    title: str
    hint: str
    ranges: int
    length: int
    bars: Bars


class Strip:
    """Marks parts of `[0, size)`; a single bad byte makes its whole part visible."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._parts = bytearray(PARTS)

    def mark(self, extent: Extent) -> None:
        """Mark what of the extent is inside."""
        inside = extent.intersection(Extent(0, self._size))
        if inside.length:
            first = inside.offset * PARTS // self._size
            last = -(-inside.end * PARTS // self._size)
            self._parts[first:last] = b"\1" * (last - first)

    def bars(self) -> Bars:
        """What is marked, merged."""
        found: Bars = []
        at = self._parts.find(1)
        while at >= 0:
            end = self._parts.find(0, at)
            end = PARTS if end < 0 else end
            found.append((at, end - at))
            at = self._parts.find(1, end)
        return found


def bars_of(extents: Iterable[Extent], size: int) -> Bars:
    """The strip of these extents."""
    strip = Strip(size)
    for extent in extents:
        strip.mark(extent)
    return strip.bars()
