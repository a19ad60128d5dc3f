"""Windows whose pages really fault, by each mechanism, on memory and on a disk."""

import ctypes
import fcntl
import gc
import mmap
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from daxmend import _native
from daxmend.errors import UnsupportedError, UsageError
from daxmend.extent import Extent
from daxmend.media import exposure as exposure_module
from daxmend.media.exposure import Exposure, Mechanism, choose_mechanism

PAGE = 4096
PAGES = 16
START = 2 * PAGE  # where in the file an exposure begins
LENGTH = PAGES * PAGE
BUS = -signal.SIGBUS

MEMORY = "/dev/shm"
DISK = "/var/tmp"
SUBJECTS = [
    (MEMORY, Mechanism.UFFD_POISON),  # by its nature not on a disk
    (MEMORY, Mechanism.GUARD_REGION),
    (MEMORY, Mechanism.EMPTY_MEMFD),
    (DISK, Mechanism.GUARD_REGION),
    (DISK, Mechanism.EMPTY_MEMFD),
]


class Subject(NamedTuple):
    """An open file whose pages are filled with their own number, and the mechanism under test."""

    path: str
    fd: int
    mechanism: Mechanism


@pytest.fixture(params=SUBJECTS, ids=str)
def subject(request: pytest.FixtureRequest) -> Iterator[Subject]:
    directory, mechanism = request.param
    with tempfile.NamedTemporaryFile(dir=directory, prefix="exposure-") as file:
        file.write(b"".join(bytes([page]) * PAGE for page in range(PAGES + 4)))
        file.flush()
        try:
            Exposure(file.fileno(), 0, PAGE, mechanism=mechanism).close()
        except UnsupportedError as error:
            pytest.skip(f"{mechanism} on {directory}: {error}")
        yield Subject(file.name, file.fileno(), mechanism)


@pytest.fixture
def exposure(subject: Subject) -> Iterator[Exposure]:
    with Exposure(subject.fd, START, LENGTH, mechanism=subject.mechanism) as opened:
        yield opened


# Every program begins with the same exposure as the tests; `load` and `store` know no guard.
PRELUDE = """
import ctypes, gc, mmap, os, resource, signal, sys, threading
from daxmend import _native
from daxmend.media.exposure import *
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
PAGE = 4096
fd = os.open(sys.argv[1], os.O_RDWR)
exposure = Exposure(fd, 2 * PAGE, 16 * PAGE, mechanism=Mechanism(sys.argv[2]))
load = lambda offset: ctypes.string_at(exposure.address + offset, 1)
store = lambda offset: ctypes.memset(exposure.address + offset, 7, 1)
class Action(ctypes.Structure):
    _fields_ = [('handler', ctypes.c_void_p), ('mask', ctypes.c_ulong * 16),
                ('flags', ctypes.c_int), ('restorer', ctypes.c_void_p)]
@ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
def report(number, info, context):
    code = ctypes.c_int.from_address(info + 8).value
    address = ctypes.c_size_t.from_address(info + 16).value
    os.write(1, b'%d %d %d' % (number, code, address - exposure.address))
    os._exit(5)
def on_bus():
    action = Action(ctypes.cast(report, ctypes.c_void_p), flags=4)
    assert ctypes.CDLL(None).sigaction(signal.SIGBUS, ctypes.byref(action), None) == 0
"""


class Ending(NamedTuple):
    """How a program ended: an exit status, or minus the signal; and what it said."""

    status: int
    output: str


def run_program(subject: Subject, program: str) -> Ending:
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + program, subject.path, subject.mechanism],
        stdout=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
    )
    return Ending(done.returncode, done.stdout)


def codes(mechanism: Mechanism) -> set[int]:
    """BUS_ADRERR (2) or BUS_MCEERR_AR (4): R24."""
    return {
        Mechanism.UFFD_POISON: {2, 4},  # which, is up to CONFIG_MEMORY_FAILURE
        Mechanism.GUARD_REGION: {4},
        Mechanism.EMPTY_MEMFD: {2},
    }[mechanism]


