"""READ, WRITE, mappings and invalidation as the kernel really sends them.

Loads that may raise SIGBUS are done in forked children.
"""

import ctypes
import errno
import mmap
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from test_fuse_memory import (
    PAGE,
    MemoryHandler,
    PlusHandler,
    Served,
    in_child,
    pytestmark,  # noqa: F401
    served,
    wait,
)

from daxmend.fuse import MAX_WRITE, Caller, Entry
from daxmend.fuse import protocol as p

KERNEL = tuple(int(part) for part in os.uname().release.split(".")[:2])
direct_mmap = pytest.mark.skipif(KERNEL < (6, 6), reason="FUSE_DIRECT_IO_ALLOW_MMAP is of 6.6")


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Served]:
    with served(tmp_path, MemoryHandler()) as mounted:
        yield mounted


def make(memory: Served, name: str, pages: int, *bad: int) -> int:
    """An open file of `pages` pages, each filled with its number, uncached; some of them bad."""
    content = b"".join(bytes([number]) * PAGE for number in range(pages))
    (memory.path / name).write_bytes(content)
    memory.ctl("bad", name, *bad)
    memory.ctl("invalidate", name, 0, 0)
    return os.open(memory.path / name, os.O_RDWR)


def faults(fd: int, length: int, offset: int, flags: int = mmap.MAP_SHARED) -> bool:
    """Whether a load at `offset` of a fresh mapping ends in SIGBUS."""

    def load() -> None:
        with mmap.mmap(fd, length, flags, mmap.PROT_READ) as mapping:
            assert mapping[offset] >= 0

    status = wait(in_child(load))
    assert status in (0, -signal.SIGBUS)
    return status != 0


def errno_of(call: Callable[[], object]) -> int:
    with pytest.raises(OSError) as info:
        call()
    assert info.value.errno is not None
    return info.value.errno


@pytest.mark.parametrize("name", ["cached", "direct"])
def test_a_file_of_many_pages_comes_back_as_written(memory: Served, name: str) -> None:
    content = os.urandom(3 * MAX_WRITE + 123)
    (memory.path / name).write_bytes(content)
    memory.ctl("invalidate", name, 0, 0)
    assert (memory.path / name).read_bytes() == content


def test_a_direct_read_arrives_exact_and_may_be_answered_short(memory: Served) -> None:
    fd = make(memory, "direct", 8, 5)
    assert len(os.pread(fd, 8 * PAGE, 100)) == 5 * PAGE - 100
    assert errno_of(lambda: os.pread(fd, 10, 5 * PAGE)) == errno.EIO
    assert os.pread(fd, 10, 6 * PAGE) == bytes([6]) * 10
    offset, size, read_flags, _ = memory.log("read")[0]
    assert (offset, size) == (100, 8 * PAGE)
    assert isinstance(read_flags, int)
    assert read_flags & p.FUSE_READ_LOCKOWNER


def test_eio_on_a_cached_open_has_page_grain(memory: Served) -> None:
    fd = make(memory, "cached", 16, 5)
    assert len(os.pread(fd, 16 * PAGE, 0)) == 5 * PAGE
    assert errno_of(lambda: os.pread(fd, PAGE, 5 * PAGE)) == errno.EIO
    assert os.pread(fd, 2 * PAGE, 6 * PAGE) == bytes([6]) * PAGE + bytes([7]) * PAGE
    assert not any(entry[2] == p.FUSE_READ_LOCKOWNER for entry in memory.log("read"))


def test_a_handler_sees_o_direct_in_the_open_flags(memory: Served) -> None:
    os.close(make(memory, "cached", 2))
    fd = os.open(memory.path / "cached", os.O_RDONLY | os.O_DIRECT)
    os.preadv(fd, [mmap.mmap(-1, PAGE)], 0)
    assert memory.log("read")[-1][3] == os.O_DIRECT


def test_an_unaligned_buffer_on_a_direct_open_arrives_cut_in_mid_page(memory: Served) -> None:
    fd = make(memory, "direct", 1)
    buffer = memoryview(mmap.mmap(-1, 2 * MAX_WRITE + PAGE))[16 : 16 + 2 * MAX_WRITE]
    assert os.pwrite(fd, buffer, 0) == 2 * MAX_WRITE
    writes = [(offset, size) for offset, size, _ in memory.log("write")][1:]
    assert writes == [(0, MAX_WRITE - 16), (MAX_WRITE - 16, MAX_WRITE), (2 * MAX_WRITE - 16, 16)]


def test_an_unaligned_or_untouched_buffer_is_stored_whole_however_it_is_cut(
    memory: Served,
) -> None:
    for name in ("direct", "cached"):
        fd = make(memory, name, 1)
        untouched = mmap.mmap(-1, MAX_WRITE + PAGE)
        assert os.pwrite(fd, memoryview(untouched)[48 : 48 + MAX_WRITE], 0) == MAX_WRITE
        content = os.urandom(MAX_WRITE)
        assert os.pwrite(fd, content, PAGE) == MAX_WRITE
        memory.ctl("invalidate", name, 0, 0)
        assert os.pread(fd, PAGE + MAX_WRITE, 0) == bytes(PAGE) + content


