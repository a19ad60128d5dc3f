"""Names, attributes and extended attributes."""

from __future__ import annotations

import errno
import stat
import time

from daxmend.errors import os_error
from daxmend.fs.change import (
    InodeGone,
    InodeSet,
    NameGone,
    NameSet,
    TargetSet,
    XattrGone,
    XattrSet,
)
from daxmend.fs.core import Core
from daxmend.fs.inode import NAME_MAX, Attributes, Inode, Stat, is_name
from daxmend.fs.space import Statfs
from daxmend.units import PAGE, SECTOR

TARGET_MAX = 4095
XATTR_MAX = 64 * 1024
LINK_MAX = 1 << 30
RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2
XATTR_CREATE = 1
XATTR_REPLACE = 2

_RECORD_GROWTH = 512  # bytes that a new inode, or a change of an old one, takes at most


class Namespace(Core):
    """The tree. All methods raise `OSError` with the errno of the system call."""

    # -- inodes ----------------------------------------------------------------------------

    def stat(self, ino: int) -> Stat:
        """What stat(2) tells of an inode."""
        with self.lock:
            inode = self._inode(ino)
            a = inode.attributes
            size = inode.names_length if stat.S_ISDIR(a.mode) else a.size
            blocks = inode.map.page_count * (PAGE // SECTOR)
            times = a.atime_ns, a.mtime_ns, a.ctime_ns, a.btime_ns
            return Stat(ino, a.mode, a.nlink, a.uid, a.gid, a.rdev, size, blocks, *times)

    def set_attributes(
        self,
        ino: int,
        *,
        mode: int | None = None,
        uid: int | None = None,
        gid: int | None = None,
        atime_ns: int | None = None,
        mtime_ns: int | None = None,
    ) -> None:
        """chmod, chown and utimensat; of `mode` the permission bits count."""
        given = {"uid": uid, "gid": gid, "atime_ns": atime_ns, "mtime_ns": mtime_ns}
        with self.lock:
            self._check_writable()
            inode = self._inode(ino)
            changed = {name: value for name, value in given.items() if value is not None}
            if mode is not None:
                changed["mode"] = inode.type | stat.S_IMODE(mode)
            self._touch(inode, **changed, ctime_ns=time.time_ns())
            self._end_operation()

    def use(self, ino: int) -> None:
        """One more user, an open or a lookup: the inode lives on without names."""
        with self.lock:
            self._inode(ino).users += 1

    def release(self, ino: int, count: int = 1) -> None:
        """`count` users have gone; an inode without names and users goes, too."""
        with self.lock:
            if ino not in self._state:
                return
            inode = self._inode(ino)
            inode.users -= count
            if not self.is_read_only and self._remove_unused(inode):
                self._end_operation()

    def _remove_unused(self, inode: Inode) -> bool:
        """Whether the inode had neither names nor users, and has gone."""
        if inode.attributes.nlink > 0 or inode.users > 0:
            return False
        self._change(InodeGone(inode.ino))
        return True

    # -- names -----------------------------------------------------------------------------

    def _directory(self, ino: int) -> Inode:
        inode = self._inode(ino)
        if not stat.S_ISDIR(inode.attributes.mode):
            raise os_error(errno.ENOTDIR)
        return inode

    def lookup(self, parent: int, name: bytes) -> int:
        """The inode that a name in a directory stands for."""
        with self.lock:
            return self._find(self._directory(parent), name)[0]

    def _find(self, directory: Inode, name: bytes) -> tuple[int, int]:
        if len(name) > NAME_MAX:
            raise os_error(errno.ENAMETOOLONG)
        found = directory.names.get(name)
        if found is None:
            raise os_error(errno.ENOENT)
        return found

    def _check_new_name(self, directory: Inode, name: bytes) -> None:
        if len(name) > NAME_MAX:
            raise os_error(errno.ENAMETOOLONG)
        if name in directory.names or name in (b".", b".."):
            raise os_error(errno.EEXIST)
        if not is_name(name):
            raise os_error(errno.EINVAL)
        if directory.attributes.nlink == 0:  # removed, but somebody's working directory
            raise os_error(errno.ENOENT)

    def names(self, ino: int) -> list[tuple[bytes, int, int]]:
        """Name, inode and type (S_IFMT) of everything in a directory, without `.` and `..`."""
        with self.lock:
            directory = self._directory(ino)
            return [(name, child, kind) for name, (child, kind) in directory.names.items()]

    def parent(self, ino: int) -> int:
        """The directory that holds a directory; the root is its own."""
        with self.lock:
            return self._directory(ino).attributes.parent

    def make(
        self,
        parent: int,
        name: bytes,
        mode: int,
        uid: int,
        gid: int,
        *,
        rdev: int = 0,
        target: bytes = b"",
    ) -> int:
        """Make what S_IFMT of `mode` says, with a name; returns its number.

        In a directory with the setgid bit the group is inherited, and by a directory the bit.
        """
        with self.lock:
            self._check_writable()
            directory = self._directory(parent)
            self._check_new_name(directory, name)
            if stat.S_ISLNK(mode) and not 0 < len(target) <= TARGET_MAX:
                raise os_error(errno.ENAMETOOLONG if target else errno.ENOENT)
            if directory.attributes.nlink >= LINK_MAX:
                raise os_error(errno.EMLINK)
            self._make_room(_RECORD_GROWTH + len(name) + len(target))
            inode = self._new_inode(directory, mode, uid, gid, rdev=rdev, nlink=1)
            if target:
                self._change(TargetSet(inode.ino, target))
                self._touch(inode, size=len(target))
            self._enter(directory, name, inode)
            self._end_operation()
            return inode.ino

    def make_nameless(self, parent: int, mode: int, uid: int, gid: int) -> int:
        """O_TMPFILE: a regular file without a name, and with one user."""
        with self.lock:
            self._check_writable()
            directory = self._directory(parent)
            self._make_room(_RECORD_GROWTH)
            inode = self._new_inode(directory, mode, uid, gid, rdev=0, nlink=0)
            inode.users = 1
            self._end_operation()
            return inode.ino

    def _new_inode(
        self, directory: Inode, mode: int, uid: int, gid: int, *, rdev: int, nlink: int
    ) -> Inode:
        is_directory = stat.S_ISDIR(mode)
        if directory.attributes.mode & stat.S_ISGID:
            gid = directory.attributes.gid
            if is_directory:
                mode |= stat.S_ISGID
        now = time.time_ns()
        ino = self._state.next_ino
        parent = directory.ino if is_directory else 0
        links = 2 if is_directory else nlink
        times = (now, now, now, now)
        self._change(InodeSet(Attributes(ino, mode, uid, gid, links, rdev, 0, 0, parent, *times)))
        return self._inode(ino)

    def _enter(self, directory: Inode, name: bytes, inode: Inode) -> None:
        """Put a name that is not there into a directory."""
        self._change(NameSet(directory.ino, inode.ino, inode.type, name))
        nlink = directory.attributes.nlink + stat.S_ISDIR(inode.attributes.mode)
        self._touch_directory(directory, nlink=nlink)

    def _leave(self, directory: Inode, name: bytes, kind: int) -> None:
        """Take a name out of a directory."""
        self._change(NameGone(directory.ino, name))
        nlink = directory.attributes.nlink - stat.S_ISDIR(kind)
        self._touch_directory(directory, nlink=nlink)

    def _touch_directory(self, directory: Inode, **attributes: int) -> None:
        now = time.time_ns()
        self._touch(directory, **attributes, mtime_ns=now, ctime_ns=now)

    def link(self, ino: int, parent: int, name: bytes) -> None:
        """One more name for what is not a directory."""
        with self.lock:
            self._check_writable()
            inode, directory = self._inode(ino), self._directory(parent)
            if stat.S_ISDIR(inode.attributes.mode):
                raise os_error(errno.EPERM)
            self._check_new_name(directory, name)
            if inode.attributes.nlink >= LINK_MAX:
                raise os_error(errno.EMLINK)
            self._make_room(_RECORD_GROWTH + len(name))
            self._touch(inode, nlink=inode.attributes.nlink + 1, ctime_ns=time.time_ns())
            self._enter(directory, name, inode)
            self._end_operation()

    def unlink(self, parent: int, name: bytes) -> None:
        """Take a name of what is not a directory."""
        with self.lock:
            self._check_writable()
            directory = self._directory(parent)
            ino, kind = self._find(directory, name)
            if stat.S_ISDIR(kind):
                raise os_error(errno.EISDIR)
            self._leave(directory, name, kind)
            self._drop_link(self._inode(ino))
            self._end_operation()

    def rmdir(self, parent: int, name: bytes) -> None:
        """Remove an empty directory."""
        with self.lock:
            self._check_writable()
            directory = self._directory(parent)
            ino, _ = self._find(directory, name)
            self._check_empty(self._directory(ino))
            self._leave(directory, name, stat.S_IFDIR)
            self._drop_link(self._inode(ino))
            self._end_operation()

    def _check_empty(self, directory: Inode) -> None:
        if directory.names:
            raise os_error(errno.ENOTEMPTY)

    def _drop_link(self, inode: Inode) -> None:
        """One name less; an empty directory has only one."""
        links = 0 if stat.S_ISDIR(inode.attributes.mode) else inode.attributes.nlink - 1
        self._touch(inode, nlink=links, ctime_ns=time.time_ns())
        self._remove_unused(inode)

    def rename(
        self, parent: int, name: bytes, newparent: int, newname: bytes, flags: int = 0
    ) -> None:
        """rename(2), with RENAME_NOREPLACE or RENAME_EXCHANGE."""
        with self.lock:
            self._check_writable()
            if flags not in (0, RENAME_NOREPLACE, RENAME_EXCHANGE):
                raise os_error(errno.EINVAL)
            old, new = self._directory(parent), self._directory(newparent)
            moved = self._inode(self._find(old, name)[0])
            there = new.names.get(newname)
            self._check_not_inside(moved, new)
            if flags == RENAME_EXCHANGE:
                other = self._inode(self._find(new, newname)[0])
                self._check_not_inside(other, old)
                if other is not moved:
                    self._exchange(old, name, moved, new, newname, other)
            elif there is None:
                self._check_new_name(new, newname)
                self._make_room(_RECORD_GROWTH + len(newname))
                self._move(old, name, moved, new, newname)
            elif flags == RENAME_NOREPLACE:
                raise os_error(errno.EEXIST)
            elif there[0] != moved.ino:
                self._replace(old, name, moved, new, newname)
            self._end_operation()

    def _check_not_inside(self, moved: Inode, directory: Inode) -> None:
        """A directory cannot move into itself or below."""
        if not stat.S_ISDIR(moved.attributes.mode):
            return
        ino = directory.ino
        for _ in range(len(self._state)):  # a ring, which a check finds, has no way to the root
            if ino == self.root:
                break
            if ino == moved.ino:
                raise os_error(errno.EINVAL)
            ino = self._inode(ino).attributes.parent
        if ino != self.root:
            raise os_error(errno.EUCLEAN)
        if moved.ino == self.root:
            raise os_error(errno.EBUSY)

    def _move(self, old: Inode, name: bytes, moved: Inode, new: Inode, newname: bytes) -> None:
        self._leave(old, name, moved.type)
        self._enter(new, newname, moved)
        self._settle_in(moved, new)

    def _settle_in(self, moved: Inode, directory: Inode) -> None:
        is_directory = stat.S_ISDIR(moved.attributes.mode)
        parent = directory.ino if is_directory else 0
        self._touch(moved, parent=parent, ctime_ns=time.time_ns())

    def _replace(self, old: Inode, name: bytes, moved: Inode, new: Inode, newname: bytes) -> None:
        """Move onto a name that is taken; what it stood for loses it."""
        replaced = self._inode(new.names[newname][0])
        if stat.S_ISDIR(replaced.attributes.mode):
            if not stat.S_ISDIR(moved.attributes.mode):
                raise os_error(errno.EISDIR)
            self._check_empty(replaced)
        elif stat.S_ISDIR(moved.attributes.mode):
            raise os_error(errno.ENOTDIR)
        self._make_room(_RECORD_GROWTH + len(newname))
        self._leave(new, newname, replaced.type)
        self._move(old, name, moved, new, newname)
        self._drop_link(replaced)

    def _exchange(
        self, old: Inode, name: bytes, moved: Inode, new: Inode, newname: bytes, other: Inode
    ) -> None:
        self._make_room(_RECORD_GROWTH)
        self._leave(old, name, moved.type)
        self._leave(new, newname, other.type)
        self._enter(old, name, other)
        self._enter(new, newname, moved)
        self._settle_in(moved, new)
        self._settle_in(other, old)

    def readlink(self, ino: int) -> bytes:
        """The target of a symbolic link."""
        with self.lock:
            inode = self._inode(ino)
            if not stat.S_ISLNK(inode.attributes.mode):
                raise os_error(errno.EINVAL)
            return inode.target

    # -- extended attributes ---------------------------------------------------------------

    def getxattr(self, ino: int, name: bytes) -> bytes:
        """The value of an extended attribute."""
        with self.lock:
            value = self._inode(ino).xattrs.get(name)
        if value is None:
            raise os_error(errno.ENODATA)
        return value

    def listxattr(self, ino: int) -> list[bytes]:
        """The names of all extended attributes."""
        with self.lock:
            return list(self._inode(ino).xattrs)

    def setxattr(self, ino: int, name: bytes, value: bytes, flags: int = 0) -> None:
        """Set an extended attribute; `flags` are XATTR_CREATE and XATTR_REPLACE."""
        if not 0 < len(name) <= NAME_MAX:
            raise os_error(errno.ERANGE)
        if len(value) > XATTR_MAX:
            raise os_error(errno.E2BIG)
        with self.lock:
            self._check_writable()
            inode = self._inode(ino)
            if flags & XATTR_CREATE and name in inode.xattrs:
                raise os_error(errno.EEXIST)
            if flags & XATTR_REPLACE and name not in inode.xattrs:
                raise os_error(errno.ENODATA)
            self._make_room(_RECORD_GROWTH + len(name) + len(value))
            self._change(XattrSet(ino, name, bytes(value)))
            self._touch(inode, ctime_ns=time.time_ns())
            self._end_operation()

    def removexattr(self, ino: int, name: bytes) -> None:
        """Remove an extended attribute."""
        with self.lock:
            self._check_writable()
            inode = self._inode(ino)
            if name not in inode.xattrs:
                raise os_error(errno.ENODATA)
            self._change(XattrGone(ino, name))
            self._touch(inode, ctime_ns=time.time_ns())
            self._end_operation()

    def statfs(self) -> Statfs:
        """Space as it is: what a write could have now, less what the next checkpoint needs."""
        with self.lock:
            free = self._space.unused_length // PAGE
            available = max(free - self._space.quarantine.length // PAGE, 0)
            return Statfs(self.device.size // PAGE, free, available, len(self._state), available)
