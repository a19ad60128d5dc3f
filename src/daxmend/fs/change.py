"""Changes of the file system's state: what the journal holds (format.md §6.3).

The same change is applied when it is made and when the journal is replayed.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from daxmend.errors import CorruptionError
from daxmend.fs.inode import ATTRIBUTES_LENGTH, Attributes


class InodeSet(NamedTuple):
    """An inode is made, or its attributes change."""

    attributes: Attributes


class InodeGone(NamedTuple):
    """An inode goes, and frees its pages."""

    ino: int


class NameSet(NamedTuple):
    """A name in a directory stands for an inode from now on; `type` is its S_IFMT."""

    parent: int
    ino: int
    type: int
    name: bytes


class NameGone(NamedTuple):
    """A name leaves its directory."""

    parent: int
    name: bytes


class Mapped(NamedTuple):
    """Pages of a file that had none get places on the device."""

    ino: int
    pgoff: int
    place: int
    pages: int
    is_written: bool


class Unmapped(NamedTuple):
    """Pages `[first, end)` of a file give their places up."""

    ino: int
    first: int
    end: int


class Written(NamedTuple):
    """What was allocated in the pages `[first, end)` of a file is written from now on."""

    ino: int
    first: int
    end: int


class XattrSet(NamedTuple):
    """An extended attribute gets a value."""

    ino: int
    name: bytes
    value: bytes


class XattrGone(NamedTuple):
    """An extended attribute goes."""

    ino: int
    name: bytes


class TargetSet(NamedTuple):
    """A symbolic link gets its target."""

    ino: int
    target: bytes


Change = (
    InodeSet
    | InodeGone
    | NameSet
    | NameGone
    | Mapped
    | Unmapped
    | Written
    | XattrSet
    | XattrGone
    | TargetSet
)


def ino_of(change: Change) -> int:
    """The inode that a change changes; of a name, its directory."""
    if isinstance(change, InodeSet):
        return change.attributes.ino
    return change.parent if isinstance(change, NameSet | NameGone) else change.ino


class _Layout(NamedTuple):
    """A kind of change: its numbers, then its strings, each behind its length."""

    change: type[Change]
    numbers: struct.Struct
    strings: int


_HEAD = struct.Struct("<HHI")  # kind, reserved, length of the rest
_LENGTH = struct.Struct("<I")
_INODE_SET = 1
_LAYOUTS = {
    2: _Layout(InodeGone, struct.Struct("<Q"), 0),
    3: _Layout(NameSet, struct.Struct("<QQI"), 1),
    4: _Layout(NameGone, struct.Struct("<Q"), 1),
    5: _Layout(Mapped, struct.Struct("<QQQQ?"), 0),
    6: _Layout(Unmapped, struct.Struct("<QQQ"), 0),
    7: _Layout(Written, struct.Struct("<QQQ"), 0),
    8: _Layout(XattrSet, struct.Struct("<Q"), 2),
    9: _Layout(XattrGone, struct.Struct("<Q"), 1),
    10: _Layout(TargetSet, struct.Struct("<Q"), 1),
}
_KINDS: dict[type[Change], int] = {layout.change: kind for kind, layout in _LAYOUTS.items()}


def pack_change(change: Change) -> bytes:
    """One change with its head, as it stands in a journal entry."""
    if isinstance(change, InodeSet):
        return _HEAD.pack(_INODE_SET, 0, ATTRIBUTES_LENGTH) + change.attributes.pack()
    kind = _KINDS[type(change)]
    layout = _LAYOUTS[kind]
    count = len(change) - layout.strings
    rest = layout.numbers.pack(*change[:count])
    for string in change[count:]:
        assert isinstance(string, bytes)
        rest += _LENGTH.pack(len(string)) + string
    return _HEAD.pack(kind, 0, len(rest)) + rest


def unpack_changes(payload: bytes) -> Iterator[Change]:
    """The changes of one journal entry. Raises `CorruptionError` where it is not made of them."""
    at = 0
    while at < len(payload):
        try:
            kind, _, length = _HEAD.unpack_from(payload, at)
            rest = payload[at + _HEAD.size : at + _HEAD.size + length]
            if len(rest) < length:
                raise ValueError(f"{len(rest)} bytes of {length}")
            change = _unpack(kind, rest)
        except (struct.error, ValueError, KeyError, TypeError) as error:
            raise CorruptionError(
                "journal entry", at, "change", "one that is known", repr(error)
            ) from None
        yield change
        at += _HEAD.size + length


def _unpack(kind: int, rest: bytes) -> Change:
    if kind == _INODE_SET:
        if len(rest) != ATTRIBUTES_LENGTH:
            raise ValueError(f"{len(rest)} bytes of attributes")
        return InodeSet(Attributes.unpack_from(rest))
    layout = _LAYOUTS[kind]
    fields = list(layout.numbers.unpack_from(rest))
    at = layout.numbers.size
    for _ in range(layout.strings):
        (length,) = _LENGTH.unpack_from(rest, at)
        at += _LENGTH.size
        fields.append(rest[at : at + length])
        at += length
    if at != len(rest):
        raise ValueError(f"{len(rest)} bytes instead of {at}")
    return layout.change(*fields)
