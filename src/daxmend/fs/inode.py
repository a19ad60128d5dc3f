"""An inode in memory, and its record in a checkpoint (format.md §6.4)."""

from __future__ import annotations

import stat
import struct
from typing import TYPE_CHECKING, NamedTuple, Self

from daxmend.errors import CorruptionError
from daxmend.fs.extentmap import ExtentMap
from daxmend.units import PAGE

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT_INO = 1
MAX_INO = (1 << 63) - 1  # the next number can be; above all that are ever given
MAX_SIZE = (1 << 63) - PAGE  # of a file; what an offset can hold, in whole pages
NAME_MAX = 255  # bytes, of a file or an attribute
FIRST_INO = 1024  # numbers below are the root's, and those of whoever shows the file system

_ATTRIBUTES = struct.Struct("<QIIIIII QQ qqqq")
_COUNTS = struct.Struct("<IIII")  # xattrs, length of the target, names, runs
_RECORD = struct.Struct("<4sI")
_RECORD_MAGIC = b"INOD"
_XATTR = struct.Struct("<BxxxI")  # lengths of name and value
_NAME = struct.Struct("<QBB")  # ino, type, length of the name
_HEAD = struct.Struct("<4sIQI8xI68xI")  # of the above: magic, length, ino, mode, nlink, runs
_RUN = struct.Struct("<QQQ")
_BODY = _RECORD.size + _ATTRIBUTES.size + _COUNTS.size

NO_GAP = (0, 0, 0)
RUN_LENGTH = 24  # bytes of a run in the record


class Stat(NamedTuple):
    """What stat(2) tells. `blocks` are 512 bytes, times are nanoseconds since 1970."""

    ino: int
    mode: int
    nlink: int
    uid: int
    gid: int
    rdev: int
    size: int
    blocks: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
    btime_ns: int


class Mapping(NamedTuple):
    """An extent of a file: `length` bytes from `offset` on lie at the device's `device_offset`."""

    offset: int
    device_offset: int
    length: int
    is_written: bool


class Attributes(NamedTuple):
    """The fixed part of an inode."""

    ino: int
    mode: int
    uid: int
    gid: int
    nlink: int
    rdev: int
    reserved: int
    size: int
    parent: int  # of a directory; else 0
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
    btime_ns: int

    def pack(self) -> bytes:
        """As it stands in a record and in a change."""
        return _ATTRIBUTES.pack(*self)

    @classmethod
    def unpack_from(cls, data: bytes | memoryview, offset: int = 0) -> Self:
        """From the bytes at `offset`."""
        return cls._make(_ATTRIBUTES.unpack_from(data, offset))


ATTRIBUTES_LENGTH = _ATTRIBUTES.size


def is_name(name: bytes) -> bool:
    """True for what can stand in a directory."""
    is_special = name in (b"", b".", b"..")
    return not is_special and len(name) <= NAME_MAX and b"/" not in name and b"\0" not in name


