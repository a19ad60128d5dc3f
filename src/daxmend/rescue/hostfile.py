"""A file of the running system as a subject: on any file system, and on a daxmend mount."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from daxmend.dax.api import Salvage
from daxmend.errors import BusyError, ChangedError, UnknownStateError, UsageError
from daxmend.extent import Extent
from daxmend.host import fileioctl, zeroing
from daxmend.host.deviceuser import User, find_file_user
from daxmend.host.fiemap import FiemapExtent, file_extents
from daxmend.host.statx import is_dax
from daxmend.host.unknown import Unknown
from daxmend.host.zeroing import ZeroVerb
from daxmend.rescue.blocksbelow import BlocksBelow, open_below
from daxmend.rescue.knownbad import KnownBad
from daxmend.rescue.reader import BAD_ERRNOS, Reader
from daxmend.rescue.sharer import find_sharers
from daxmend.rescue.subject import Subject, iter_lost, iter_pieces, refined, tell_cached
from daxmend.rescue.target import FileExtent
from daxmend.units import PAGE, SECTOR, align_down, align_up, is_aligned

_WRITE_HINTS: Final = {
    errno.EACCES: "its owner, or root, can repair it",
    errno.EPERM: "it is immutable or append-only (see lsattr); first: chattr -i -a",
    errno.EROFS: "it lies on a read-only mount; remount that read-write first",
    errno.ETXTBSY: "it is a program that runs, or a swap file; end that (swapoff) first",
}
# Where the journal of a repair that has begun lies, kept with the file: whatever name it is
# repaired by the next time, and whatever --journal is said then. (daxmend's own mounts keep
# `user.daxmend.` to themselves.)
_NOTE: Final = "user.daxmend-repair"


def open_to_read(path: Path, name: str) -> int:
    """The file, opened. Raises `UnknownStateError` for who may not read it (R44)."""
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except PermissionError as error:
        raise UnknownStateError(
            f"{name}: cannot be read: {error.strerror}; ask its owner, or root"
        ) from None
    except OSError as error:
        raise OSError(error.errno, error.strerror, name) from None


def open_to_write(path: Path, name: str, flags: int = 0) -> int:
    """The file, opened to be read and written, and locked against a second repair.

    Where it cannot be, that is said before anything is done.
    """
    os.close(open_to_read(path, name))
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY | flags)
        try:
            os.pwrite(fd, b"", 0)  # writes nothing, and is refused for a swap file
            _lock(fd)
        except BaseException:
            os.close(fd)
            raise
        return fd
    except BlockingIOError:
        raise BusyError(
            f"{name} is locked: another repair of it runs, or a program that locks it; wait for "
            "that, or end it"
        ) from None
    except OSError as error:
        hint = _WRITE_HINTS.get(error.errno or 0)
        said = f"{error.strerror}; {hint}" if hint else error.strerror
        raise OSError(error.errno, said, name) from None


def _lock(fd: int) -> None:
    """Against a second repair; a file system that has no locks cannot be locked."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
            raise


