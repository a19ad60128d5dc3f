"""Who owns a range of the device: a file, the file system itself, or nobody (R42)."""

from __future__ import annotations

import contextlib
from array import array
from bisect import bisect_right
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

from daxmend.errors import CorruptionError
from daxmend.events import FileDamaged
from daxmend.extent import Extent
from daxmend.fs.change import Change, InodeGone, Mapped, NameGone, NameSet, Unmapped
from daxmend.fs.core import Core
from daxmend.fs.extentmap import Run
from daxmend.units import PAGE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from daxmend.fs.state import State

_MAX_CHANGED = 256  # files that are asked themselves before the index is made again


class OwnerKind(StrEnum):
    """What a range of the device is to the file system."""

    FILE = "file"
    METADATA = "metadata"
    FREE = "free"


class Owner(NamedTuple):
    """Who owns `extent` of the device. Of a file: its number, the offset in it, and a path.

    The path is absolute in the file system; empty for a file that was unlinked but is open.
    """

    extent: Extent
    kind: OwnerKind
    ino: int = 0
    offset: int = 0
    path: bytes = b""


class _PlaceIndex:
    """Runs of all files by their place; made when first asked, and again after many changes."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._changed: set[int] | None = None  # inodes that the index is wrong about
        self._places = array("Q")  # of each run, in order; the other columns follow it
        self._inos = array("Q")
        self._pgoffs = array("Q")
        self._counts = array("Q")  # pages, times two; plus one if written

    def note(self, ino: int) -> None:
        """The mapping of an inode is about to change."""
        if self._changed is not None:
            self._changed.add(ino)

    def find(self, first: int, end: int) -> list[tuple[int, Run]]:
        """Inode and run, by place, of what lies in the device's pages `[first, end)`; uncut."""
        changed = self._changed
        if changed is None or len(changed) > _MAX_CHANGED:
            changed = self._make()
        found = [(ino, run) for ino, run in self._indexed(first, end) if ino not in changed]
        for ino in changed:
            if ino in self._state:
                found += [(ino, run) for run in self._state.inode(ino).map.at_places(first, end)]
        return sorted(found, key=lambda row: row[1].place)

    def _indexed(self, first: int, end: int) -> Iterator[tuple[int, Run]]:
        index = max(bisect_right(self._places, first) - 1, 0)
        while index < len(self._places) and self._places[index] < end:
            count = self._counts[index]
            run = Run(self._pgoffs[index], self._places[index], count >> 1, bool(count & 1))
            if run.place + run.pages > first:
                yield self._inos[index], run
            index += 1

    def _make(self) -> set[int]:
        columns = tuple(array("Q") for _ in range(4))
        for ino, runs in self._state.iter_maps():
            pgoffs, places, counts = runs.columns()
            inos = array("Q", [ino]) * len(places)
            for column, more in zip(columns, (places, inos, pgoffs, counts), strict=True):
                column.extend(more)
        order = sorted(range(len(columns[0])), key=columns[0].__getitem__)
        self._places, self._inos, self._pgoffs, self._counts = (
            array("Q", map(column.__getitem__, order)) for column in columns
        )
        self._changed = set()
        return self._changed


class Owners(Core):
    """From the device's bytes to files, and the news of their failures."""

    _index: _PlaceIndex | None = None
    _paths: dict[int, tuple[int, bytes]] | None = None  # inode → directory, name

    def _change(self, change: Change) -> None:
        if self._index is not None and isinstance(change, Mapped | Unmapped | InodeGone):
            self._index.note(change.ino)
        if isinstance(change, NameSet | NameGone):
            self._paths = None
        super()._change(change)

    def owners(self, extent: Extent) -> list[Owner]:
        """The device's range, split by who owns it: ascending and without gaps."""
        with self.lock:
            result = []
            at = extent.offset
            for owner in self._file_owners(extent):
                result += self._others(Extent.between(at, owner.extent.offset))
                result.append(owner)
                at = owner.extent.end
            return result + self._others(Extent.between(at, extent.end))

    def _file_owners(self, extent: Extent) -> Iterator[Owner]:
        if self._index is None:
            self._index = _PlaceIndex(self._state)
        pages = extent.widened(PAGE)
        for ino, run in self._index.find(pages.offset // PAGE, pages.end // PAGE):
            place = Extent(run.place * PAGE, run.pages * PAGE)
            part = place.intersection(extent)
            if part.length:
                offset = run.pgoff * PAGE + part.offset - place.offset
                yield Owner(part, OwnerKind.FILE, ino, offset, self.path(ino))

    def _others(self, extent: Extent) -> list[Owner]:
        """A range without files: metadata, or free."""
        result = []
        at = extent.offset
        if extent.length:
            for used in self._space.used(extent.widened(PAGE)):
                part = used.intersection(extent)
                if at < part.offset:
                    result.append(Owner(Extent.between(at, part.offset), OwnerKind.FREE))
                result.append(Owner(part, OwnerKind.METADATA))
                at = part.end
        if at < extent.end:
            result.append(Owner(Extent.between(at, extent.end), OwnerKind.FREE))
        return result

    def path(self, ino: int) -> bytes:
        """An absolute path to an inode, empty if it has no name."""
        with self.lock:
            if ino == self.root:
                return b"/"
            if self._paths is None:
                self._paths = self._find_names()
            parts: list[bytes] = []
            while ino != self.root:
                found = self._paths.get(ino)
                if found is None or len(parts) > len(self._paths):  # a ring has no way to the root
                    return b""
                ino = found[0]
                parts.append(found[1])
            return b"/" + b"/".join(reversed(parts))

    def _find_names(self) -> dict[int, tuple[int, bytes]]:
        names: dict[int, tuple[int, bytes]] = {}
        for directory in self._state.directories():
            for name, (ino, _) in directory.names.items():
                names[ino] = (directory.ino, name)
        return names

    def notify_failure(self, extent: Extent) -> None:
        """See `daxmend.dax.api.Holder`: says which bytes of which files went bad (R42).

        Bytes behind a file's end, or allocated and not written, are none of it (R13, R16).
        """
        super().notify_failure(extent)
        for owner in self.owners(extent):
            if owner.kind is OwnerKind.FILE:
                with contextlib.suppress(CorruptionError):  # a file that shows no bytes at all
                    self._tell_damage_of_file(owner)

    def _tell_damage_of_file(self, owner: Owner) -> None:
        inode = self._inode(owner.ino)
        path = owner.path.decode(errors="surrogateescape")
        content = Extent(0, inode.attributes.size)
        part = Extent(owner.offset, owner.extent.length).intersection(content)
        run = inode.map.find(owner.offset // PAGE)
        if part.length and run is not None and run.is_written:
            place = Extent(owner.extent.offset, part.length)
            self.events.publish(FileDamaged(place, path, owner.ino, *part))

    def quarantined(self) -> list[Extent]:
        """Free pages that are bad and wait to be cleared (R31)."""
        with self.lock:
            return list(self._space.quarantine)
