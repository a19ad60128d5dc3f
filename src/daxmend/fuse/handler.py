"""What a file system answers: one method an operation, each documented as a contract.

All methods are called on the request thread, one at a time. An `OSError` (or any exception with
an int `errno`) is the answer errno; every other exception is EIO, and its traceback goes to the
session's log. What is not overridden raises ENOSYS, which the kernel mostly remembers and stops
asking for. Any method with an answer may return `PENDING` instead and be answered later through
`Session.reply` or `Session.reply_error`, from any thread, with `session.unique` as it was during
the call. `nodeid` and `parent` are numbers of the handler's own choice (the root is
`FUSE_ROOT_ID`), names are bytes without a slash, offsets and sizes are bytes.
"""

import errno
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar

from daxmend.fuse.message import (
    AttrOut,
    Buffer,
    Caller,
    DirentBuffer,
    Entry,
    Kstatfs,
    Opened,
    Pending,
    SetAttr,
)

if TYPE_CHECKING:
    from daxmend.fuse.session import Session


def _enosys() -> OSError:
    return OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))


class Handler:
    """Answers every operation with ENOSYS; a file system overrides what it has."""

    truncates_on_open: ClassVar[bool] = True
    """Whether `open` does O_TRUNC itself. Without it the kernel asks by SETATTR with size 0, and
    believes the size that the answer gives: right for what cannot be truncated."""

    kills_suidgid: ClassVar[bool] = False
    """Whether this handler takes over FUSE_HANDLE_KILLPRIV_V2: it clears suid, sgid and the xattr
    `security.capability` on a chown always, on a truncation with FATTR_KILL_SUIDGID or
    FUSE_OPEN_KILL_SUIDGID, and on a write with FUSE_WRITE_KILL_SUIDGID. Without it the kernel does
    so by SETATTR, and asks for that xattr before every write(2)."""

    posix_acls: ClassVar[bool] = False
    """Whether this handler has the xattrs `system.posix_acl_*`: the kernel then asks for them, and
    decides by them who may do what. It also leaves the umask to the handler, for a directory's
    default ACL takes the umask's place."""

    session: "Session"
    """The session that serves this handler, from `init` on."""

    def init(self, session: "Session") -> None:
        """Remember `session`; called once, when INIT is negotiated (`session.kernel` is set)."""
        self.session = session

    def destroy(self) -> None:
        """The last call, once: the mount has gone or the session was stopped."""

    def interrupted(self, unique: int) -> bool:
        """A signal reached the caller that waits for the parked request `unique`.

        True (the default) answers it with EINTR; False leaves it parked, or answered by others.
        """
        return True

    # Names

    def lookup(self, caller: Caller, parent: int, name: bytes) -> Entry | Pending:
        """What `name` in the directory `parent` stands for; ENOENT if nothing."""
        raise _enosys()

    def forget(self, nodeid: int, nlookup: int) -> None:
        """The kernel gives `nlookup` lookups of `nodeid` back; there is no answer."""

    def symlink(self, caller: Caller, parent: int, name: bytes, target: bytes) -> Entry | Pending:
        """Make a symbolic link."""
        raise _enosys()

    def mknod(
        self, caller: Caller, parent: int, name: bytes, mode: int, rdev: int, umask: int
    ) -> Entry | Pending:
        """Make a file, FIFO, socket or device; the kernel has applied `umask` to `mode`."""
        raise _enosys()

    def mkdir(
        self, caller: Caller, parent: int, name: bytes, mode: int, umask: int
    ) -> Entry | Pending:
        """Make a directory; `mode` as in `mknod`."""
        raise _enosys()

    def unlink(self, caller: Caller, parent: int, name: bytes) -> Pending | None:
        """Remove a name; the inode lives on while it is open or looked up."""
        raise _enosys()

    def rmdir(self, caller: Caller, parent: int, name: bytes) -> Pending | None:
        """Remove an empty directory."""
        raise _enosys()

    def rename(
        self, caller: Caller, parent: int, name: bytes, newdir: int, newname: bytes, flags: int
    ) -> Pending | None:
        """Rename, for RENAME (`flags` 0) and RENAME2 (RENAME_NOREPLACE, RENAME_EXCHANGE...)."""
        raise _enosys()

    def link(self, caller: Caller, oldnodeid: int, newdir: int, newname: bytes) -> Entry | Pending:
        """Make another name for `oldnodeid`; the entry counts a lookup."""
        raise _enosys()

    # Inodes

    def getattr(self, caller: Caller, nodeid: int, fh: int | None) -> AttrOut | Pending:
        """The attributes; `fh` is given where the kernel asks on behalf of an open file."""
        raise _enosys()

    def setattr(self, caller: Caller, nodeid: int, change: SetAttr) -> AttrOut | Pending:
        """Change what `change.valid` names, truncate with FATTR_SIZE; the attributes thereafter."""
        raise _enosys()

    def readlink(self, caller: Caller, nodeid: int) -> Buffer | Pending:
        """The target of a symbolic link."""
        raise _enosys()

    def getxattr(self, caller: Caller, nodeid: int, name: bytes) -> Buffer | Pending:
        """The value, whole (the session does sizes and ERANGE); ENODATA if there is none."""
        raise _enosys()

    def setxattr(
        self, caller: Caller, nodeid: int, name: bytes, value: bytes, flags: int
    ) -> Pending | None:
        """Set an xattr; `flags` are XATTR_CREATE and XATTR_REPLACE."""
        raise _enosys()

    def listxattr(self, caller: Caller, nodeid: int) -> Iterable[bytes] | Pending:
        """The names of all xattrs."""
        raise _enosys()

    def removexattr(self, caller: Caller, nodeid: int, name: bytes) -> Pending | None:
        """Remove an xattr; ENODATA if there is none."""
        raise _enosys()

    def statfs(self, caller: Caller, nodeid: int) -> Kstatfs | Pending:
        """statfs(2)."""
        raise _enosys()

    def syncfs(self, nodeid: int) -> Pending | None:
        """syncfs(2); current kernels send it to servers of block devices only."""
        raise _enosys()

    # Files

    def open(self, caller: Caller, nodeid: int, flags: int, open_flags: int) -> Opened | Pending:
        """Open; `flags` are open(2)'s, with O_TRUNC for the handler to do, without O_CREAT."""
        raise _enosys()

    def create(
        self,
        caller: Caller,
        parent: int,
        name: bytes,
        flags: int,
        mode: int,
        umask: int,
        open_flags: int,
    ) -> tuple[Entry, Opened] | Pending:
        """Make and open a regular file in one step."""
        raise _enosys()

    def tmpfile(
        self, caller: Caller, parent: int, flags: int, mode: int, umask: int, open_flags: int
    ) -> tuple[Entry, Opened] | Pending:
        """O_TMPFILE: a file without a name."""
        raise _enosys()

    def read(
        self, nodeid: int, fh: int, offset: int, size: int, read_flags: int, open_flags: int
    ) -> Buffer | Pending:
        """At most `size` bytes from `offset`; a memoryview is sent without a copy.

        A read with FUSE_READ_LOCKOWNER in `read_flags` on a direct open is the program's own
        read(2) and may be answered short. Every other one fills the page cache: short means end
        of file, so a bad page is EIO for the whole request, and the kernel retries page by page.
        `open_flags` are open(2)'s flags (O_DIRECT ...).
        """
        raise _enosys()

    def write(
        self, nodeid: int, fh: int, offset: int, data: memoryview, write_flags: int, open_flags: int
    ) -> int | Pending:
        """Write `data`, at most 1 MiB and valid only until the return; the count written.

        FUSE_WRITE_CACHE in `write_flags` marks a page of a mapping that is written back: a store,
        not a write(2), on a file handle that the kernel guessed. A write(2) may arrive cut (R50).
        """
        raise _enosys()

    def flush(self, nodeid: int, fh: int, lock_owner: int) -> Pending | None:
        """close(2) of one descriptor of this open: its result is that of the close."""
        raise _enosys()

    def release(
        self, nodeid: int, fh: int, flags: int, release_flags: int, lock_owner: int
    ) -> Pending | None:
        """The last descriptor and mapping of this open have gone; the kernel ignores errors."""
        raise _enosys()

    def fsync(self, nodeid: int, fh: int, fsync_flags: int) -> Pending | None:
        """fsync(2), or fdatasync(2) with FUSE_FSYNC_FDATASYNC."""
        raise _enosys()

    def fallocate(
        self, nodeid: int, fh: int, offset: int, length: int, mode: int
    ) -> Pending | None:
        """fallocate(2): the kernel passes KEEP_SIZE, PUNCH_HOLE and ZERO_RANGE, no others."""
        raise _enosys()

    def lseek(self, nodeid: int, fh: int, offset: int, whence: int) -> int | Pending:
        """SEEK_DATA or SEEK_HOLE: the offset found; ENXIO if there is none."""
        raise _enosys()

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
    ) -> int | Pending:
        """copy_file_range(2) between two open files of this mount: the count copied."""
        raise _enosys()

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
        """A restricted ioctl(2): its result and at most `out_size` bytes for the caller.

        The sizes of `data` and of the answer are those that `cmd` encodes, so a command that does
        not encode them (BLKZEROOUT) arrives empty: refuse it with ENOTTY, never answer 0.
        """
        raise _enosys()

    def poll(self, nodeid: int, fh: int, kh: int, flags: int, events: int) -> int | Pending:
        """The POLL* bits that are ready now.

        With FUSE_POLL_SCHEDULE_NOTIFY in `flags` somebody waits: remember `kh` and call
        `session.notifier.poll_wakeup(kh)` once, when it is worth asking again.
        """
        raise _enosys()

    # Directories

    def opendir(self, caller: Caller, nodeid: int, flags: int, open_flags: int) -> Opened | Pending:
        """Open a directory."""
        raise _enosys()

    def readdir(self, nodeid: int, fh: int, offset: int, dirents: DirentBuffer) -> Pending | None:
        """Add the entries after `offset` (0, or a `Dirent.off`) until one does not fit."""
        raise _enosys()

    def readdirplus(
        self, nodeid: int, fh: int, offset: int, dirents: DirentBuffer
    ) -> Pending | None:
        """As `readdir`, with `add_plus`; negotiated only where a subclass overrides it."""
        raise _enosys()

    def releasedir(
        self, nodeid: int, fh: int, flags: int, release_flags: int, lock_owner: int
    ) -> Pending | None:
        """As `release`, for a directory."""
        raise _enosys()

    def fsyncdir(self, nodeid: int, fh: int, fsync_flags: int) -> Pending | None:
        """As `fsync`, for a directory."""
        raise _enosys()
