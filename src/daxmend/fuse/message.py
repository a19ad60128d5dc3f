"""The values that FUSE messages carry. A field has the name it has in the kernel's struct.

Times are seconds and nanoseconds apart, as the kernel sends them; `*_valid` and `*_valid_nsec`
say for how long the kernel may trust a name or attributes without asking again.
"""

from enum import Enum
from typing import Final, NamedTuple

from daxmend.fuse.protocol import (
    ATTR,
    ATTR_OUT,
    DIRENT,
    ENTRY_OUT,
    IOCTL_OUT,
    KSTATFS,
    OPEN_OUT,
    SETATTR_IN,
    WRITE_OUT,
)

Buffer = bytes | bytearray | memoryview


class Pending(Enum):
    """The type of `PENDING`."""

    PENDING = "pending"


PENDING: Final = Pending.PENDING  # what a handler returns to answer later, with Session.reply


class Caller(NamedTuple):
    """Who asks. The kernel sends no supplementary groups; `pid` is 0 from another pid namespace."""

    uid: int
    gid: int
    pid: int


class Attr(NamedTuple):
    """`struct fuse_attr`. `blocks` are 512 bytes; times before 1970 are negative seconds."""

    ino: int
    size: int
    blocks: int
    atime: int
    mtime: int
    ctime: int
    atimensec: int
    mtimensec: int
    ctimensec: int
    mode: int
    nlink: int
    uid: int
    gid: int
    rdev: int = 0
    blksize: int = 4096
    flags: int = 0


class AttrOut(NamedTuple):
    """`struct fuse_attr_out`: attributes and how long they hold."""

    attr: Attr
    attr_valid: int = 0
    attr_valid_nsec: int = 0


class Entry(NamedTuple):
    """`struct fuse_entry_out`: what a name stands for.

    Each one that reaches the kernel counts one lookup of `nodeid`, until `Handler.forget` takes
    it back. `nodeid` 0 says that the name is not there and may be remembered so.
    """

    nodeid: int
    attr: Attr
    generation: int = 0
    entry_valid: int = 0
    entry_valid_nsec: int = 0
    attr_valid: int = 0
    attr_valid_nsec: int = 0


class SetAttr(NamedTuple):
    """`struct fuse_setattr_in`: a field has meaning if its FATTR_* bit is set in `valid`."""

    valid: int
    fh: int
    size: int
    lock_owner: int
    atime: int
    mtime: int
    ctime: int
    atimensec: int
    mtimensec: int
    ctimensec: int
    mode: int
    uid: int
    gid: int


class Opened(NamedTuple):
    """`struct fuse_open_out`: `fh` comes back with every request, `open_flags` are FOPEN_*.

    `backing_id` (of `Session.open_backing`) goes with FOPEN_PASSTHROUGH.
    """

    fh: int = 0
    open_flags: int = 0
    backing_id: int = 0


class Kstatfs(NamedTuple):
    """`struct fuse_kstatfs`: blocks are of `frsize` bytes."""

    blocks: int
    bfree: int
    bavail: int
    files: int
    ffree: int
    bsize: int = 4096
    namelen: int = 255
    frsize: int = 4096


class Dirent(NamedTuple):
    """`struct fuse_dirent`: `off` is where the *next* READDIR resumes, `type` is a DT_* number."""

    ino: int
    off: int
    type: int
    name: bytes


class DirentBuffer:
    """The reply to one READDIR or READDIRPLUS: takes entries until one does not fit in `size`."""

    def __init__(self, size: int) -> None:
        self._room = size
        self._parts: list[bytes] = []

    def add(self, dirent: Dirent) -> bool:
        """Append `dirent`; False, and nothing appended, if it does not fit."""
        return self._append(b"", dirent)

    def add_plus(self, entry: Entry | None, dirent: Dirent) -> bool:
        """Append for READDIRPLUS; only True means that the kernel counts a lookup of the entry.

        `.` and `..` take None: they are never looked up.
        """
        return self._append(pack_entry_out(entry) if entry else _NO_ENTRY, dirent)

    def payload(self) -> bytes:
        """What has been appended, as the reply's body."""
        return b"".join(self._parts)

    def _append(self, entry: bytes, dirent: Dirent) -> bool:
        namelen = len(dirent.name)
        padding = -namelen % 8
        length = len(entry) + DIRENT.size + namelen + padding
        if length > self._room:
            return False
        self._room -= length
        head = DIRENT.pack(dirent.ino, dirent.off, namelen, dirent.type)
        self._parts += (entry, head, dirent.name, bytes(padding))
        return True


def pack_attr_out(out: AttrOut) -> bytes:
    """`struct fuse_attr_out`."""
    return ATTR_OUT.pack(out.attr_valid, out.attr_valid_nsec) + ATTR.pack(*out.attr)


def pack_entry_out(entry: Entry) -> bytes:
    """`struct fuse_entry_out`."""
    head = ENTRY_OUT.pack(
        entry.nodeid,
        entry.generation,
        entry.entry_valid,
        entry.attr_valid,
        entry.entry_valid_nsec,
        entry.attr_valid_nsec,
    )
    return head + ATTR.pack(*entry.attr)


def pack_open_out(opened: Opened) -> bytes:
    """`struct fuse_open_out`."""
    return OPEN_OUT.pack(*opened)


def pack_create_out(created: tuple[Entry, Opened]) -> bytes:
    """The reply to CREATE and TMPFILE: `fuse_entry_out`, then `fuse_open_out`."""
    entry, opened = created
    return pack_entry_out(entry) + pack_open_out(opened)


def pack_write_out(size: int) -> bytes:
    """`struct fuse_write_out`: the reply to WRITE and COPY_FILE_RANGE."""
    return WRITE_OUT.pack(size)


def pack_ioctl_out(answer: tuple[int, bytes]) -> bytes:
    """The reply to IOCTL: `struct fuse_ioctl_out` and the bytes for the caller."""
    result, data = answer
    return IOCTL_OUT.pack(result, 0, 0, 0) + data


def pack_statfs_out(st: Kstatfs) -> bytes:
    """`struct fuse_statfs_out`."""
    return KSTATFS.pack(*st)


def unpack_setattr_in(body: Buffer) -> SetAttr:
    """`struct fuse_setattr_in`, without its padding."""
    return SetAttr._make(SETATTR_IN.unpack_from(body))


_NO_ENTRY: Final = bytes(ENTRY_OUT.size + ATTR.size)
