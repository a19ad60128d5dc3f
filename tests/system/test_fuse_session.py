"""Parked requests, signals, and every way in which a session or a mount ends."""

import contextlib
import errno
import json
import os
import select
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_fuse_memory import (
    PAGE,
    MemoryHandler,
    Served,
    abort,
    in_child,
    needs_root,
    pytestmark,  # noqa: F401
    served,
    wait,
)

from daxmend.errors import BusyError
from daxmend.fuse import find_mount, is_dead, unmount, unmount_dead


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Served]:
    with served(tmp_path, MemoryHandler()) as mounted:
        yield mounted


def blocked_reader(path: Path, number: int) -> int:
    """A child that reads `path` and succeeds if the read fails with errno `number`."""

    def body() -> None:
        signal.signal(signal.SIGUSR1, _interrupt)
        fd = os.open(path, os.O_RDONLY)
        with pytest.raises(OSError) as info:
            os.read(fd, 100)
        assert info.value.errno == number

    return in_child(body)


def _interrupt(_signal: int, _frame: object) -> None:
    raise InterruptedError(errno.EINTR, "else Python would read again")


def test_a_parked_read_is_answered_by_the_notifier(memory: Served) -> None:
    def body() -> None:
        fd = os.open(memory.path / ".events", os.O_RDONLY)
        assert os.read(fd, 100) == b"it happened"

    reader = in_child(body)
    memory.expect("parked")
    assert os.listdir(memory.path) == []  # others are served meanwhile
    memory.ctl("event", "it happened")
    assert wait(reader) == 0


def test_a_parked_read_is_interrupted_once_and_its_event_is_not_lost(memory: Served) -> None:
    reader = blocked_reader(memory.path / ".events", errno.EINTR)
    memory.expect("parked")
    os.kill(reader, signal.SIGUSR1)
    assert wait(reader) == 0
    assert memory.log("interrupted") == [[]]
    memory.ctl("event", "kept")
    fd = os.open(memory.path / ".events", os.O_RDONLY)
    assert os.read(fd, 100) == b"kept"
    os.close(fd)


def test_a_reader_that_is_killed_leaves_nothing_behind(memory: Served) -> None:
    reader = blocked_reader(memory.path / ".events", errno.EINTR)
    memory.expect("parked")
    os.kill(reader, signal.SIGKILL)
    assert wait(reader) == -signal.SIGKILL
    memory.expect("released")
    memory.ctl("event", "kept")
    assert (memory.path / ".events").stat().st_size == 0


def test_poll_wakes_when_there_is_an_event(memory: Served) -> None:
    fd = os.open(memory.path / ".events", os.O_RDONLY | os.O_NONBLOCK)
    with pytest.raises(BlockingIOError):
        os.read(fd, 100)

    def body() -> None:
        poller = select.poll()
        poller.register(fd, select.POLLIN)
        assert poller.poll(20_000) == [(fd, select.POLLIN)]
        assert os.read(fd, 100) == b"woken"

    waiter = in_child(body)
    memory.expect("polled")
    memory.ctl("event", "woken")
    assert wait(waiter) == 0
    os.close(fd)


def test_sigterm_unmounts_in_good_order(memory: Served) -> None:
    os.kill(memory.pid, signal.SIGTERM)
    assert wait(memory.pid) == 0
    assert find_mount(memory.path) is None
    assert memory.last_log("destroy") == [[]]


def test_stop_ends_an_idle_session_and_fails_what_is_parked(memory: Served) -> None:
    reader = blocked_reader(memory.path / ".events", errno.ENOTCONN)
    memory.expect("parked")
    os.kill(memory.pid, signal.SIGINT)
    assert wait(memory.pid) == 0
    assert wait(reader) == 0
    assert memory.last_log("destroy") == [[]]
    found = find_mount(memory.path)
    assert found is not None
    assert is_dead(found)
    unmount(memory.path)  # nobody waits for a connection that is closed


def test_stop_from_another_thread_wakes_an_idle_session(memory: Served) -> None:
    os.kill(memory.pid, signal.SIGUSR1)
    assert wait(memory.pid) == 0
    assert memory.last_log("destroy") == [[]]


class Busy(MemoryHandler):
    """Tells when it has answered a hundred reads."""

    reads = 0

    def read(self, nodeid: int, fh: int, offset: int, size: int, *flags: int) -> bytes:
        self.reads += 1
        if self.reads == 100:
            self.tell("busy")
        return bytes(size)


def test_stop_under_load_ends_the_session(tmp_path: Path) -> None:
    with served(tmp_path, Busy()) as mounted:
        path = mounted.path / "direct"
        path.write_bytes(bytes(PAGE))

        def body() -> None:
            fd = os.open(path, os.O_RDONLY)
            with contextlib.suppress(ConnectionAbortedError):
                while True:
                    os.pread(fd, PAGE, 0)

        readers = [in_child(body) for _ in range(3)]
        mounted.expect("busy")
        os.kill(mounted.pid, signal.SIGINT)
        assert wait(mounted.pid) == 0
        assert {wait(reader) for reader in readers} <= {0, 1}  # 1: it came too late even to open