class Inode:
    """A file, directory, symbolic link or special file.

    `users` counts those for whom it lives on without a name: opens and lookups. `gap` is the file
    range `[start, end)` of the last access, inside the file's size, and what to add to get the
    device's offset: one comparison on the normal path, and a new object with every change of
    mapping or size. Only a regular file has one.
    """

    __slots__ = (
        "_xattrs_length",
        "attributes",
        "gap",
        "map",
        "names",
        "names_length",
        "record",
        "target",
        "users",
        "xattrs",
    )

    def __init__(self, attributes: Attributes) -> None:
        self.attributes = attributes
        self.map = ExtentMap()
        self.names: dict[bytes, tuple[int, int]] = {}  # name → ino, type (S_IFMT)
        self.xattrs: dict[bytes, bytes] = {}
        self.target = b""
        self.users = 0
        self.gap = NO_GAP
        self.record: bytes | None = None  # the packed record, until something changes
        self.names_length = 0  # bytes of the names in the record
        self._xattrs_length = 0

    @property
    def ino(self) -> int:
        """Its number, never used again."""
        return self.attributes.ino

    @property
    def type(self) -> int:
        """S_IFREG and so on."""
        return stat.S_IFMT(self.attributes.mode)

    def set_name(self, name: bytes, ino: int, kind: int) -> None:
        """Enter a name, in place of what it stood for. `ValueError` for what no record holds."""
        if kind != stat.S_IFMT(kind) or len(name) > NAME_MAX:
            raise ValueError(f"{name!r} of type {kind:o}")
        if name not in self.names:
            self.names_length += _NAME.size + len(name)
        self.names[name] = (ino, kind)

    def drop_name(self, name: bytes) -> None:
        """Take a name out."""
        del self.names[name]
        self.names_length -= _NAME.size + len(name)

    def set_xattr(self, name: bytes, value: bytes) -> None:
        """Enter an extended attribute, in place of its old value."""
        self.drop_xattr(name)
        self.xattrs[name] = value
        self._xattrs_length += _XATTR.size + len(name) + len(value)

    def drop_xattr(self, name: bytes) -> None:
        """Take an extended attribute out, if it is there."""
        value = self.xattrs.pop(name, None)
        if value is not None:
            self._xattrs_length -= _XATTR.size + len(name) + len(value)

    @property
    def record_length(self) -> int:
        """The length of the packed record in bytes."""
        if self.record is not None:
            return len(self.record)
        variable = self.names_length + self._xattrs_length + len(self.target)
        return _BODY + variable + RUN_LENGTH * len(self.map)

    def pack(self) -> bytes:
        """The record; remembered until the next change."""
        if self.record is None:
            self.record = b"".join(self._parts())
        return self.record

    def _parts(self) -> list[bytes]:
        parts = [
            _RECORD.pack(_RECORD_MAGIC, self.record_length),
            self.attributes.pack(),
            _COUNTS.pack(len(self.xattrs), len(self.target), len(self.names), len(self.map)),
        ]
        for name, value in self.xattrs.items():
            parts += [_XATTR.pack(len(name), len(value)), name, value]
        parts.append(self.target)
        for name, (ino, kind) in self.names.items():
            parts += [_NAME.pack(ino, kind >> 12, len(name)), name]
        parts.append(self.map.pack())
        return parts

    @classmethod
    def unpack(cls, record: bytes) -> Inode:
        """The inode whose `pack` gave `record`. Raises `CorruptionError` for anything else."""
        try:
            inode = cls(Attributes.unpack_from(record, _RECORD.size))
            inode._unpack_body(record)
        except (struct.error, IndexError, ValueError) as error:
            raise CorruptionError("inode record", 0, "body", "whole", str(error)) from None
        if inode.record_length != len(record):
            raise CorruptionError("inode record", 0, "length", inode.record_length, len(record))
        inode.record = record
        return inode

    def _unpack_body(self, record: bytes) -> None:
        xattrs, target_length, names, runs = _COUNTS.unpack_from(record, _BODY - _COUNTS.size)
        at = _BODY
        for _ in range(xattrs):
            name_length, value_length = _XATTR.unpack_from(record, at)
            at += _XATTR.size
            value_at = at + name_length
            self.set_xattr(record[at:value_at], record[value_at : value_at + value_length])
            at = value_at + value_length
        self.target = record[at : at + target_length]
        at += target_length
        for _ in range(names):
            ino, kind, length = _NAME.unpack_from(record, at)
            at += _NAME.size
            self.set_name(record[at : at + length], ino, kind << 12)
            at += length
        if at + RUN_LENGTH * runs != len(record):
            raise ValueError(f"its parts take {at + RUN_LENGTH * runs} bytes")
        self.map = ExtentMap.unpack(record[at:])


class RecordHead(NamedTuple):
    """What mounting needs of a record without unpacking it."""

    magic: bytes
    length: int
    ino: int
    mode: int
    nlink: int
    runs: int

    @classmethod
    def unpack_from(cls, stream: bytes, offset: int = 0) -> RecordHead:
        """The head of the record at `offset`. Raises `CorruptionError` if there is none."""
        if offset + _BODY > len(stream):
            raise CorruptionError("checkpoint", offset, "record", "whole", "cut short")
        head = cls._make(_HEAD.unpack_from(stream, offset))
        if head.magic != _RECORD_MAGIC:
            raise CorruptionError("checkpoint", offset, "record magic", _RECORD_MAGIC, head.magic)
        length = head.length
        if length < _BODY + RUN_LENGTH * head.runs or offset + length > len(stream):
            raise CorruptionError("checkpoint", offset, "record length", "its parts'", length)
        return head


def places_of(record: bytes) -> Iterator[tuple[int, int]]:
    """Place and number of pages of each run in a record, which ends with them."""
    runs = _HEAD.unpack_from(record)[-1]
    if runs == 1:  # as most files have it
        _, place, pages = _RUN.unpack_from(record, len(record) - RUN_LENGTH)
        yield place, pages >> 1
    elif runs:
        yield from map_of(record, runs).places()


def map_of(record: bytes, runs: int) -> ExtentMap:
    """The mapping in a record."""
    return ExtentMap.unpack(record[len(record) - RUN_LENGTH * runs :])
