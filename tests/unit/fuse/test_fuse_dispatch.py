"""Every opcode against a handler that records how it was called."""

import errno
import struct
from typing import Any

import pytest

from daxmend.fuse import (
    PENDING,
    Attr,
    AttrOut,
    Caller,
    Dirent,
    DirentBuffer,
    Entry,
    Handler,
    Kstatfs,
    Opened,
    SetAttr,
    pack_attr_out,
    pack_create_out,
    pack_entry_out,
    pack_open_out,
    pack_statfs_out,
)
from daxmend.fuse import protocol as p
from daxmend.fuse.dispatch import OPERATIONS, Reply

ATTR = Attr(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13)
ENTRY, OPENED, ATTR_OUT = Entry(5, ATTR), Opened(6), AttrOut(ATTR)
KSTATFS = Kstatfs(1, 2, 3, 4, 5)
CALLER = Caller(1, 2, 3)
NODE = 42
ENTRY_OUT, OPEN_OUT, ATTR_OUT_BYTES = (
    pack_entry_out(ENTRY),
    pack_open_out(OPENED),
    pack_attr_out(ATTR_OUT),
)
CREATED = pack_create_out((ENTRY, OPENED))


class Recorder(Handler):
    """Answers any method with what `answers` has for it, and records the arguments."""

    answers: dict[str, object] = {  # noqa: RUF012
        **dict.fromkeys(["lookup", "symlink", "mknod", "mkdir", "link"], ENTRY),
        **dict.fromkeys(["create", "tmpfile"], (ENTRY, OPENED)),
        **dict.fromkeys(["open", "opendir"], OPENED),
        **dict.fromkeys(["getattr", "setattr"], ATTR_OUT),
        **dict.fromkeys(["readlink", "getxattr"], b"value"),
        **dict.fromkeys(["lseek", "copy_file_range", "poll"], 77),
        "listxattr": [b"user.a", b"user.b"],
        "statfs": KSTATFS,
        "ioctl": (3, b"out"),
    }

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("_") or name in ("answers", "calls", "forced"):
            return super().__getattribute__(name)

        def method(*arguments: object) -> object:
            self.calls.append((name, *arguments))
            return self.answers.get(name)

        return method


def names(*parts: bytes) -> bytes:
    return b"".join(part + b"\0" for part in parts)


SETATTR = SetAttr(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13)
SETATTR_BODY = p.SETATTR_IN.pack(*SETATTR)
RELEASE_BODY = p.RELEASE_IN.pack(6, 1, 2, 3)

