"""From a request's bytes to a handler's method and back: one row an opcode.

READ and WRITE are not here: the session serves them on its own straight path. FORGET,
BATCH_FORGET, INTERRUPT and NOTIFY_REPLY have no reply and are the session's affair, too.
"""

import errno
import os
from collections.abc import Callable, Iterable
from typing import Final, TypeVar

from daxmend.fuse import protocol as p
from daxmend.fuse.handler import Handler
from daxmend.fuse.message import (
    Buffer,
    Caller,
    DirentBuffer,
    Pending,
    pack_attr_out,
    pack_create_out,
    pack_entry_out,
    pack_ioctl_out,
    pack_open_out,
    pack_statfs_out,
    pack_write_out,
    unpack_setattr_in,
)

Reply = Buffer | Pending
Operation = Callable[[Handler, Caller, int, memoryview], Reply]
"""Takes handler, caller, nodeid and the body after the header; gives the body of the reply."""

_T = TypeVar("_T")


def _packed(result: _T | Pending, pack: Callable[[_T], Buffer]) -> Reply:
    return result if isinstance(result, Pending) else pack(result)


def _done(result: Pending | None) -> Reply:
    return b"" if result is None else result


def _name(body: memoryview, start: int = 0) -> bytes:
    return bytes(body[start:]).partition(b"\0")[0]


def _names(body: memoryview, start: int = 0) -> tuple[bytes, bytes]:
    first, _, rest = bytes(body[start:]).partition(b"\0")
    return first, rest.partition(b"\0")[0]


def _getattr(handler: Handler, caller: Caller, nodeid: int, body: memoryview) -> Reply:
    getattr_flags, fh = p.GETATTR_IN.unpack_from(body)
    given = fh if getattr_flags & p.FUSE_GETATTR_FH else None
    return _packed(handler.getattr(caller, nodeid, given), pack_attr_out)


def _symlink(handler: Handler, caller: Caller, parent: int, body: memoryview) -> Reply:
    name, target = _names(body)
    return _packed(handler.symlink(caller, parent, name, target), pack_entry_out)


def _mknod(handler: Handler, caller: Caller, parent: int, body: memoryview) -> Reply:
    mode, rdev, umask = p.MKNOD_IN.unpack_from(body)
    name = _name(body, p.MKNOD_IN.size)
    return _packed(handler.mknod(caller, parent, name, mode, rdev, umask), pack_entry_out)


def _mkdir(handler: Handler, caller: Caller, parent: int, body: memoryview) -> Reply:
    mode, umask = p.MKDIR_IN.unpack_from(body)
    name = _name(body, p.MKDIR_IN.size)
    return _packed(handler.mkdir(caller, parent, name, mode, umask), pack_entry_out)


def _rename(handler: Handler, caller: Caller, parent: int, body: memoryview) -> Reply:
    (newdir,) = p.RENAME_IN.unpack_from(body)
    name, newname = _names(body, p.RENAME_IN.size)
    return _done(handler.rename(caller, parent, name, newdir, newname, 0))


def _rename2(handler: Handler, caller: Caller, parent: int, body: memoryview) -> Reply:
    newdir, flags = p.RENAME2_IN.unpack_from(body)
    name, newname = _names(body, p.RENAME2_IN.size)
    return _done(handler.rename(caller, parent, name, newdir, newname, flags))


def _link(handler: Handler, caller: Caller, newdir: int, body: memoryview) -> Reply:
    (oldnodeid,) = p.LINK_IN.unpack_from(body)
    name = _name(body, p.LINK_IN.size)
    return _packed(handler.link(caller, oldnodeid, newdir, name), pack_entry_out)


def _create(handler: Handler, caller: Caller, parent: int, body: memoryview) -> Reply:
    flags, mode, umask, open_flags = p.CREATE_IN.unpack_from(body)
    name = _name(body, p.CREATE_IN.size)
    created = handler.create(caller, parent, name, flags, mode, umask, open_flags)
    return _packed(created, pack_create_out)


def _tmpfile(handler: Handler, caller: Caller, parent: int, body: memoryview) -> Reply:
    # A name follows here too, but it means nothing: the file has none.
    return _packed(handler.tmpfile(caller, parent, *p.CREATE_IN.unpack_from(body)), pack_create_out)


def _sized(value: Buffer, size: int) -> Buffer:
    """The answer to GETXATTR and LISTXATTR: with `size` 0 the length alone is asked for."""
    if size == 0:
        return p.GETXATTR_OUT.pack(len(value))
    if len(value) > size:
        raise OSError(errno.ERANGE, os.strerror(errno.ERANGE))
    return value


def _getxattr(handler: Handler, caller: Caller, nodeid: int, body: memoryview) -> Reply:
    (size,) = p.GETXATTR_IN.unpack_from(body)
    value = handler.getxattr(caller, nodeid, _name(body, p.GETXATTR_IN.size))
    return value if isinstance(value, Pending) else _sized(value, size)


def _setxattr(handler: Handler, caller: Caller, nodeid: int, body: memoryview) -> Reply:
    size, flags = p.SETXATTR_IN.unpack_from(body)
    name = _name(body, p.SETXATTR_IN.size)
    start = p.SETXATTR_IN.size + len(name) + 1
    value = bytes(body[start : start + size])
    return _done(handler.setxattr(caller, nodeid, name, value, flags))


