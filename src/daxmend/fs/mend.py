"""What makes the invariants hold again, in memory, losing as little as can be (format.md §6.5).

What has no name any more is put into `/lost+found`.
"""

from __future__ import annotations

import stat
import time
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from daxmend.extent import Extent, ExtentSet
from daxmend.fs.check import MOST, count_names, metadata_extents
from daxmend.fs.extentmap import ExtentMap, joined
from daxmend.fs.finding import Invariant
from daxmend.fs.inode import (
    FIRST_INO,
    MAX_INO,
    MAX_SIZE,
    ROOT_INO,
    Attributes,
    Inode,
    is_name,
)
from daxmend.fs.state import State
from daxmend.units import PAGE

if TYPE_CHECKING:
    from daxmend.dax.api import DaxDevice
    from daxmend.fs.loading import Loaded

LOST_AND_FOUND = b"lost+found"


class Mended(NamedTuple):
    """A state that keeps the invariants, and the steps that lead to it."""

    state: State
    steps: list[str]
    takes_pages: bool  # from files: they read as zeros there


def mend(device: DaxDevice, loaded: Loaded) -> Mended:
    """What a repair would make of what was loaded, whose state it uses up; nothing is written."""
    mender = _Mender(loaded)
    mender.mend(ExtentSet(PAGE, (extent for _, extent in metadata_extents(device, loaded))), device)
    return Mended(mender.state(), mender.all_steps(), mender.takes_pages)


