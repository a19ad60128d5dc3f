"""A file of the running system as a subject: on any file system, and on a daxmend mount.

Reads and writes go past the page cache (O_DIRECT) where the file system can, so that the unit of
loss is the sector and not the page, and what was read was on the medium a moment ago; else what is
cached is dropped before it is read. What cannot be read is found by halving.
"""

from __future__ import annotations

import errno
import mmap
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from daxmend.dax.api import Salvage
from daxmend.errors import ChangedError, UsageError
from daxmend.extent import Extent, merged
from daxmend.host import fileioctl, zeroing
from daxmend.host.fiemap import FiemapExtent, file_extents
from daxmend.host.unknown import Unknown
from daxmend.host.zeroing import ZeroVerb
from daxmend.rescue.subject import CHUNK, Subject
from daxmend.rescue.target import FileExtent
from daxmend.units import PAGE, SECTOR, align_down, align_up, is_aligned

# What the kernel says of bytes that the medium cannot give: the block layer has four words.
BAD_ERRNOS: Final = frozenset({errno.EIO, errno.ENODATA, errno.EILSEQ, errno.EREMOTEIO})
_WRITE_HINTS: Final = {
    errno.EACCES: "its owner, or root, can repair it",
    errno.EPERM: "it is immutable or append-only (see lsattr); first: chattr -i -a",
    errno.EROFS: "it lies on a read-only mount; remount that read-write first",
    errno.ETXTBSY: "it is a program that runs, or a swap file; end that (swapoff) first",
}
_GROWTH: Final = 8  # how much more is asked for after what was asked for came


