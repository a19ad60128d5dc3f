"""The open files of a shadow mount: their bytes, and how the kernel is to get at them.

How a file is opened (`FOPEN_*`), unless `-o open=` says otherwise:

passthrough  a clean file that is not armed, where root and kernel allow: no fault can be shown
direct       a file with faults: short reads, sector grain, and mappings that still fault
cached       all others

The kernel wants all opens of an inode to agree: passthrough begins only where nothing else is open,
and while it lasts, a later open of a file that has gone bad is passthrough for its mappings, too,
but direct for read(2) and write(2).
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import stat
from typing import TYPE_CHECKING, NamedTuple

from daxmend.errors import BadBlockError, MediaError
from daxmend.events import RecoveryRefused, ZeroinitDone
from daxmend.extent import Extent
from daxmend.fuse import MAX_WRITE, Buffer, Caller, Opened, Pending, Session
from daxmend.fuse.protocol import (
    FOPEN_DIRECT_IO,
    FOPEN_KEEP_CACHE,
    FOPEN_NOFLUSH,
    FOPEN_PASSTHROUGH,
    FUSE_FSYNC_FDATASYNC,
    FUSE_OPEN_KILL_SUIDGID,
    FUSE_POLL_SCHEDULE_NOTIFY,
    FUSE_READ_LOCKOWNER,
    FUSE_WRITE_CACHE,
    FUSE_WRITE_KILL_SUIDGID,
)
from daxmend.host import zeroing
from daxmend.mounts.devicemount import ALWAYS_READY
from daxmend.mounts.fixedname import FixedNames
from daxmend.mounts.option import OpenMode
from daxmend.mounts.privilege import CAPABILITY_NAME, without_privileges
from daxmend.mounts.shadowcontent import ShadowContent
from daxmend.mounts.shadownode import FIRST_NODEID
from daxmend.units import MAX_OFFSET, MIB, PAGE, SECTOR

if TYPE_CHECKING:
    from collections.abc import Iterator

    from daxmend.mounts.control import ControlDirectory
    from daxmend.mounts.option import ShadowOptions
    from daxmend.mounts.shadownode import ShadowNode, ShadowNodes

# Not for the descriptor below: O_APPEND because a mapping is written back through any of them, at
# its own place (the kernel finds the end of the file itself); O_DIRECT because of alignment.
_NOT_BELOW = os.O_APPEND | os.O_DIRECT | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_NOCTTY
_COPY_AT_ONCE = 16 * MIB  # others wait as long as this takes; the caller asks again


class OpenShadow(NamedTuple):
    """One open of a file. Its handle is the descriptor below."""

    node: ShadowNode
    is_writable: bool
    is_passthrough: bool


class ShadowData(FixedNames):
    """Reads and writes; what is the mount's own goes to the control directory."""

    truncates_on_open = True
    kills_suidgid = True

    _nodes: ShadowNodes
    _control: ControlDirectory

    def __init__(self, options: ShadowOptions) -> None:
        self._options = options
        self._opens: dict[int, OpenShadow] = {}
        self._has_direct_mmap = False
        self._may_pass_through = False
        self._buffer = memoryview(mmap.mmap(-1, MAX_WRITE))

    def init(self, session: Session) -> None:
        super().init(session)
        kernel = session.kernel
        self._has_direct_mmap = kernel is not None and kernel.direct_mmap
        self._may_pass_through = (
            kernel is not None
            and kernel.passthrough
            and os.geteuid() == 0
            and self._options.mount.open_mode is OpenMode.AUTO
        )

    def _invalidate(self, nodeid: int, extent: Extent) -> None:
        """The kernel must ask for the range again (R27)."""
        pages = extent.intersection(Extent(0, MAX_OFFSET - PAGE)).widened(PAGE)
        self.session.notifier.inval_inode(nodeid, pages.offset, pages.length)

    def _is_armed(self, node: ShadowNode) -> bool:
        """Whether the file may go bad while it is open."""
        raise NotImplementedError

    # -- open and close --------------------------------------------------------------------

    def open(self, caller: Caller, nodeid: int, flags: int, open_flags: int) -> Opened:
        if self._control.has(nodeid):
            return self._control.open(nodeid)
        node = self._nodes[nodeid]
        fd = os.open(node.link, flags & ~_NOT_BELOW | os.O_CLOEXEC)
        if flags & os.O_TRUNC:
            if open_flags & FUSE_OPEN_KILL_SUIDGID:
                self._kill_privileges(node)
            self._cut(node, 0)
        return self._opened(node, fd, flags)

    def _opened(self, node: ShadowNode, fd: int, flags: int) -> Opened:
        """The answer to an open whose descriptor below is `fd`, which it now owns."""
        is_writable = flags & os.O_ACCMODE != os.O_RDONLY
        passes = self._passes_through(node, fd)
        if passes and not node.backing_opens:
            try:
                node.backing_id = self.session.open_backing(fd)
            except OSError:  # a file system that is stacked too deep, or cannot: the other way
                passes = False
        self._opens[fd] = OpenShadow(node, is_writable, passes)
        if is_writable and node.writes is not None:
            node.writes.open(node.nodeid, fd)
        quiet = 0 if is_writable else FOPEN_NOFLUSH  # a close has nothing to tell
        if not passes:
            node.opens += 1
            return Opened(fd, self._open_flags(node, fd) | quiet)
        node.backing_opens += 1
        direct = FOPEN_DIRECT_IO if node.is_bad else 0  # which takes precedence for read and write
        return Opened(fd, FOPEN_PASSTHROUGH | direct | quiet, node.backing_id)

    def _passes_through(self, node: ShadowNode, fd: int) -> bool:
        if node.backing_opens:
            return True
        if not self._may_pass_through or node.opens or node.is_bad or self._is_armed(node):
            return False
        mode = os.fstat(fd).st_mode
        if mode & (stat.S_ISUID | stat.S_ISGID):  # a write must clear them, and would not come here
            return False
        return not mode & 0o111 or not _has_capability(node)

    def _open_flags(self, node: ShadowNode, fd: int) -> int:
        mode = self._options.mount.open_mode
        is_direct = mode is OpenMode.DIRECT
        if mode is OpenMode.AUTO:
            is_direct = node.is_bad and self._has_direct_mmap
        if is_direct:
            return FOPEN_DIRECT_IO
        found = os.fstat(fd)
        stamp = (found.st_mtime_ns, found.st_ctime_ns, found.st_size)
        is_known, node.stamp = node.stamp == stamp, stamp  # else somebody has written below
        may_be_late = self._options.cache_seconds > 0  # times tick slowly
        return FOPEN_KEEP_CACHE if is_known and may_be_late else 0

    def release(
        self, nodeid: int, fh: int, flags: int, release_flags: int, lock_owner: int
    ) -> None:
        if self._control.has(nodeid):
            self._control.release(fh)
            return
        opened = self._opens.pop(fh)
        node = opened.node
        if node.writes is not None:
            node.writes.release(nodeid, fh)
        os.close(fh)
        if opened.is_passthrough:
            node.backing_opens -= 1
            if not node.backing_opens:
                self.session.close_backing(node.backing_id)
        else:
            node.opens -= 1
        self._nodes.drop(node)

    # -- reads -----------------------------------------------------------------------------

    def read(
        self, nodeid: int, fh: int, offset: int, size: int, read_flags: int, open_flags: int
    ) -> Buffer | Pending:
        if nodeid < FIRST_NODEID:
            return self._control.read(fh, offset, size, open_flags)
        faults = self._opens[fh].node.faults
        if faults:
            size = self._readable(self._opens[fh].node, Extent(offset, size), read_flags)
        buffer = self._buffer[:size]
        return buffer[: os.preadv(fh, (buffer,), offset)]

    def _readable(self, node: ShadowNode, extent: Extent, read_flags: int) -> int:
        """How much of the range can be read; `MediaError` if that is nothing (R11).

        What fills the page cache is all or nothing: short would be the end of the file, and the
        kernel comes again page by page.
        """
        faults = node.faults
        assert faults is not None
        bad = faults.first_bad(extent)
        if bad is None:
            return extent.length
        is_own_read = bool(read_flags & FUSE_READ_LOCKOWNER)
        if is_own_read and bad > extent.offset:
            faults.notice(bad)
            return bad - extent.offset
        if bad >= os.fstat(node.fd).st_size:  # the rest of the last sector, behind the end
            return extent.length
        faults.meet(bad, ahead=0 if is_own_read else extent.length)
        raise MediaError(self._name(node), bad, SECTOR)

    def _name(self, node: ShadowNode) -> str:
        path = self._nodes.path(node)
        return f"inode {node.key[1]}" if path is None else os.fsdecode(path)

    # -- writes ----------------------------------------------------------------------------

    def write(
        self, nodeid: int, fh: int, offset: int, data: memoryview, write_flags: int, open_flags: int
    ) -> int | Pending:
        if nodeid < FIRST_NODEID:
            return self._control.write(fh, data)
        node = self._opens[fh].node
        if write_flags & FUSE_WRITE_KILL_SUIDGID:
            self._kill_privileges(node)
        if open_flags & os.O_APPEND and not write_flags & FUSE_WRITE_CACHE:
            offset = self._end(node, fh, offset)
        if node.writes is None:
            return os.pwrite(fh, data, offset)
        with self._content(node, fh) as content:
            if write_flags & FUSE_WRITE_CACHE:
                node.writes.write_back(content, offset, data)
                return len(data)
            return node.writes.write(fh, content, offset, data)

    def _end(self, node: ShadowNode, fh: int, believed: int) -> int:
        """The end of the file. If somebody wrote below, the kernel believes it elsewhere, and keeps
        what is appended at the wrong place in its cache."""
        end = os.fstat(fh).st_size
        if end != believed:
            self._invalidate(node.nodeid, Extent.between(min(end, believed), MAX_OFFSET))
        return end

    @contextlib.contextmanager
    def _content(self, node: ShadowNode, fh: int) -> Iterator[ShadowContent]:
        """The file as something to write to; what verifies must read, so a reader comes along."""
        assert node.faults is not None
        reader = fh
        if self._options.mount.verify_writes:
            reader = os.open(node.link, os.O_RDONLY | os.O_CLOEXEC)
        try:
            name = self._name(node) if node.faults else ""
            yield ShadowContent(node.nodeid, name, node.faults, writer=fh, reader=reader)
        finally:
            if reader != fh:
                os.close(reader)

    def fallocate(self, nodeid: int, fh: int, offset: int, length: int, mode: int) -> None:
        """As the file system below has it; zeros and holes heal what they cover (R29, R31)."""
        if self._control.has(nodeid):
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        node, extent = self._opens[fh].node, Extent(offset, length)
        zeroes = mode & (zeroing.FALLOC_FL_PUNCH_HOLE | zeroing.FALLOC_FL_ZERO_RANGE)
        if not (zeroes and node.is_bad):
            zeroing.fallocate(fh, mode, extent)
            return
        faults = node.faults
        assert faults is not None
        size = os.fstat(fh).st_size
        refused = faults.first_refused(extent, size, may_heal=faults.allows_recovery)
        if refused is not None:
            faults.events.publish(RecoveryRefused(refused, "the zeroing does not cover it"))
            raise BadBlockError(self._name(node), *refused)
        zeroing.fallocate(fh, mode, extent)
        faults.heal(extent)
        faults.discard(extent.narrowed(SECTOR))  # latent poison goes, too
        faults.events.publish(ZeroinitDone(extent))
        if node.writes is not None:
            node.writes.discard(nodeid, extent)

    def _cut(self, node: ShadowNode, size: int) -> None:
        """The file was truncated (R32)."""
        if node.faults is not None:
            node.faults.cut(size)
        if node.writes is not None:
            node.writes.discard(node.nodeid, Extent.between(size, MAX_OFFSET))

    def _kill_privileges(self, node: ShadowNode) -> None:
        """Somebody else's bytes must not run with the owner's rights (`kills_suidgid`)."""
        mode = os.fstat(node.fd).st_mode
        if not stat.S_ISREG(mode):
            return
        kept = without_privileges(mode)
        if kept != mode:
            os.chmod(node.link, stat.S_IMODE(kept))
        if _has_capability(node):
            os.removexattr(node.link, CAPABILITY_NAME)

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
        """By the file system below; with faults by the kernel, through reads and writes."""
        if nodeid_in < FIRST_NODEID or nodeid_out < FIRST_NODEID:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        if self._opens[fh_in].node.is_bad or self._opens[fh_out].node.is_bad:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        return os.copy_file_range(fh_in, fh_out, min(length, _COPY_AT_ONCE), off_in, off_out)

    def lseek(self, nodeid: int, fh: int, offset: int, whence: int) -> int:
        if nodeid < FIRST_NODEID:
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
        return os.lseek(fh, offset, whence)

    def poll(self, nodeid: int, fh: int, kh: int, flags: int, events: int) -> int:
        if not self._control.has(nodeid):
            return ALWAYS_READY
        return self._control.poll(fh, kh, bool(flags & FUSE_POLL_SCHEDULE_NOTIFY))

    def interrupted(self, unique: int) -> bool:
        self._control.forget_parked(unique)
        return True

    # -- durability ------------------------------------------------------------------------

    def flush(self, nodeid: int, fh: int, lock_owner: int) -> None:
        if nodeid < FIRST_NODEID:
            return
        os.close(os.dup(fh))  # what a close below has to say
        writes = self._opens[fh].node.writes
        if writes is not None:
            writes.flush(fh)

    def fsync(self, nodeid: int, fh: int, fsync_flags: int) -> None:
        if nodeid < FIRST_NODEID:
            return
        if fsync_flags & FUSE_FSYNC_FDATASYNC:
            os.fdatasync(fh)
        else:
            os.fsync(fh)
        writes = self._opens[fh].node.writes
        if writes is not None:
            writes.sync(fh)

    def write_back(self) -> None:
        """Let the kernel write back what mappings dirtied, as far as a stopping session lets it."""
        for nodeid in {opened.node.nodeid for opened in list(self._opens.values())}:
            self.session.notifier.inval_inode(nodeid)


def _has_capability(node: ShadowNode) -> bool:
    try:
        os.getxattr(node.link, CAPABILITY_NAME)
    except OSError:  # none, or none that could be: the file system below has no xattrs
        return False
    return True