def test_a_window_shows_the_file(exposure: Exposure) -> None:
    assert len(exposure.memory) == exposure.length == LENGTH
    assert ctypes.string_at(exposure.address, PAGE) == bytes([2]) * PAGE
    assert exposure.memory[5 * PAGE] == 7
    assert exposure.faulting == []


def test_a_store_through_a_window_reaches_the_file(subject: Subject, exposure: Exposure) -> None:
    exposure.memory[10:13] = b"new"
    assert os.pread(subject.fd, 3, START + 10) == b"new"


def test_a_load_of_a_faulting_page_dies_of_sigbus(subject: Subject) -> None:
    program = "exposure.make_faulting(4 * PAGE, 2 * PAGE)\n"
    for offset in (4 * PAGE, 5 * PAGE, 6 * PAGE - 1):
        assert run_program(subject, program + f"load({offset})").status == BUS


def test_a_store_to_a_faulting_page_dies_of_sigbus(subject: Subject) -> None:
    program = "exposure.make_faulting(4 * PAGE, PAGE); store(4 * PAGE + 5)"
    assert run_program(subject, program).status == BUS


def test_a_page_that_was_in_use_dies_of_sigbus_too(subject: Subject) -> None:
    program = "store(4 * PAGE); load(4 * PAGE); exposure.make_faulting(4 * PAGE, PAGE)\n"
    assert run_program(subject, program + "load(4 * PAGE)").status == BUS


def test_neighbours_load_and_a_healed_page_loads_the_new_bytes(subject: Subject) -> None:
    program = """
exposure.make_faulting(4 * PAGE, 4 * PAGE)
assert load(4 * PAGE - 1) == b'\\x05' and load(8 * PAGE) == b'\\x0a'
os.pwrite(fd, b'N', 7 * PAGE)
exposure.make_accessible(5 * PAGE, PAGE)
assert load(5 * PAGE) == b'N' and load(5 * PAGE + 1) == b'\\x07'
os.write(1, b'alive')
load(6 * PAGE)
"""
    assert run_program(subject, program) == (BUS, "alive")


def test_a_handler_sees_the_exact_address(subject: Subject) -> None:
    program = "on_bus(); exposure.make_faulting(4 * PAGE, 3 * PAGE); load(5 * PAGE + 777)"
    status, output = run_program(subject, program)
    number, code, offset = map(int, output.split())
    assert (status, number, offset) == (5, signal.SIGBUS, 5 * PAGE + 777)
    assert code in codes(subject.mechanism)


def test_a_thread_faults_too(subject: Subject) -> None:
    program = "exposure.make_faulting(0, PAGE); threading.Thread(target=load, args=(0,)).start()"
    assert run_program(subject, program).status == BUS


def test_a_forked_child_and_its_child_fault_and_heal_on_their_own(subject: Subject) -> None:
    program = """
exposure.make_faulting(4 * PAGE, 2 * PAGE)
def die():
    return os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGBUS
child = os.fork()
if child == 0:
    assert load(3 * PAGE) == b'\\x05'
    child = os.fork()
    if child == 0:
        load(5 * PAGE)
        os._exit(1)
    assert die()
    exposure.make_accessible(5 * PAGE, PAGE)
    assert load(5 * PAGE) == b'\\x07'
    store(3 * PAGE)
    load(4 * PAGE)
    os._exit(2)
assert die() and load(3 * PAGE) == b'\\x07'
os.write(1, b'alive')
load(5 * PAGE)
"""
    assert run_program(subject, program) == (BUS, "alive")


