"""Storms of faults, the limit of mappings, and full file systems; each in a child of its own."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

PRELUDE = """
import ctypes, mmap, os, resource, sys
from pathlib import Path
from daxmend import _native, guard
from daxmend.errors import MediaError, TruncatedError
PAGE, GUARD_INSTALL = 4096, 102
path = Path(sys.argv[1])
def mapped(pages, protection):
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    os.ftruncate(fd, pages * PAGE)
    memory = mmap.mmap(fd, pages * PAGE, prot=protection)
    return memory, _native.address_of(memory)
def every_second(address, pages):
    for page in range(1, pages, 2):
        _native.madvise(address + page * PAGE, PAGE, GUARD_INSTALL)
    _native.forward_segv(address, pages * PAGE)
def touch(address, pages):
    for page in range(pages):
        ctypes.string_at(address + page * PAGE, 1)
"""


@pytest.fixture
def path() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="daxmend-test-", dir="/dev/shm") as name:
        yield Path(name) / "data"


def run(program: str, path: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + program, str(path)],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def _has_guard_regions() -> bool:
    release = tuple(int(part) for part in os.uname().release.split(".")[:2])
    return release >= (6, 15)


needs_guard_regions = pytest.mark.skipif(
    not _has_guard_regions(), reason="guard regions in file mappings need Linux 6.15"
)


@needs_guard_regions
def test_scattered_faults_beyond_the_limit_of_mappings_are_exact_where_nobody_stores(
    path: Path,
) -> None:
    """More bad pages than the kernel allows mappings; every good byte is there."""
    program = """
pages = 72000
memory, address = mapped(pages, mmap.PROT_READ)
fd = os.open(path, os.O_RDWR)
for page in range(pages):
    os.pwrite(fd, bytes([page % 251 + 1]), page * PAGE)
every_second(address, pages)
try:
    with guard.watch(memory) as g:
        for page in range(pages):
            byte = ctypes.string_at(address + page * PAGE, 1)[0]
            assert byte == (0 if page % 2 else page % 251 + 1), page
        assert g.unknown == []
except MediaError as error:
    assert error.ranges == tuple((page * PAGE, PAGE) for page in range(1, pages, 2))
    print('raised')
assert memory[0] == 1 and memory[(pages - 2) * PAGE] == (pages - 2) % 251 + 1
"""
    assert run(program, path) == "raised\n"


@needs_guard_regions
@pytest.mark.parametrize("spare", range(4))
def test_at_the_limit_of_mappings_what_is_unknown_is_said_and_nothing_dies(
    path: Path, spare: int
) -> None:
    program = (
        f"spare = {spare}"
        + """
pages = 72000
memory, address = mapped(pages, mmap.PROT_READ | mmap.PROT_WRITE)
others = [mmap.mmap(-1, PAGE) for _ in range(spare)]  # where the limit is met
every_second(address, pages)
try:
    with guard.watch(memory) as g:
        touch(address, pages)
        unknown = sum(run.length for run in g.unknown)
        assert 0 < unknown < pages * PAGE // 2, unknown
except MediaError as error:
    assert 'it is unknown which are bad' in str(error)
    bad = sum(length for _, length in error.ranges)
    assert bad + unknown >= pages * PAGE // 2
    print('raised')
with open('/proc/self/maps') as maps:
    assert sum(1 for _ in maps) < 1000, 'the file is mapped back'
memory[5 * PAGE] = 7
assert os.pread(os.open(path, os.O_RDONLY), 1, 5 * PAGE) == bytes([7])
"""
    )
    assert run(program, path) == "raised\n"


def test_a_long_run_is_one_range(path: Path) -> None:
    program = """
memory, address = mapped(100000, mmap.PROT_READ | mmap.PROT_WRITE)
os.truncate(path, 10 * PAGE)
try:
    with guard.watch(memory):
        touch(address, 100000)
except TruncatedError as error:
    print(error.ranges)
"""
    assert run(program, path) == f"(({10 * 4096}, {99990 * 4096}),)\n"


@pytest.fixture
def full(need_root: None) -> Iterator[Path]:
    """A tmpfs of 64 KiB."""
    with tempfile.TemporaryDirectory(prefix="daxmend-test-", dir="/tmp") as name:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", name], check=True)
        try:
            yield Path(name)
        finally:
            subprocess.run(["umount", "-l", name], check=True)


def test_a_full_file_system_is_named_as_the_cause(full: Path) -> None:
    program = """
fd = os.open(path, os.O_RDWR | os.O_CREAT)
os.ftruncate(fd, 64 * PAGE)
m = guard.open(path)
try:
    for page in range(64):
        m[page * PAGE] = 1
except MediaError as error:
    print(error)
raw = mmap.mmap(fd, 0)
try:
    with guard.watch(raw):
        raw[60 * PAGE] = 1
except MediaError as error:
    print(error)
os.truncate(path, 65 * PAGE)
os.unlink(path)
assert m[0] == 1
"""
    said = run(program, full / "data").splitlines()
    assert len(said) == 2
    for line in said:
        assert "the file system is full" in line
        assert str(full / "data") in line


@pytest.mark.parametrize("is_full_at_the_end", [False, True])
def test_a_single_page_at_the_limit_of_mappings_is_told(
    path: Path, is_full_at_the_end: bool
) -> None:
    """Also where there is no mapping left for the list, and none to map the file back."""
    program = (
        f"is_full_at_the_end = {is_full_at_the_end}"
        + """
from daxmend.errors import FaultError, UnknownStateError
memory, address = mapped(64, mmap.PROT_READ | mmap.PROT_WRITE)
os.truncate(path, 10 * PAGE)
g = guard.watch(memoryview(memory)[20 * PAGE : 21 * PAGE])
libc = ctypes.CDLL(None, use_errno=True)
libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
pages = _native.map_file(-1, 0, 80000 * PAGE, 0, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
try:
    with g:
        for page in range(1, 80000, 2):
            if libc.mprotect(pages + page * PAGE, PAGE, mmap.PROT_READ):
                break
        assert page < 79999
        assert ctypes.string_at(address + 20 * PAGE, 1) == bytes(1)
        if not is_full_at_the_end:
            _native.unmap(pages, 80000 * PAGE)
except (FaultError, UnknownStateError) as error:
    if is_full_at_the_end:
        _native.unmap(pages, 80000 * PAGE)
    print(error)
assert len(guard.probe(memory)) == 1, 'the file is mapped back'
"""
    )
    said = run(program, path)
    assert "of 4096 bytes from offset 81920 on it is unknown which are bad" in said
