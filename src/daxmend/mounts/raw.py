"""The raw mount: a device as one file, `device`, and the control directory (R33).

A read is answered from the device's own memory. A plain write heals the bad sectors that it
covers; what a mapping writes back never heals (R27).
"""

from __future__ import annotations

import errno
import os
import stat
import time
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

from daxmend.dax import io
from daxmend.dax.api import AccessMode, DaxDevice, Recovery
from daxmend.errors import BadBlockError, MediaError, PoisonError
from daxmend.events import (
    Event,
    FaultInjected,
    FaultRemoved,
    PoisonConsumed,
    PoisonFound,
    RecoveryDone,
    RecoveryRefused,
    ZeroinitDone,
)
from daxmend.extent import Extent
from daxmend.fuse import (
    Attr,
    AttrOut,
    Buffer,
    Caller,
    Dirent,
    DirentBuffer,
    Entry,
    Handler,
    Kstatfs,
    Opened,
    Pending,
    Session,
    SetAttr,
)
from daxmend.fuse.protocol import (
    FATTR_FH,
    FATTR_GID,
    FATTR_MODE,
    FATTR_SIZE,
    FATTR_UID,
    FOPEN_DIRECT_IO,
    FUSE_POLL_SCHEDULE_NOTIFY,
    FUSE_READ_LOCKOWNER,
    FUSE_ROOT_ID,
    FUSE_WRITE_CACHE,
)
from daxmend.fuse.session import log_to_stderr
from daxmend.mounts.control import CONTROL_NAME, CONTROL_NODEID, ControlDirectory
from daxmend.mounts.cutwrite import CutWrites
from daxmend.units import PAGE, SECTOR

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FALLOC_FL_PUNCH_HOLE = 0x02
FALLOC_FL_ZERO_RANGE = 0x10

DEVICE_NAME = b"device"
DEVICE_NODEID = 2

_NORMAL = AccessMode.NORMAL
_CHANGES_CONTENT = (
    FaultInjected,
    FaultRemoved,
    PoisonConsumed,
    PoisonFound,
    RecoveryDone,
    ZeroinitDone,
)


class OpenMode(StrEnum):
    """How files are opened (`-o open=`): auto is direct where mappings then still work."""

    AUTO = "auto"
    DIRECT = "direct"
    CACHED = "cached"


class MountOptions(NamedTuple):
    """What `-o` can say."""

    open_mode: OpenMode = OpenMode.AUTO
    recovery: Recovery = Recovery.AUTO
    verify_writes: bool = False


_DEFAULTS = MountOptions()


