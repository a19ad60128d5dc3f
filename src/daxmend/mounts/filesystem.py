"""The mount of a file system: names, attributes and directories (architecture.md).

A nodeid is an inode's number. The kernel may keep names and attributes for long: every change of
them comes through it.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from typing import TYPE_CHECKING, Final

from daxmend.fs import FIRST_INO, FileSystem, Stat
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
    SetAttr,
)
from daxmend.fuse.protocol import (
    FATTR_ATIME,
    FATTR_ATIME_NOW,
    FATTR_GID,
    FATTR_KILL_SUIDGID,
    FATTR_MODE,
    FATTR_MTIME,
    FATTR_MTIME_NOW,
    FATTR_SIZE,
    FATTR_UID,
    FUSE_ROOT_ID,
)
from daxmend.mounts.control import CONTROL_NAME, CONTROL_NODEID
from daxmend.mounts.devicemount import DEVICE_NAME, DEVICE_NODEID
from daxmend.mounts.filedata import FileData
from daxmend.mounts.option import MountOptions
from daxmend.mounts.xattr import FileXattrs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from daxmend.events import Event

_VALID_SECONDS: Final = 3600
_NO_ATTR: Final = Attr(*(0,) * 13)
_NOBODY: Final = Entry(0, _NO_ATTR, entry_valid=_VALID_SECONDS)  # no such name, and remember that
_DEFAULTS: Final = MountOptions()

_Name = tuple[bytes, int, int]  # name, ino, type


class FileSystemMount(FileData):
    """A file system, and `.daxmend` hidden in its root; that directory is the mount's owner's.

    `attached` are the events of attaching the device. Whoever made `fs` closes it, after `destroy`.
    """

    def __init__(
        self,
        fs: FileSystem,
        *,
        options: MountOptions = _DEFAULTS,
        on_ready: Callable[[], None] = lambda: None,
        attached: Sequence[Event] = (),
    ) -> None:
        super().__init__(fs, options=options, on_ready=on_ready, attached=attached)
        self._xattrs = FileXattrs(fs)
        self._directories: dict[int, list[_Name]] = {}  # what an open directory listed

    # -- names -----------------------------------------------------------------------------

    def lookup(self, caller: Caller, parent: int, name: bytes) -> Entry:
        if self._is_reserved(parent, name):
            nodeid = self._find_own(parent, name)
            return Entry(nodeid, self._own_attr(nodeid), entry_valid=_VALID_SECONDS)
        try:
            ino = self._fs.lookup(parent, name)
        except FileNotFoundError:
            return _NOBODY
        return self._entry(ino)

    def _is_reserved(self, parent: int, name: bytes) -> bool:
        """Whether the name is the mount's own, or would stand beside those."""
        return self._is_own(parent) or (parent == FUSE_ROOT_ID and name == CONTROL_NAME)

    def _find_own(self, parent: int, name: bytes) -> int:
        if parent == FUSE_ROOT_ID:
            return CONTROL_NODEID
        return DEVICE_NODEID if name == DEVICE_NAME else self._control.find(name)

    def _check_names(self, *names: tuple[int, bytes]) -> None:
        """What is the mount's own stays as it is."""
        if any(self._is_reserved(parent, name) for parent, name in names):
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    def _entry(self, ino: int) -> Entry:
        """The entry, which counts a lookup."""
        attr = pack_attr(self._fs.stat(ino))
        self._fs.use(ino)
        self._lookups[ino] = self._lookups.get(ino, 0) + 1
        return Entry(ino, attr, 0, _VALID_SECONDS, 0, _VALID_SECONDS, 0)

    def forget(self, nodeid: int, nlookup: int) -> None:
        if nodeid < FIRST_INO:
            return
        left = self._lookups[nodeid] - nlookup
        if left:
            self._lookups[nodeid] = left
        else:
            del self._lookups[nodeid]
        self._fs.release(nodeid, nlookup)
        self._freed()

    def symlink(self, caller: Caller, parent: int, name: bytes, target: bytes) -> Entry:
        self._check_names((parent, name))
        mode = stat.S_IFLNK | 0o777
        return self._entry(self._fs.make(parent, name, mode, caller.uid, caller.gid, target=target))

    def mknod(
        self, caller: Caller, parent: int, name: bytes, mode: int, rdev: int, umask: int
    ) -> Entry:
        self._check_names((parent, name))
        return self._entry(self._fs.make(parent, name, mode, caller.uid, caller.gid, rdev=rdev))

    def mkdir(self, caller: Caller, parent: int, name: bytes, mode: int, umask: int) -> Entry:
        self._check_names((parent, name))
        mode = stat.S_IFDIR | stat.S_IMODE(mode)
        return self._entry(self._fs.make(parent, name, mode, caller.uid, caller.gid))

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
        self._check_names((parent, name))
        mode = stat.S_IFREG | stat.S_IMODE(mode)
        ino = self._fs.make(parent, name, mode, caller.uid, caller.gid)
        return self._entry(ino), self._open_file(ino, flags)

    def tmpfile(
        self, caller: Caller, parent: int, flags: int, mode: int, umask: int, open_flags: int
    ) -> tuple[Entry, Opened]:
        self._check_names((parent, b""))
        mode = stat.S_IFREG | stat.S_IMODE(mode)
        ino = self._fs.make_nameless(parent, mode, caller.uid, caller.gid)
        try:
            return self._entry(ino), self._open_file(ino, flags)
        finally:
            self._fs.release(ino)  # the user that it was made with

    def link(self, caller: Caller, oldnodeid: int, newdir: int, newname: bytes) -> Entry:
        self._check_names((newdir, newname), (oldnodeid, b""))
        self._fs.link(oldnodeid, newdir, newname)
        return self._entry(oldnodeid)

    def unlink(self, caller: Caller, parent: int, name: bytes) -> None:
        self._check_names((parent, name))
        self._fs.unlink(parent, name)
        self._freed()

    def rmdir(self, caller: Caller, parent: int, name: bytes) -> None:
        self._check_names((parent, name))
        self._fs.rmdir(parent, name)
        self._freed()

    def rename(
        self, caller: Caller, parent: int, name: bytes, newdir: int, newname: bytes, flags: int
    ) -> None:
        self._check_names((parent, name), (newdir, newname))
        self._fs.rename(parent, name, newdir, newname, flags)
        self._freed()

    def readlink(self, caller: Caller, nodeid: int) -> Buffer:
        return self._fs.readlink(nodeid)

    # -- attributes ------------------------------------------------------------------------

    def getattr(self, caller: Caller, nodeid: int, fh: int | None) -> AttrOut:
        if self._is_own(nodeid):
            return super().getattr(caller, nodeid, fh)
        return AttrOut(pack_attr(self._fs.stat(nodeid)), _VALID_SECONDS)

    def setattr(self, caller: Caller, nodeid: int, change: SetAttr) -> AttrOut:
        if self._is_own(nodeid):
            return super().setattr(caller, nodeid, change)
        valid = change.valid
        if valid & FATTR_SIZE:
            self._truncate(nodeid, change.size)
        if valid & (FATTR_UID | FATTR_GID | FATTR_KILL_SUIDGID):
            self._kill_privileges(nodeid)
        now = time.time_ns()
        atime = now if valid & FATTR_ATIME_NOW else change.atime * 10**9 + change.atimensec
        mtime = now if valid & FATTR_MTIME_NOW else change.mtime * 10**9 + change.mtimensec
        changes = {
            "mode": stat.S_IMODE(change.mode) if valid & FATTR_MODE else None,
            "uid": change.uid if valid & FATTR_UID else None,
            "gid": change.gid if valid & FATTR_GID else None,
            "atime_ns": atime if valid & FATTR_ATIME else None,
            "mtime_ns": mtime if valid & FATTR_MTIME else None,
        }
        if any(value is not None for value in changes.values()):
            self._fs.set_attributes(nodeid, **changes)
        return self.getattr(caller, nodeid, None)

    def statfs(self, caller: Caller, nodeid: int) -> Kstatfs:
        statfs = self._fs.statfs()
        files = statfs.files + statfs.ffree
        return Kstatfs(statfs.blocks, statfs.bfree, statfs.bavail, files, statfs.ffree)

    def getxattr(self, caller: Caller, nodeid: int, name: bytes) -> Buffer:
        if self._is_own(nodeid):
            raise OSError(errno.ENODATA, os.strerror(errno.ENODATA))
        return self._xattrs.get(nodeid, name)

    def setxattr(self, caller: Caller, nodeid: int, name: bytes, value: bytes, flags: int) -> None:
        self._check_names((nodeid, b""))
        self._xattrs.set(nodeid, name, value, flags)

    def listxattr(self, caller: Caller, nodeid: int) -> list[bytes]:
        return [] if self._is_own(nodeid) else self._xattrs.names(nodeid, caller)

    def removexattr(self, caller: Caller, nodeid: int, name: bytes) -> None:
        self._check_names((nodeid, b""))
        self._xattrs.remove(nodeid, name)

    # -- directories -----------------------------------------------------------------------

    def opendir(self, caller: Caller, nodeid: int, flags: int, open_flags: int) -> Opened:
        fh = self._new_fh()
        self._directories[fh] = []
        return Opened(fh)

    def releasedir(
        self, nodeid: int, fh: int, flags: int, release_flags: int, lock_owner: int
    ) -> None:
        del self._directories[fh]

    def readdir(self, nodeid: int, fh: int, offset: int, dirents: DirentBuffer) -> None:
        for dirent in self._dirents(nodeid, fh, offset):
            if not dirents.add(dirent):
                break

    def readdirplus(self, nodeid: int, fh: int, offset: int, dirents: DirentBuffer) -> None:
        """As `readdir`; each entry is looked up now: the name may be another file's since."""
        for dirent in self._dirents(nodeid, fh, offset):
            entry = None if dirent.name in (b".", b"..") else self._entry_now(nodeid, dirent.name)
            if not dirents.add_plus(entry, dirent):
                if entry is not None:
                    self.forget(entry.nodeid, 1)
                break

    def _entry_now(self, parent: int, name: bytes) -> Entry | None:
        if self._is_own(parent):
            return None  # listed, and looked up by whoever uses it
        try:
            return self._entry(self._fs.lookup(parent, name))
        except FileNotFoundError:
            return None

    def _dirents(self, nodeid: int, fh: int, offset: int) -> Iterator[Dirent]:
        """What the open directory listed when it was last read from its start."""
        if offset == 0:
            self._directories[fh] = list(self._list(nodeid))
        names = self._directories[fh]
        for index in range(offset, len(names)):
            name, ino, kind = names[index]
            yield Dirent(ino, index + 1, kind >> 12, name)

    def _list(self, nodeid: int) -> Iterator[_Name]:
        yield b".", nodeid, stat.S_IFDIR
        if nodeid == CONTROL_NODEID:
            yield b"..", FUSE_ROOT_ID, stat.S_IFDIR
            yield DEVICE_NAME, DEVICE_NODEID, stat.S_IFREG
            for child, name in self._control.names():
                yield name, child, stat.S_IFREG
        else:
            yield b"..", self._fs.parent(nodeid), stat.S_IFDIR
            yield from self._fs.names(nodeid)


def pack_attr(found: Stat) -> Attr:
    """An inode's attributes, as the kernel takes them."""
    atime, atime_nsec = divmod(found.atime_ns, 10**9)
    mtime, mtime_nsec = divmod(found.mtime_ns, 10**9)
    ctime, ctime_nsec = divmod(found.ctime_ns, 10**9)
    return Attr(
        found.ino, found.size, found.blocks,
        atime, mtime, ctime, atime_nsec, mtime_nsec, ctime_nsec,
        found.mode, found.nlink, found.uid, found.gid, found.rdev,
    )  # fmt: skip
