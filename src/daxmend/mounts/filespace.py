"""The space and the changes of a mounted file system: what must not be seen any more is dropped.

The kernel keeps attributes and pages until it is told: every change comes through it, but for the
device's own. Ranges of the device are translated to the files that own them (R27).
"""

from __future__ import annotations

import errno
import os
import stat
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from daxmend.errors import DaxmendError
from daxmend.events import Event, FaultInjected, PoisonConsumed, PoisonFound
from daxmend.extent import Extent
from daxmend.fs import FIRST_INO, FileSystem, OwnerKind
from daxmend.fuse import PENDING, Caller, Pending, Session, pack_ioctl_out, pack_write_out
from daxmend.fuse.protocol import FUSE_ROOT_ID, FUSE_WRITE_CACHE
from daxmend.fuse.session import log_to_stderr
from daxmend.host import fileioctl
from daxmend.host.zeroing import FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, FALLOC_FL_ZERO_RANGE
from daxmend.mounts.devicemount import DEVICE_NODEID, DeviceMount, salvage_page
from daxmend.mounts.deviceuse import FileSystemUse
from daxmend.mounts.filecontent import FileContent
from daxmend.mounts.janitor import Janitor
from daxmend.mounts.option import MountOptions
from daxmend.mounts.privilege import CAPABILITY_NAME, without_privileges
from daxmend.units import MAX_OFFSET, PAGE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_NEWS_OF_DAMAGE = (FaultInjected, PoisonConsumed, PoisonFound)


class OpenFile(NamedTuple):
    """One open of a file."""

    content: FileContent
    is_writable: bool
    is_readable: bool


