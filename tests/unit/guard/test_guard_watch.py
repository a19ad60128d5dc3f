# ruff: noqa: PT012  # a guard raises at the end of its block
"""`guard.watch`: foreign code on memory that faults; zeros inside, an exception at the end."""

import ctypes
import mmap
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from guardmemory import (
    PAGE,
    content,
    has_guard_regions,
    make_file,
    poison_by_userfaultfd,
    poisoned,
    run_program,
)

from daxmend import _native, guard
from daxmend.errors import MediaError, TruncatedError, UnsupportedError, UsageError

PAGES = 64
BUS = -signal.SIGBUS
needs_guard_regions = pytest.mark.skipif(
    not has_guard_regions(), reason="this kernel has no guard regions in file mappings (6.15)"
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return make_file(tmp_path / "data", PAGES)


@pytest.fixture
def memory(path: Path) -> Iterator[mmap.mmap]:
    with path.open("r+b") as file:
        yield mmap.mmap(file.fileno(), 0)  # views of it outlive the test in tracebacks


def load(memory: object, offset: int, length: int = 1) -> bytes:
    """Read by code that knows nothing of daxmend."""
    with memoryview(memory) as view:  # type: ignore[arg-type]  # a buffer
        return ctypes.string_at(_native.address_of(view) + offset, length)


def test_what_does_not_fault_is_left_alone(memory: mmap.mmap) -> None:
    with guard.watch(memory) as g:
        assert memory[:] == content(PAGES)
        memory[5] = 9
    assert (g.faults, g.unknown) == ([], [])
    assert memory[5] == 9


@needs_guard_regions
def test_a_bad_page_reads_as_zeros_inside_and_raises_at_the_end(
    memory: mmap.mmap, path: Path
) -> None:
    seen = b""
    with poisoned(memory, 20), pytest.raises(MediaError) as caught, guard.watch(memory) as g:
        seen = memory[:]
        assert [fault[:3] for fault in g.faults] == [(20 * PAGE, PAGE, "BUS_MCEERR_AR")]
    expected = content(PAGES)
    assert seen == expected[: 20 * PAGE] + bytes(PAGE) + expected[21 * PAGE :]
    error = caught.value
    assert (error.filename, error.offset, error.length) == (str(path), 20 * PAGE, PAGE)
    assert error.code == "BUS_MCEERR_AR"
    assert f"{path}: 4096 bytes at offset 81920 are unreadable" in str(error)
    assert "guard.salvage" in str(error)
    assert memory[:] == expected, "the file is mapped back"


@needs_guard_regions
def test_every_range_is_listed(memory: mmap.mmap) -> None:
    with poisoned(memory, 3, 4, 9), pytest.raises(MediaError) as caught, guard.watch(memory):
        bytes(memory)
    assert caught.value.ranges == ((3 * PAGE, 2 * PAGE), (9 * PAGE, PAGE))
    assert "and 1 more" in str(caught.value)


@needs_guard_regions
def test_offsets_are_the_files_also_of_a_part_of_a_mapping(path: Path) -> None:
    with path.open("rb") as file:
        memory = mmap.mmap(file.fileno(), 32 * PAGE, prot=mmap.PROT_READ, offset=16 * PAGE)
    view = memoryview(memory)[8 * PAGE : 9 * PAGE]
    with poisoned(memory, 8), pytest.raises(MediaError) as caught, guard.watch(view):
        bytes(view)
    assert (caught.value.offset, caught.value.length) == (24 * PAGE, PAGE)


def test_poison_by_userfaultfd_is_a_memory_error(shm: Path) -> None:
    """BUS_MCEERR_AR from the kernel itself."""
    path = make_file(shm / "data", PAGES)
    with path.open("r+b") as file:
        memory = mmap.mmap(file.fileno(), 0)
    try:
        uffd = poison_by_userfaultfd(memory, 7)
    except OSError as error:
        pytest.skip(f"no UFFDIO_POISON here (6.6): {error}")
    with pytest.raises(MediaError) as caught, guard.watch(memory):
        assert load(memory, 7 * PAGE + 100) == b"\0"
    os.close(uffd)
    assert (caught.value.offset, caught.value.length) == (7 * PAGE, PAGE)
    assert caught.value.code in ("BUS_MCEERR_AR", "BUS_ADRERR")  # without CONFIG_MEMORY_FAILURE


def test_a_file_that_shrank_raises_and_what_was_stored_is_kept(
    memory: mmap.mmap, path: Path
) -> None:
    os.truncate(path, 10 * PAGE + 1)
    with pytest.raises(TruncatedError) as caught, guard.watch(memory):
        memory[5 * PAGE : 6 * PAGE] = b"x" * PAGE
        assert memory[11 * PAGE :] == bytes((PAGES - 11) * PAGE)
    assert caught.value.ranges == ((11 * PAGE, (PAGES - 11) * PAGE),)
    assert "truncated to 40961 bytes" in str(caught.value)
    assert path.read_bytes()[5 * PAGE : 6 * PAGE] == b"x" * PAGE


def test_a_run_of_bad_pages_is_met_in_few_faults_and_none_is_invented(
    path: Path, memory: mmap.mmap
) -> None:
    os.truncate(path, 8 * PAGE)
    with pytest.raises(TruncatedError) as caught, guard.watch(memory):
        for page in range(8, 40):
            load(memory, page * PAGE)
    assert caught.value.offset == 8 * PAGE
    assert caught.value.length >= 32 * PAGE
    assert caught.value.offset + caught.value.length <= PAGES * PAGE


def test_after_a_repair_refresh_shows_the_file_and_nothing_is_raised(
    memory: mmap.mmap, path: Path
) -> None:
    os.truncate(path, 10 * PAGE)
    with guard.watch(memory) as g:
        assert memory[20 * PAGE] == 0
        assert g.faults[0].is_beyond
        path.write_bytes(content(PAGES))
        assert g.refresh() == []
        assert memory[:] == content(PAGES)
        assert g.faults == []


def test_refresh_without_a_repair_forgets_nothing(memory: mmap.mmap, path: Path) -> None:
    os.truncate(path, 10 * PAGE)
    with pytest.raises(TruncatedError), guard.watch(memory) as g:
        assert memory[20 * PAGE] == 0
        assert [(f.offset, f.is_beyond) for f in g.refresh()] == [(20 * PAGE, True)]
        assert memory[20 * PAGE] == 0


def test_a_page_that_is_good_again_is_told_as_such(memory: mmap.mmap, path: Path) -> None:
    """It was zeros for a while, so it is raised."""
    os.truncate(path, 10 * PAGE)
    with pytest.raises(MediaError) as caught, guard.watch(memory):
        load(memory, 20 * PAGE)
        os.truncate(path, PAGES * PAGE)
    assert caught.value.ranges == ((20 * PAGE, PAGE),)
    assert "can be read by now" in str(caught.value)


@needs_guard_regions
def test_nested_guards_are_both_told(memory: mmap.mmap) -> None:
    part = memoryview(memory)[4 * PAGE : 8 * PAGE]
    with poisoned(memory, 2, 5), pytest.raises(MediaError) as outer, guard.watch(memory):
        load(memory, 2 * PAGE)
        with pytest.raises(MediaError) as inner, guard.watch(part):
            load(memory, 5 * PAGE)
        with pytest.raises(MediaError) as third, guard.watch(memoryview(memory)[: 3 * PAGE]):
            assert load(memory, 2 * PAGE) == b"\0"  # the outer's zeros: it does not fault again
    assert third.value.ranges == ((2 * PAGE, PAGE),)
    assert inner.value.ranges == ((5 * PAGE, PAGE),)
    assert outer.value.ranges == ((2 * PAGE, PAGE), (5 * PAGE, PAGE))
    part.release()


def test_a_guard_can_be_entered_again_but_not_twice(memory: mmap.mmap, path: Path) -> None:
    g = guard.watch(memory)
    os.truncate(path, PAGE)
    for _ in range(3):
        with pytest.raises(TruncatedError), g:
            load(memory, 9 * PAGE)
        assert [fault.offset for fault in g.faults] == [9 * PAGE]
    os.truncate(path, PAGES * PAGE)
    with g, pytest.raises(UsageError, match="active already"):
        g.__enter__()
    assert g.faults == []


def test_a_private_mapping_keeps_what_was_stored_in_good_pages(path: Path) -> None:
    with path.open("rb") as file:
        memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    os.truncate(path, 10 * PAGE)
    with pytest.raises(TruncatedError), guard.watch(memory):
        memory[0] = 77
        memory[20 * PAGE] = 1  # lost
    with path.open("r+b") as file:
        file.write(content(PAGES))
    assert memory[0] == 77
    assert memory[20 * PAGE : 21 * PAGE] == content(PAGES)[20 * PAGE : 21 * PAGE]


def test_a_private_mapping_of_a_file_without_a_name_is_refused(path: Path) -> None:
    with path.open("rb") as file:
        memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    path.unlink()
    with pytest.raises(UnsupportedError, match="private mapping"):
        guard.watch(memory)


@pytest.mark.parametrize("how", ["deleted", "replaced"])
def test_a_shared_mapping_needs_no_name(memory: mmap.mmap, path: Path, how: str) -> None:
    """What is asked for the cause is never another file."""
    fd = os.open(path, os.O_RDWR)
    path.unlink()
    if how == "replaced":
        make_file(path, PAGES)
    os.ftruncate(fd, 10 * PAGE)
    with pytest.raises(MediaError) as caught, guard.watch(memory):
        load(memory, 20 * PAGE)
    os.close(fd)
    assert (caught.value.offset, caught.value.length) == (20 * PAGE, PAGE)
    assert "cannot be opened" in str(caught.value)
    assert "deleted" in str(caught.value)


def test_efault_of_a_system_call_becomes_the_fault(memory: mmap.mmap, path: Path) -> None:
    os.truncate(path, 10 * PAGE)
    sink, fd = os.pipe()
    with pytest.raises(TruncatedError) as caught, guard.watch(memory):
        os.write(fd, memoryview(memory)[30 * PAGE : 31 * PAGE])
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.offset == 10 * PAGE
    os.close(fd)
    os.close(sink)


def test_an_exception_of_the_block_is_kept_as_the_cause(memory: mmap.mmap, path: Path) -> None:
    os.truncate(path, PAGE)
    with pytest.raises(TruncatedError) as caught, guard.watch(memory):
        load(memory, 9 * PAGE)
        raise KeyError("found zeros")
    assert isinstance(caught.value.__cause__, KeyError)
    with pytest.raises(KeyError), guard.watch(memory):
        raise KeyError("nothing to do with it")
    with pytest.raises(KeyboardInterrupt), guard.watch(memory):
        load(memory, 9 * PAGE)
        raise KeyboardInterrupt


def test_memory_cannot_be_unmapped_inside_the_block_and_can_after_it(
    memory: mmap.mmap, path: Path
) -> None:
    os.truncate(path, PAGE)
    with pytest.raises(TruncatedError), guard.watch(memory) as g:
        load(memory, 9 * PAGE)
        with pytest.raises(BufferError):
            memory.close()
    memory.close()
    with pytest.raises(ValueError, match="closed"):
        g.__enter__()


def test_threads_work_on_one_guarded_mapping(memory: mmap.mmap, path: Path) -> None:
    os.truncate(path, 10 * PAGE)
    with pytest.raises(TruncatedError) as caught, guard.watch(memory):
        threads = [
            threading.Thread(target=load, args=(memory, page * PAGE)) for page in range(5, 60)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert caught.value.ranges[0][0] == 10 * PAGE
    assert sum(length for _, length in caught.value.ranges) >= 50 * PAGE


def test_zeros_that_another_guard_has_put_there_are_never_taken_for_data(
    path: Path, memory: mmap.mmap
) -> None:
    """Whoever reads a bad page is told, whether or not it was his access that faulted."""
    os.truncate(path, 32 * PAGE)
    hidden: list[object] = []

    def work(first: int) -> None:
        view = memoryview(memory)
        for turn in range(150):
            start = (first * 7 + turn) % 24
            try:
                with guard.watch(view[start * PAGE : (start + 20) * PAGE]):
                    found = load(view, start * PAGE, 20 * PAGE)
            except TruncatedError:
                continue
            if found != content(PAGES)[start * PAGE : (start + 20) * PAGE]:
                hidden.append(start)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert hidden == []


NATIVE_THREAD = r"""
#include <pthread.h>
static void *run(void *at) { return (void *)(long)(*(volatile char *)at + 1); }
long load_in_thread(void *at)
{
    pthread_t thread;
    void *result;
    if (pthread_create(&thread, 0, run, at) != 0)
        return -1;
    pthread_join(thread, &result);
    return (long)result;
}
"""


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler for the foreign library")
def test_a_thread_that_python_did_not_make_is_guarded(
    memory: mmap.mmap, path: Path, tmp_path: Path
) -> None:
    source, library = tmp_path / "thread.c", tmp_path / "thread.so"
    source.write_text(NATIVE_THREAD)
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, source, "-pthread"], check=True)
    run = ctypes.CDLL(str(library)).load_in_thread
    run.argtypes, run.restype = (ctypes.c_void_p,), ctypes.c_long
    os.truncate(path, 10 * PAGE)
    with pytest.raises(TruncatedError), guard.watch(memory):
        assert run(_native.address_of(memory) + 20 * PAGE) == 1


