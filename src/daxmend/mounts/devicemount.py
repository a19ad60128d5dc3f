"""What every mount of a device has: the device as one file, and the control directory.

A read is answered from the device's own memory. A plain write heals the bad sectors that it
covers (R33); what a mapping writes back never heals (R27).
"""

from __future__ import annotations

import errno
import os
import select
import stat
import time
from typing import TYPE_CHECKING

from daxmend.dax import io
from daxmend.dax.api import DaxDevice, Salvage
from daxmend.errors import MediaError
from daxmend.events import (
    Event,
    FaultInjected,
    FaultRemoved,
    PoisonConsumed,
    PoisonFound,
    RecoveryDone,
    ZeroinitDone,
)
from daxmend.extent import Extent
from daxmend.fuse import Attr, AttrOut, Buffer, Caller, Opened, Pending, Session, SetAttr
from daxmend.fuse.protocol import (
    FATTR_FH,
    FATTR_GID,
    FATTR_MODE,
    FATTR_SIZE,
    FATTR_UID,
    FOPEN_DIRECT_IO,
    FUSE_POLL_SCHEDULE_NOTIFY,
    FUSE_READ_LOCKOWNER,
    FUSE_WRITE_CACHE,
)
from daxmend.fuse.session import log_to_stderr
from daxmend.host import fileioctl
from daxmend.host.zeroing import FALLOC_FL_PUNCH_HOLE, FALLOC_FL_ZERO_RANGE
from daxmend.mounts.content import DeviceContent
from daxmend.mounts.control import ControlDirectory
from daxmend.mounts.controlfile import DeviceFiles
from daxmend.mounts.fixedname import FixedNames
from daxmend.mounts.scrub import Scrubber
from daxmend.mounts.writepath import WritePath
from daxmend.units import PAGE, SECTOR

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from daxmend.mounts.deviceuse import DeviceUse
    from daxmend.mounts.option import MountOptions

DEVICE_NAME = b"device"
DEVICE_NODEID = 2

ALWAYS_READY = select.POLLIN | select.POLLOUT | select.POLLRDNORM | select.POLLWRNORM
_CHANGES_CONTENT = (
    FaultInjected,
    FaultRemoved,
    PoisonConsumed,
    PoisonFound,
    RecoveryDone,
    ZeroinitDone,
)


