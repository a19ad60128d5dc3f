"""The session and its notifier against a kernel that the test plays, over a socket pair."""

import errno
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import cast

import pytest

from daxmend.errors import UnknownStateError, UnsupportedError
from daxmend.fuse import PENDING, Handler, Pending, Session, pack_write_out
from daxmend.fuse import protocol as p

pytestmark = pytest.mark.timeout(20)


class Scripted(Handler):
    """READ calls `answer`; what ends and what is forgotten is recorded."""

    def __init__(self) -> None:
        self.answer: Callable[[], bytes | memoryview | Pending] = lambda: b"data"
        self.record: list[tuple[object, ...]] = []
        self.lets_interrupt = True

    def read(
        self, nodeid: int, fh: int, offset: int, size: int, read_flags: int, open_flags: int
    ) -> bytes | memoryview | Pending:
        self.record.append(("read", nodeid, fh, offset, size, read_flags, open_flags))
        return self.answer()

    def write(
        self, nodeid: int, fh: int, offset: int, data: memoryview, write_flags: int, open_flags: int
    ) -> int:
        self.record.append(("write", nodeid, fh, offset, bytes(data), write_flags, open_flags))
        return len(data)

    def forget(self, nodeid: int, nlookup: int) -> None:
        self.record.append(("forget", nodeid, nlookup))

    def interrupted(self, unique: int) -> bool:
        self.record.append(("interrupted", unique))
        return self.lets_interrupt

    def destroy(self) -> None:
        self.record.append(("destroy",))


@dataclass
class FakeKernel:
    session: Session
    handler: Scripted
    ours: socket.socket
    thread: threading.Thread
    log: list[str] = field(default_factory=list)

    def send(self, opcode: int, unique: int, body: bytes = b"") -> None:
        header = p.IN_HEADER.pack(p.IN_HEADER.size + len(body), opcode, unique, 42, 1, 2, 3)
        self.ours.send(header + body)

    def receive(self) -> tuple[int, int, bytes]:
        """The error, unique and body of the next message from the session."""
        message = self.ours.recv(2 << 20)
        length, error, unique = struct.unpack("=IiQ", message[:16])
        assert length == len(message)
        return error, unique, message[16:]

    def ask(self, opcode: int, unique: int, body: bytes = b"") -> tuple[int, bytes]:
        self.send(opcode, unique, body)
        error, answered, payload = self.receive()
        assert answered == unique
        return error, payload

    def end(self) -> None:
        """Stop the session; off the main thread it takes another message to notice."""
        self.session.stop()
        self.send(p.FUSE_FORGET, 0, struct.pack("=Q", 0))
        self.thread.join()


READ = p.READ_IN.pack(6, 4096, 100, 2, 0, os.O_DIRECT)


@pytest.fixture
def kernel() -> Iterator[FakeKernel]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in (ours, theirs):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 21)
    ours.settimeout(10)
    handler, log = Scripted(), list[str]()
    session = Session(theirs.detach(), handler, log=log.append)
    thread = threading.Thread(target=session.run)
    fake = FakeKernel(session, handler, ours, thread, log)
    thread.start()
    init = struct.pack("=4I", 7, 40, 131072, 0)
    assert fake.ask(p.FUSE_INIT, 1, init)[0] == 0
    yield fake
    if thread.is_alive():
        fake.end()
    session.close()
    ours.close()


def test_a_read_is_answered_with_the_handlers_bytes(kernel: FakeKernel) -> None:
    assert kernel.ask(p.FUSE_READ, 10, READ) == (0, b"data")
    assert kernel.handler.record == [("read", 42, 6, 4096, 100, 2, os.O_DIRECT)]


def test_a_memoryview_and_an_empty_answer_are_sent(kernel: FakeKernel) -> None:
    kernel.handler.answer = lambda: memoryview(bytearray(b"12345"))[1:3]
    assert kernel.ask(p.FUSE_READ, 10, READ) == (0, b"23")
    kernel.handler.answer = lambda: b""
    assert kernel.ask(p.FUSE_READ, 12, READ) == (0, b"")


