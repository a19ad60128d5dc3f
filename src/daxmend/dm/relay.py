"""What members tell, on its way up: which lines it concerns, and how many events it is (R42)."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from daxmend.dm.target import Target, extent_of, moved
from daxmend.extent import Extent, merged

if TYPE_CHECKING:
    from daxmend.dax.api import DaxDevice
    from daxmend.events import Event


class Relay:
    """The mapped device as the holder of one member: failures go up translated (R42)."""

    def __init__(self, targets: Iterable[Target], member: DaxDevice) -> None:
        self._uses = sorted(
            (
                (use.extent, index, target)
                for target in targets
                for index, use in enumerate(target.uses)
                if use.device is member
            ),
            key=lambda each: each[0],
        )
        self._starts = [extent.offset for extent, _, _ in self._uses]

    def parts(self, extent: Extent) -> Iterator[tuple[Target, int, Extent]]:
        """The uses that the range of the member touches, and what of it is theirs."""
        at = max(bisect_right(self._starts, extent.offset) - 1, 0)
        for used, index, target in self._uses[at:]:
            if used.offset >= extent.end:
                break
            if used.overlaps(extent):
                yield target, index, used.intersection(extent)

    def notify_failure(self, extent: Extent) -> None:
        """See `Holder`."""
        for target, index, part in self.parts(extent):
            target.on_member_failure(index, part)


def joined(events: Sequence[Event]) -> list[Event]:
    """Events that differ only in their range become one where the ranges touch; the order is that
    in which each kind came first."""
    kinds: dict[Event, list[Extent]] = {}
    for event in events:
        extent = extent_of(event)
        kind = event if extent is None else moved(event, Extent(0, 0))
        kinds.setdefault(kind, [])
        if extent is not None:
            kinds[kind].append(extent)
    return [
        event
        for kind, extents in kinds.items()
        for event in ([moved(kind, e) for e in merged(extents)] if extents else [kind])
    ]