class _Mender:
    """All inodes as objects, changed until the invariants hold; `all_steps` says how."""

    def __init__(self, loaded: Loaded) -> None:
        self.takes_pages = False
        self._steps: dict[Invariant, list[str]] = {}
        self._more: Counter[Invariant] = Counter()  # steps that are not said one by one
        self._inodes, broken = loaded.state.unpack_all()
        for ino, error in broken.items():
            self._step(Invariant.RECORD, f"drop inode {ino}, which is not whole ({error})")
        self._next_ino = loaded.state.next_ino

    def _step(self, invariant: Invariant, text: str) -> None:
        steps = self._steps.setdefault(invariant, [])
        if len(steps) < MOST:
            steps.append(f"{invariant}: {text}")
        else:
            self._more[invariant] += 1

    def all_steps(self) -> list[str]:
        """What was done, by invariant; of each kind the first and the number of the others."""
        said = [step for steps in self._steps.values() for step in steps]
        return said + [f"{invariant}: {count} more" for invariant, count in self._more.items()]

    def state(self) -> State:
        """The mended state.

        Without the nameless, which mounting removes: nothing may be added to a damaged journal.
        """
        state = State()
        state.next_ino = self._next_ino
        for inode in self._inodes.values():
            if inode.attributes.nlink:
                inode.record = None
                state.add_inode(inode)
        return state

    def mend(self, metadata: ExtentSet, device: DaxDevice) -> None:
        """Everything, in an order in which no step spoils an earlier one."""
        self._mend_numbers()
        self._mend_root()
        self._mend_places(metadata, device.size)
        self._mend_names()
        self._mend_parents()
        self._adopt_unreached()
        self._mend_links()
        self._mend_sizes()

    def _set(self, inode: Inode, **attributes: int) -> None:
        inode.attributes = inode.attributes._replace(**attributes)

    def _is_directory(self, ino: int) -> bool:
        inode = self._inodes.get(ino)
        return inode is not None and stat.S_ISDIR(inode.attributes.mode)

    def _mend_numbers(self) -> None:
        is_given = range(FIRST_INO, MAX_INO).__contains__
        for ino in [i for i in self._inodes if not is_given(i) and i != ROOT_INO]:
            self._step(Invariant.NUMBER, f"drop inode {ino}, whose number is never given")
            del self._inodes[ino]
        wanted = max([FIRST_INO, *(ino + 1 for ino in self._inodes)])
        if self._next_ino < wanted:
            self._step(Invariant.NUMBER, f"the next inode number becomes {wanted}")
            self._next_ino = wanted

    def _mend_root(self) -> None:
        root = self._inodes.get(ROOT_INO)
        if root is None or not stat.S_ISDIR(root.attributes.mode):
            self._step(Invariant.ROOT, "make a new root directory")
            self._inodes[ROOT_INO] = self._new_directory(ROOT_INO, ROOT_INO)
        elif root.attributes.parent != ROOT_INO:
            self._step(Invariant.ROOT, "the root becomes its own parent")
            self._set(root, parent=ROOT_INO)

    def _new_directory(self, ino: int, parent: int) -> Inode:
        times = (time.time_ns(),) * 4
        mode = stat.S_IFDIR | 0o755
        return Inode(Attributes(ino, mode, 0, 0, 2, 0, 0, 0, parent, *times))

    def _mend_places(self, used: ExtentSet, size: int) -> None:
        """Of two files that have the same page the one with the lower number keeps it."""
        for ino in sorted(self._inodes):
            inode = self._inodes[ino]
            if _take_places(inode, used, size):
                continue
            kept = ExtentMap()
            end = 0
            for run in inode.map.runs():
                place = Extent(run.place * PAGE, run.pages * PAGE)
                is_possible = run.pages and run.pgoff >= end and place.end <= size
                is_possible = is_possible and stat.S_ISREG(inode.attributes.mode)
                if not is_possible or used.overlaps(place):
                    self.takes_pages = True
                    self._step(
                        Invariant.PLACE if is_possible else Invariant.RECORD,
                        f"inode {ino} loses its pages {run.pgoff} to {run.end}: "
                        f"[{place.offset}, {place.end}) of the device is not its own",
                    )
                else:
                    used.add(place)
                    kept.map(run)
                    end = run.end
            if len(kept) != len(inode.map) or kept.page_count != inode.map.page_count:
                inode.map = kept

    def _mend_names(self) -> None:
        """Names that stand for nothing go; types are as the inodes say."""
        for ino, inode in self._inodes.items():
            is_directory = stat.S_ISDIR(inode.attributes.mode)
            for name, (child, kind) in list(inode.names.items()):
                found = self._inodes.get(child)
                if found is None or child == ROOT_INO or not is_directory or not is_name(name):
                    self._step(Invariant.NAME, f"inode {ino} loses the name {name!r} ({child})")
                    inode.drop_name(name)
                elif found.type != kind:
                    self._step(Invariant.NAME, f"inode {ino}: {name!r} is of type {found.type:o}")
                    inode.set_name(name, child, found.type)

    def _mend_parents(self) -> None:
        """A directory has one name, and knows where."""
        holders: dict[int, list[tuple[int, bytes]]] = {}
        for ino, inode in self._inodes.items():
            for name, (child, kind) in inode.names.items():
                if stat.S_ISDIR(kind):
                    holders.setdefault(child, []).append((ino, name))
        for child, places in holders.items():
            inode = self._inodes[child]
            places.sort(key=lambda place: place[0] != inode.attributes.parent)
            for ino, name in places[1:]:
                self._step(Invariant.LINKS, f"inode {ino} loses {name!r}, a second name of {child}")
                self._inodes[ino].drop_name(name)
            if inode.attributes.parent != places[0][0]:
                self._step(Invariant.PARENT, f"the parent of inode {child} is {places[0][0]}")
                self._set(inode, parent=places[0][0])

    def _reached(self) -> set[int]:
        reached = {ROOT_INO}
        waiting = [ROOT_INO]
        while waiting:
            for child, _ in self._inodes[waiting.pop()].names.values():
                if child not in reached:
                    reached.add(child)
                    waiting.append(child)
        return reached

    def _adopt_unreached(self) -> None:
        """What nothing leads to any more gets a name in `/lost+found`; the nameless are left."""
        while True:
            reached = self._reached()
            unreached = [ino for ino in self._inodes if ino not in reached and self._has_use(ino)]
            if not unreached:
                return
            held = {child for ino in unreached for child, _ in self._inodes[ino].names.values()}
            heads = [ino for ino in unreached if ino not in held]  # of lost trees
            for ino in heads or [self._one_of_a_ring(unreached)]:
                self._adopt(ino)

    def _one_of_a_ring(self, unreached: list[int]) -> int:
        """Where everything has a name and nothing is reached, the way up from anywhere ends in a
        ring of directories."""
        ino = next(ino for ino in unreached if self._is_directory(ino))
        seen: set[int] = set()
        while ino not in seen:
            seen.add(ino)
            ino = self._inodes[ino].attributes.parent
        return ino

    def _has_use(self, ino: int) -> bool:
        inode = self._inodes[ino]
        return inode.attributes.nlink > 0 or bool(inode.names)

    def _adopt(self, ino: int) -> None:
        inode = self._inodes[ino]
        home = self._lost_and_found()
        name = b"#%d" % ino
        while name in home.names:
            name += b"~"
        self._step(Invariant.REACHED, f"inode {ino} is put into /lost+found as {name.decode()}")
        if stat.S_ISDIR(inode.attributes.mode):
            holder = self._inodes.get(inode.attributes.parent)
            for old in [n for n, (c, _) in holder.names.items() if c == ino] if holder else []:
                assert holder is not None
                holder.drop_name(old)  # one of a ring
            self._set(inode, parent=home.ino)
        home.set_name(name, ino, inode.type)

    def _lost_and_found(self) -> Inode:
        root = self._inodes[ROOT_INO]
        found = root.names.get(LOST_AND_FOUND)
        if found is not None and self._is_directory(found[0]):
            return self._inodes[found[0]]
        name = LOST_AND_FOUND
        while name in root.names:
            name += b"~"
        home = self._new_directory(self._next_ino, ROOT_INO)
        self._inodes[home.ino] = home
        self._next_ino += 1
        root.set_name(name, home.ino, stat.S_IFDIR)
        return home

    def _mend_links(self) -> None:
        names, subdirectories = count_names(self._inodes)
        for ino, inode in self._inodes.items():
            wanted = names[ino]
            if stat.S_ISDIR(inode.attributes.mode) and (wanted or ino == ROOT_INO):
                wanted = 2 + subdirectories[ino]
            if inode.attributes.nlink != wanted:
                self._step(Invariant.LINKS, f"inode {ino} has {wanted} links")
                self._set(inode, nlink=wanted)

    def _mend_sizes(self) -> None:
        for ino, inode in self._inodes.items():
            size = inode.attributes.size
            wanted = len(inode.target) if stat.S_ISLNK(inode.attributes.mode) else size
            if not 0 <= wanted <= MAX_SIZE:
                last = inode.map.last()
                wanted = last.end * PAGE if last else 0
            if wanted != size:
                self._step(Invariant.SIZE, f"the size of inode {ino} becomes {wanted}")
                self._set(inode, size=wanted)


def _take_places(inode: Inode, used: ExtentSet, size: int) -> bool:
    """Add all places of an inode to those in use, if it can have every one of them."""
    if not len(inode.map):
        return True
    if not stat.S_ISREG(inode.attributes.mode) or not inode.map.is_ascending(size // PAGE):
        return False
    own = ExtentSet(PAGE)
    for place, pages in joined(inode.map.places()):
        extent = Extent(place * PAGE, pages * PAGE)
        if used.overlaps(extent) or own.overlaps(extent):
            return False
        own.add(extent)
    used.update(own)
    return True
