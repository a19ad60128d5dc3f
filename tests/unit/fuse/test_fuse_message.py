import struct

import pytest

from daxmend.fuse import (
    Attr,
    AttrOut,
    Dirent,
    DirentBuffer,
    Entry,
    Kstatfs,
    Opened,
    pack_attr_out,
    pack_create_out,
    pack_entry_out,
    pack_ioctl_out,
    pack_open_out,
    pack_statfs_out,
    pack_write_out,
)
from daxmend.fuse import protocol as p
from daxmend.fuse.message import unpack_setattr_in

ATTR = Attr(1, 2, 3, 4, 5, -6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16)


def test_attributes_are_packed_in_the_kernels_order() -> None:
    packed = pack_attr_out(AttrOut(ATTR, attr_valid=100, attr_valid_nsec=200))
    assert struct.unpack("=QII", packed[:16]) == (100, 200, 0)
    assert struct.unpack("=QQQqqqIIIIIIIIII", packed[16:]) == tuple(ATTR)


def test_an_entry_is_packed_in_the_kernels_order() -> None:
    packed = pack_entry_out(Entry(1, ATTR, 2, 3, 4, 5, 6))
    assert struct.unpack("=QQQQII", packed[:40]) == (1, 2, 3, 5, 4, 6)
    assert packed[40:] == p.ATTR.pack(*ATTR)


def test_a_created_file_is_an_entry_and_an_open() -> None:
    entry, opened = Entry(1, ATTR), Opened(7, p.FOPEN_DIRECT_IO, 3)
    packed = pack_create_out((entry, opened))
    assert packed == pack_entry_out(entry) + pack_open_out(opened)
    assert struct.unpack("=QII", pack_open_out(opened)) == (7, 1, 3)


def test_the_small_replies_have_their_fields_in_place() -> None:
    assert struct.unpack("=II", pack_write_out(9)) == (9, 0)
    assert struct.unpack("=iIII", pack_ioctl_out((-1, b""))) == (-1, 0, 0, 0)
    statfs = pack_statfs_out(Kstatfs(1, 2, 3, 4, 5, 6, 7, 8))
    assert struct.unpack("=QQQQQIIII", statfs[:56]) == (1, 2, 3, 4, 5, 6, 7, 8, 0)


def test_setattr_keeps_every_named_field_and_drops_the_padding() -> None:
    # valid padding fh size lock_owner atime mtime ctime *nsec mode unused4 uid gid unused5
    body = struct.pack("=IIQQQqqqIIIIIIII", 1, 99, 2, 3, 4, 5, -6, 7, 8, 9, 10, 11, 99, 12, 13, 99)
    assert unpack_setattr_in(body) == (1, 2, 3, 4, 5, -6, 7, 8, 9, 10, 11, 12, 13)


@pytest.mark.parametrize("name", [b"a", b"12345678", b"123456789", b"x" * 255])
def test_a_dirent_is_padded_to_eight_bytes(name: bytes) -> None:
    dirents = DirentBuffer(4096)
    assert dirents.add(Dirent(5, 6, 8, name))
    payload = dirents.payload()
    assert len(payload) % 8 == 0
    assert struct.unpack("=QQII", payload[:24]) == (5, 6, len(name), 8)
    assert payload[24:].rstrip(b"\0") == name


def test_a_dirent_that_does_not_fit_leaves_the_reply_as_it_was() -> None:
    dirents = DirentBuffer(64)
    assert dirents.add(Dirent(1, 1, 8, b"12345678"))
    assert dirents.add(Dirent(2, 2, 8, b"12345678"))
    before = dirents.payload()
    assert not dirents.add(Dirent(3, 3, 8, b""))
    assert dirents.payload() == before
    assert len(before) == 64


def test_a_direntplus_without_entry_has_nodeid_zero() -> None:
    dirents = DirentBuffer(4096)
    assert dirents.add_plus(None, Dirent(1, 1, 4, b"."))
    assert dirents.add_plus(Entry(9, ATTR), Dirent(9, 2, 8, b"file"))
    payload = dirents.payload()
    assert payload[:128] == bytes(128)
    assert payload[160 : 160 + 128] == pack_entry_out(Entry(9, ATTR))
    assert not DirentBuffer(128 + 24).add_plus(None, Dirent(1, 1, 4, b"."))
