"""A dax device (`/dev/daxX.Y`) as a subject: it can only be mapped, and faults by pages.

It is saved, never repaired: there is no write(2) that clears, and what is mapped there is its
application's.
"""

from __future__ import annotations

import mmap
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from daxmend import _native
from daxmend._native import MemoryFault
from daxmend.dax.api import Salvage
from daxmend.errors import ChangedError, UnsupportedError
from daxmend.extent import Extent
from daxmend.host.deviceuser import User
from daxmend.rescue.devicefile import DeviceFile
from daxmend.rescue.hostfile import open_to_read
from daxmend.rescue.knownbad import KnownBad
from daxmend.rescue.subject import CHUNK, Subject, collected, iter_lost
from daxmend.units import PAGE, SECTOR, align_down


class DaxFile(DeviceFile):
    """Implements `Subject`, for reading; `size` is the device's, in bytes."""

    grain = SECTOR  # of what is recorded; what is not, faults by pages

    def __init__(self, path: Path, name: str, size: int, *, writable: bool = False) -> None:
        if writable:
            raise UnsupportedError(
                f"{name} is a dax device: no write clears its poison; save it, then ndctl "
                "clear-errors, and have its application write what was lost"
            )
        self.name = name
        self.size = size
        self.notices: list[str] = []
        self.location = (path, b"")
        self._fd = open_to_read(path, name)
        self._stat = os.fstat(self._fd)
        self._mapping = mmap.mmap(self._fd, size, mmap.MAP_SHARED, mmap.PROT_READ)
        self._target = memoryview(bytearray(CHUNK))
        self._known = KnownBad(path, SECTOR)
        self._known.ask()  # a load of what is recorded may cost more than an error

    def salvage(self, extent: Extent) -> Salvage:
        """See `Subject`."""
        return collected(extent, self.pieces(extent))

    def pieces(self, extent: Extent) -> Iterator[tuple[Extent, memoryview | None]]:
        """See `Subject`; what is recorded as bad is not loaded."""
        at = extent.offset
        for bad in [*self._known.within(extent), Extent(extent.end, 0)]:
            yield from self._load(Extent.between(at, bad.offset))
            if bad.length:
                yield bad, None
            at = bad.end

    def _load(self, extent: Extent) -> Iterator[tuple[Extent, memoryview | None]]:
        at = extent.offset
        while at < extent.end:
            target = self._target[: min(CHUNK, extent.end - at)]
            try:
                _native.read_into(self._mapping, at, target)
                done = len(target)
            except MemoryFault as fault:
                done = fault.done
            if done:
                yield Extent(at, done), target[:done]
                at += done
            if done < len(target):
                page = Extent(align_down(at, PAGE), PAGE).intersection(extent)
                lost = Extent.between(at, page.end)
                yield lost, None
                at = lost.end

    def unreadable(self, extent: Extent) -> Iterator[Extent]:
        """See `Subject`."""
        return iter_lost(self.pieces(extent))

    # -- what it is ------------------------------------------------------------------------

    def validate(self) -> None:
        """See `Subject`."""
        if not self.is_same_as_path(self.location[0]):
            raise ChangedError(f"{self.name} is another device now, or is not there; begin again")

    def user(self) -> User | None:
        """See `Subject`."""
        return None

    def is_same(self, other: Subject) -> bool:
        """See `Subject`."""
        return isinstance(other, DaxFile) and self.identity == other.identity

    def is_same_as_path(self, path: str | os.PathLike[str]) -> bool:
        """See `Subject`."""
        try:
            found = os.stat(path)
        except OSError:
            return False
        kinds = stat.S_IFMT(found.st_mode) == stat.S_IFMT(self._stat.st_mode)
        if found.st_rdev or self._stat.st_rdev:
            return kinds and found.st_rdev == self._stat.st_rdev
        return os.path.samestat(found, self._stat)

    # -- writing: it is refused when it is opened ------------------------------------------

    def write(self, offset: int, data: bytes) -> int:
        """See `Subject`."""
        raise UnsupportedError(f"{self.name} is not written to")

    def zero(self, extent: Extent) -> str:
        """See `Subject`."""
        raise UnsupportedError(f"{self.name} is not written to")

    def punch(self, extent: Extent) -> None:
        """See `Subject`."""
        raise UnsupportedError(f"{self.name} is not written to")

    def sync(self) -> None:
        """See `Subject`."""

    def close(self) -> None:
        """See `Subject`."""
        self._mapping.close()
        os.close(self._fd)