class FileSpace(DeviceMount):
    """What a file system is beside its names and bytes; the device's own files are the base's."""

    truncates_on_open = True
    kills_suidgid = True

    def __init__(
        self,
        fs: FileSystem,
        *,
        options: MountOptions,
        on_ready: Callable[[], None],
        attached: Sequence[Event],
    ) -> None:
        self._fs = fs
        self._opens: dict[int, OpenFile] = {}
        self._lookups: dict[int, int] = {}  # the inodes that the kernel knows, and how often
        self._device_opens = 0
        self._parked: set[int] = set()  # requests that the notifier's thread will answer
        self._janitor = Janitor(fs.tidy, log_to_stderr)
        self._is_damaged = any(True for _ in fs.device.badblocks(Extent(0, fs.device.size)))
        super().__init__(
            fs.device,
            options=options,
            on_ready=on_ready,
            attached=attached,
            use=FileSystemUse(fs),
        )

    def init(self, session: Session) -> None:
        self.session = session
        self._janitor.start()
        super().init(session)

    def destroy(self) -> None:
        super().destroy()
        self._janitor.stop()
        for opened in self._opens.values():
            self._fs.release(opened.content.nodeid)
        for ino, count in self._lookups.items():
            self._fs.release(ino, count)

    def interrupted(self, unique: int) -> bool:
        """What is done, or under way, is answered when it can be seen."""
        return unique not in self._parked and super().interrupted(unique)

    # -- space -----------------------------------------------------------------------------

    def fallocate(
        self, nodeid: int, fh: int, offset: int, length: int, mode: int
    ) -> Pending | None:
        """Allocate, punch (R31), or zero in place and heal (R29)."""
        if nodeid < FIRST_INO:
            super().fallocate(nodeid, fh, offset, length, mode)
            return self._answer_later(b"")
        self._change_space(nodeid, offset, length, mode)
        return None

    def _change_space(self, nodeid: int, offset: int, length: int, mode: int) -> None:
        keep_size = bool(mode & FALLOC_FL_KEEP_SIZE)
        what = mode & ~FALLOC_FL_KEEP_SIZE
        extent = Extent(offset, length)
        try:
            if what == 0:
                self._fs.fallocate(nodeid, offset, length, keep_size=keep_size)
                return
            if what == FALLOC_FL_PUNCH_HOLE and keep_size:
                self._fs.punch(nodeid, offset, length)
                self._writes.discard(nodeid, extent)
            elif what == FALLOC_FL_ZERO_RANGE:
                self._fs.zero_range(nodeid, offset, length, keep_size=keep_size)
            else:
                raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        except OSError:  # the kernel drops its pages only if all went well
            self._invalidate_node(nodeid, extent)
            raise
        finally:
            self._freed()

    def _truncate(self, ino: int, size: int) -> None:
        self._fs.truncate(ino, size)
        self._writes.discard(ino, Extent.between(size, MAX_OFFSET))
        self._freed()

    def _freed(self) -> None:
        """Blocks may have changed hands: the bad ones among them are work for the janitor (R31)."""
        if self._is_damaged:
            self._janitor.kick()
        if self._device_opens:
            self._invalidate_node(DEVICE_NODEID, Extent(0, self._device.size))

    def _kill_privileges(self, ino: int) -> None:
        """Somebody else's bytes must not run with the owner's rights (`kills_suidgid`)."""
        mode = self._fs.stat(ino).mode
        if not stat.S_ISREG(mode):
            return
        kept = without_privileges(mode)
        if kept != mode:
            self._fs.set_attributes(ino, mode=stat.S_IMODE(kept))
        if CAPABILITY_NAME in self._fs.listxattr(ino):
            self._fs.removexattr(ino, CAPABILITY_NAME)

    # -- ioctl -----------------------------------------------------------------------------

    def ioctl(
        self,
        caller: Caller,
        nodeid: int,
        fh: int,
        flags: int,
        cmd: int,
        arg: int,
        data: bytes,
        out_size: int,
    ) -> tuple[int, bytes] | Pending:
        """`daxmend.host.fileioctl` has the numbers; all others are ENOTTY."""
        if nodeid < FIRST_INO:
            return super().ioctl(caller, nodeid, fh, flags, cmd, arg, data, out_size)
        opened = self._opens.get(fh)
        if opened is None or opened.content.nodeid != nodeid:
            raise OSError(errno.ENOTTY, os.strerror(errno.ENOTTY))
        if cmd == fileioctl.EXTENTS:
            start = fileioctl.unpack_extents_start(data)
            if start > MAX_OFFSET:
                raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
            extents = (fileioctl.FileExtent(*run) for run in self._fs.extents(nodeid, start))
            return 0, fileioctl.pack_extents(start, extents)
        if cmd == fileioctl.SALVAGE:
            if not opened.is_readable:
                raise OSError(errno.EBADF, os.strerror(errno.EBADF))
            size = self._fs.stat(nodeid).size
            return 0, salvage_page(data, size, partial(self._fs.salvage, nodeid))
        if cmd == fileioctl.ZEROINIT:
            if not opened.is_writable:
                raise OSError(errno.EBADF, os.strerror(errno.EBADF))
            if caller.uid != 0:
                self._kill_privileges(nodeid)
            return self._zeroinit(nodeid, Extent(*fileioctl.unpack_zeroinit(data)))
        raise OSError(errno.ENOTTY, os.strerror(errno.ENOTTY))

    def _zeroinit(self, ino: int, extent: Extent) -> tuple[int, bytes] | Pending:
        """Zeros in place (R29), after what mappings dirtied before was written back.

        The kernel, which does that for fallocate(2) itself, knows nothing of an ioctl: the work is
        done on the notifier's thread, behind an invalidation and before another one.
        """
        if extent.end > MAX_OFFSET:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        extent = extent.intersection(Extent(0, self._fs.stat(ino).size))
        if not extent.length:
            return 0, b""
        unique = self.session.unique
        self._parked.add(unique)
        self._invalidate_node(ino, extent)
        self.session.notifier.then(lambda: self._finish_zeroinit(unique, ino, extent))
        return PENDING

    def _finish_zeroinit(self, unique: int, ino: int, extent: Extent) -> None:
        number = errno.EIO  # of a mistake, which is the notifier's to log
        try:
            self._fs.zeroinit(ino, extent.offset, extent.length)
            number = 0
        except (DaxmendError, OSError) as error:
            number = error.errno or errno.EIO
        finally:
            self._invalidate_node(ino, extent)
            if self._device_opens:
                self._show_on_device(ino, extent)
            payload = pack_ioctl_out((0, b""))
            self.session.notifier.then(lambda: self._answer(unique, number, payload))

    def _answer(self, unique: int, number: int, payload: bytes) -> None:
        """On the notifier's thread."""
        self._parked.discard(unique)
        if number:
            self.session.reply_error(unique, number)
        else:
            self.session.reply(unique, payload)

    # -- changes ---------------------------------------------------------------------------

    def _on_event(self, event: Event) -> None:
        super()._on_event(event)
        if isinstance(event, _NEWS_OF_DAMAGE):
            self._is_damaged = True
            self._janitor.kick()

    def _invalidate(self, extent: Extent) -> None:
        """Bytes of the device changed: the files that own them show it (R27)."""
        if self._device_opens:
            super()._invalidate(extent)
        pages = extent.widened(PAGE).intersection(Extent(0, self._device.size))
        for owner in self._fs.owners(pages):
            if owner.kind is OwnerKind.FILE and owner.ino in self._lookups:
                self._invalidate_node(owner.ino, Extent(owner.offset, owner.extent.length))

    def _show_in_files(self, extent: Extent, write_flags: int) -> int | Pending:
        """Bytes were written through `device`: answer when the files that own them show it."""
        self._invalidate(extent)
        if write_flags & FUSE_WRITE_CACHE:  # the invalidation of this page may wait for the answer
            return extent.length
        return self._answer_later(pack_write_out(extent.length))

    def _answer_later(self, payload: bytes) -> Pending:
        """Answer the request at hand when all that is queued has been invalidated."""
        unique = self.session.unique
        self._parked.add(unique)
        self.session.notifier.then(lambda: self._answer(unique, 0, payload))
        return PENDING

    def _show_on_device(self, ino: int, extent: Extent) -> None:
        """Bytes of a file changed: whoever has `device` mapped sees it."""
        for _, place in self._fs.device_extents(ino, extent.widened(PAGE)):
            super()._invalidate(place)

    def _allowed_on_device(self, extent: Extent) -> int:
        for owner in self._fs.owners(extent):
            if owner.kind is OwnerKind.METADATA:
                return owner.extent.offset - extent.offset
        return extent.length

    def _opens_device_direct(self) -> bool:
        return True  # no page of it in the cache but what is mapped: files change under it

    def _is_own(self, nodeid: int) -> bool:
        """Whether it is the mount's and not the file system's."""
        return nodeid < FIRST_INO and nodeid != FUSE_ROOT_ID
