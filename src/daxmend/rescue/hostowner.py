"""Whose bytes of a mounted file system lie on a range of its device.

GETFSMAP is asked first: its time is that of the ranges. It may name free space, metadata, or an
inode; names of inodes are then found in the directories alone. What it does not tell is looked for
in the extents of every file (FIEMAP).
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from daxmend.extent import Extent, ExtentSet
from daxmend.host.fiemap import FiemapExtent, file_extents
from daxmend.host.fsmap import FsmapRecord, read_fsmap
from daxmend.host.mountinfo import Mount
from daxmend.host.unknown import Unknown
from daxmend.host.xfsgeometry import read_geometry
from daxmend.units import SECTOR

_TELL_EACH: Final = 256  # files
Progress = Callable[[int, int], None]  # files looked at, files there are


class Owned(NamedTuple):
    """`extent`, in bytes of the file system's device, and its owner, as `Range` has it."""

    extent: Extent
    owner: str | None
    path: bytes = b""
    file_offset: int | None = None


class _Entry(NamedTuple):
    path: bytes
    ino: int
    is_directory: bool
    is_regular: bool


class OwnerSearch:
    """The owners of ranges of one mounted file system; `notices` say what was not looked at."""

    def __init__(self, mount: Mount, progress: Progress = lambda done, total: None) -> None:
        self.notices: list[str] = []
        self._mount = mount
        self._progress = progress
        self._found: list[Owned] = []
        self._named: dict[int, list[FsmapRecord]] = {}  # by inode
        self._untold = ExtentSet(SECTOR)
        self._shared = False
        self._closed = 0  # files and directories that could not be looked at

    def find(self, extents: list[Extent]) -> list[Owned]:
        """Split by owner, ascending; extents are whole sectors, ascending and disjoint."""
        fd = os.open(self._mount.mount_point, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._ask_fsmap(fd, extents)
            self._take_fixed(fd)
        finally:
            os.close(fd)
        if self._named or self._untold:
            self._walk()
        self._leftovers()
        return sorted(self._found, key=lambda each: (each.extent, each.path))

    @property
    def closed(self) -> int:
        """How many files and directories could not be looked into."""
        return self._closed

    def _ask_fsmap(self, fd: int, extents: list[Extent]) -> None:
        device = os.fstat(fd).st_dev
        for extent in extents:
            self._untold.add(extent)
            try:
                records = read_fsmap(fd, device, extent)
            except OSError as error:
                records = Unknown(f"GETFSMAP: {error.strerror}")
            if isinstance(records, Unknown):
                continue
            for record in records:
                self._take(record)

    def _take(self, record: FsmapRecord) -> None:
        # ext4 leaves some of what is in use out, and says "unknown" of the rest: `_untold` both.
        if record.is_untold:
            return
        self._untold.discard(record.extent.widened(SECTOR))
        if record.ino is not None:
            self._named.setdefault(record.ino, []).append(record)
        else:
            owner = "free" if record.is_free else "metadata"
            self._found.append(Owned(record.extent, owner))

    def _take_fixed(self, fd: int) -> None:
        """What XFS without a reverse map does not tell, and its geometry does."""
        geometry = read_geometry(fd) if self._untold else Unknown("nothing is to be told")
        if isinstance(geometry, Unknown):
            return
        for fixed in geometry.fixed_metadata():
            for part in list(self._untold.extents(fixed)):
                self._untold.discard(part)
                self._found.append(Owned(part, "metadata"))

    # -- the walk --------------------------------------------------------------------------

    def _walk(self) -> None:
        """Names for inodes, and files for what is untold, until all is found or all was seen."""
        wanted = list(self._untold)
        starts = [extent.offset for extent in wanted]
        named = dict(self._named)
        counts = os.statvfs(self._mount.mount_point)
        total = counts.f_files - counts.f_ffree
        for done, entry in enumerate(self._entries()):
            if not done % _TELL_EACH:
                self._progress(min(done, total), total)
            for record in named.pop(entry.ino, ()):
                self._name(record, entry)
            if wanted:
                self._look_into(entry, wanted, starts)
            if not named and not self._shared and not self._untold:
                break
        self._progress(total, total)
        for records in named.values():
            for record in records:  # an inode that has no name, or one that was not found
                owner = "metadata" if record.is_metadata else "file"
                self._found.append(Owned(record.extent, owner, b"", record.offset))

    def _entries(self) -> Iterator[_Entry]:
        """Everything in the file system, directories too; not what is mounted on it."""
        root = os.fsencode(self._mount.mount_point)
        found = os.stat(root)
        yield _Entry(root, found.st_ino, True, False)
        pending = [root]
        while pending:
            try:
                with os.scandir(pending.pop()) as entries:
                    for entry in entries:
                        is_directory = entry.is_dir(follow_symlinks=False)
                        if is_directory:
                            if entry.stat(follow_symlinks=False).st_dev != found.st_dev:
                                continue
                            pending.append(entry.path)
                        is_regular = entry.is_file(follow_symlinks=False)
                        yield _Entry(entry.path, entry.inode(), is_directory, is_regular)
            except OSError:
                self._closed += 1

    def _name(self, record: FsmapRecord, entry: _Entry) -> None:
        if record.is_metadata or entry.is_directory:
            self._found.append(Owned(record.extent, "metadata", entry.path))
        else:
            self._found.append(Owned(record.extent, "file", entry.path, record.offset))

    def _look_into(self, entry: _Entry, wanted: list[Extent], starts: list[int]) -> None:
        """Which of the untold ranges a file or directory has."""
        for extent in self._extents_of(entry):
            place = Extent(extent.device_offset, extent.length)
            at = max(bisect_right(starts, place.offset) - 1, 0)
            while at < len(wanted) and wanted[at].offset < place.end:
                part = wanted[at].intersection(place)
                at += 1
                if not part.length:
                    continue
                self._untold.discard(part)
                self._shared = self._shared or extent.is_shared
                offset = part.offset + extent.offset - place.offset
                owned = Owned(part, "file", entry.path, offset)
                if entry.is_directory:
                    owned = Owned(part, "metadata", entry.path)
                self._found.append(owned)

    def _extents_of(self, entry: _Entry) -> list[FiemapExtent]:
        if not (entry.is_directory or entry.is_regular):
            return []  # nothing that may be opened; a symbolic link's text is metadata
        try:
            fd = os.open(
                entry.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
            )
        except OSError:
            self._closed += 1
            return []
        try:
            if os.fstat(fd).st_ino != entry.ino:
                return []  # something else is mounted over it
            extents = file_extents(fd, sync=False)
            return [] if isinstance(extents, Unknown) else [e for e in extents if e.has_place]
        except OSError:
            self._closed += 1
            return []
        finally:
            os.close(fd)

    def _leftovers(self) -> None:
        """What has no owner that could be found."""
        length = self._untold.length
        self._found += [Owned(extent, None) for extent in self._untold]
        where = self._mount.mount_point
        if length and self._closed:
            self.notices.append(
                f"{where}: {length} bad bytes may belong to {self._closed} files or directories "
                "that may not be looked into; ask root"
            )
        elif length:
            self.notices.append(
                f"{where}: {length} bad bytes belong to no file that has a name there: they are "
                "metadata, free, or a file's that was removed while it is open"
            )
