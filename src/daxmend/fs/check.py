"""`check`: reads a file system and says which invariants it breaks (format.md §6.5).

Only reads, and only what is on the medium: it shares with mounting how structures are unpacked, and
nothing of what mounting makes of them.
"""

from __future__ import annotations

import stat
from collections import Counter
from typing import TYPE_CHECKING

from daxmend.errors import CorruptionError
from daxmend.extent import Extent
from daxmend.fs.extentmap import Run
from daxmend.fs.finding import Finding, Invariant
from daxmend.fs.inode import FIRST_INO, ROOT_INO, Inode
from daxmend.fs.loading import Loaded, load
from daxmend.fs.superblock import superblock_mirror
from daxmend.units import PAGE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from daxmend.dax.api import DaxDevice

NAME_MAX = 255  # bytes
MAX_SIZE = (1 << 63) - PAGE  # of a file; what an offset can hold, in whole pages


def check(device: DaxDevice) -> Iterator[Finding]:
    """Everything that is wrong with the file system on the device; nothing if it is whole.

    Raises `CorruptionError` where no superblock proves itself, `UnsupportedError` for another
    version of the format.
    """
    loaded = load(device)
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


class _Tree:
    """All inodes, unpacked; `broken` names those that could not be."""

    def __init__(self, loaded: Loaded) -> None:
        self.broken: list[Finding] = []
        self._inodes: dict[int, Inode] = {}
        for ino in loaded.state.inos():
            try:
                self._inodes[ino] = loaded.state.inode(ino)
            except CorruptionError as error:
                self.broken.append(Finding(Invariant.RECORD, f"inode {ino}: {error}"))
        self._paths = self._walk()

    def _walk(self) -> dict[int, bytes]:
        """A path to every inode that can be reached from the root."""
        paths = {ROOT_INO: b"/"}
        waiting = [ROOT_INO]
        while waiting:
            ino = waiting.pop()
            inode = self._inodes.get(ino)
            if inode is None:
                continue
            for name, (child, _) in inode.names.items():
                if child not in paths:
                    paths[child] = paths[ino].rstrip(b"/") + b"/" + name
                    waiting.append(child)
        return paths

    def _finding(self, invariant: Invariant, ino: int, text: str) -> Finding:
        return Finding(invariant, f"inode {ino}: {text}", self._paths.get(ino, b""))

    def check_places(self, metadata: Iterator[tuple[str, Extent]], size: int) -> Iterator[Finding]:
        """F4, F5: runs are in order and inside, and no page belongs to two."""
        users: list[tuple[int, int, int, str]] = [
            (extent.offset // PAGE, extent.length // PAGE, 0, name) for name, extent in metadata
        ]
        for ino, inode in self._inodes.items():
            if len(inode.map) and not stat.S_ISREG(inode.attributes.mode):
                yield self._finding(Invariant.RECORD, ino, "is no regular file, and has runs")
            end = 0
            for run in inode.map.runs():
                if run.pgoff < end or not run.pages or run.place + run.pages > size // PAGE:
                    yield self._finding(Invariant.RECORD, ino, f"{_say(run)} is impossible")
                else:
                    users.append((run.place, run.pages, ino, f"inode {ino}"))
                end = run.end
        users.sort()
        end, before = 0, ""
        for place, pages, ino, name in users:
            if place < end:
                what = f"pages from {place} on belong to {before}, too"
                yield self._finding(Invariant.PLACE, ino, what)
            if place + pages > end:
                end, before = place + pages, name

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
        names: Counter[int] = Counter()
        subdirectories: Counter[int] = Counter()
        for ino, inode in self._inodes.items():
            for child, kind in inode.names.values():
                names[child] += 1
                subdirectories[ino] += stat.S_ISDIR(kind)
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
            if ino not in self._paths and (nlink or inode.names):
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


def is_name(name: bytes) -> bool:
    """True for what can stand in a directory."""
    is_special = name in (b"", b".", b"..")
    return not is_special and len(name) <= NAME_MAX and b"/" not in name and b"\0" not in name


def _say(run: Run) -> str:
    return f"the run of {run.pages} pages from {run.pgoff} on, at {run.place},"