def test_the_data_of_a_write_is_page_aligned_in_the_handler(tmp_path: Path) -> None:
    class Aligned(MemoryHandler):
        def write(self, nodeid: int, fh: int, offset: int, data: memoryview, *flags: int) -> int:
            if len(data) == PAGE:
                address = ctypes.addressof(ctypes.c_char.from_buffer(data))
                self.log.append(["aligned", address % PAGE])
            return len(data)

    with served(tmp_path, Aligned()) as mounted:
        (mounted.path / "direct").write_bytes(bytes(PAGE))
        assert mounted.log("aligned") == [[0]]


def test_a_mapped_load_of_a_bad_page_is_sigbus_and_its_neighbours_work(memory: Served) -> None:
    fd = make(memory, "cached", 4, 2)
    assert [faults(fd, 4 * PAGE, page * PAGE) for page in range(4)] == [False, False, True, False]


@direct_mmap
def test_a_direct_open_can_be_mapped_shared(memory: Served) -> None:
    fd = make(memory, "direct", 4, 2)
    assert [faults(fd, 4 * PAGE, page * PAGE) for page in range(4)] == [False, False, True, False]


@pytest.mark.parametrize("name", ["cached", pytest.param("direct", marks=direct_mmap)])
def test_invalidation_reaches_a_live_mapping(memory: Served, name: str) -> None:
    fd = make(memory, name, 4)

    def body() -> None:
        with mmap.mmap(fd, 4 * PAGE, mmap.MAP_SHARED, mmap.PROT_READ) as mapping:
            assert mapping[PAGE] == 1
            memory.ctl("change", name, PAGE, "new")
            assert mapping[PAGE : PAGE + 3] == b"\1\1\1"  # the kernel does not know
            memory.ctl("invalidate", name, PAGE, PAGE)
            assert mapping[PAGE : PAGE + 3] == b"new"

    assert wait(in_child(body)) == 0


@pytest.mark.parametrize("name", ["cached", pytest.param("direct", marks=direct_mmap)])
def test_a_page_that_goes_bad_under_a_live_mapping_faults_after_invalidation(
    memory: Served, name: str
) -> None:
    fd = make(memory, name, 4)

    def body() -> None:
        mapping = mmap.mmap(fd, 4 * PAGE, mmap.MAP_SHARED, mmap.PROT_READ)
        assert mapping[PAGE] == 1
        memory.ctl("bad", name, 1)
        memory.ctl("invalidate", name, PAGE, PAGE)
        assert mapping[0] == 0
        assert mapping[PAGE] == 99, "this load must not return"

    assert wait(in_child(body)) == -signal.SIGBUS


def test_invalidation_writes_a_dirty_page_back_first(memory: Served) -> None:
    fd = make(memory, "cached", 2)

    def body() -> None:
        mapping = mmap.mmap(fd, 2 * PAGE)
        mapping[PAGE] = 77
        memory.ctl("invalidate", "cached", PAGE, PAGE)
        assert mapping[PAGE] == 77

    assert wait(in_child(body)) == 0
    offset, size, write_flags = memory.log("write")[-1]
    assert (offset, size) == (PAGE, PAGE)
    assert isinstance(write_flags, int)
    assert write_flags & p.FUSE_WRITE_CACHE


def test_a_mapped_store_is_written_back_when_the_mapping_goes(memory: Served) -> None:
    fd = make(memory, "cached", 2)
    with mmap.mmap(fd, 2 * PAGE) as mapping:
        mapping[PAGE] = 77
    offset, size, write_flags = memory.log("write")[-1]
    assert (offset, size) == (PAGE, PAGE)
    assert isinstance(write_flags, int)
    assert write_flags & p.FUSE_WRITE_CACHE


def test_a_name_that_changed_behind_the_kernels_back_is_seen_after_inval_entry(
    tmp_path: Path,
) -> None:
    class LongLived(MemoryHandler):
        def lookup(self, caller: Caller, parent: int, name: bytes) -> Entry:
            return super().lookup(caller, parent, name)._replace(entry_valid=1000)

    with served(tmp_path, LongLived()) as mounted:
        (mounted.path / "old").write_bytes(b"")
        assert (mounted.path / "old").exists()
        mounted.ctl("rebind", "old", "new")
        assert not (mounted.path / "old").exists()
        assert (mounted.path / "new").exists()


@pytest.mark.parametrize(("handler", "asked"), [(MemoryHandler, 5), (PlusHandler, 1)])
def test_every_write_asks_for_security_capability_unless_the_handler_kills_suidgid(
    tmp_path: Path, handler: type[MemoryHandler], asked: int
) -> None:
    with served(tmp_path, handler()) as mounted:
        fd = os.open(mounted.path / "cached", os.O_RDWR | os.O_CREAT)
        for _ in range(5):
            os.pwrite(fd, b"1", 0)
        os.close(fd)
        assert mounted.log("getxattr") == [["security.capability"]] * asked
