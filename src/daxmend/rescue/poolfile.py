"""A file in a pool that nobody has open, as a subject: the unit of loss is the cacheline."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from daxmend.dax.api import Recovery, Salvage
from daxmend.extent import Extent, merged
from daxmend.host.deviceuser import User
from daxmend.host.unknown import Unknown
from daxmend.host.zeroing import ZeroVerb
from daxmend.rescue.subject import Subject, iter_pieces
from daxmend.rescue.target import FileExtent, inner_path, is_no_file
from daxmend.stack.device import open_device
from daxmend.stack.filesystem import open_filesystem
from daxmend.units import CACHELINE, PAGE


class PoolFile:
    """Implements `Subject`. The pool is locked while it is open; no link in `path` is followed."""

    grain = CACHELINE
    is_touched = False  # nobody else can
    has_holes = True

    def __init__(self, pool: Path, path: bytes, name: str, *, writable: bool = False) -> None:
        self.name = name
        self.pool = pool
        self.location = (pool, b"/" + b"/".join(inner_path(path)))
        self._device = open_device(pool, writable=writable)
        try:
            self._fs = open_filesystem(self._device, writable=writable)
        except BaseException:
            self._device.close()
            raise
        try:
            self._ino = self._find(path)
        except BaseException:
            self.close()
            raise
        found = self._fs.stat(self._ino)
        self.size = found.size
        self.mtime_ns = found.mtime_ns
        self.mode = stat.S_IMODE(found.mode)
        self.owner = os.stat(pool).st_uid
        self.identity = self._ino
        self.notices = [*self._device.notices, *self._fs.notices]

    def _find(self, path: bytes) -> int:
        try:
            ino = self._fs.root
            for part in inner_path(path):
                ino = self._fs.lookup(ino, part)
        except OSError as error:
            raise OSError(error.errno, error.strerror, self.name) from None
        mode = self._fs.stat(ino).mode
        if not stat.S_ISREG(mode):
            raise is_no_file(self.name, mode, str(self.pool))
        return ino

    # -- reading ---------------------------------------------------------------------------

    def data(self) -> Iterator[Extent]:
        """See `Subject`."""
        written = self._fs.device_extents(self._ino, Extent(0, self.size))
        yield from merged(Extent(offset, place.length) for offset, place in written)

    def salvage(self, extent: Extent) -> Salvage:
        """See `Subject`: also what recoveries kept (R18)."""
        return self._fs.salvage(self._ino, extent)

    def pieces(self, extent: Extent) -> Iterator[tuple[Extent, memoryview | None]]:
        """See `Subject`."""
        return iter_pieces(extent, self.salvage(extent))

    def unreadable(self, extent: Extent) -> Iterator[Extent]:
        """See `Subject`: the sectors in the record; a salvage enters those that it meets (R3)."""
        self.salvage(extent)
        bad = (run.intersection(extent) for run in self._fs.bad_ranges(self._ino))
        return (run for run in bad if run.length)

    # -- what it is ------------------------------------------------------------------------

    def validate(self) -> None:
        """See `Subject`: nobody else can change it."""

    def user(self) -> User | None:
        """See `Subject`."""
        return None

    def is_same(self, other: Subject) -> bool:
        """See `Subject`."""
        if not isinstance(other, PoolFile):
            return False
        return os.path.samefile(self.pool, other.pool) and self._ino == other._ino

    def is_same_as_path(self, path: str | os.PathLike[str]) -> bool:
        """See `Subject`: the pool."""
        try:
            return os.path.samefile(self.pool, path)
        except OSError:
            return False

    def extents(self) -> list[FileExtent] | Unknown:
        """See `Subject`."""
        return [FileExtent(*each) for each in self._fs.extents(self._ino)]

    def sharers(self, extents: list[Extent]) -> list[str]:
        """See `Subject`: no two files share blocks."""
        return []

    def note_journal(self, path: Path | None) -> None:
        """See `Subject`: a file in a pool has one name for journals, the pool's and its path."""

    def noted_journal(self) -> Path | None:
        """See `Subject`."""
        return None

    # -- writing ---------------------------------------------------------------------------

    def write(self, offset: int, data: bytes) -> int:
        """See `Subject`. Latent poison heals, too: it was met by the salvage (R5, R23)."""
        return self._fs.write(self._ino, offset, data, Recovery.ALWAYS)

    def zero(self, extent: Extent) -> str:
        """See `Subject`."""
        self._fs.zeroinit(self._ino, extent.offset, extent.length)
        return ZeroVerb.ZEROINIT.value

    def punch(self, extent: Extent) -> None:
        """See `Subject`."""
        whole = extent.widened(PAGE)
        self._fs.punch(self._ino, whole.offset, whole.length)

    def restore_size(self, size: int) -> None:
        """See `Subject`: a write never changes it."""

    def sync(self) -> None:
        """See `Subject`."""
        self._fs.sync()

    def close(self) -> None:
        """See `Subject`."""
        self._fs.close()
        self._device.close()
