"""The file system's metadata in memory, and the one place where a change takes effect."""

from __future__ import annotations

import errno
import stat
from typing import TYPE_CHECKING

from daxmend.errors import CorruptionError, os_error
from daxmend.fs.change import (
    Change,
    InodeGone,
    InodeSet,
    Mapped,
    NameGone,
    NameSet,
    TargetSet,
    Unmapped,
    Written,
    XattrGone,
    XattrSet,
    ino_of,
)
from daxmend.fs.extentmap import ExtentMap, Run
from daxmend.fs.inode import (
    MAX_INO,
    NAME_MAX,
    NO_GAP,
    Attributes,
    Inode,
    RecordHead,
    map_of,
    places_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


class State:
    """All inodes: those in use as objects, the others as the records of the last checkpoint."""

    def __init__(self) -> None:
        self.live: dict[int, Inode] = {}  # those that somebody asked for
        self._records: dict[int, bytes] = {}
        self._nameless: set[int] = set()  # among the records
        self.records_length = 0  # bytes of the next checkpoint
        self.next_ino = 0

    def __len__(self) -> int:
        return len(self.live) + len(self._records)

    def __contains__(self, ino: int) -> bool:
        return ino in self.live or ino in self._records

    def add_record(self, head: RecordHead, record: bytes) -> None:
        """While mounting: an inode as the checkpoint has it."""
        self._records[head.ino] = record
        self.records_length += head.length
        if head.nlink == 0:
            self._nameless.add(head.ino)

    def add_inode(self, inode: Inode) -> None:
        """While repairing: an inode that was mended."""
        self.live[inode.ino] = inode
        self.records_length += inode.record_length

    def inode(self, ino: int) -> Inode:
        """The inode. Raises ESTALE if there is none, `CorruptionError` if its runs cannot be."""
        inode = self.live.get(ino)
        if inode is None:
            inode = self._unpacked(ino)
            if not inode.map.is_ascending():
                raise CorruptionError("inode record", 0, f"runs of inode {ino}", "ascending", "not")
            self.live[ino] = inode
            del self._records[ino]
        return inode

    def unpack_all(self) -> tuple[dict[int, Inode], dict[int, CorruptionError]]:
        """For a check: all inodes, whatever their runs are; and why others cannot be unpacked."""
        broken = {}
        for ino in list(self._records):
            try:
                self.live[ino] = self._unpacked(ino)
                del self._records[ino]
            except CorruptionError as error:
                broken[ino] = error
        return dict(self.live), broken

    def _unpacked(self, ino: int) -> Inode:
        record = self._records.get(ino)
        if record is None:
            raise os_error(errno.ESTALE)
        return Inode.unpack(record)

    def inos(self) -> list[int]:
        """The numbers of all inodes."""
        return [*self.live, *self._records]

    def nameless(self) -> list[int]:
        """The inodes without a name."""
        live = [ino for ino, inode in self.live.items() if inode.attributes.nlink == 0]
        return live + [ino for ino in self._nameless if ino in self._records]

    def iter_maps(self) -> Iterator[tuple[int, ExtentMap]]:
        """Number and mapping of every inode that has one; does not unpack the others."""
        for ino, inode in self.live.items():
            if len(inode.map):
                yield ino, inode.map
        for ino, record in self._records.items():
            runs = RecordHead.unpack_from(record).runs
            if runs:
                yield ino, map_of(record, runs)

    def iter_places(self) -> Iterator[tuple[int, int]]:
        """Place and number of pages of every run of every inode."""
        for inode in self.live.values():
            yield from inode.map.places()
        for record in self._records.values():
            yield from places_of(record)

    def directories(self) -> Iterator[Inode]:
        """All directories; unpacks them."""
        for ino in self.inos():
            record = self._records.get(ino)
            mode = (
                self.live[ino].attributes.mode
                if record is None
                else RecordHead.unpack_from(record).mode
            )
            if stat.S_ISDIR(mode):
                yield self.inode(ino)

    def records(self) -> Iterator[bytes]:
        """The records of all inodes, for a checkpoint."""
        for inode in self.live.values():
            yield inode.pack()
        yield from self._records.values()

    def apply(self, change: Change) -> Iterable[Run]:
        """Let a change take effect; returns the runs of pages that it freed, to be used at once.

        Raises `CorruptionError` for one that does not fit, which only a damaged journal can hold.
        """
        try:
            return self._apply(change)
        except (OSError, KeyError, ValueError) as error:
            what = f"{type(change).__name__} for inode {ino_of(change)}"
            raise CorruptionError("journal", 0, what, "a change that fits", repr(error)) from None

    def _apply(self, change: Change) -> Iterable[Run]:
        if isinstance(change, InodeSet):
            self._set_attributes(change.attributes)
            return []
        if isinstance(change, InodeGone):
            inode = self.inode(change.ino)
            self.records_length -= inode.record_length
            del self.live[change.ino]
            inode.gap = NO_GAP  # a reader without the lock looks at it last
            return inode.map.runs()
        inode = self.inode(ino_of(change))
        self.records_length -= inode.record_length
        inode.record = None
        try:
            return _change_inode(inode, change)
        finally:
            self.records_length += inode.record_length

    def _set_attributes(self, attributes: Attributes) -> None:
        ino = attributes.ino
        if ino >= MAX_INO:
            raise ValueError(f"there is no inode {ino}")
        if ino in self:
            inode = self.inode(ino)
            inode.attributes = attributes
            inode.record = None
            inode.gap = NO_GAP
        else:
            inode = self.live[ino] = Inode(attributes)
            self.records_length += inode.record_length
        self.next_ino = max(self.next_ino, ino + 1)


def _change_inode(inode: Inode, change: Change) -> Iterable[Run]:
    """All changes of one inode but its attributes; returns the freed runs.

    Raises `ValueError` for numbers that cannot be.
    """
    freed: Iterable[Run] = ()
    match change:
        case NameSet(_, ino, kind, name):
            if len(name) > NAME_MAX or stat.S_IFMT(kind) != kind:
                raise ValueError("no name, or of no type")
            inode.set_name(name, ino, kind)
        case NameGone(_, name):
            inode.drop_name(name)
        case Mapped(_, pgoff, place, count, is_written):
            inode.map.map(Run(pgoff, place, count, is_written))
        case Unmapped(_, first, end):
            freed = inode.map.unmap(first, end)
        case Written(_, first, end):
            inode.map.mark_written(first, end)
        case XattrSet(_, name, value):
            if len(name) > NAME_MAX:
                raise ValueError("no name")
            inode.set_xattr(name, value)
        case XattrGone(_, name):
            inode.drop_xattr(name)
        case TargetSet(_, target):
            inode.target = target
    inode.gap = NO_GAP
    return freed
