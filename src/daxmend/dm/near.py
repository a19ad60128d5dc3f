"""Where an access goes that lies near the last one: one comparison for the whole stack (R22)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final, Protocol, runtime_checkable

from daxmend.dm.target import Target

if TYPE_CHECKING:
    from daxmend.dax.api import Window


@runtime_checkable
class HasCleanGap(Protocol):
    """A device that need not search to know that a range is clean.

    None stands for a range that it does not know to be inside the device and clean.
    """

    def clean_window(self, offset: int, length: int) -> Window | None:
        """A window of the whole range."""

    def read_clean(self, offset: int, length: int) -> bytes | None:
        """See `DaxDevice`."""

    def view_clean(self, offset: int, length: int) -> memoryview | None:
        """See `DaxDevice`."""


class _NoGap:
    """Knows of no range (implements `HasCleanGap`)."""

    def clean_window(self, offset: int, length: int) -> None:
        """None."""

    read_clean = view_clean = clean_window


# A stretch `[start, end)` of a device that lies in one piece of a member without targets below it,
# `distance` bytes further on; and that member. A tuple and no NamedTuple: taking that apart would
# cost as much as all the rest.
Near = tuple[int, int, HasCleanGap, int]

WayDown = Callable[[int], Near]  # what finds the stretch around an offset of a member

NO_GAP: Final = _NoGap()
NOWHERE: Final[Near] = (0, -1, NO_GAP, 0)


def near(target: Target, start: int, offset: int, ways: Mapping[int, WayDown]) -> Near:
    """The stretch around `offset` of a device in which the target begins at `start`.

    `ways` lead further down, by a member's id. Where something else than mapping is done nothing is
    known to be clean.
    """
    (first, length), use, place = target.piece_at(offset - start)
    first += start
    end = first + length
    if use is None or type(target).direct_access is not Target.direct_access:
        return first, end, NO_GAP, 0
    distance = place - first
    below, below_end, member, below_distance = ways[id(target.uses[use].device)](offset + distance)
    return (
        max(first, below - distance),
        min(end, below_end - distance),
        member,
        distance + below_distance,
    )