def test_a_guarded_read_stops_at_the_faulting_page(exposure: Exposure) -> None:
    exposure.make_faulting(4 * PAGE, PAGE)
    with pytest.raises(_native.MemoryFault) as caught:
        _native.read(exposure.memory, PAGE + 9, 8 * PAGE)
    fault = caught.value
    assert fault.done == len(fault.partial) == 3 * PAGE - 9
    assert fault.partial == bytes(exposure.memory[PAGE + 9 : 4 * PAGE])
    assert (fault.address - exposure.address) // PAGE == 4
    assert fault.signal == signal.SIGBUS
    assert fault.code in codes(exposure.mechanism)
    with pytest.raises(_native.MemoryFault):
        _native.write(exposure.memory, 5 * PAGE - 1, b"x")


def test_a_system_call_on_a_faulting_page_gets_efault(exposure: Exposure) -> None:
    exposure.make_faulting(0, PAGE)
    reading, writing = os.pipe()
    with pytest.raises(OSError, match="Bad address"):
        os.write(writing, exposure.memory[:10])
    os.close(reading)
    os.close(writing)


def test_other_mappings_and_read_are_not_affected(subject: Subject, exposure: Exposure) -> None:
    with mmap.mmap(subject.fd, 0) as other:
        exposure.make_faulting(0, LENGTH)
        assert other[START] == 2
        other[START : START + 3] = b"new"
        assert os.pread(subject.fd, 3, START) == b"new"
    exposure.make_accessible(0, LENGTH)
    assert bytes(exposure.memory[:4]) == b"new\2"


def test_faulting_names_the_merged_ranges(exposure: Exposure) -> None:
    exposure.make_faulting(4 * PAGE, 4 * PAGE)
    exposure.make_faulting(6 * PAGE, 4 * PAGE)
    exposure.make_faulting(6 * PAGE, PAGE)
    exposure.make_faulting(0, PAGE)
    exposure.make_faulting(3 * PAGE, 0)
    assert exposure.faulting == [Extent(0, PAGE), Extent(4 * PAGE, 6 * PAGE)]
    exposure.make_accessible(5 * PAGE, 2 * PAGE)
    exposure.make_accessible(5 * PAGE, PAGE)
    assert exposure.faulting == [
        Extent(0, PAGE),
        Extent(4 * PAGE, PAGE),
        Extent(7 * PAGE, 3 * PAGE),
    ]
    for page in range(PAGES):
        is_bad = page in (0, 4, 7, 8, 9)
        try:
            assert _native.read(exposure.memory, page * PAGE, 1) == bytes([page + 2])
            assert not is_bad, page
        except _native.MemoryFault:
            assert is_bad, page