class HostFile:
    """Implements `Subject`. `name` is what the operator called `path`."""

    has_holes = True

    def __init__(self, path: Path, name: str, *, writable: bool = False) -> None:
        found = os.stat(path)
        if not stat.S_ISREG(found.st_mode):
            kind = "directory" if stat.S_ISDIR(found.st_mode) else "device, or something else"
            raise UsageError(f"{name} is no regular file but a {kind}; name a file")
        self.name = name
        self.notices: list[str] = []
        self.location = (path, b"")
        self._path = path
        self._fd = open_to_write(path, name) if writable else open_to_read(path, name)
        self._stat = os.fstat(self._fd)
        self.size = self._stat.st_size
        self._is_dax = is_dax(self._fd) is True
        grain = PAGE if self._is_dax else SECTOR
        access = os.O_RDWR if writable else os.O_RDONLY
        self._reader = Reader(self._fd, name, self.size, access, grain)
        self._known = KnownBad(path, self._reader.grain)
        self._below: BlocksBelow | Unknown | None = None  # not asked yet
        self._is_served = True  # until its server cannot be asked
        if writable and not self._reader.is_direct:
            self.notices.append(
                f"the file system of {name} cannot read past its page cache; what was written is "
                "read back only after the cache was told to drop it"
            )

    @property
    def grain(self) -> int:
        """See `Subject`."""
        return SECTOR if isinstance(self._below, BlocksBelow) else self._reader.grain

    # -- reading ---------------------------------------------------------------------------

    def data(self) -> Iterator[Extent]:
        """See `Subject`. A file system that cannot tell holes shows none."""
        offset = 0
        while offset < self.size:
            try:
                start = os.lseek(self._fd, offset, os.SEEK_DATA)
                end = os.lseek(self._fd, start, os.SEEK_HOLE)
            except OSError as error:
                if error.errno == errno.ENXIO:
                    return
                start, end = offset, self.size
            yield Extent.between(start, min(end, self.size))
            offset = end

    def salvage(self, extent: Extent) -> Salvage:
        """See `Subject`."""
        return self._refined(extent, self._reader.salvage(extent))

    def pieces(self, extent: Extent) -> Iterator[tuple[Extent, memoryview | None]]:
        """See `Subject`."""
        for part, got in self._pieces_above(extent):
            if got is None:
                lost = Salvage(bytearray(part.length), [part])
                yield from iter_pieces(part, self._refined(part, lost))
            else:
                yield part, got

    def unreadable(self, extent: Extent) -> Iterator[Extent]:
        """See `Subject`."""
        end = extent.offset
        for lost in iter_lost(self._pieces_above(extent)):
            yield lost
            end = lost.end
        tail = align_down(self.size, PAGE)  # a look at it drops what is cached of it
        if extent.end == self.size and end <= tail and not self._reader.is_tail_readable():
            yield Extent.between(tail, self.size)

    def _pieces_above(self, extent: Extent) -> Iterator[tuple[Extent, memoryview | None]]:
        """What the file itself gives."""
        for part, got in self._reader.pieces(extent, self._known.within(extent)):
            if got is None:
                self._known.ask()
            yield part, got

    def _refined(self, extent: Extent, saved: Salvage) -> Salvage:
        """With what can be had elsewhere of what the file has lost: from the page cache, from the
        server of a daxmend mount, and where it is lost by pages only, by sectors from below."""
        if saved.lost:
            saved = tell_cached(self, refined(extent, saved, self._reader.cached), saved.lost)
        if saved.lost and self._is_served:
            saved = refined(extent, saved, self._ask_server)
        below = self._open_below() if saved.lost else None
        return saved if below is None else below.refine(extent, saved)

    def _ask_server(self, part: Extent) -> Salvage | None:
        """The good lines of a part of a page, and what recoveries kept (R12, R18)."""
        start = align_down(part.offset, PAGE)
        try:
            page = fileioctl.salvage(self._fd, start)
        except OSError:
            self._is_served = False  # on no mount of ours
            return None
        inside = part.shifted(-start)
        if len(page.data) < inside.end:  # it became shorter, which is told elsewhere
            return None
        lost = (run.intersection(inside).shifted(start) for run in page.lost)
        data = bytearray(page.data[inside.offset : inside.end])
        return Salvage(data, [run for run in lost if run.length])

    def _open_below(self) -> BlocksBelow | None:
        """The blocks below, if what is lost can be smaller there, and they may be read."""
        if self._reader.grain <= SECTOR:
            return None
        if self._below is None:
            self._below = open_below(self._fd, self._path)
            if isinstance(self._below, Unknown) and self._is_dax:
                self.notices.append(
                    f"{self.name} is lost by whole pages: sectors could not be read from the "
                    f"device below ({self._below.why}); as root more may be saved"
                )
        return None if isinstance(self._below, Unknown) else self._below

    # -- what it is ------------------------------------------------------------------------

    def validate(self) -> None:
        """See `Subject`."""
        size = os.fstat(self._fd).st_size
        if size != self.size:
            raise ChangedError(
                f"{self.name} had {self.size} bytes and now has {size}: somebody else changes it; "
                "stop that, and begin again"
            )
        try:
            named = os.stat(self._path)
        except FileNotFoundError:
            raise ChangedError(f"{self.name} was removed or renamed meanwhile") from None
        if not os.path.samestat(named, self._stat):
            raise ChangedError(
                f"{self.name} was replaced meanwhile: another file has the name now; begin again"
            )

    def user(self) -> User | None:
        """See `Subject`: an image may be a loop device's, or swap."""
        return find_file_user(self._path)

    def is_same(self, other: Subject) -> bool:
        """See `Subject`."""
        return isinstance(other, HostFile) and os.path.samestat(self._stat, other._stat)

    def is_same_as_path(self, path: str | os.PathLike[str]) -> bool:
        """See `Subject`."""
        try:
            return os.path.samestat(self._stat, os.stat(path))
        except OSError:
            return False

    @property
    def is_touched(self) -> bool:
        """See `Subject`."""
        return os.fstat(self._fd).st_mtime_ns != self._stat.st_mtime_ns

    @property
    def mtime_ns(self) -> int:
        """See `Subject`."""
        return self._stat.st_mtime_ns

    @property
    def mode(self) -> int:
        """See `Subject`."""
        return stat.S_IMODE(self._stat.st_mode)

    @property
    def owner(self) -> int:
        """See `Subject`."""
        return self._stat.st_uid

    @property
    def identity(self) -> int:
        """See `Subject`."""
        return self._stat.st_ino

    def extents(self) -> list[FileExtent] | Unknown:
        """See `Subject`."""
        try:
            return [FileExtent(*each) for each in fileioctl.iter_extents(self._fd)]
        except OSError:
            pass  # on no daxmend mount
        found = self._fiemap(None)
        if isinstance(found, Unknown):
            return found
        return [FileExtent(e.offset, e.device_offset, e.length, e.is_written) for e in found]

    def _fiemap(self, extent: Extent | None) -> list[FiemapExtent] | Unknown:
        try:
            return file_extents(self._fd, extent)
        except OSError as error:
            return Unknown(f"where it lies cannot be asked: {error.strerror}")

    def sharers(self, extents: list[Extent]) -> list[str]:
        """See `Subject`."""
        places = [place for extent in extents for place in self._shared_places(extent)]
        return find_sharers(self._fd, self._path, places) if places else []

    def _shared_places(self, extent: Extent) -> Iterator[Extent]:
        """Where the parts of the range that are not its own lie on the device."""
        found = self._fiemap(extent)
        for each in [] if isinstance(found, Unknown) else found:
            part = Extent(each.offset, each.length).intersection(extent)
            if each.is_shared and each.has_place and part.length:
                yield part.shifted(each.device_offset - each.offset)

    # -- the note of a repair --------------------------------------------------------------

    def note_journal(self, path: Path | None) -> None:
        """See `Subject`."""
        # A file system may have no such attributes, or no room: then only the names lead there.
        with contextlib.suppress(OSError):
            if path is None:
                os.removexattr(self._fd, _NOTE)
            else:
                os.setxattr(self._fd, _NOTE, os.fsencode(os.path.abspath(path)))

    def noted_journal(self) -> Path | None:
        """See `Subject`."""
        try:
            return Path(os.fsdecode(os.getxattr(self._fd, _NOTE)))
        except OSError:
            return None

    # -- writing ---------------------------------------------------------------------------

    def write(self, offset: int, data: bytes) -> int:
        """See `Subject`."""
        if offset + len(data) == self.size and not is_aligned(len(data), PAGE):
            whole = align_down(len(data), PAGE)
            if whole:
                done = self._reader.write(offset, data[:whole])
                if done < whole:
                    return done
            try:
                self._write_tail(offset + whole, data[whole:])
            except OSError:
                if not whole:
                    raise
                return whole
            return len(data)
        return self._reader.write(offset, data)

    def _write_tail(self, offset: int, data: bytes) -> None:
        """The last page of a file that ends inside it: as it is, else whole, and cut again.

        A kernel that keeps whole blocks reads what the write does not cover, and meets the error.
        """
        try:
            done = self._reader.write(offset, data)
            if done == len(data) and self._reader.is_tail_readable():
                return
        except OSError as error:  # EFAULT: a DAX file system's word for it (R16)
            if error.errno not in {*BAD_ERRNOS, errno.EFAULT}:
                raise
        self.validate()
        try:
            done = self._reader.write(offset, data + bytes(PAGE - len(data)))
            if done < len(data):
                raise OSError(errno.EIO, os.strerror(errno.EIO))
        finally:
            self.restore_size(self.size)

    def zero(self, extent: Extent) -> str:
        """See `Subject`.

        R34's order, but: ZERO_RANGE is not in place on a regular file (`zeroing.zero_range`) and
        not used, and BLKZEROOUT stands last, because it could meet another file's blocks. A verb
        that says it is done, and left what cannot be read, gives way to the next one (R45).
        """
        for verb, function in (
            (ZeroVerb.ZEROINIT, zeroing.zeroinit),
            (ZeroVerb.WRITE_ZEROES, zeroing.write_zeroes),
        ):
            try:
                function(self._fd, extent)
                os.fdatasync(self._fd)
            except OSError as error:
                if error.errno not in zeroing.MISSING and error.errno not in BAD_ERRNOS:
                    raise
            else:
                if self._is_zero(extent):
                    return verb.value
        try:
            if self.write(extent.offset, bytes(extent.length)) == extent.length:
                self.sync()
                if os.geteuid() != 0 or self._is_zero(extent):
                    return ZeroVerb.WRITE.value
        except OSError as error:
            if error.errno not in BAD_ERRNOS or os.geteuid() != 0:
                raise
        zeroing.zeroout_below(self._fd, extent.widened(SECTOR))
        return ZeroVerb.BLKZEROOUT.value

    def _is_zero(self, extent: Extent) -> bool:
        now = self._reader.salvage(extent)  # on the medium, whatever is cached
        return not now.lost and not any(now.data)

    def punch(self, extent: Extent) -> None:
        """See `Subject`."""
        zeroing.punch_hole(self._fd, extent.widened(PAGE))

    def restore_size(self, size: int) -> None:
        """See `Subject`."""
        now = os.fstat(self._fd).st_size
        if now == size:
            return
        if now != align_up(size, PAGE):
            raise ChangedError(
                f"{self.name} has {now} bytes, it had {size}: somebody else changed it, and "
                "nothing of it is cut off"
            )
        os.ftruncate(self._fd, size)
        self.size = self._reader.size = size

    def sync(self) -> None:
        """See `Subject`."""
        os.fsync(self._fd)

    def close(self) -> None:
        """See `Subject`."""
        if isinstance(self._below, BlocksBelow):
            self._below.close()
        self._reader.close()
        os.close(self._fd)
