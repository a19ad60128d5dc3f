"""`check`: reads a file system and says which invariants it breaks (format.md §6.5).

Only reads, and only what is on the medium: it shares with mounting how structures are unpacked, and
nothing of what mounting makes of them.
"""

from __future__ import annotations

import stat
from array import array
from collections import Counter
from typing import TYPE_CHECKING

from daxmend.extent import Extent
from daxmend.fs.extentmap import Run, joined
from daxmend.fs.finding import Finding, Invariant
from daxmend.fs.inode import FIRST_INO, MAX_SIZE, ROOT_INO, is_name
from daxmend.fs.loading import Loaded, load
from daxmend.fs.superblock import superblock_mirror
from daxmend.units import PAGE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from daxmend.dax.api import DaxDevice
    from daxmend.fs.inode import Inode

MOST = 1000  # findings of one invariant
_PATH_MAX = 4096  # bytes; no system call takes more


def check(device: DaxDevice) -> Iterator[Finding]:
    """Everything that is wrong with the file system on the device; nothing if it is whole.

    Of one invariant at most `MOST` findings, and a last one that counts the others. Raises what
    `load` raises.
    """
    return check_loaded(device, load(device))


def check_loaded(device: DaxDevice, loaded: Loaded) -> Iterator[Finding]:
    """`check`, of what was read already."""
    counts: Counter[Invariant] = Counter()
    for finding in _check_all(device, loaded):
        counts[finding.invariant] += 1
        if counts[finding.invariant] <= MOST:
            yield finding
    for invariant, count in counts.items():
        if count > MOST:
            yield Finding(invariant, f"{count - MOST} more")


def _check_all(device: DaxDevice, loaded: Loaded) -> Iterator[Finding]:
    for structure, copy, reason in loaded.damage():
        yield Finding(_INVARIANT_OF[structure], f"copy {copy}: {reason}", is_healed=True)
    yield from loaded.losses
    tree = _Tree(loaded)
    yield from tree.broken
    yield from tree.check_places(metadata_extents(device, loaded), device.size)
    yield from tree.check_names()
    yield from tree.check_links()
    yield from tree.check_inodes(loaded.state.next_ino)


_INVARIANT_OF = {
    "superblock": Invariant.SUPERBLOCK,
    "checkpoint": Invariant.CHECKPOINT,
    "journal": Invariant.JOURNAL,
}


def metadata_extents(device: DaxDevice, loaded: Loaded) -> Iterator[tuple[str, Extent]]:
    """Name and place of everything but files."""
    for name, mirror in (
        ("superblock", superblock_mirror(device)),
        ("journal", loaded.journal.mirror),
        ("checkpoint", loaded.checkpoint),
    ):
        for extent in mirror.extents():
            yield name, extent


class _Users:
    """Who uses which pages: inodes, or what is named; in columns, for there may be millions."""

    def __init__(self) -> None:
        self._places = array("Q")
        self._pages = array("Q")
        self._inos = array("Q")
        self._names: list[str] = []

    def add(self, place: int, pages: int, user: int | str) -> None:
        if isinstance(user, str):  # before all inodes
            self._names.append(user)
        self._places.append(place)
        self._pages.append(pages)
        self._inos.append(0 if isinstance(user, str) else user)

    def by_place(self) -> Iterator[tuple[int, int, int | str]]:
        """Place, pages and user."""
        for row in sorted(range(len(self._places)), key=self._places.__getitem__):
            user = self._names[row] if row < len(self._names) else self._inos[row]
            yield self._places[row], self._pages[row], user