def _open(path: Path, name: str, access: int) -> int:
    """The file, opened. Where it cannot be written, that is said before anything is done."""
    try:
        fd = os.open(path, access | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        if access == os.O_RDWR:
            try:
                os.pwrite(fd, b"", 0)  # writes nothing, and is refused for a swap file
            except OSError:
                os.close(fd)
                raise
        return fd
    except OSError as error:
        hint = _WRITE_HINTS.get(error.errno or 0) if access == os.O_RDWR else None
        said = f"{error.strerror}; {hint}" if hint else error.strerror
        raise OSError(error.errno, said, name) from None


class HostFile:
    """Implements `Subject`. `name` is what the operator called `path`."""

    def __init__(self, path: Path, name: str, *, writable: bool = False) -> None:
        found = os.stat(path)
        if not stat.S_ISREG(found.st_mode):
            kind = "directory" if stat.S_ISDIR(found.st_mode) else "device, or something else"
            raise UsageError(f"{name} is no regular file but a {kind}; name a file")
        self.name = name
        self.notices: list[str] = []
        self.location = (path, b"")
        self._path = path
        self._view = memoryview(mmap.mmap(-1, CHUNK + PAGE))  # page-aligned, as O_DIRECT wants it
        access = os.O_RDWR if writable else os.O_RDONLY
        self._fd = _open(path, name, access)
        self._stat = os.fstat(self._fd)
        self.size = self._stat.st_size
        self._direct, self.grain = self._open_direct(access)

    def _open_direct(self, access: int) -> tuple[int | None, int]:
        """The same file past the page cache, and the unit of reading; None where it cannot."""
        try:
            fd = os.open(f"/proc/self/fd/{self._fd}", access | os.O_DIRECT | os.O_CLOEXEC)
        except OSError:
            return None, PAGE
        for grain in (SECTOR, PAGE):
            try:
                os.preadv(fd, [self._view[:grain]], 0)
            except OSError as error:
                if error.errno == errno.EINVAL:
                    continue
            return fd, grain
        os.close(fd)
        return None, PAGE

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
        data = bytearray(extent.length)
        lost = []
        if self._direct is None:  # all of it: a large folio is not dropped in part
            os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_DONTNEED)
        end = align_up(extent.end, self.grain)
        offset = align_down(extent.offset, self.grain)
        while offset < end:
            wide = Extent.between(offset, min(end, offset + CHUNK))
            for part, got in self._walk(wide):
                inside = part.intersection(extent)
                if got is None:
                    lost.append(inside)
                elif inside.length:
                    at = inside.offset - extent.offset
                    skip = inside.offset - part.offset
                    data[at : at + inside.length] = got[skip : skip + inside.length]
            offset = wide.end
        return Salvage(data, merged(run for run in lost if run.length))

    def _walk(self, wide: Extent) -> Iterator[tuple[Extent, memoryview | None]]:
        """The range in pieces, ascending: what was read (until the next step), or None.

        What was asked for in vain holds something bad: its half is asked for next, and the half of
        what is left. Behind something lost the steps are small, and grow.
        """
        at, step = wide.offset, wide.length
        suspect = at  # before it something bad is known to lie
        end = min(wide.end, self.size)
        while at < end:
            asked = min(step, wide.end - at)
            got = self._read(at, asked)
            if got is None and asked > self.grain:
                suspect = at + asked
                step = self._half(asked)
                continue
            length = min(asked, end - at) if got is None else len(got)
            yield Extent(at, length), got
            at += length
            if got is None or length < asked:
                step, suspect = self.grain, at
            elif at < suspect:
                step = self._half(suspect - at)
            else:
                step = min(step * _GROWTH, CHUNK)

    def _half(self, length: int) -> int:
        return max(self.grain, align_down(length // 2, self.grain))

    def _read(self, offset: int, length: int) -> memoryview | None:
        """What comes of one request, at least a byte; None if its first unit is bad, or a later."""
        fd = self._fd if self._direct is None else self._direct
        try:
            count = os.preadv(fd, [self._view[:length]], offset)
        except OSError as error:
            if error.errno in BAD_ERRNOS:
                return None
            raise OSError(
                error.errno, f"{error.strerror} (at offset {offset})", self.name
            ) from None
        if not count:
            size = os.fstat(self._fd).st_size
            raise ChangedError(
                f"{self.name} became shorter while it was read: {size} bytes, it had {self.size}; "
                "begin again when nobody changes it"
            )
        return self._view[: min(count, self.size - offset)]

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

    def is_same(self, other: Subject) -> bool:
        """See `Subject`."""
        return isinstance(other, HostFile) and os.path.samestat(self._stat, other._stat)

    def is_same_as_path(self, path: str | os.PathLike[str]) -> bool:
        """Whether the path leads to this file."""
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
        """Its permissions."""
        return stat.S_IMODE(self._stat.st_mode)

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

    def shared(self, extent: Extent) -> bool:
        """See `Subject`."""
        found = self._fiemap(extent)
        return not isinstance(found, Unknown) and any(each.is_shared for each in found)

    # -- writing ---------------------------------------------------------------------------

    def write(self, offset: int, data: bytes) -> int:
        """See `Subject`."""
        if offset + len(data) == self.size and not is_aligned(len(data), PAGE):
            whole = align_down(len(data), PAGE)
            if whole:
                done = self._write(offset, data[:whole])
                if done < whole:
                    return done
            try:
                self._write_tail(offset + whole, data[whole:])
            except OSError:
                if not whole:
                    raise
                return whole
            return len(data)
        return self._write(offset, data)

    def _write(self, offset: int, data: bytes) -> int:
        """One request, past the cache if that can be."""
        if self._direct is not None:
            try:
                self._view[: len(data)] = data
                return os.pwritev(self._direct, [self._view[: len(data)]], offset)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
        done = os.pwrite(self._fd, data, offset)
        os.fdatasync(self._fd)
        return done

    def _write_tail(self, offset: int, data: bytes) -> None:
        """The last page of a file that ends inside it: as it is, else whole, and cut again.

        A kernel that keeps whole blocks reads what the write does not cover, and meets the error.
        """
        try:
            if self._write(offset, data) == len(data):
                return
        except OSError as error:
            if error.errno not in BAD_ERRNOS:
                raise
        self.validate()
        try:
            done = self._write(offset, data + bytes(PAGE - len(data)))
            if done < len(data):
                raise OSError(errno.EIO, os.strerror(errno.EIO))
        finally:
            self.restore_size(self.size)

    def zero(self, extent: Extent) -> str:
        """See `Subject`.

        R34's order, but: ZERO_RANGE is not in place on a regular file (`zeroing.zero_range`) and
        not used, and BLKZEROOUT stands last, because it could meet another file's blocks.
        """
        for verb, function in (
            (ZeroVerb.ZEROINIT, zeroing.zeroinit),
            (ZeroVerb.WRITE_ZEROES, zeroing.write_zeroes),
        ):
            try:
                function(self._fd, extent)
                return verb.value
            except OSError as error:
                if error.errno not in zeroing.MISSING and error.errno not in BAD_ERRNOS:
                    raise
        try:
            done = self.write(extent.offset, bytes(extent.length))
            if done == extent.length:
                return ZeroVerb.WRITE.value
        except OSError as error:
            if error.errno not in BAD_ERRNOS or os.geteuid() != 0:
                raise
        zeroing.zeroout_below(self._fd, extent.widened(SECTOR))
        return ZeroVerb.BLKZEROOUT.value

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
        self.size = size

    def sync(self) -> None:
        """See `Subject`."""
        os.fsync(self._fd)

    def close(self) -> None:
        """See `Subject`."""
        os.close(self._fd)
        if self._direct is not None:
            os.close(self._direct)
