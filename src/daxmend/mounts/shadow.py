"""The shadow mount: an existing directory once more, with faults where they are wanted.

Names and attributes are asked from the directory below, relative to descriptors, so that nobody who
renames something there leads this mount astray. Changes go below; the faults are the mount's own.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from typing import TYPE_CHECKING, Final

from daxmend.fuse import (
    Attr,
    AttrOut,
    Buffer,
    Caller,
    Dirent,
    DirentBuffer,
    Entry,
    Kstatfs,
    Opened,
    Session,
    SetAttr,
)
from daxmend.fuse.protocol import (
    FATTR_ATIME,
    FATTR_ATIME_NOW,
    FATTR_FH,
    FATTR_GID,
    FATTR_KILL_SUIDGID,
    FATTR_MODE,
    FATTR_MTIME,
    FATTR_MTIME_NOW,
    FATTR_SIZE,
    FATTR_UID,
    FUSE_ROOT_ID,
)
from daxmend.mounts.control import CONTROL_NAME, CONTROL_NODEID, ControlDirectory
from daxmend.mounts.shadowcontrol import ShadowFiles
from daxmend.mounts.shadowdata import ShadowData
from daxmend.mounts.shadowmodel import ShadowModel
from daxmend.mounts.shadownode import FIRST_NODEID, ShadowNode, ShadowNodes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from daxmend.extent import Extent
    from daxmend.mounts.option import ShadowOptions

_VALID_SECONDS: Final = 3600  # for the mount's own names
_PRIVILEGED: Final = stat.S_ISUID | stat.S_ISGID
_AT_FDCWD: Final = -100

_Name = tuple[bytes, int, int]  # name, ino, DT_*


class ShadowMount(ShadowData):
    """The directory open at `root` (O_PATH), and hidden in it `.daxmend`, the mount's owner's.

    `root` is closed with the nodes, in `destroy`. `source` is what it is called.
    """

    posix_acls = True

    def __init__(
        self,
        root: int,
        source: str,
        *,
        options: ShadowOptions,
        on_ready: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(options)
        self._on_ready = on_ready
        self._nodes = ShadowNodes(root, self._forget_entry)
        self.model = ShadowModel(self._nodes, options, self._invalidate, self._writers)
        self._control = ControlDirectory(
            self.model.events,
            lambda on_change: ShadowFiles(self.model, source),
            self._ignore,
        )
        seconds, nanoseconds = divmod(round(options.cache_seconds * 10**9), 10**9)
        self._valid = (seconds, nanoseconds)
        self._directories: dict[int, list[_Name]] = {}  # what an open directory listed
        self._owner = (os.getuid(), os.getgid())
        self._is_root = os.geteuid() == 0

    def init(self, session: Session) -> None:
        super().init(session)
        self._control.session = session
        self.model.passes_through = self._may_pass_through
        os.umask(0)
        self._on_ready()

    def destroy(self) -> None:
        self._control.stop()
        for fd in [*self._opens, *self._directories]:
            os.close(fd)
        self._nodes.close()

    def _is_armed(self, node: ShadowNode) -> bool:
        return self.model.is_armed(node)

    def _writers(self, node: ShadowNode) -> list[int]:
        """The handles of the opens that can be written to."""
        return [fd for fd, opened in self._opens.items() if opened[:2] == (node, True)]

    def _ignore(self, extent: Extent) -> None:
        """Nothing here is a range of a device."""

    def _forget_entry(self, parent: int, name: bytes) -> None:
        self.session.notifier.inval_entry(parent, name)

    # -- names -----------------------------------------------------------------------------

    def lookup(self, caller: Caller, parent: int, name: bytes) -> Entry:
        if parent == CONTROL_NODEID:
            nodeid = self._control.find(name)
            return Entry(nodeid, self._own_attr(nodeid), entry_valid=_VALID_SECONDS)
        if parent == FUSE_ROOT_ID and name == CONTROL_NAME:
            return Entry(CONTROL_NODEID, self._own_attr(CONTROL_NODEID), entry_valid=_VALID_SECONDS)
        return self._entry(*self._nodes.lookup(self._nodes[parent], name))

    def _entry(self, node: ShadowNode, found: os.stat_result) -> Entry:
        seconds, nanoseconds = self._valid
        return Entry(node.nodeid, _pack_stat(found), 0, seconds, nanoseconds, seconds, nanoseconds)

    def _is_own(self, nodeid: int) -> bool:
        """Whether it is the mount's and not the directory's."""
        return nodeid < FIRST_NODEID and nodeid != FUSE_ROOT_ID

    def _own_attr(self, nodeid: int) -> Attr:
        mode = self._control.mode(nodeid)
        nlink = 2 if stat.S_ISDIR(mode) else 1
        return Attr(nodeid, 0, 0, *(0,) * 6, mode, nlink, *self._owner)

    def _directory(self, parent: int, *names: bytes) -> ShadowNode:
        """The directory in which something is to change; what is the mount's own stays."""
        if parent == CONTROL_NODEID or (parent == FUSE_ROOT_ID and CONTROL_NAME in names):
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
        return self._nodes[parent]

    def forget(self, nodeid: int, nlookup: int) -> None:
        if nodeid >= FIRST_NODEID:
            self._nodes.forget(nodeid, nlookup)

    def symlink(self, caller: Caller, parent: int, name: bytes, target: bytes) -> Entry:
        directory = self._directory(parent, name)
        os.symlink(target, name, dir_fd=directory.fd)
        return self._made(caller, directory, name, 0)

    def mknod(
        self, caller: Caller, parent: int, name: bytes, mode: int, rdev: int, umask: int
    ) -> Entry:
        directory = self._directory(parent, name)
        with _umask(umask):
            os.mknod(name, mode & ~_PRIVILEGED, rdev, dir_fd=directory.fd)
        return self._made(caller, directory, name, mode)

    def mkdir(self, caller: Caller, parent: int, name: bytes, mode: int, umask: int) -> Entry:
        directory = self._directory(parent, name)
        with _umask(umask):
            os.mkdir(name, stat.S_IMODE(mode), dir_fd=directory.fd)
        return self._made(caller, directory, name, 0)

    def create(
        self,
        caller: Caller,
        parent: int,
        name: bytes,
        flags: int,
        mode: int,
        umask: int,
        open_flags: int,
    ) -> tuple[Entry, Opened]:
        """With no more rights than the caller's until the file is the caller's."""
        directory = self._directory(parent, name)
        below = flags & ~(os.O_APPEND | os.O_DIRECT) | os.O_NOFOLLOW | os.O_CLOEXEC
        is_new = True
        try:
            with _umask(umask):
                fd = os.open(
                    name,
                    below | os.O_CREAT | os.O_EXCL,
                    stat.S_IMODE(mode) & ~_PRIVILEGED,
                    dir_fd=directory.fd,
                )
        except FileExistsError:
            if flags & os.O_EXCL:
                raise
            is_new = False  # somebody else made it, below
            fd = os.open(name, below & ~os.O_CREAT, dir_fd=directory.fd)
        node, found = self._nodes.of_open(fd, directory, name)
        if is_new:
            found = self._own(node, found, caller, directory, mode)
        elif flags & os.O_TRUNC:
            self._cut(node, 0)
        return self._entry(node, found), self._opened(node, fd, flags)

    def tmpfile(
        self, caller: Caller, parent: int, flags: int, mode: int, umask: int, open_flags: int
    ) -> tuple[Entry, Opened]:
        directory = self._directory(parent)
        below = flags & ~(os.O_APPEND | os.O_DIRECT | os.O_CREAT | os.O_EXCL) | os.O_TMPFILE
        with _umask(umask):
            fd = os.open(directory.link, below | os.O_CLOEXEC, stat.S_IMODE(mode) & ~_PRIVILEGED)
        node, found = self._nodes.of_open(fd, directory, b"")
        found = self._own(node, found, caller, directory, mode)
        return self._entry(node, found), self._opened(node, fd, flags)

    def _made(self, caller: Caller, directory: ShadowNode, name: bytes, mode: int) -> Entry:
        node, found = self._nodes.lookup(directory, name)
        return self._entry(node, self._own(node, found, caller, directory, mode))

    def _own(
        self,
        node: ShadowNode,
        found: os.stat_result,
        caller: Caller,
        directory: ShadowNode,
        mode: int,
    ) -> os.stat_result:
        """What root's server made is the caller's; the group may have come from the directory."""
        is_other = self._is_root and (found.st_uid, found.st_gid) != (caller.uid, caller.gid)
        if is_other:
            inherits = os.fstat(directory.fd).st_mode & stat.S_ISGID
            os.chown(node.link, caller.uid, -1 if inherits else caller.gid)
        if mode & _PRIVILEGED:
            os.chmod(node.link, stat.S_IMODE(found.st_mode | mode & _PRIVILEGED))
        return os.fstat(node.fd) if is_other or mode & _PRIVILEGED else found

    def link(self, caller: Caller, oldnodeid: int, newdir: int, newname: bytes) -> Entry:
        directory = self._directory(newdir, newname)
        node = self._directory(oldnodeid)
        os.link(node.link, newname, dst_dir_fd=directory.fd, follow_symlinks=True)
        node.lookups += 1
        return self._entry(node, os.fstat(node.fd))

    def unlink(self, caller: Caller, parent: int, name: bytes) -> None:
        os.unlink(name, dir_fd=self._directory(parent, name).fd)

    def rmdir(self, caller: Caller, parent: int, name: bytes) -> None:
        os.rmdir(name, dir_fd=self._directory(parent, name).fd)

    def rename(
        self, caller: Caller, parent: int, name: bytes, newdir: int, newname: bytes, flags: int
    ) -> None:
        source, target = self._directory(parent, name), self._directory(newdir, newname)
        if flags:
            _renameat2(source.fd, name, target.fd, newname, flags)
        else:
            os.rename(name, newname, src_dir_fd=source.fd, dst_dir_fd=target.fd)

    def readlink(self, caller: Caller, nodeid: int) -> Buffer:
        return os.readlink(b"", dir_fd=self._nodes[nodeid].fd)

    # -- attributes ------------------------------------------------------------------------

    def getattr(self, caller: Caller, nodeid: int, fh: int | None) -> AttrOut:
        if self._is_own(nodeid):
            return AttrOut(self._own_attr(nodeid))
        return AttrOut(_pack_stat(os.fstat(self._nodes[nodeid].fd)), *self._valid)

    def setattr(self, caller: Caller, nodeid: int, change: SetAttr) -> AttrOut:
        valid = change.valid
        if self._is_own(nodeid):
            if valid & FATTR_SIZE:  # a shell's `>`
                return AttrOut(self._own_attr(nodeid))
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
        node = self._nodes[nodeid]
        if valid & FATTR_SIZE:
            has_fh = valid & FATTR_FH and change.fh in self._opens
            os.truncate(change.fh if has_fh else node.link, change.size)
            self._cut(node, change.size)
        if valid & (FATTR_UID | FATTR_GID):
            uid = change.uid if valid & FATTR_UID else -1
            os.chown(node.link, uid, change.gid if valid & FATTR_GID else -1)
        if valid & (FATTR_UID | FATTR_GID | FATTR_KILL_SUIDGID):
            self._kill_privileges(node)
        if valid & FATTR_MODE:
            os.chmod(node.link, stat.S_IMODE(change.mode))
        if valid & (FATTR_ATIME | FATTR_MTIME):
            _set_times(node, change)
        return self.getattr(caller, nodeid, None)

    def statfs(self, caller: Caller, nodeid: int) -> Kstatfs:
        found = os.statvfs(self._nodes.root.link)
        return Kstatfs(
            found.f_blocks, found.f_bfree, found.f_bavail, found.f_files, found.f_ffree,
            found.f_bsize, found.f_namemax, found.f_frsize,
        )  # fmt: skip

    def getxattr(self, caller: Caller, nodeid: int, name: bytes) -> Buffer:
        if self._is_own(nodeid):
            raise OSError(errno.ENODATA, os.strerror(errno.ENODATA))
        return os.getxattr(self._nodes[nodeid].link, name)

    def setxattr(self, caller: Caller, nodeid: int, name: bytes, value: bytes, flags: int) -> None:
        os.setxattr(self._directory(nodeid).link, name, value, flags)

    def listxattr(self, caller: Caller, nodeid: int) -> list[bytes]:
        if self._is_own(nodeid):
            return []
        names = map(os.fsencode, os.listxattr(self._nodes[nodeid].link))
        return [name for name in names if caller.uid == 0 or not name.startswith(b"trusted.")]

    def removexattr(self, caller: Caller, nodeid: int, name: bytes) -> None:
        os.removexattr(self._directory(nodeid).link, name)

    # -- directories -----------------------------------------------------------------------

    def opendir(self, caller: Caller, nodeid: int, flags: int, open_flags: int) -> Opened:
        link = self._nodes.root.link if nodeid == CONTROL_NODEID else self._nodes[nodeid].link
        fd = os.open(link, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._directories[fd] = []
        return Opened(fd)

    def releasedir(
        self, nodeid: int, fh: int, flags: int, release_flags: int, lock_owner: int
    ) -> None:
        del self._directories[fh]
        os.close(fh)

    def fsyncdir(self, nodeid: int, fh: int, fsync_flags: int) -> None:
        os.fsync(fh)

    def readdir(self, nodeid: int, fh: int, offset: int, dirents: DirentBuffer) -> None:
        for dirent in self._dirents(nodeid, fh, offset):
            if not dirents.add(dirent):
                break

    def readdirplus(self, nodeid: int, fh: int, offset: int, dirents: DirentBuffer) -> None:
        """As `readdir`; each entry is looked up now: the name may be another file's since."""
        for dirent in self._dirents(nodeid, fh, offset):
            entry = None
            if nodeid != CONTROL_NODEID and dirent.name not in (b".", b".."):
                try:
                    entry = self._entry(*self._nodes.lookup(self._nodes[nodeid], dirent.name))
                except FileNotFoundError:
                    continue
                except OSError:  # a directory that may be listed and not searched
                    entry = None
            if not dirents.add_plus(entry, dirent):
                if entry is not None:
                    self._nodes.forget(entry.nodeid, 1)
                break

    def _dirents(self, nodeid: int, fh: int, offset: int) -> Iterator[Dirent]:
        """What the open directory listed when it was last read from its start."""
        if offset == 0:
            self._directories[fh] = list(self._list(nodeid, fh))
        names = self._directories[fh]
        for index in range(offset, len(names)):
            name, ino, kind = names[index]
            yield Dirent(ino, index + 1, kind, name)

    def _list(self, nodeid: int, fh: int) -> Iterator[_Name]:
        directory, regular = stat.S_IFDIR >> 12, stat.S_IFREG >> 12
        yield b".", nodeid, directory
        yield b"..", FUSE_ROOT_ID, directory
        if nodeid == CONTROL_NODEID:
            yield from ((name, child, regular) for child, name in self._control.names())
            return
        with os.scandir(fh) as entries:
            for entry in entries:
                name = os.fsencode(entry.name)
                if nodeid != FUSE_ROOT_ID or name != CONTROL_NAME:
                    yield name, entry.inode(), _type_of(entry)


def _type_of(entry: os.DirEntry[str]) -> int:
    """DT_*, from what the directory says; 0 is unknown, and the kernel asks."""
    if entry.is_symlink():
        return stat.S_IFLNK >> 12
    if entry.is_dir(follow_symlinks=False):
        return stat.S_IFDIR >> 12
    return stat.S_IFREG >> 12 if entry.is_file(follow_symlinks=False) else 0


class _umask:  # noqa: N801  # a verb
    """The caller's umask for what is made meanwhile: below, a default ACL may replace it."""

    def __init__(self, umask: int) -> None:
        self._umask = umask

    def __enter__(self) -> None:
        os.umask(self._umask)

    def __exit__(self, *_: object) -> None:
        os.umask(0)


def _set_times(node: ShadowNode, change: SetAttr) -> None:
    valid = change.valid
    if valid & FATTR_ATIME_NOW and valid & FATTR_MTIME_NOW:
        os.utime(node.link)  # which also who may only write to the file can do
        return
    atime, mtime = _UTIME_OMIT, _UTIME_OMIT
    if valid & FATTR_ATIME:
        atime = _UTIME_NOW if valid & FATTR_ATIME_NOW else (change.atime, change.atimensec)
    if valid & FATTR_MTIME:
        mtime = _UTIME_NOW if valid & FATTR_MTIME_NOW else (change.mtime, change.mtimensec)
    times = (ctypes.c_long * 4)(*atime, *mtime)
    _call(_libc.utimensat, _AT_FDCWD, os.fsencode(node.link), times, 0)


def _renameat2(source: int, name: bytes, target: int, newname: bytes, flags: int) -> None:
    _call(_libc.renameat2, source, name, target, newname, flags)


def _call(function: Callable[..., int], *arguments: object) -> None:
    if function(*arguments):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _pack_stat(found: os.stat_result) -> Attr:
    """As the kernel takes it; the inode's number is that below."""
    atime, atime_nsec = divmod(found.st_atime_ns, 10**9)
    mtime, mtime_nsec = divmod(found.st_mtime_ns, 10**9)
    ctime, ctime_nsec = divmod(found.st_ctime_ns, 10**9)
    return Attr(
        found.st_ino, found.st_size, found.st_blocks,
        atime, mtime, ctime, atime_nsec, mtime_nsec, ctime_nsec,
        found.st_mode, found.st_nlink, found.st_uid, found.st_gid, found.st_rdev, found.st_blksize,
    )  # fmt: skip


_UTIME_NOW: Final = (0, (1 << 30) - 1)
_UTIME_OMIT: Final = (0, (1 << 30) - 2)
_libc: Final = ctypes.CDLL(None, use_errno=True)