class DeviceMount(FixedNames):
    """The nodes `device` and `.daxmend` over one `DaxDevice`; the mount's owner owns both.

    `attached` are the events of attaching the device.
    """

    def __init__(
        self,
        device: DaxDevice,
        *,
        use: DeviceUse,
        options: MountOptions,
        on_ready: Callable[[], None],
        attached: Sequence[Event],
    ) -> None:
        self._device = device
        self._on_ready = on_ready
        self._options = options
        self._has_direct_mmap = False
        self._last_fh = 0
        self._readers: set[int] = set()  # opens of the device that may read it
        self._content = DeviceContent(device, DEVICE_NODEID, self._allowed_on_device)
        self._writes = WritePath(device, options, self._invalidate_node)
        self._owner = (os.getuid(), os.getgid())
        self._device_mode = stat.S_IFREG | 0o600
        self._device_owner = self._owner
        self._mounted_ns = time.time_ns()
        # First: whoever reads of an event must find its invalidations done.
        device.events.subscribe(self._on_event)
        scrubber = Scrubber(device, log_to_stderr)
        self._control = ControlDirectory(
            device.events,
            lambda on_change: DeviceFiles(device, use, scrubber, on_change, attached),
            self._invalidate,
            attached,
        )

    def init(self, session: Session) -> None:
        super().init(session)
        self._control.session = session
        self._has_direct_mmap = session.kernel is not None and session.kernel.direct_mmap
        self._on_ready()

    def destroy(self) -> None:
        self._control.stop()

    # -- what a mount with files decides for itself ----------------------------------------

    def _opens_device_direct(self) -> bool:
        """Whether `device` is opened past the page cache."""
        raise NotImplementedError

    def _allowed_on_device(self, extent: Extent) -> int:
        """How much of the range, from its start on, may be written through `device`."""
        return extent.length

    def _invalidate(self, extent: Extent) -> None:
        """Bytes of the device changed: no cached page of them may stay (R27)."""
        self._invalidate_node(DEVICE_NODEID, extent)

    # -- attributes ------------------------------------------------------------------------

    def getattr(self, caller: Caller, nodeid: int, fh: int | None) -> AttrOut:
        return AttrOut(self._own_attr(nodeid))

    def _own_attr(self, nodeid: int) -> Attr:
        size = blocks = 0
        uid, gid = self._owner
        if nodeid == DEVICE_NODEID:
            mode, size, (uid, gid) = self._device_mode, self._device.size, self._device_owner
            blocks = size // SECTOR
        else:
            mode = self._own_mode(nodeid)
        seconds, nanoseconds = divmod(self._mounted_ns, 10**9)
        nlink = 2 if stat.S_ISDIR(mode) else 1
        times = (seconds,) * 3 + (nanoseconds,) * 3
        return Attr(nodeid, size, blocks, *times, mode, nlink, uid, gid)

    def _own_mode(self, nodeid: int) -> int:
        return self._control.mode(nodeid)

    def setattr(self, caller: Caller, nodeid: int, change: SetAttr) -> AttrOut:
        """Mode and owner of `device` while it is mounted; its size is fixed, O_TRUNC is ignored."""
        is_truncation = bool(change.valid & FATTR_SIZE)
        is_o_trunc = is_truncation and change.size == 0 and not change.valid & FATTR_FH
        if nodeid != DEVICE_NODEID:
            if is_o_trunc:
                return AttrOut(self._own_attr(nodeid))
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
        if is_truncation and not is_o_trunc and change.size != self._device.size:
            raise OSError(errno.EINVAL, "a device cannot be truncated")
        if change.valid & FATTR_MODE:
            self._device_mode = stat.S_IFREG | stat.S_IMODE(change.mode)
        uid, gid = self._device_owner
        self._device_owner = (
            change.uid if change.valid & FATTR_UID else uid,
            change.gid if change.valid & FATTR_GID else gid,
        )
        return AttrOut(self._own_attr(nodeid))

    # -- open files ------------------------------------------------------------------------

    def _new_fh(self) -> int:
        self._last_fh += 1
        return self._last_fh

    def open(self, caller: Caller, nodeid: int, flags: int, open_flags: int) -> Opened:
        if nodeid != DEVICE_NODEID:
            return self._control.open(nodeid)
        fh = self._new_fh()
        if flags & os.O_ACCMODE != os.O_WRONLY:
            self._readers.add(fh)
        if flags & os.O_ACCMODE != os.O_RDONLY:
            self._writes.open(nodeid, fh)
        return Opened(fh, FOPEN_DIRECT_IO if self._opens_device_direct() else 0)

    def read(
        self, nodeid: int, fh: int, offset: int, size: int, read_flags: int, open_flags: int
    ) -> Buffer | Pending:
        if nodeid != DEVICE_NODEID:
            return self._control.read(fh, offset, size, open_flags)
        size = min(size, self._device.size - offset)
        if size <= 0:
            return b""
        view = self._device.view_clean(offset, size)
        if view is None:
            view = io.view(self._device, Extent(offset, size))
        if view is not None:
            return view
        data = io.read(self._device, Extent(offset, size))
        # From read(2) itself, O_DIRECT on a cached open included (R11). A mapping or the cache
        # would take a short answer for the end of the file.
        may_be_short = read_flags & FUSE_READ_LOCKOWNER
        if len(data) < size and not may_be_short:
            raise MediaError(self._device.name, offset + len(data), size - len(data))
        return data

    def write(
        self, nodeid: int, fh: int, offset: int, data: memoryview, write_flags: int, open_flags: int
    ) -> int | Pending:
        if nodeid != DEVICE_NODEID:
            return self._control.write(fh, data)
        room = self._device.size - offset
        if room <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        data = data[:room]
        if write_flags & FUSE_WRITE_CACHE:  # on a file handle that the kernel guessed
            self._writes.write_back(self._content, offset, data)
            return len(data)
        return self._writes.write(fh, self._content, offset, data)

    def fallocate(
        self, nodeid: int, fh: int, offset: int, length: int, mode: int
    ) -> Pending | None:
        """Write-zeroes and discard: zeros in place, what is bad is healed (R33)."""
        if nodeid != DEVICE_NODEID:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        if offset + length > self._device.size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE):
            self._content.zero(Extent(offset, length))
        return None

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
        """Of the device itself SALVAGE; `daxmend.host.fileioctl` has the numbers."""
        if nodeid != DEVICE_NODEID or cmd != fileioctl.SALVAGE:
            raise OSError(errno.ENOTTY, os.strerror(errno.ENOTTY))
        if fh not in self._readers:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        return 0, salvage_page(data, self._device.size, self._device.recovery_read)

    def poll(self, nodeid: int, fh: int, kh: int, flags: int, events: int) -> int:
        if not self._control.has(nodeid):
            return ALWAYS_READY  # ENOSYS would end polling for the control files, too
        return self._control.poll(fh, kh, bool(flags & FUSE_POLL_SCHEDULE_NOTIFY))

    def interrupted(self, unique: int) -> bool:
        self._control.forget_parked(unique)
        return True

    def flush(self, nodeid: int, fh: int, lock_owner: int) -> None:
        if nodeid == DEVICE_NODEID:
            self._writes.flush(fh)

    def fsync(self, nodeid: int, fh: int, fsync_flags: int) -> None:
        self._device.fence()
        if nodeid == DEVICE_NODEID:
            self._writes.sync(fh)

    def release(
        self, nodeid: int, fh: int, flags: int, release_flags: int, lock_owner: int
    ) -> None:
        if nodeid == DEVICE_NODEID:
            self._readers.discard(fh)
            self._writes.release(nodeid, fh)
        else:
            self._control.release(fh)

    def write_back(self) -> None:
        """Let the kernel write back what mappings dirtied, as far as a stopping session lets it."""
        for nodeid in self._writes.nodeids():
            self.session.notifier.inval_inode(nodeid)

    # -- changes ---------------------------------------------------------------------------

    def _on_event(self, event: Event) -> None:
        """Mappings must see what the event changed (R27): no cached page of it may stay."""
        if isinstance(event, _CHANGES_CONTENT):
            self._invalidate(event.extent)

    def _invalidate_node(self, nodeid: int, extent: Extent) -> None:
        pages = extent.widened(PAGE)
        self.session.notifier.inval_inode(nodeid, pages.offset, pages.length)


def salvage_page(data: bytes, size: int, salvage: Callable[[Extent], Salvage]) -> bytes:
    """The answer to SALVAGE for a page of something of `size` bytes."""
    start = fileioctl.unpack_salvage_start(data)
    page = Extent(start, PAGE).intersection(Extent(0, size))
    if start % PAGE or not page.length:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    saved = salvage(page)
    lost = [run.shifted(-start) for run in saved.lost]
    return fileioctl.pack_salvage(start, fileioctl.SavedPage(bytes(saved.data), lost))
