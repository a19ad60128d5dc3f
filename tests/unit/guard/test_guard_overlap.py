# ruff: noqa: PT012  # a guard raises at the end of its block
"""Watches that overlap: zeros are never taken for data, in whatever order threads do their part.

The order is set, not hoped for: steps that take the lock of `watch.c` are run in every order; what
happens inside it is held there by a page that userfaultfd has not brought yet.
"""

import contextlib
import ctypes
import errno
import fcntl
import mmap
import os
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from guardmemory import PAGE, content, has_guard_regions, make_file, poisoned

from daxmend import _native, guard
from daxmend.errors import MediaError, TruncatedError, UnknownStateError
from daxmend.extent import Extent
from daxmend.guard.cause import error_of
from daxmend.guard.region import Source
from daxmend.guard.trap import Done, unpack_entries

PAGES = 16
BAD = 12  # the first page past the end of the file
RIGHTS = mmap.PROT_READ | mmap.PROT_WRITE
NANOSLEEPS = {"35", "101", "115", "230"}  # also clock_nanosleep; x86_64 and aarch64

_libc = ctypes.CDLL(None)  # without the GIL
_libc.memcpy.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[mmap.mmap]:
    """Its last four pages lie past the end of the file."""
    path = make_file(tmp_path / "data", PAGES)
    with path.open("r+b") as file:
        memory = mmap.mmap(file.fileno(), 0)
        file.truncate(BAD * PAGE)
        yield memory


@pytest.fixture
def twin(memory: mmap.mmap) -> Iterator[int]:
    address = _native.map_again(_native.address_of(memory), len(memory))
    yield address
    _native.unmap(address, len(memory))


