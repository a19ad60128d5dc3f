"""Where an access goes that lies near the last one: one comparison for the whole stack (R22)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from daxmend.dm.target import Target

if TYPE_CHECKING:
    from daxmend.dax.api import Window

CleanWindow = Callable[[int, int], "Window | None"]

# A stretch `[start, end)` of a device that lies in one piece of a member without targets below it,
# `distance` bytes further on; and that member's way to a clean range. A tuple and no NamedTuple:
# taking that apart would cost as much as all the rest.
Near = tuple[int, int, CleanWindow, int]

WayDown = Callable[[int], Near]  # what finds the stretch around an offset of a member

NOWHERE: Near = (0, -1, lambda offset, length: None, 0)


@runtime_checkable
class HasCleanWindows(Protocol):
    """A device that need not search to know that a range is clean."""

    def clean_window(self, offset: int, length: int) -> Window | None:
        """A window of the whole range, if it is known to be inside the device and clean."""


def near(target: Target, start: int, offset: int, ways: Mapping[int, WayDown]) -> Near:
    """The stretch around `offset` of a device in which the target begins at `start`.

    `ways` lead further down, by a member's id. Where something else than mapping is done there are
    no clean windows.
    """
    (first, length), use, place = target.piece_at(offset - start)
    first += start
    end = first + length
    if use is None or type(target).direct_access is not Target.direct_access:
        return first, end, NOWHERE[2], 0
    distance = place - first
    below, below_end, clean_window, below_distance = ways[id(target.uses[use].device)](
        offset + distance
    )
    return (
        max(first, below - distance),
        min(end, below_end - distance),
        clean_window,
        distance + below_distance,
    )
