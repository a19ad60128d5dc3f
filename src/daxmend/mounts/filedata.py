"""The open files of a mounted file system: their bytes.

A read asks the file system straight; a plain write heals what it covers (R14).
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from daxmend.errors import MediaError
from daxmend.extent import Extent
from daxmend.fs import FIRST_INO, FileSystem
from daxmend.fuse import Buffer, Caller, Opened, Pending
from daxmend.fuse.protocol import (
    FOPEN_DIRECT_IO,
    FOPEN_KEEP_CACHE,
    FUSE_OPEN_KILL_SUIDGID,
    FUSE_READ_LOCKOWNER,
    FUSE_WRITE_CACHE,
    FUSE_WRITE_KILL_SUIDGID,
)
from daxmend.mounts.devicemount import DEVICE_NODEID
from daxmend.mounts.filecontent import FileContent
from daxmend.mounts.filespace import FileSpace, OpenFile
from daxmend.mounts.option import MountOptions, OpenMode
from daxmend.units import MIB, PAGE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from daxmend.events import Event

_COPY_PIECE = MIB
_COPY_AT_ONCE = 16 * MIB  # others wait as long as this takes; the caller asks again


class FileData(FileSpace):
    """Reads and writes; what is not a file of the file system is the base's."""

    def __init__(
        self,
        fs: FileSystem,
        *,
        options: MountOptions,
        on_ready: Callable[[], None],
        attached: Sequence[Event],
    ) -> None:
        super().__init__(fs, options=options, on_ready=on_ready, attached=attached)
        self._read_file, self._view_file = fs.read, fs.view

    # -- open and close --------------------------------------------------------------------

    def open(self, caller: Caller, nodeid: int, flags: int, open_flags: int) -> Opened:
        if nodeid < FIRST_INO:
            opened = super().open(caller, nodeid, flags, open_flags)
            self._device_opens += nodeid == DEVICE_NODEID
            return opened
        if flags & os.O_TRUNC:
            if open_flags & FUSE_OPEN_KILL_SUIDGID:
                self._kill_privileges(nodeid)
            self._truncate(nodeid, 0)
        return self._open_file(nodeid, flags)

    def _open_file(self, ino: int, flags: int) -> Opened:
        self._fs.use(ino)
        fh = self._new_fh()
        is_writable = flags & os.O_ACCMODE != os.O_RDONLY
        is_readable = flags & os.O_ACCMODE != os.O_WRONLY
        self._opens[fh] = OpenFile(FileContent(self._fs, ino), is_writable, is_readable)
        if is_writable:
            self._writes.open(ino, fh)
        return Opened(fh, FOPEN_DIRECT_IO if self._opens_direct(ino) else FOPEN_KEEP_CACHE)

    def _opens_direct(self, ino: int) -> bool:
        """Whether short reads and the sector's grain are wanted, and mappings still work."""
        mode = self._options.open_mode
        if mode is not OpenMode.AUTO:
            return mode is OpenMode.DIRECT
        return self._has_direct_mmap and self._is_damaged and bool(self._fs.bad_ranges(ino))

    def release(
        self, nodeid: int, fh: int, flags: int, release_flags: int, lock_owner: int
    ) -> None:
        if nodeid < FIRST_INO:
            self._device_opens -= nodeid == DEVICE_NODEID
            super().release(nodeid, fh, flags, release_flags, lock_owner)
            return
        del self._opens[fh]
        self._writes.release(nodeid, fh)
        self._fs.release(nodeid)
        self._freed()

    # -- reads and writes ------------------------------------------------------------------

    def read(
        self, nodeid: int, fh: int, offset: int, size: int, read_flags: int, open_flags: int
    ) -> Buffer | Pending:
        if nodeid < FIRST_INO:
            return super().read(nodeid, fh, offset, size, read_flags, open_flags)
        data: Buffer | None = self._view_file(nodeid, offset, size)
        if data is None:  # not in one piece, the end, or damage
            data = self._read_file(nodeid, offset, size)
        if len(data) < size and not read_flags & FUSE_READ_LOCKOWNER:
            self._check_is_end(nodeid, offset + len(data))
        return data

    def _check_is_end(self, ino: int, end: int) -> None:
        """A mapping or the cache takes a short answer for the end of the file: is it (R11)?

        It gets whole pages: one that is bad behind the end of the file is bad (R10, R24).
        """
        size = self._fs.stat(ino).size
        if end < size or self._fs.is_tail_bad(ino):
            raise MediaError(f"inode {ino}", end, min(PAGE, size - end))

    def write(
        self, nodeid: int, fh: int, offset: int, data: memoryview, write_flags: int, open_flags: int
    ) -> int | Pending:
        if nodeid < FIRST_INO:
            written = super().write(nodeid, fh, offset, data, write_flags, open_flags)
            if nodeid != DEVICE_NODEID or isinstance(written, Pending):
                return written
            return self._show_in_files(Extent(offset, written), write_flags)
        if write_flags & FUSE_WRITE_CACHE:  # on a file handle that the kernel guessed
            count = len(data)
            self._writes.write_back(FileContent(self._fs, nodeid), offset, data)
        else:
            if write_flags & FUSE_WRITE_KILL_SUIDGID:
                self._kill_privileges(nodeid)
            count = self._writes.write(fh, self._opens[fh].content, offset, data)
            if open_flags & os.O_DSYNC:  # O_SYNC is this and a bit more
                self._fs.sync()
        if self._device_opens:
            self._show_on_device(nodeid, Extent(offset, count))
        return count

    def copy_file_range(
        self,
        nodeid_in: int,
        fh_in: int,
        off_in: int,
        nodeid_out: int,
        fh_out: int,
        off_out: int,
        length: int,
        flags: int,
    ) -> int:
        """In pieces, through the paths of read(2) and write(2): what was bad heals (R14)."""
        if min(nodeid_in, nodeid_out) < FIRST_INO:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        done = 0
        length = min(length, _COPY_AT_ONCE)
        target = self._opens[fh_out].content
        while done < length:
            try:
                size = min(length - done, _COPY_PIECE)
                data = memoryview(self._fs.read(nodeid_in, off_in + done, size))
                if not data:  # the end
                    break
                count = self._writes.write(fh_out, target, off_out + done, data)
            except OSError:
                if done == 0:
                    raise
                break
            done += count
            if count < len(data):
                break
        if self._device_opens:
            self._show_on_device(nodeid_out, Extent(off_out, done))
        return done

    def lseek(self, nodeid: int, fh: int, offset: int, whence: int) -> int:
        if nodeid < FIRST_INO:
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
        return self._fs.seek(nodeid, offset, whence)

    # -- durability ------------------------------------------------------------------------

    def flush(self, nodeid: int, fh: int, lock_owner: int) -> None:
        if nodeid < FIRST_INO:
            super().flush(nodeid, fh, lock_owner)
        else:
            self._writes.flush(fh)

    def fsync(self, nodeid: int, fh: int, fsync_flags: int) -> None:
        if nodeid < FIRST_INO:
            super().fsync(nodeid, fh, fsync_flags)
        else:
            self._fs.sync()
            self._writes.sync(fh)

    def fsyncdir(self, nodeid: int, fh: int, fsync_flags: int) -> None:
        self._fs.sync()

    def syncfs(self, nodeid: int) -> None:
        self._fs.sync()