class RawMount(Handler):
    """`device` and `.daxmend` over one `DaxDevice`; the mount's owner owns both."""

    truncates_on_open = False

    def __init__(
        self,
        device: DaxDevice,
        *,
        options: MountOptions = _DEFAULTS,
        on_ready: Callable[[], None] = lambda: None,
    ) -> None:
        self._device = device
        self._on_ready = on_ready
        self._options = options
        self._is_direct = options.open_mode is OpenMode.DIRECT
        self._next_fh = 0
        self._writers: set[int] = set()  # opens that can be mapped to write
        self._lost_stores: set[int] = set()  # those whose next fsync or close says EIO (R27)
        self._cut_writes = CutWrites(device, SECTOR, io.write_raw)
        self._owner = (os.getuid(), os.getgid())
        self._device_mode = stat.S_IFREG | 0o600
        self._device_owner = self._owner
        self._mounted_ns = time.time_ns()
        # First: whoever reads of an event must find its invalidations done.
        device.events.subscribe(self._on_event)
        self._control = ControlDirectory(device, self._invalidate, log_to_stderr)

    def init(self, session: Session) -> None:
        super().init(session)
        self._control.session = session
        kernel = session.kernel
        if self._options.open_mode is OpenMode.AUTO:
            self._is_direct = kernel is not None and kernel.direct_mmap
        self._on_ready()

    def destroy(self) -> None:
        self._control.stop()

    # -- names and attributes --------------------------------------------------------------

    def lookup(self, caller: Caller, parent: int, name: bytes) -> Entry:
        nodeid = self._find(parent, name)
        return Entry(nodeid, self._attr(nodeid), entry_valid=3600)

    def forget(self, nodeid: int, nlookup: int) -> None:
        """The nodes are always there."""

    def _find(self, parent: int, name: bytes) -> int:
        if parent == CONTROL_NODEID:
            return self._control.find(name)
        if name == DEVICE_NAME:
            return DEVICE_NODEID
        if name == CONTROL_NAME:
            return CONTROL_NODEID
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))

    def getattr(self, caller: Caller, nodeid: int, fh: int | None) -> AttrOut:
        return AttrOut(self._attr(nodeid))

    def _attr(self, nodeid: int) -> Attr:
        size = blocks = 0
        uid, gid = self._owner
        if nodeid == FUSE_ROOT_ID:
            mode = stat.S_IFDIR | 0o755
        elif nodeid == DEVICE_NODEID:
            mode, size, (uid, gid) = self._device_mode, self._device.size, self._device_owner
            blocks = size // SECTOR
        else:
            mode = self._control.mode(nodeid)
        seconds, nanoseconds = divmod(self._mounted_ns, 10**9)
        nlink = 2 if stat.S_ISDIR(mode) else 1
        times = (seconds,) * 3 + (nanoseconds,) * 3
        return Attr(nodeid, size, blocks, *times, mode, nlink, uid, gid)

    def setattr(self, caller: Caller, nodeid: int, change: SetAttr) -> AttrOut:
        """Mode and owner of `device` while it is mounted; its size is fixed, O_TRUNC is ignored."""
        is_truncation = bool(change.valid & FATTR_SIZE)
        is_o_trunc = is_truncation and change.size == 0 and not change.valid & FATTR_FH
        if nodeid != DEVICE_NODEID:
            if is_o_trunc:
                return AttrOut(self._attr(nodeid))
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
        return AttrOut(self._attr(nodeid))

    def statfs(self, caller: Caller, nodeid: int) -> Kstatfs:
        return Kstatfs(self._device.size // PAGE, 0, 0, 1, 0)

    def opendir(self, caller: Caller, nodeid: int, flags: int, open_flags: int) -> Opened:
        return Opened()

    def readdir(self, nodeid: int, fh: int, offset: int, dirents: DirentBuffer) -> None:
        for index, (child, name, kind) in enumerate(self._entries(nodeid), 1):
            if index > offset and not dirents.add(Dirent(child, index, kind, name)):
                break

    def _entries(self, nodeid: int) -> Iterator[tuple[int, bytes, int]]:
        directory, regular = stat.S_IFDIR >> 12, stat.S_IFREG >> 12
        yield nodeid, b".", directory
        yield FUSE_ROOT_ID, b"..", directory
        if nodeid == CONTROL_NODEID:
            yield from ((child, name, regular) for child, name in self._control.names())
        else:
            yield DEVICE_NODEID, DEVICE_NAME, regular

    def releasedir(
        self, nodeid: int, fh: int, flags: int, release_flags: int, lock_owner: int
    ) -> None:
        """Nothing is kept for an open directory."""

    # -- open files ------------------------------------------------------------------------

    def open(self, caller: Caller, nodeid: int, flags: int, open_flags: int) -> Opened:
        if nodeid == DEVICE_NODEID:
            self._next_fh += 1
            if flags & os.O_ACCMODE != os.O_RDONLY:
                self._writers.add(self._next_fh)
            return Opened(self._next_fh, FOPEN_DIRECT_IO if self._is_direct else 0)
        return self._control.open(nodeid)

    def read(
        self, nodeid: int, fh: int, offset: int, size: int, read_flags: int, open_flags: int
    ) -> Buffer | Pending:
        if nodeid != DEVICE_NODEID:
            return self._control.read(fh, offset, size, open_flags)
        size = min(size, self._device.size - offset)
        if size <= 0:
            return b""
        try:
            window = self._device.direct_access(Extent(offset, size), _NORMAL)
            if window.length >= size:
                return window.view(0, size)
        except (BadBlockError, PoisonError):
            pass  # decided below, where the damage is walked around
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
            self._write_back(offset, data)
            return len(data)
        count = 0
        try:
            count = self._cut_writes.write(fh, offset, data, self._options.recovery)
            if self._options.verify_writes:
                held = self._cut_writes.held_offset(fh)  # still bad, and said to be (R50)
                end = offset + count if held is None else held
                self._verify(Extent.between(offset, end), data)
        finally:
            if count < len(data):  # the page cache may hold what the device refused
                self._invalidate(Extent(offset + count, len(data) - count))
        return count

    def _write_back(self, offset: int, data: memoryview) -> None:
        """Store what mappings dirtied; a store to a page that is bad by now is lost (R27).

        Answered EIO, the kernel would report it to whoever writes next, who perhaps is about to
        heal the page; answered short, it would drop the rest and say nothing.
        """
        done = 0
        while done < len(data):
            try:
                done += io.write_raw(self._device, offset + done, data[done:], Recovery.NEVER)
            except MediaError:
                page = Extent(offset + done, 1).widened(PAGE)
                self._lose_store(page)
                done = page.end - offset

    def _lose_store(self, page: Extent) -> None:
        self._lost_stores |= self._writers
        self._device.events.publish(
            RecoveryRefused(page, "a store through a mapping, made before it went bad, is lost")
        )
        self._invalidate(page)

    def _verify(self, extent: Extent, data: memoryview) -> None:
        """Read back what was written: latent poison under it shows itself now (R5, R45)."""
        if io.read(self._device, extent) != data[: extent.length]:
            raise MediaError(self._device.name, extent.offset, extent.length)

    def fallocate(self, nodeid: int, fh: int, offset: int, length: int, mode: int) -> None:
        """Write-zeroes and discard: zeros in place, what is bad is healed (R33)."""
        if nodeid != DEVICE_NODEID:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        if offset + length > self._device.size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE):
            io.zero_raw(self._device, Extent(offset, length))
            self._invalidate(Extent(offset, length))

    def poll(self, nodeid: int, fh: int, kh: int, flags: int, events: int) -> int:
        if nodeid == DEVICE_NODEID:
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
        return self._control.poll(fh, kh, bool(flags & FUSE_POLL_SCHEDULE_NOTIFY))

    def interrupted(self, unique: int) -> bool:
        self._control.forget_parked(unique)
        return True

    def flush(self, nodeid: int, fh: int, lock_owner: int) -> None:
        """A close promises nothing that fsync does not, but tells of bytes that were dropped."""
        if nodeid == DEVICE_NODEID:
            self._cut_writes.flush(fh)
            self._report_lost_store(fh)  # and again: a forked child's close is another's first

    def fsync(self, nodeid: int, fh: int, fsync_flags: int) -> None:
        self._device.fence()
        if nodeid == DEVICE_NODEID:
            try:
                self._cut_writes.sync(fh)
                self._report_lost_store(fh)
            finally:
                self._lost_stores.discard(fh)

    def _report_lost_store(self, fh: int) -> None:
        if fh in self._lost_stores:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    def release(
        self, nodeid: int, fh: int, flags: int, release_flags: int, lock_owner: int
    ) -> None:
        if nodeid == DEVICE_NODEID:
            self._writers.discard(fh)
            self._lost_stores.discard(fh)
            self._cut_writes.release(fh)
        else:
            self._control.release(fh)

    def write_back(self) -> None:
        """Let the kernel write back what mappings dirtied, as far as a stopping session lets it."""
        self.session.notifier.inval_inode(DEVICE_NODEID)

    # -- changes ---------------------------------------------------------------------------

    def _on_event(self, event: Event) -> None:
        """Mappings must see what the event changed (R27): no cached page of it may stay."""
        if isinstance(event, _CHANGES_CONTENT):
            self._invalidate(event.extent)

    def _invalidate(self, extent: Extent) -> None:
        pages = extent.widened(PAGE)
        self.session.notifier.inval_inode(DEVICE_NODEID, pages.offset, pages.length)