class Party:
    """A watch of pages `[first, end)`, by its steps."""

    def __init__(self, memory: mmap.mmap, twin: int, first: int = 0, end: int = PAGES) -> None:
        self.address = _native.address_of(memory)
        self.first = first
        start, length = first * PAGE, (end - first) * PAGE
        where = (twin + start, -1, 0) if twin else (0, -1, 0)
        self.trap = _native.Watch(self.address + start, length, RIGHTS, *where)
        self.told: set[int] = set()  # pages

    def start(self) -> None:
        self.trap.start()

    def load(self, page: int = BAD) -> None:
        found = ctypes.create_string_buffer(b"?", 1)
        _libc.memcpy(found, self.address + page * PAGE, 1)
        assert found.raw == b"\0"

    def begin(self) -> None:
        self.start()
        self.load()

    def stop(self) -> None:
        self.has_something = self.trap.stop()

    def take(self) -> None:
        for entry in unpack_entries(self.trap.take()):
            assert entry.done == Done.LOST
            first = self.first + entry.offset // PAGE
            self.told |= set(range(first, first + entry.length // PAGE))

    def restore(self) -> None:
        self.trap.restore()

    def finish(self) -> None:
        self.restore()
        self.take()


def merges(left: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Every order of so many steps of each party, as the party of each step."""
    if not any(left):
        yield ()
    for party, count in enumerate(left):
        if count:
            rest = (*left[:party], count - 1, *left[party + 1 :])
            yield from ((party, *order) for order in merges(rest))


TWO = (Party.start, Party.load, Party.take, Party.load, Party.stop, Party.finish)
REFRESHING = (Party.begin, Party.take, Party.restore, Party.load, Party.stop, Party.finish)
THREE = (Party.begin, Party.stop, Party.finish)


@pytest.mark.parametrize(
    ("steps", "ranges"),
    [
        (TWO, [(0, PAGES), (BAD, BAD + 1)]),
        (REFRESHING, [(4, BAD + 2), (BAD, PAGES)]),
        (THREE, [(0, PAGES), (4, BAD + 1), (BAD, PAGES)]),
    ],
)
def test_in_every_order_all_are_told_and_nothing_is_left(
    memory: mmap.mmap,
    twin: int,
    steps: tuple[Callable[[Party], None], ...],
    ranges: list[tuple[int, int]],
) -> None:
    for order in merges((len(steps),) * len(ranges)):
        parties = [Party(memory, twin, *pages) for pages in ranges]
        turns = [iter(steps) for _ in parties]
        for number in order:
            next(turns[number])(parties[number])
        assert all(BAD in party.told for party in parties), order
        assert guard.probe(memory), order  # the page faults: no zeros were left


def test_zeros_outlive_a_watch_that_could_not_map_the_file_back(
    memory: mmap.mmap, twin: int
) -> None:
    lost, later, last = Party(memory, 0), Party(memory, twin), Party(memory, twin)
    lost.begin()
    lost.stop()
    assert lost.has_something
    with pytest.raises(OSError, match="Bad file descriptor") as caught:
        lost.restore()
    assert caught.value.errno == errno.EBADF
    del lost.trap
    later.begin()
    later.stop()
    later.finish()
    assert later.told == {BAD}
    last.start()
    last.stop()
    assert not last.has_something


def test_zeros_that_cannot_be_replaced_are_said_to_stand(
    memory: mmap.mmap, monkeypatch: pytest.MonkeyPatch
) -> None:
    g, other = guard.watch(memory), guard.watch(memory)
    g._trap = Party(memory, 0).trap
    with pytest.raises(UnknownStateError, match="zeros stand in the memory"), g:
        ctypes.string_at(_native.address_of(memory) + BAD * PAGE, 1)
    with pytest.raises(TruncatedError) as caught, other:
        assert memory[BAD * PAGE] == 0
    assert caught.value.ranges == ((BAD * PAGE, PAGE),)


def test_a_narrow_watch_maps_back_no_more_than_its_own(memory: mmap.mmap, twin: int) -> None:
    wide, narrow, third = (
        Party(memory, twin),
        Party(memory, twin, BAD + 1, BAD + 2),
        Party(memory, twin),
    )
    wide.start()
    for page in range(BAD, PAGES):
        wide.load(page)
    narrow.start()
    narrow.stop()
    narrow.finish()
    assert narrow.told == {BAD + 1}
    third.start()
    third.take()
    assert third.told == {BAD, BAD + 2, BAD + 3}
    wide.stop()
    third.stop()
    wide.finish()
    assert wide.told == set(range(BAD, PAGES))
    assert guard.probe(memory)[0].length == 4 * PAGE


def test_what_is_left_of_an_earlier_block_is_told_to_the_next_one_of_the_same_watch(
    memory: mmap.mmap, twin: int
) -> None:
    """A block whose end was interrupted."""
    party = Party(memory, twin)
    party.begin()
    party.stop()
    party.begin()
    party.take()
    assert party.told == {BAD}
    party.stop()
    party.finish()


def test_what_is_only_unknown_is_an_error_too() -> None:
    error = error_of(Source("data", None, 0, 0), [], [Extent(8192, 4096)])
    assert isinstance(error, UnknownStateError)
    assert "of 4096 bytes from offset 8192 on it is unknown which are bad" in str(error)


# -- inside the lock --------------------------------------------------------------------------


@pytest.fixture
def held(shm: Path, need_root: None) -> Iterator[tuple[mmap.mmap, int]]:
    """Pages 1 and 2 are bad, and page 3 makes who asks about it wait: for the descriptor's end."""
    if not has_guard_regions():
        pytest.skip("no guard regions in file mappings (6.15)")
    path = shm / "data"
    path.write_bytes(content(3))
    os.truncate(path, PAGES * PAGE)
    with path.open("r+b") as file:
        memory = mmap.mmap(file.fileno(), 0)
    uffd = _native.userfaultfd(os.O_CLOEXEC)
    fcntl.ioctl(uffd, 0xC018AA3F, bytearray(struct.pack("=3Q", 0xAA, 0, 0)))
    waiting = struct.pack("=4Q", _native.address_of(memory) + 3 * PAGE, PAGE, 1, 0)
    fcntl.ioctl(uffd, 0xC020AA00, bytearray(waiting))
    with poisoned(memory, 1, 2):
        yield memory, uffd


@contextlib.contextmanager
def thread_of(work: Callable[[], object]) -> Iterator[threading.Thread]:
    thread = threading.Thread(target=work)
    thread.start()
    yield thread
    thread.join()


def await_sleep(thread: threading.Thread) -> None:
    """It waits for the lock."""
    calls = Path(f"/proc/self/task/{thread.native_id}/syscall")
    while calls.read_text().split()[0] not in NANOSLEEPS:
        assert thread.is_alive()


@pytest.mark.parametrize("who", ["stop", "start", "restore", "take"])
def test_who_comes_while_a_handler_is_at_work_waits_and_is_told(
    held: tuple[mmap.mmap, int], who: str
) -> None:
    memory, uffd = held
    twin = _native.map_again(_native.address_of(memory), len(memory))
    first, second = Party(memory, twin), Party(memory, twin, 0, 8)
    first.start()
    first.load(1)
    step = second.start if who == "start" else getattr(first, who)
    with thread_of(lambda: first.load(2)):  # where one follows the other, the next is asked about
        assert len(os.read(uffd, 32)) == 32  # it is asked: the handler waits
        with thread_of(step) as other:
            await_sleep(other)
            os.close(uffd)
    if who != "start":
        second.start()
    second.take()
    first.take()
    assert first.told == {1, 2}
    assert second.told == (set() if who == "restore" else {1, 2})
    if who == "stop":
        assert first.has_something
    first.stop()
    second.stop()
    first.restore()
    assert memory[: 3 * PAGE] == content(3)
    _native.unmap(twin, len(memory))


@pytest.mark.skipif(not has_guard_regions(), reason="no guard regions in file mappings (6.15)")
def test_a_watch_that_is_told_by_another_raises(tmp_path: Path) -> None:
    with make_file(tmp_path / "data", PAGES).open("r+b") as file:
        memory = mmap.mmap(file.fileno(), 0)
    zeros_stand, done = threading.Barrier(2), threading.Barrier(2)

    def meet() -> None:
        with pytest.raises(MediaError), guard.watch(memory):
            ctypes.string_at(_native.address_of(memory) + 5 * PAGE, 1)
            zeros_stand.wait()
            done.wait()

    with poisoned(memory, 5), thread_of(meet):
        zeros_stand.wait()
        with pytest.raises(MediaError) as caught, guard.watch(memory):
            assert memory[5 * PAGE] == 0
        done.wait()
    assert caught.value.ranges == ((5 * PAGE, PAGE),)