# opcode, the request's body, the call it becomes, the reply's body
CASES: list[tuple[int, bytes, tuple[object, ...], bytes]] = [
    (p.FUSE_LOOKUP, names(b"n"), ("lookup", CALLER, NODE, b"n"), ENTRY_OUT),
    (
        p.FUSE_GETATTR,
        struct.pack("=IIQ", 0, 0, 9),
        ("getattr", CALLER, NODE, None),
        ATTR_OUT_BYTES,
    ),
    (p.FUSE_GETATTR, struct.pack("=IIQ", 1, 0, 9), ("getattr", CALLER, NODE, 9), ATTR_OUT_BYTES),
    (p.FUSE_SETATTR, SETATTR_BODY, ("setattr", CALLER, NODE, SETATTR), ATTR_OUT_BYTES),
    (p.FUSE_READLINK, b"", ("readlink", CALLER, NODE), b"value"),
    (p.FUSE_SYMLINK, names(b"n", b"t"), ("symlink", CALLER, NODE, b"n", b"t"), ENTRY_OUT),
    (
        p.FUSE_MKNOD,
        struct.pack("=IIII", 1, 2, 3, 0) + names(b"n"),
        ("mknod", CALLER, NODE, b"n", 1, 2, 3),
        ENTRY_OUT,
    ),
    (
        p.FUSE_MKDIR,
        struct.pack("=II", 1, 2) + names(b"n"),
        ("mkdir", CALLER, NODE, b"n", 1, 2),
        ENTRY_OUT,
    ),
    (p.FUSE_UNLINK, names(b"n"), ("unlink", CALLER, NODE, b"n"), b""),
    (p.FUSE_RMDIR, names(b"n"), ("rmdir", CALLER, NODE, b"n"), b""),
    (
        p.FUSE_RENAME,
        struct.pack("=Q", 8) + names(b"a", b"b"),
        ("rename", CALLER, NODE, b"a", 8, b"b", 0),
        b"",
    ),
    (
        p.FUSE_RENAME2,
        struct.pack("=QII", 8, 2, 0) + names(b"a", b"b"),
        ("rename", CALLER, NODE, b"a", 8, b"b", 2),
        b"",
    ),
    (p.FUSE_LINK, struct.pack("=Q", 8) + names(b"n"), ("link", CALLER, 8, NODE, b"n"), ENTRY_OUT),
    (p.FUSE_OPEN, struct.pack("=II", 1, 2), ("open", CALLER, NODE, 1, 2), OPEN_OUT),
    (
        p.FUSE_CREATE,
        struct.pack("=IIII", 1, 2, 3, 4) + names(b"n"),
        ("create", CALLER, NODE, b"n", 1, 2, 3, 4),
        CREATED,
    ),
    (
        p.FUSE_TMPFILE,
        struct.pack("=IIII", 1, 2, 3, 4) + names(b"/"),
        ("tmpfile", CALLER, NODE, 1, 2, 3, 4),
        CREATED,
    ),
    (p.FUSE_FLUSH, struct.pack("=QIIQ", 6, 0, 0, 7), ("flush", NODE, 6, 7), b""),
    (p.FUSE_RELEASE, RELEASE_BODY, ("release", NODE, 6, 1, 2, 3), b""),
    (p.FUSE_FSYNC, struct.pack("=QII", 6, 1, 0), ("fsync", NODE, 6, 1), b""),
    (
        p.FUSE_FALLOCATE,
        struct.pack("=QQQII", 6, 1, 2, 3, 0),
        ("fallocate", NODE, 6, 1, 2, 3),
        b"",
    ),
    (
        p.FUSE_LSEEK,
        struct.pack("=QQII", 6, 1, 3, 0),
        ("lseek", NODE, 6, 1, 3),
        struct.pack("=Q", 77),
    ),
    (
        p.FUSE_COPY_FILE_RANGE,
        struct.pack("=7Q", 1, 2, 3, 4, 5, 6, 7),
        ("copy_file_range", NODE, 1, 2, 3, 4, 5, 6, 7),
        struct.pack("=II", 77, 0),
    ),
    (p.FUSE_OPENDIR, struct.pack("=II", 1, 2), ("opendir", CALLER, NODE, 1, 2), OPEN_OUT),
    (p.FUSE_RELEASEDIR, RELEASE_BODY, ("releasedir", NODE, 6, 1, 2, 3), b""),
    (p.FUSE_FSYNCDIR, struct.pack("=QII", 6, 1, 0), ("fsyncdir", NODE, 6, 1), b""),
    (
        p.FUSE_GETXATTR,
        struct.pack("=II", 5, 0) + names(b"user.a"),
        ("getxattr", CALLER, NODE, b"user.a"),
        b"value",
    ),
    (
        p.FUSE_GETXATTR,
        struct.pack("=II", 0, 0) + names(b"user.a"),
        ("getxattr", CALLER, NODE, b"user.a"),
        struct.pack("=II", 5, 0),
    ),
    (
        p.FUSE_SETXATTR,
        struct.pack("=II", 3, 1) + names(b"user.a") + b"x\0y",
        ("setxattr", CALLER, NODE, b"user.a", b"x\0y", 1),
        b"",
    ),
    (
        p.FUSE_LISTXATTR,
        struct.pack("=II", 100, 0),
        ("listxattr", CALLER, NODE),
        b"user.a\0user.b\0",
    ),
    (
        p.FUSE_LISTXATTR,
        struct.pack("=II", 0, 0),
        ("listxattr", CALLER, NODE),
        struct.pack("=II", 14, 0),
    ),
    (p.FUSE_REMOVEXATTR, names(b"user.a"), ("removexattr", CALLER, NODE, b"user.a"), b""),
    (p.FUSE_STATFS, b"", ("statfs", CALLER, NODE), pack_statfs_out(KSTATFS)),
    (p.FUSE_SYNCFS, bytes(8), ("syncfs", NODE), b""),
    (
        p.FUSE_IOCTL,
        struct.pack("=QIIQII", 6, 1, 2, 3, 4, 5) + b"data",
        ("ioctl", CALLER, NODE, 6, 1, 2, 3, b"data", 5),
        struct.pack("=iIII", 3, 0, 0, 0) + b"out",
    ),
    (
        p.FUSE_POLL,
        struct.pack("=QQII", 6, 7, 1, 4),
        ("poll", NODE, 6, 7, 1, 4),
        struct.pack("=II", 77, 0),
    ),
]