def test_a_write_hands_its_data_over(kernel: FakeKernel) -> None:
    body = p.WRITE_IN.pack(6, 512, 5, p.FUSE_WRITE_CACHE, 0, os.O_RDWR)
    assert kernel.ask(p.FUSE_WRITE, 10, body + b"hello") == (0, pack_write_out(5))
    assert kernel.handler.record == [("write", 42, 6, 512, b"hello", 1, os.O_RDWR)]


def test_an_unknown_opcode_is_enosys(kernel: FakeKernel) -> None:
    assert kernel.ask(52, 10, bytes(40)) == (-errno.ENOSYS, b"")


def test_forgets_are_delivered_and_not_answered(kernel: FakeKernel) -> None:
    kernel.send(p.FUSE_FORGET, 10, struct.pack("=Q", 3))
    kernel.send(p.FUSE_BATCH_FORGET, 12, struct.pack("=IIQQQQ", 2, 0, 7, 1, 8, 2))
    kernel.ask(p.FUSE_READ, 14, READ)
    assert kernel.handler.record[:3] == [("forget", 42, 3), ("forget", 7, 1), ("forget", 8, 2)]


@pytest.mark.parametrize(
    ("error", "number", "logged"),
    [
        (OSError(errno.ENOSPC, "full"), errno.ENOSPC, False),
        (UnsupportedError("not here"), errno.EOPNOTSUPP, False),
        (UnknownStateError("who knows"), errno.ENODATA, False),
        (OSError("without a number"), errno.EIO, True),
        (OSError(512, "a number that the kernel refuses"), errno.EIO, True),
        (OSError(-5, "a negative number"), errno.EIO, True),
        (KeyError("a bug"), errno.EIO, True),
    ],
)
def test_an_exception_becomes_an_errno(
    kernel: FakeKernel, error: Exception, number: int, logged: bool
) -> None:
    def fail() -> bytes:
        raise error

    kernel.handler.answer = fail
    assert kernel.ask(p.FUSE_READ, 10, READ) == (-number, b"")
    assert bool(kernel.log) == logged
    if logged:
        assert "Traceback" in kernel.log[0]


def test_a_handler_that_breaks_its_types_is_eio_and_logged(kernel: FakeKernel) -> None:
    kernel.handler.answer = lambda: cast(bytes, None)
    assert kernel.ask(p.FUSE_READ, 10, READ) == (-errno.EIO, b"")
    assert "TypeError" in kernel.log[0]


def test_a_failing_forget_is_logged_and_sends_nothing(kernel: FakeKernel) -> None:
    kernel.send(p.FUSE_BATCH_FORGET, 12, struct.pack("=IIQ", 2, 0, 7))
    assert kernel.ask(p.FUSE_READ, 14, READ) == (0, b"data")
    assert "Traceback" in kernel.log[0]


def park(kernel: FakeKernel, unique: int) -> None:
    """A parked READ, and another request answered after it, so that it is surely parked."""
    kernel.handler.answer = lambda: PENDING
    kernel.send(p.FUSE_READ, unique, READ)
    kernel.ask(52, unique + 100)


def test_a_parked_request_is_answered_once_from_any_thread(kernel: FakeKernel) -> None:
    park(kernel, 10)
    assert kernel.session.reply(10, b"late")
    assert kernel.receive() == (0, 10, b"late")
    assert not kernel.session.reply(10, b"again")
    assert not kernel.session.reply_error(10, errno.EIO)
    assert not kernel.session.reply(999, b"never asked")


def test_a_request_may_be_answered_before_its_handler_has_returned(kernel: FakeKernel) -> None:
    def answer() -> Pending:
        unique = kernel.session.unique
        other = threading.Thread(target=lambda: kernel.session.reply(unique, b"early"))
        other.start()
        other.join()
        return PENDING

    kernel.handler.answer = answer
    assert kernel.ask(p.FUSE_READ, 10, READ) == (0, b"early")
    kernel.ask(52, 12)
    assert not kernel.session.reply(10, b"again")