def test_pages_can_change_while_other_threads_load_them(subject: Subject) -> None:
    """A load gets the bytes or a fault, and after `make_faulting` returned only a fault."""
    opened = Exposure(subject.fd, START, LENGTH, mechanism=subject.mechanism)
    stop = threading.Event()
    wrong: list[bytes] = []

    def loop() -> None:
        while not stop.is_set():
            try:
                data = _native.read(opened.memory, 0, LENGTH)
            except _native.MemoryFault as fault:
                data = fault.partial
            expected = b"".join(bytes([page + 2]) * PAGE for page in range(PAGES))
            if data != expected[: len(data)]:
                wrong.append(data)

    threads = [threading.Thread(target=loop) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(300):
        opened.make_faulting(3 * PAGE, 8 * PAGE)
        for page in (3, 10):
            with pytest.raises(_native.MemoryFault):
                _native.read(opened.memory, page * PAGE, 1)
        opened.make_accessible(3 * PAGE, 8 * PAGE)
        assert _native.read(opened.memory, 10 * PAGE, 1) == b"\x0c"
    stop.set()
    for thread in threads:
        thread.join()
    assert not wrong
    opened.close()


def test_a_read_only_window_faults_and_cannot_be_stored_to(subject: Subject) -> None:
    with Exposure(subject.fd, 0, LENGTH, writable=False, mechanism=subject.mechanism) as opened:
        assert opened.memory.readonly
        opened.make_faulting(PAGE, PAGE)
        with pytest.raises(_native.MemoryFault):
            _native.read(opened.memory, PAGE, 1)
        opened.make_accessible(PAGE, PAGE)
        assert _native.read(opened.memory, PAGE, 1) == b"\1"
        with pytest.raises((BufferError, TypeError)):
            _native.write(opened.memory, 0, b"x")


def test_close_is_refused_while_a_view_is_in_use(exposure: Exposure) -> None:
    exposure.make_faulting(PAGE, PAGE)
    view = exposure.memory[:PAGE]
    with pytest.raises(BufferError):
        exposure.close()
    assert exposure.memory[0] == view[0] == 2
    with pytest.raises(_native.MemoryFault):
        _native.read(exposure.memory, PAGE, 1)
    view.release()
    exposure.close()


def test_close_can_be_repeated_and_ends_every_change(exposure: Exposure) -> None:
    exposure.close()
    exposure.close()
    exposure.make_faulting(0, PAGE)
    exposure.make_accessible(0, PAGE)
    assert exposure.faulting == []


def test_a_view_keeps_a_forgotten_exposure_faulting(subject: Subject) -> None:
    gc.collect()  # what earlier tests left would be closed in between
    before = len(os.listdir("/proc/self/fd"))
    opened = Exposure(subject.fd, START, LENGTH, mechanism=subject.mechanism)
    opened.make_faulting(PAGE, PAGE)
    watch, view = weakref.ref(opened), opened.memory[:]
    del opened
    gc.collect()
    assert view[0] == 2
    with pytest.raises(_native.MemoryFault):
        _native.read(view, PAGE, 1)
    view.release()
    del view
    gc.collect()
    assert watch() is None
    assert len(os.listdir("/proc/self/fd")) == before


def test_the_file_may_be_closed_before_the_window(subject: Subject) -> None:
    fd = os.open(subject.path, os.O_RDWR)
    opened = Exposure(fd, START, LENGTH, mechanism=subject.mechanism)
    os.close(fd)
    opened.make_faulting(0, PAGE)
    opened.make_accessible(0, PAGE)
    assert opened.memory[0] == 2
    opened.close()


def test_ranges_that_make_no_sense_are_usage_errors(subject: Subject, exposure: Exposure) -> None:
    for offset, length in ((1, PAGE), (0, 100), (0, 0), (-PAGE, PAGE), (0, 40 * PAGE)):
        with pytest.raises(UsageError):
            Exposure(subject.fd, offset, length)
    for offset, length in ((1, PAGE), (0, 1), (LENGTH, PAGE), (-PAGE, PAGE), (0, LENGTH + PAGE)):
        with pytest.raises(UsageError):
            exposure.make_faulting(offset, length)
        with pytest.raises(UsageError):
            exposure.make_accessible(offset, length)


def test_beyond_the_end_of_a_shrunk_file_it_faults_and_comes_back(
    subject: Subject, exposure: Exposure
) -> None:
    os.ftruncate(subject.fd, START + PAGE)
    if subject.mechanism is Mechanism.UFFD_POISON:
        with pytest.raises(OSError, match="Bad address"):
            exposure.make_faulting(0, 2 * PAGE)
    else:
        exposure.make_faulting(0, 2 * PAGE)
        exposure.make_accessible(0, 2 * PAGE)
    assert exposure.faulting == []
    assert _native.read(exposure.memory, 0, 1) == b"\2"
    with pytest.raises(_native.MemoryFault):
        _native.read(exposure.memory, PAGE, 1)
    os.ftruncate(subject.fd, START + LENGTH)
    assert _native.read(exposure.memory, PAGE, 1) == b"\0"


def test_many_scattered_pages_fault_and_heal() -> None:
    count = 20_000
    fd = os.memfd_create("many")
    os.ftruncate(fd, 2 * count * PAGE)
    with Exposure(fd, 0, 2 * count * PAGE) as opened:
        if opened.mechanism is Mechanism.EMPTY_MEMFD:
            pytest.skip("no mechanism without a limit here")
        for page in range(0, 2 * count, 2):
            opened.make_faulting(page * PAGE, PAGE)
        for page in (0, 2 * count - 2):
            with pytest.raises(_native.MemoryFault):
                _native.read(opened.memory, page * PAGE, 1)
        assert _native.read(opened.memory, (2 * count - 1) * PAGE, 1) == b"\0"
        opened.make_accessible(0, opened.length)
        assert _native.read(opened.memory, 0, 3 * PAGE) == bytes(3 * PAGE)
    os.close(fd)


def test_the_empty_memfd_is_refused_beyond_a_quarter_of_the_mappings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = tmp_path / "max_map_count"
    limit.write_text("43\n")
    monkeypatch.setattr(exposure_module, "_MAX_MAP_COUNT", limit)
    fd = os.memfd_create("limit")
    os.ftruncate(fd, 100 * PAGE)
    first = Exposure(fd, 0, 100 * PAGE, mechanism=Mechanism.EMPTY_MEMFD)
    second = Exposure(fd, 0, 100 * PAGE, mechanism=Mechanism.EMPTY_MEMFD)
    first.make_faulting(0, 8 * PAGE)
    second.make_faulting(0, PAGE)
    with pytest.raises(UnsupportedError, match=r"2 more .* has 9, and 10 is the limit"):
        second.make_faulting(PAGE, 2 * PAGE)
    assert second.faulting == [Extent(0, PAGE)]
    assert _native.read(second.memory, PAGE, 2 * PAGE) == bytes(2 * PAGE)
    second.make_faulting(0, 2 * PAGE)
    first.make_accessible(2 * PAGE, PAGE)
    second.make_faulting(2 * PAGE, PAGE)
    first.close()
    second.make_faulting(3 * PAGE, 7 * PAGE)
    second.close()
    os.close(fd)


def test_a_mechanism_is_chosen_once_for_each_file_system(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = choose_mechanism(subject.fd)
    for mechanism in Mechanism:
        if mechanism is chosen:
            break
        with pytest.raises(UnsupportedError):
            Exposure(subject.fd, 0, PAGE, mechanism=mechanism)
    monkeypatch.setattr(exposure_module, "_works", None)
    assert choose_mechanism(subject.fd) is chosen


def test_a_file_opened_for_reading_gets_a_mechanism_that_works(subject: Subject) -> None:
    fd = os.open(subject.path, os.O_RDONLY)
    assert fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY
    with Exposure(fd, 0, LENGTH, writable=False) as opened:
        opened.make_faulting(PAGE, PAGE)
        with pytest.raises(_native.MemoryFault):
            _native.read(opened.memory, PAGE, 1)
    os.close(fd)


def test_a_file_that_cannot_be_mapped_is_refused() -> None:
    reading, writing = os.pipe()
    with pytest.raises(UnsupportedError):
        choose_mechanism(reading)
    os.close(reading)
    os.close(writing)


def test_probing_and_opening_leak_no_descriptor_and_no_mapping(subject: Subject) -> None:
    def used() -> tuple[int, int]:
        return len(os.listdir("/proc/self/fd")), Path("/proc/self/maps").read_text().count("\n")

    def cycle() -> None:
        with Exposure(subject.fd, START, LENGTH, mechanism=subject.mechanism) as opened:
            opened.make_faulting(PAGE, PAGE)

    cycle()
    gc.collect()
    descriptors, mappings = used()
    for _ in range(200):
        cycle()
    gc.collect()
    after = used()
    assert after[0] == descriptors
    assert after[1] < mappings + 50


def test_a_process_without_descriptors_gets_an_error_and_keeps_none() -> None:
    fd = os.memfd_create("few")
    os.ftruncate(fd, PAGE)
    choose_mechanism(fd)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    held = len(os.listdir("/proc/self/fd"))
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(fd + 1, 3), hard))
        with pytest.raises(OSError, match="Too many open files"):
            Exposure(fd, 0, PAGE)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == held
    os.close(fd)
