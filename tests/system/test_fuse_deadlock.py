"""The deadlocks of a server that invalidates, one by one, each within a time limit.

An invalidation waits for a dirty page's write-back, for a READ in flight, and for the page that a
WRITE of less than a page holds locked; the server that sends it from its request thread waits for
itself. Then not even SIGKILL ends it, but the abort in `unmount_dead` does. What else could wait
for ever stands beside what it belongs to:

a stop while an invalidation waits    test_fuse_session.py, test_stop_ends_an_invalidation_…
a server that does not answer         test_fuse_session.py, test_a_stuck_server_does_not_hang_…
zeros by ioctl over dirty pages       test_files_data.py, test_mapped_memory_and_plain_calls_…
"""

import errno
import mmap
import os
import select
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from test_fuse_memory import (
    PAGE,
    MemoryHandler,
    Served,
    in_child,
    needs_root,
    pytestmark,  # noqa: F401
    served,
    wait,
)

from daxmend.fuse import Pending, unmount_dead
from daxmend.fuse.notify import pack_notification
from daxmend.fuse.protocol import FUSE_NOTIFY_INVAL_INODE, FUSE_ROOT_ID, NOTIFY_INVAL_INODE_OUT

REFUSED = b"refused"


class Invalidating(MemoryHandler):
    """Refuses a WRITE that begins with `REFUSED`, and lets the kernel forget what it cached."""

    def write(
        self, nodeid: int, fh: int, offset: int, data: memoryview, write_flags: int, open_flags: int
    ) -> int | Pending:
        if bytes(data[: len(REFUSED)]) == REFUSED:
            self.invalidate(nodeid)
            raise OSError(errno.EIO, "refused")
        return super().write(nodeid, fh, offset, data, write_flags, open_flags)

    def ctl_invalidate_all(self, name: str) -> None:
        self.invalidate(self._child(FUSE_ROOT_ID, name.encode()))

    def ctl_invalidate_under_read(self, name: str) -> None:
        """Not before the next request waits to be read, and so is in flight."""
        ready, _, _ = select.select([self.session.notifier._fd], [], [], 20)
        assert ready, "no request came"
        self.ctl_invalidate_all(name)

    def invalidate(self, nodeid: int) -> None:
        self.session.notifier.inval_inode(nodeid)


class Deadlocked(Invalidating):
    """What must not be done: sends from the request thread."""

    def invalidate(self, nodeid: int) -> None:
        payload = NOTIFY_INVAL_INODE_OUT.pack(nodeid, 0, 0)
        self.tell("sending")
        os.write(self.session.notifier._fd, pack_notification(FUSE_NOTIFY_INVAL_INODE, payload))


class Child:
    """A process that has `file` open and waits for `go`; then the test has it open no more.

    Whoever has a file of a stuck mount open waits for its server when it closes it, and each of its
    children does, when it begins another program.
    """

    def __init__(self, file: Path, body: Callable[[int], None]) -> None:
        fd = os.open(file, os.O_RDWR)
        start, self._go = os.pipe()

        def wait_and_run() -> None:
            os.read(start, 1)
            body(fd)

        self.pid = in_child(wait_and_run)
        os.close(fd)
        os.close(start)

    def go(self) -> None:
        os.write(self._go, b"x")
        os.close(self._go)


Situation = Callable[[Served], list[int]]


def a_dirty_page(mounted: Served) -> list[int]:
    def body(fd: int) -> None:
        with mmap.mmap(fd, 2 * PAGE) as mapping:
            mapping[PAGE] = 77
            mounted.ctl("invalidate_all", "cached")
            assert mapping[PAGE] == 77

    child = Child(mounted.path / "cached", body)
    child.go()
    return [child.pid]


def a_read_in_flight(mounted: Served) -> list[int]:
    def body(fd: int) -> None:
        assert os.pread(fd, 4, PAGE) == b"old\n"

    reader = Child(mounted.path / "cached", body)
    asker = in_child(lambda: mounted.ctl("invalidate_under_read", "cached"))
    mounted.expect("invalidate_under_read")
    reader.go()
    return [asker, reader.pid]


def a_write_of_less_than_a_page(mounted: Served) -> list[int]:
    def body(fd: int) -> None:
        with pytest.raises(OSError) as info:
            os.pwrite(fd, REFUSED, PAGE)
        assert info.value.errno == errno.EIO
        assert os.pread(fd, 4, PAGE) == b"old\n"  # and not what was refused

    child = Child(mounted.path / "cached", body)
    child.go()
    return [child.pid]


SITUATIONS = pytest.mark.parametrize(
    "situation", [a_dirty_page, a_read_in_flight, a_write_of_less_than_a_page]
)


def prepare(mounted: Served) -> None:
    """A file of two pages, neither of them in the cache."""
    (mounted.path / "cached").write_bytes(b"old\n" * (2 * PAGE // 4))
    mounted.ctl("invalidate", "cached", 0, 0)


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Served]:
    with served(tmp_path, Invalidating()) as made:
        yield made


@SITUATIONS
def test_an_invalidation_that_waits_for_the_request_thread_gets_it(
    mounted: Served, situation: Situation
) -> None:
    prepare(mounted)
    assert {wait(child) for child in situation(mounted)} == {0}
    os.kill(mounted.pid, signal.SIGTERM)
    assert wait(mounted.pid) == 0


@needs_root
@SITUATIONS
def test_a_server_that_waits_for_itself_and_all_that_wait_for_it_are_freed(
    tmp_path: Path, situation: Situation
) -> None:
    """SIGKILL alone does not end it: its only thread waits in the kernel for its own answer."""
    with served(tmp_path, Deadlocked()) as made:
        prepare(made)
        children = situation(made)
        made.expect("sending")
        os.kill(made.pid, signal.SIGKILL)
        unmount_dead(made.path)
        assert wait(made.pid) == -signal.SIGKILL
        for child in children:
            wait(child)  # of an error, or of the signal for a page that nobody serves any more