def _listxattr(handler: Handler, caller: Caller, nodeid: int, body: memoryview) -> Reply:
    (size,) = p.GETXATTR_IN.unpack_from(body)

    def pack(names: Iterable[bytes]) -> Buffer:
        return _sized(b"".join(name + b"\0" for name in names), size)

    return _packed(handler.listxattr(caller, nodeid), pack)


def _readdir(handler: Handler, _caller: Caller, nodeid: int, body: memoryview) -> Reply:
    fh, offset, size, _read_flags, _lock_owner, _flags = p.READ_IN.unpack_from(body)
    dirents = DirentBuffer(size)
    result = handler.readdir(nodeid, fh, offset, dirents)
    return dirents.payload() if result is None else result


def _readdirplus(handler: Handler, _caller: Caller, nodeid: int, body: memoryview) -> Reply:
    fh, offset, size, _read_flags, _lock_owner, _flags = p.READ_IN.unpack_from(body)
    dirents = DirentBuffer(size)
    result = handler.readdirplus(nodeid, fh, offset, dirents)
    return dirents.payload() if result is None else result


def _ioctl(handler: Handler, caller: Caller, nodeid: int, body: memoryview) -> Reply:
    fh, flags, cmd, arg, in_size, out_size = p.IOCTL_IN.unpack_from(body)
    data = bytes(body[p.IOCTL_IN.size : p.IOCTL_IN.size + in_size])
    answer = handler.ioctl(caller, nodeid, fh, flags, cmd, arg, data, out_size)
    return _packed(answer, pack_ioctl_out)


OPERATIONS: Final[dict[int, Operation]] = {
    p.FUSE_LOOKUP: lambda h, c, n, b: _packed(h.lookup(c, n, _name(b)), pack_entry_out),
    p.FUSE_GETATTR: _getattr,
    p.FUSE_SETATTR: lambda h, c, n, b: _packed(
        h.setattr(c, n, unpack_setattr_in(b)), pack_attr_out
    ),
    p.FUSE_READLINK: lambda h, c, n, b: h.readlink(c, n),
    p.FUSE_SYMLINK: _symlink,
    p.FUSE_MKNOD: _mknod,
    p.FUSE_MKDIR: _mkdir,
    p.FUSE_UNLINK: lambda h, c, n, b: _done(h.unlink(c, n, _name(b))),
    p.FUSE_RMDIR: lambda h, c, n, b: _done(h.rmdir(c, n, _name(b))),
    p.FUSE_RENAME: _rename,
    p.FUSE_RENAME2: _rename2,
    p.FUSE_LINK: _link,
    p.FUSE_OPEN: lambda h, c, n, b: _packed(h.open(c, n, *p.OPEN_IN.unpack_from(b)), pack_open_out),
    p.FUSE_CREATE: _create,
    p.FUSE_TMPFILE: _tmpfile,
    p.FUSE_FLUSH: lambda h, c, n, b: _done(h.flush(n, *p.FLUSH_IN.unpack_from(b))),
    p.FUSE_RELEASE: lambda h, c, n, b: _done(h.release(n, *p.RELEASE_IN.unpack_from(b))),
    p.FUSE_FSYNC: lambda h, c, n, b: _done(h.fsync(n, *p.FSYNC_IN.unpack_from(b))),
    p.FUSE_FALLOCATE: lambda h, c, n, b: _done(h.fallocate(n, *p.FALLOCATE_IN.unpack_from(b))),
    p.FUSE_LSEEK: lambda h, c, n, b: _packed(
        h.lseek(n, *p.LSEEK_IN.unpack_from(b)), p.LSEEK_OUT.pack
    ),
    p.FUSE_COPY_FILE_RANGE: lambda h, c, n, b: _packed(
        h.copy_file_range(n, *p.COPY_FILE_RANGE_IN.unpack_from(b)), pack_write_out
    ),
    p.FUSE_OPENDIR: lambda h, c, n, b: _packed(
        h.opendir(c, n, *p.OPEN_IN.unpack_from(b)), pack_open_out
    ),
    p.FUSE_READDIR: _readdir,
    p.FUSE_READDIRPLUS: _readdirplus,
    p.FUSE_RELEASEDIR: lambda h, c, n, b: _done(h.releasedir(n, *p.RELEASE_IN.unpack_from(b))),
    p.FUSE_FSYNCDIR: lambda h, c, n, b: _done(h.fsyncdir(n, *p.FSYNC_IN.unpack_from(b))),
    p.FUSE_GETXATTR: _getxattr,
    p.FUSE_SETXATTR: _setxattr,
    p.FUSE_LISTXATTR: _listxattr,
    p.FUSE_REMOVEXATTR: lambda h, c, n, b: _done(h.removexattr(c, n, _name(b))),
    p.FUSE_STATFS: lambda h, c, n, b: _packed(h.statfs(c, n), pack_statfs_out),
    p.FUSE_SYNCFS: lambda h, c, n, b: _done(h.syncfs(n)),
    p.FUSE_IOCTL: _ioctl,
    p.FUSE_POLL: lambda h, c, n, b: _packed(h.poll(n, *p.POLL_IN.unpack_from(b)), p.POLL_OUT.pack),
    p.FUSE_DESTROY: lambda h, c, n, b: b"",
}
