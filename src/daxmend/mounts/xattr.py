"""The extended attributes of files on a mount: which names there are, and the virtual one.

`user.daxmend.extents` says where a file lies, one line an extent: `FILE_OFFSET DEVICE_OFFSET LENGTH
written|unwritten`, in bytes; the last line is `more` where 64 KiB do not hold them all (the ioctl
EXTENTS has no such limit). It can be read and is not listed; names like it cannot be set.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable
from typing import TYPE_CHECKING

from daxmend.fs import FileSystem

if TYPE_CHECKING:
    from daxmend.fs import Mapping
    from daxmend.fuse import Caller

EXTENTS_NAME = b"user.daxmend.extents"

_RESERVED = b"user.daxmend."
_NAMESPACES = (b"user.", b"trusted.", b"security.")
_MAX_VALUE = 64 * 1024  # what the kernel lets an xattr hold
_MORE = b"more\n"


class FileXattrs:
    """The xattrs of the inodes of one file system, as a program may see and set them."""

    def __init__(self, fs: FileSystem) -> None:
        self._fs = fs

    def get(self, ino: int, name: bytes) -> bytes:
        """The value. ENODATA if there is none, EOPNOTSUPP outside the namespaces there are."""
        _check_namespace(name)
        if name == EXTENTS_NAME:
            return self._extents(ino)
        return self._fs.getxattr(ino, name)

    def set(self, ino: int, name: bytes, value: bytes, flags: int) -> None:
        """Set one. EPERM for the virtual ones."""
        _check_namespace(name)
        _check_real(name)
        self._fs.setxattr(ino, name, value, flags)

    def remove(self, ino: int, name: bytes) -> None:
        """Remove one. EPERM for the virtual ones."""
        _check_namespace(name)
        _check_real(name)
        self._fs.removexattr(ino, name)

    def names(self, ino: int, caller: Caller) -> list[bytes]:
        """Those that `caller` may see: `trusted.` is root's."""
        names = self._fs.listxattr(ino)
        if caller.uid == 0:
            return names
        return [name for name in names if not name.startswith(b"trusted.")]

    def _extents(self, ino: int) -> bytes:
        if not stat.S_ISREG(self._fs.stat(ino).mode):
            raise OSError(errno.ENODATA, os.strerror(errno.ENODATA))
        return format_extents(self._fs.extents(ino))


def format_extents(extents: Iterable[Mapping]) -> bytes:
    """The value of `user.daxmend.extents`."""
    lines: list[bytes] = []
    room = _MAX_VALUE
    for at, device_offset, length, is_written in extents:
        state = "written" if is_written else "unwritten"
        line = f"{at} {device_offset} {length} {state}\n".encode()
        if len(line) > room:
            while room < len(_MORE):
                room += len(lines.pop())
            return b"".join([*lines, _MORE])
        lines.append(line)
        room -= len(line)
    return b"".join(lines)


def _check_namespace(name: bytes) -> None:
    if not name.startswith(_NAMESPACES):  # system.posix_acl_access and the like
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))


def _check_real(name: bytes) -> None:
    if name.startswith(_RESERVED):
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