def test_an_interrupt_answers_a_parked_request_with_eintr_once(kernel: FakeKernel) -> None:
    park(kernel, 10)
    for unique in (11, 13):
        kernel.send(p.FUSE_INTERRUPT, unique, struct.pack("=Q", 10))
    assert kernel.receive() == (-errno.EINTR, 10, b"")
    kernel.ask(52, 20)
    assert kernel.handler.record.count(("interrupted", 10)) == 1
    assert not kernel.session.reply(10, b"too late")


def test_a_handler_may_keep_an_interrupted_request_parked(kernel: FakeKernel) -> None:
    park(kernel, 10)
    kernel.handler.lets_interrupt = False
    kernel.send(p.FUSE_INTERRUPT, 11, struct.pack("=Q", 10))
    kernel.ask(52, 20)
    assert kernel.session.reply(10, b"after all")
    assert kernel.receive() == (0, 10, b"after all")


def test_an_interrupt_of_an_answered_request_is_nothing(kernel: FakeKernel) -> None:
    kernel.ask(p.FUSE_READ, 10, READ)
    kernel.send(p.FUSE_INTERRUPT, 11, struct.pack("=Q", 10))
    assert kernel.ask(52, 12)[0] == -errno.ENOSYS
    assert ("interrupted", 10) not in kernel.handler.record


def test_stop_fails_what_is_parked_and_destroys_once(kernel: FakeKernel) -> None:
    park(kernel, 10)
    kernel.end()
    assert kernel.receive() == (-errno.ENOTCONN, 10, b"")
    assert kernel.handler.record.count(("destroy",)) == 1
    assert not kernel.session.reply(10, b"too late")


def test_what_was_queued_with_the_notifier_is_done_before_the_end(kernel: FakeKernel) -> None:
    done: list[int] = []
    for number in range(50):
        kernel.session.notifier.then(partial(done.append, number))
    kernel.end()
    assert done == list(range(50))


def test_notifications_and_callbacks_keep_their_order(kernel: FakeKernel) -> None:
    park(kernel, 10)
    notifier = kernel.session.notifier
    notifier.inval_inode(5, 4096, 8192)
    notifier.inval_entry(1, b"name")
    notifier.then(lambda: kernel.session.reply(10, b"done"))
    notifier.poll_wakeup(99)
    assert [kernel.receive() for _ in range(4)] == [
        (p.FUSE_NOTIFY_INVAL_INODE, 0, struct.pack("=Qqq", 5, 4096, 8192)),
        (p.FUSE_NOTIFY_INVAL_ENTRY, 0, struct.pack("=QII", 1, 4, 0) + b"name\0"),
        (0, 10, b"done"),
        (p.FUSE_NOTIFY_POLL, 0, struct.pack("=Q", 99)),
    ]


def test_a_failing_callback_is_logged_and_the_next_one_runs(kernel: FakeKernel) -> None:
    done = threading.Event()
    kernel.session.notifier.then(lambda: 1 // 0)
    kernel.session.notifier.then(done.set)
    assert done.wait(10)
    assert "ZeroDivisionError" in kernel.log[0]


def test_a_notifier_that_cannot_end_does_not_hang_the_end(
    kernel: FakeKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("daxmend.fuse.session._DRAIN_SECONDS", 0.05)
    stuck = threading.Event()
    kernel.session.notifier.then(lambda: stuck.wait(10))
    kernel.end()
    assert "holds on to a notification" in kernel.log[0]
    kernel.session.close()  # leaves the descriptor to the thread that may still write to it
    assert kernel.session.notifier.join(0) is False
    stuck.set()
    assert kernel.session.notifier.join(10)


def test_an_old_kernel_is_refused_and_told_so() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    session = Session(theirs.detach(), Scripted())
    body = struct.pack("=4I", 7, 20, 131072, 0)
    ours.send(p.IN_HEADER.pack(40 + len(body), p.FUSE_INIT, 1, 0, 0, 0, 0) + body)
    with pytest.raises(UnsupportedError, match=r"7\.20"):
        session.run()
    assert struct.unpack("=IiQ", ours.recv(100)) == (16, -errno.EPROTO, 1)
    session.close()
    ours.close()
