"""From a bad range of a device up to what owns it: partition, dm, loop, and the files of what is
mounted there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from daxmend.errors import UnknownStateError
from daxmend.extent import Extent
from daxmend.host.mountinfo import Mount, iter_mounts
from daxmend.host.topology import (
    BlockDevice,
    Linear,
    OnFile,
    Piece,
    find_block_device,
    holders,
    layout,
)
from daxmend.host.unknown import Unknown
from daxmend.rescue.hostowner import Owned, OwnerSearch, Progress
from daxmend.rescue.hostrecord import Bad
from daxmend.rescue.target import Place, Range, merged_ranges
from daxmend.units import SECTOR


class _Trace(NamedTuple):
    """A bad range of the device that was named, and where that is on the one looked at."""

    bad: Bad
    here: Extent

    def part(self, here: Extent) -> _Trace:
        """What of it is in a range of the device looked at."""
        inside = self.here.intersection(here)
        origin = self.bad.extent.offset + inside.offset - self.here.offset
        return _Trace(self.bad.part(Extent(origin, inside.length)), inside)

    def moved(self, here: Extent, node: str) -> _Trace:
        """The same, on another device."""
        places = (*self.bad.places, Place(node, here.offset))
        return _Trace(self.bad._replace(places=places), here)


def owned_ranges(
    device: BlockDevice,
    bad: list[Bad],
    notices: list[str],
    progress: Progress,
    mount: Mount | None = None,
) -> list[Range]:
    """The bad ranges of a device, split by owner (R42), ascending.

    `mount` is the device's own, where it was named. Paths are those of the running system. What
    could not be found is told in `notices`.
    """
    if not bad:
        return []
    search = _Search(notices, progress)
    traces = [_Trace(each, each.extent) for each in bad]
    found = search.on_mount(mount, traces) if mount else search.on_device(device, traces)
    missing = sum(each.extent.length for each in found if each.owner is None)
    if missing and not search.mounts_seen:
        notices.append(
            f"no file system on {device.node} is mounted (or none that can be followed); to learn "
            "which files are hit, mount it read-only"
        )
    return merged_ranges(sorted(found, key=lambda each: (each.extent, each.path)))


class _Search:
    def __init__(self, notices: list[str], progress: Progress) -> None:
        self._notices = notices
        self._progress = progress
        self._mounts = {each.device: each for each in iter_mounts() if each.root == "/"}
        self.mounts_seen = 0

    def on_device(self, device: BlockDevice, traces: list[_Trace]) -> list[Range]:
        """Ranges of the device that was named."""
        mount = self._mounts.get(device.number)
        if mount is not None:
            return self.on_mount(mount, traces)
        found: list[Range] = []
        rest = traces
        for number in holders(device):
            above = find_block_device(number)
            pieces = above if isinstance(above, Unknown) else layout(above)
            if isinstance(above, Unknown) or isinstance(pieces, Unknown):
                why = pieces.why if isinstance(pieces, Unknown) else ""
                self._notices.append(f"what lies on {device.node} cannot be followed: {why}")
                continue
            moved = [
                (trace.part(below), there)
                for trace in rest
                for below, there in _parts_above(pieces, device, trace.here)
            ]
            if moved:
                traced = [trace.moved(there, above.node) for trace, there in moved]
                found += self.on_device(above, traced)
                rest = _without(rest, [trace.here for trace, _ in moved])
        return found + [_range(trace, Owned(trace.here, None)) for trace in rest]

    def on_mount(self, mount: Mount, traces: list[_Trace]) -> list[Range]:
        """The same, of what is mounted."""
        self.mounts_seen += 1
        ascending = sorted(traces, key=lambda trace: trace.here)
        search = OwnerSearch(mount, self._progress)
        try:
            owned = search.find([trace.here.widened(SECTOR) for trace in ascending])
        except OSError as error:
            raise UnknownStateError(
                f"{mount.mount_point}: whose the bad blocks are cannot be asked: {error.strerror}"
            ) from None
        self._notices += search.notices
        return [
            _range(trace.part(each.extent), each)
            for trace in ascending
            for each in owned
            if each.extent.overlaps(trace.here)
        ]


def _parts_above(
    pieces: list[Piece], below: BlockDevice, extent: Extent
) -> Iterator[tuple[Extent, Extent]]:
    """What of a range of `below` a device shows: the part below, and where it is above."""
    for piece in pieces:
        if isinstance(piece, Linear) and piece.below != below.number:
            continue
        if isinstance(piece, Linear | OnFile):  # a loop that holds `below` lies on its node
            part = extent.intersection(Extent(piece.offset, piece.above.length))
            if part.length:
                yield part, part.shifted(piece.above.offset - piece.offset)
        else:
            for above, at in piece.up(below.number, extent):
                yield Extent(at, above.length), above


def _without(traces: list[_Trace], taken: list[Extent]) -> list[_Trace]:
    """What is left of the traces."""
    rest = []
    for trace in traces:
        at = trace.here.offset
        for extent in sorted(taken):
            part = extent.intersection(trace.here)
            if part.length:
                rest.append(trace.part(Extent.between(at, part.offset)))
                at = part.end
        rest.append(trace.part(Extent.between(at, trace.here.end)))
    return [trace for trace in rest if trace.here.length]


def _range(trace: _Trace, owned: Owned) -> Range:
    moved = trace.here.offset - owned.extent.offset
    bad = trace.bad
    at = None if owned.file_offset is None else owned.file_offset + moved
    return Range(bad.extent, bad.kind, bad.extent.offset, owned.owner, owned.path, at, bad.places)