def operate(handler: Handler, opcode: int, body: bytes) -> Reply:
    return OPERATIONS[opcode](handler, CALLER, NODE, memoryview(body))


@pytest.mark.parametrize(("opcode", "body", "call", "reply"), CASES)
def test_a_request_becomes_a_call_and_its_result_a_reply(
    opcode: int, body: bytes, call: tuple[object, ...], reply: bytes
) -> None:
    recorder = Recorder()
    assert operate(recorder, opcode, body) == reply
    assert recorder.calls == [call]


@pytest.mark.parametrize(("opcode", "body", "call", "reply"), CASES)
def test_any_operation_can_be_parked(
    opcode: int, body: bytes, call: tuple[object, ...], reply: bytes
) -> None:
    class Parks(Recorder):
        answers = dict.fromkeys(Recorder.answers | dict.fromkeys([str(call[0])]), PENDING)

    assert operate(Parks(), opcode, body) is PENDING


@pytest.mark.parametrize(("opcode", "body", "call", "reply"), CASES)
def test_the_default_is_enosys(
    opcode: int, body: bytes, call: tuple[object, ...], reply: bytes
) -> None:
    with pytest.raises(OSError) as info:
        operate(Handler(), opcode, body)
    assert info.value.errno == errno.ENOSYS


def test_every_operation_is_covered_here() -> None:
    covered = {opcode for opcode, *_ in CASES}
    assert covered | {p.FUSE_READDIR, p.FUSE_READDIRPLUS, p.FUSE_DESTROY} == set(OPERATIONS)


@pytest.mark.parametrize("opcode", [p.FUSE_GETXATTR, p.FUSE_LISTXATTR])
def test_an_xattr_that_does_not_fit_is_erange(opcode: int) -> None:
    with pytest.raises(OSError) as info:
        operate(Recorder(), opcode, struct.pack("=II", 4, 0) + names(b"user.a"))
    assert info.value.errno == errno.ERANGE


@pytest.mark.parametrize("opcode", [p.FUSE_READDIR, p.FUSE_READDIRPLUS])
def test_a_directory_is_read_into_a_buffer_of_the_asked_size(opcode: int) -> None:
    class Lister(Handler):
        def readdir(self, nodeid: int, fh: int, offset: int, dirents: DirentBuffer) -> None:
            assert (nodeid, fh, offset) == (NODE, 6, 7)
            while dirents.add(Dirent(1, 8, 8, b"name")):
                pass

        def readdirplus(self, nodeid: int, fh: int, offset: int, dirents: DirentBuffer) -> None:
            assert (nodeid, fh, offset) == (NODE, 6, 7)
            while dirents.add_plus(None, Dirent(1, 8, 8, b"name")):
                pass

    reply = operate(Lister(), opcode, p.READ_IN.pack(6, 7, 1000, 0, 0, 0))
    record = 32 if opcode == p.FUSE_READDIR else 160
    assert isinstance(reply, bytes)
    assert len(reply) == 1000 // record * record