def test_stop_ends_an_invalidation_that_waits_for_a_parked_read(memory: Served) -> None:
    (memory.path / "cached").write_bytes(bytes(PAGE))
    memory.ctl("invalidate", "cached", 0, 0)
    memory.ctl("park", "cached")
    reader = in_child((memory.path / "cached").read_bytes)
    memory.expect("parked")
    invalidation = in_child(lambda: memory.ctl("invalidate", "cached", 0, 0))
    memory.expect("invalidate")
    os.kill(memory.pid, signal.SIGINT)
    assert wait(memory.pid) == 0
    wait(reader)
    wait(invalidation)
    assert "holds on" not in memory.log_path.read_text()


def test_kill_9_leaves_a_dead_mount_that_is_recognized_and_cleaned_up(memory: Served) -> None:
    found = find_mount(memory.path)
    assert found is not None
    assert not is_dead(found)
    os.kill(memory.pid, signal.SIGKILL)
    assert wait(memory.pid) == -signal.SIGKILL
    assert not os.path.exists(memory.path)
    assert not os.path.ismount(memory.path)
    assert find_mount(memory.path) == found
    assert is_dead(found)
    unmount_dead(memory.path)
    assert find_mount(memory.path) is None
    assert os.listdir(memory.path) == []


def test_a_mount_in_use_is_busy_and_can_be_detached(memory: Served) -> None:
    fd = os.open(memory.path, os.O_RDONLY)
    with pytest.raises(BusyError, match="in use"):
        unmount(memory.path)
    unmount(memory.path, lazy=True)
    assert find_mount(memory.path) is None
    assert os.listdir(fd) == []  # still served
    os.close(fd)
    assert wait(memory.pid) == 0


@needs_root
def test_nor_do_they_hang_if_a_file_of_the_mount_was_inherited(memory: Served) -> None:
    """As from a shell that has one open: whatever closes it waits for the server."""
    (memory.path / "file").write_bytes(b"open")
    fd = os.open(memory.path / "file", os.O_RDONLY)
    os.set_inheritable(fd, True)
    found = find_mount(memory.path)
    assert found is not None
    os.kill(memory.pid, signal.SIGSTOP)
    assert not is_dead(found)
    unmount_dead(memory.path)
    assert find_mount(memory.path) is None
    os.kill(memory.pid, signal.SIGCONT)
    assert wait(memory.pid) == 0
    with contextlib.suppress(OSError):
        os.close(fd)


def test_a_stuck_server_does_not_hang_is_dead_nor_unmount_dead(memory: Served) -> None:
    found = find_mount(memory.path)
    assert found is not None
    os.kill(memory.pid, signal.SIGSTOP)
    assert not is_dead(found)  # it cannot be known
    reader = in_child(lambda: os.listdir(memory.path))
    unmount_dead(memory.path)
    if os.geteuid() != 0:  # only detached: those who wait go on waiting
        os.kill(memory.pid, signal.SIGCONT)
    assert wait(reader) in (0, 1)
    assert find_mount(memory.path) is None
    os.kill(memory.pid, signal.SIGCONT)
    assert wait(memory.pid) == 0


def test_an_unused_mount_can_be_unmounted_without_its_servers_help(memory: Served) -> None:
    os.kill(memory.pid, signal.SIGSTOP)
    unmount(memory.path)
    assert find_mount(memory.path) is None
    os.kill(memory.pid, signal.SIGCONT)
    assert wait(memory.pid) == 0


@needs_root
def test_unmount_gives_up_when_the_kernel_does_not_return(
    memory: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = sys.modules["daxmend.fuse.mount"]
    monkeypatch.setattr(module, "_UMOUNT_SECONDS", 0.1)
    monkeypatch.setattr(module, "_UMOUNT_PROGRAM", "import signal; signal.pause()")
    with pytest.raises(BusyError, match="has not answered"):
        unmount(memory.path)
    with pytest.raises(BusyError, match="no answer"):
        unmount_dead(memory.path)


@needs_root
def test_an_abort_ends_the_session_with_requests_parked(memory: Served) -> None:
    found = find_mount(memory.path)
    assert found is not None
    reader = in_child((memory.path / ".events").read_bytes)
    memory.expect("parked")
    abort(found.device)
    assert wait(reader) == 1
    assert wait(memory.pid) == 0


def test_a_refused_answer_is_eio_and_logged(tmp_path: Path) -> None:
    class TooLong(MemoryHandler):
        def read(self, nodeid: int, fh: int, offset: int, size: int, *flags: int) -> bytes:
            if nodeid == self.special[b".log"]:
                return json.dumps(self.log).encode()[offset : offset + size]
            return bytes(size + 1)

    with served(tmp_path, TooLong()) as mounted:
        (mounted.path / "direct").write_bytes(bytes(PAGE))
        with pytest.raises(OSError) as info:
            (mounted.path / "direct").read_bytes()
        assert info.value.errno == errno.EIO
        os.listdir(mounted.path)  # answered after the session has logged
        assert "took no answer" in mounted.log_path.read_text()