# -- what may kill ----------------------------------------------------------------------------

MAPPED = """
make_file(path, 8)
memory = mmap.mmap(os.open(path, os.O_RDWR), 0)
other = mmap.mmap(os.open(path, os.O_RDWR), 0)
address, elsewhere = _native.address_of(memory), _native.address_of(other)
os.truncate(path, 4 * PAGE)
def load(at):
    return ctypes.string_at(at, 1)
def watched():
    try:
        with guard.watch(memory):
            assert load(address + 6 * PAGE) == bytes(1)
    except TruncatedError as error:
        assert error.ranges == ((6 * PAGE, PAGE),), error.ranges
    else:
        raise AssertionError("nothing was raised")
"""
FATAL = "Fatal Python error: Bus error"


def run(program: str, path: Path, *options: str) -> tuple[int, str, str]:
    ending = run_program(MAPPED + program, path, *options)
    return ending.status, ending.output, ending.errors


def test_a_fault_beside_the_range_still_kills(path: Path) -> None:
    """Nothing is hidden but in the ranges that were given, and only inside the block."""
    assert run("watched()\nprint('alive')", path)[:2] == (0, "alive\n")
    assert run("with guard.watch(memory):\n    load(elsewhere + 6 * PAGE)", path)[0] == BUS
    part = "with guard.watch(memoryview(memory)[:6 * PAGE]):\n    load(address + 6 * PAGE)"
    assert run(part, path)[0] == BUS
    assert run("watched(); load(address + 6 * PAGE)", path)[0] == BUS
    assert run("with guard.watch(memory):\n    load(16)", path)[0] == -signal.SIGSEGV


