"""A block device as a subject: a disk, a partition, `/dev/pmemN`; it is lost by sectors."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from daxmend.dax.api import Salvage
from daxmend.errors import ChangedError
from daxmend.extent import Extent
from daxmend.host import zeroing
from daxmend.host.deviceuser import CLAIMED, User, find_device_user, is_claimed
from daxmend.host.zeroing import ZeroVerb
from daxmend.rescue.devicefile import DeviceFile
from daxmend.rescue.hostfile import open_to_read, open_to_write
from daxmend.rescue.knownbad import KnownBad
from daxmend.rescue.reader import BAD_ERRNOS, Reader
from daxmend.rescue.subject import (
    Subject,
    iter_lost,
    iter_pieces,
    refined,
    tell_cached,
    validate_free,
)


class BlockFile(DeviceFile):
    """Implements `Subject`. To be written it must be nobody's: a mounted device is refused."""

    def __init__(self, path: Path, name: str, *, writable: bool = False) -> None:
        self.name = name
        self.notices: list[str] = []
        self.location = (path, b"")
        self._path = path
        opened = _open_alone(path, name) if writable else open_to_read(path, name)
        self._fd = opened
        self._is_claimed = writable
        self._stat = os.fstat(opened)
        self.size = os.lseek(opened, 0, os.SEEK_END)
        self._reader = Reader(opened, name, self.size, os.O_RDWR if writable else os.O_RDONLY)
        self.grain = self._reader.grain
        self._known = KnownBad(path, self.grain)

    def salvage(self, extent: Extent) -> Salvage:
        """See `Subject`."""
        return self._refined(extent, self._reader.salvage(extent))

    def pieces(self, extent: Extent) -> Iterator[tuple[Extent, memoryview | None]]:
        """See `Subject`."""
        for part, got in self._pieces_on_medium(extent):
            if got is None:
                lost = Salvage(bytearray(part.length), [part])
                yield from iter_pieces(part, self._refined(part, lost))
            else:
                yield part, got

    def unreadable(self, extent: Extent) -> Iterator[Extent]:
        """See `Subject`."""
        return iter_lost(self._pieces_on_medium(extent))

    def _pieces_on_medium(self, extent: Extent) -> Iterator[tuple[Extent, memoryview | None]]:
        for part, got in self._reader.pieces(extent, self._known.within(extent)):
            if got is None:
                self._known.ask()
            yield part, got

    def _refined(self, extent: Extent, saved: Salvage) -> Salvage:
        """With what the page cache still has of what the medium has lost."""
        return tell_cached(self, refined(extent, saved, self._reader.cached), saved.lost)

    # -- what it is ------------------------------------------------------------------------

    def validate(self) -> None:
        """See `Subject`."""
        try:
            named = os.stat(self._path)
        except FileNotFoundError:
            raise ChangedError(f"{self.name} was removed meanwhile") from None
        if not self._is(named):
            raise ChangedError(f"{self.name} is another device now; begin again")
        size = os.lseek(self._fd, 0, os.SEEK_END)
        if size != self.size:
            raise ChangedError(f"{self.name} had {self.size} bytes and now has {size}; begin again")

    def user(self) -> User | None:
        """See `Subject`. Asks for itself alone what only an open for writing claims."""
        user = find_device_user(self._stat.st_rdev)
        if user is None and not self._is_claimed and is_claimed(self._path):
            return CLAIMED
        return user

    def _is(self, other: os.stat_result) -> bool:
        return stat.S_ISBLK(other.st_mode) and other.st_rdev == self._stat.st_rdev

    def is_same(self, other: Subject) -> bool:
        """See `Subject`."""
        return isinstance(other, BlockFile) and self._is(other._stat)

    def is_same_as_path(self, path: str | os.PathLike[str]) -> bool:
        """See `Subject`."""
        try:
            return self._is(os.stat(path))
        except OSError:
            return False

    # -- writing ---------------------------------------------------------------------------

    def write(self, offset: int, data: bytes) -> int:
        """See `Subject`."""
        return self._reader.write(offset, data)

    def zero(self, extent: Extent) -> str:
        """See `Subject`: BLKZEROOUT, else writing zeros."""
        try:
            zeroing.block_zeroout(self._fd, extent)
            self.sync()
            now = self._reader.salvage(extent)
            if not now.lost and not any(now.data):
                return ZeroVerb.BLKZEROOUT.value
        except OSError as error:
            if error.errno not in zeroing.MISSING and error.errno not in BAD_ERRNOS:
                raise
        self.write(extent.offset, bytes(extent.length))
        return ZeroVerb.WRITE.value

    def punch(self, extent: Extent) -> None:
        """See `Subject`: there is nobody to give blocks back to."""
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    def sync(self) -> None:
        """See `Subject`."""
        os.fsync(self._fd)

    def close(self) -> None:
        """See `Subject`."""
        self._reader.close()
        os.close(self._fd)


def _open_alone(path: Path, name: str) -> int:
    """The device, opened to be written, and claimed: nobody can mount it meanwhile."""
    validate_free(name, find_device_user(os.stat(path).st_rdev))
    try:
        # O_EXCL is not "make it" here: the kernel refuses it while anybody has claimed the device.
        return open_to_write(path, name, os.O_EXCL)
    except OSError as error:
        validate_free(name, CLAIMED if error.errno == errno.EBUSY else None)
        raise