class _Tree:
    """All inodes, unpacked; `broken` names those that could not be."""

    def __init__(self, loaded: Loaded) -> None:
        self._inodes, broken = loaded.state.unpack_all()
        self.broken = [
            Finding(Invariant.RECORD, f"inode {ino}: {error}") for ino, error in broken.items()
        ]
        self._ways = self._walk()

    def _walk(self) -> dict[int, tuple[int, bytes]]:
        """The directory and a name there of every inode that can be reached from the root."""
        ways = {ROOT_INO: (ROOT_INO, b"")}
        waiting = [ROOT_INO]
        while waiting:
            ino = waiting.pop()
            inode = self._inodes.get(ino)
            if inode is None:
                continue
            for name, (child, _) in inode.names.items():
                if child not in ways:
                    ways[child] = (ino, name)
                    waiting.append(child)
        return ways

    def _path(self, ino: int) -> bytes:
        """A path from the root; empty if there is none, or it is longer than any that is used."""
        if ino not in self._ways:
            return b""
        path = b""
        while ino != ROOT_INO and len(path) < _PATH_MAX:
            ino, name = self._ways[ino]
            path = b"/" + name + path
        return (path or b"/") if len(path) < _PATH_MAX else b""

    def _finding(self, invariant: Invariant, ino: int, text: str) -> Finding:
        return Finding(invariant, f"inode {ino}: {text}", self._path(ino))

    def check_places(self, metadata: Iterator[tuple[str, Extent]], size: int) -> Iterator[Finding]:
        """F4, F5: runs are in order and inside, and no page belongs to two."""
        users = _Users()
        for name, extent in metadata:
            users.add(extent.offset // PAGE, extent.length // PAGE, name)
        for ino, inode in self._inodes.items():
            if len(inode.map) and not stat.S_ISREG(inode.attributes.mode):
                yield self._finding(Invariant.RECORD, ino, "is no regular file, and has runs")
            if inode.map.is_ascending(size // PAGE):
                for place, pages in joined(inode.map.places()):
                    users.add(place, pages, ino)
                continue
            end = 0
            for run in inode.map.runs():
                if run.pgoff < end or not run.pages or run.place + run.pages > size // PAGE:
                    yield self._finding(Invariant.RECORD, ino, f"{_say(run)} is impossible")
                else:
                    users.add(run.place, run.pages, ino)
                end = run.end
        end = 0
        before: int | str = 0
        for place, pages, user in users.by_place():
            if place < end:
                whose = before if isinstance(before, str) else f"inode {before}"
                what = f"pages from {place} on belong to {whose}, too"
                yield self._finding(Invariant.PLACE, user if isinstance(user, int) else 0, what)
            if place + pages > end:
                end, before = place + pages, user

    def check_names(self) -> Iterator[Finding]:
        """F6, F7, F9: the root is there, names stand for what is there, directories know theirs."""
        root = self._inodes.get(ROOT_INO)
        if root is None or not stat.S_ISDIR(root.attributes.mode):
            yield Finding(Invariant.ROOT, "there is no root directory")
        elif root.attributes.parent != ROOT_INO:
            yield Finding(Invariant.ROOT, "the root is not its own parent", b"/")
        for ino, inode in self._inodes.items():
            if inode.names and not stat.S_ISDIR(inode.attributes.mode):
                yield self._finding(Invariant.NAME, ino, "is no directory, and has names")
            for name, (child, kind) in inode.names.items():
                yield from self._check_name(ino, name, child, kind)

    def _check_name(self, ino: int, name: bytes, child: int, kind: int) -> Iterator[Finding]:
        if not is_name(name):
            yield self._finding(Invariant.NAME, ino, f"holds {name!r}, which is no name")
        inode = self._inodes.get(child)
        if inode is None:
            yield self._finding(
                Invariant.NAME, ino, f"holds {name!r} for inode {child}, which is not there"
            )
        elif child == ROOT_INO:
            yield self._finding(Invariant.NAME, ino, f"holds {name!r} for the root")
        elif inode.type != kind:
            yield self._finding(
                Invariant.NAME, ino, f"calls {name!r} {kind:o}, it is {inode.type:o}"
            )
        elif stat.S_ISDIR(kind) and inode.attributes.parent != ino:
            what = f"is in inode {ino}, and says {inode.attributes.parent}"
            yield self._finding(Invariant.PARENT, child, what)

    def check_links(self) -> Iterator[Finding]:
        """F8, F10: link counts are right, and everything that has a name can be reached."""
        names, subdirectories = count_names(self._inodes)
        for ino, inode in self._inodes.items():
            nlink = inode.attributes.nlink
            wanted = names[ino]
            if stat.S_ISDIR(inode.attributes.mode):
                if wanted > 1:
                    yield self._finding(Invariant.LINKS, ino, f"has {wanted} names")
                has_name = wanted or ino == ROOT_INO
                wanted = 2 + subdirectories[ino] if has_name else 0
            if nlink != wanted:
                yield self._finding(Invariant.LINKS, ino, f"nlink is {nlink}, it has {wanted}")
            if ino not in self._ways and (nlink or inode.names):
                yield self._finding(Invariant.REACHED, ino, "cannot be reached from the root")

    def check_inodes(self, next_ino: int) -> Iterator[Finding]:
        """F11, F12: numbers were given, and sizes fit."""
        for ino, inode in self._inodes.items():
            if ino >= next_ino or (ino < FIRST_INO and ino != ROOT_INO):
                yield self._finding(Invariant.NUMBER, ino, f"the next number is {next_ino}")
            size = inode.attributes.size
            if stat.S_ISLNK(inode.attributes.mode):
                if size != len(inode.target):
                    what = f"size is {size}, the target has {len(inode.target)}"
                    yield self._finding(Invariant.SIZE, ino, what)
            elif not 0 <= size <= MAX_SIZE:
                yield self._finding(Invariant.SIZE, ino, f"size is {size}")


def count_names(inodes: dict[int, Inode]) -> tuple[Counter[int], Counter[int]]:
    """How many names each inode has, and how many directories each directory holds."""
    names: Counter[int] = Counter()
    subdirectories: Counter[int] = Counter()
    for ino, inode in inodes.items():
        for child, kind in inode.names.values():
            names[child] += 1
            subdirectories[ino] += stat.S_ISDIR(kind)
    return names, subdirectories


def _say(run: Run) -> str:
    return f"the run of {run.pages} pages from {run.pgoff} on, at {run.place},"