def test_a_store_to_read_only_memory_still_kills(path: Path) -> None:
    program = """
readable = mmap.mmap(os.open(path, os.O_RDONLY), 0, prot=mmap.PROT_READ)
with guard.watch(readable):
    at = _native.address_of(readable)
    ctypes.memset(at, 1, 1)
"""
    assert run(program, path)[0] == -signal.SIGSEGV


@pytest.mark.parametrize("options", [(), ("-X", "dev"), ("-X", "faulthandler")])
def test_it_works_with_faulthandler(path: Path, options: tuple[str, ...]) -> None:
    status, output, errors = run("watched(); watched(); print('alive')", path, *options)
    assert (status, output) == (0, "alive\n"), errors
    later = "watched(); faulthandler.enable(); watched(); load(address + 6 * PAGE)"
    status, _, errors = run(later, path, *options)
    assert (status, errors.count(FATAL)) == (BUS, 1)


def test_other_peoples_handlers_get_what_is_not_ours(path: Path) -> None:
    program = """
HANDLER = ctypes.CFUNCTYPE(None, ctypes.c_int)
seen = HANDLER(lambda number: (os.write(1, b'seen\\n'), os._exit(5)))
libc = ctypes.CDLL(None)
libc.signal.argtypes = (ctypes.c_int, HANDLER)
libc.signal(signal.SIGBUS, seen)
watched()
load(elsewhere + 6 * PAGE)
"""
    assert run(program, path)[:2] == (5, "seen\n")


def test_a_forked_child_is_guarded_on_its_own(path: Path) -> None:
    program = """
with guard.watch(memory) as g:
    child = os.fork()
    if child == 0:
        assert load(address + 5 * PAGE) == bytes(1)
        assert [f.offset for f in g.faults] == [5 * PAGE], g.faults
        os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert g.faults == []
child = os.fork()
if child == 0:
    watched()
    load(address + 6 * PAGE)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGBUS
print('alive')
"""
    assert run(program, path)[1] == "alive\n"


@pytest.mark.skipif(
    "DAXMEND_SANITIZED" in os.environ,
    reason="the sanitizer's allocator can deadlock in the child of a process with threads",
)
def test_forks_in_the_middle_of_other_threads_faults_hang_nobody(path: Path) -> None:
    program = """
import warnings
warnings.simplefilter('ignore')
stop = False
def loop():
    while not stop:
        try:
            with guard.watch(other):
                load(elsewhere + 6 * PAGE)
        except TruncatedError:
            pass
threads = [threading.Thread(target=loop) for _ in range(3)]
for thread in threads:
    thread.start()
for _ in range(30):
    child = os.fork()
    if child == 0:
        watched()
        os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
stop = True
for thread in threads:
    thread.join()
print('alive')
"""
    assert run(program, path)[1] == "alive\n"
