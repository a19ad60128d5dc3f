"""Guarded moves that meet memory that cannot be accessed."""

import ctypes
import fcntl
import mmap
import os
import pickle
import signal
import struct
import threading
from collections.abc import Callable, Iterator

import pytest
from native_memory import BUS_ADRERR, PAGE, SEGV_ACCERR, Pages, open_pages, pattern

from daxmend import _native
from daxmend._native import MemoryFault

COUNT = 8


@pytest.fixture
def pages() -> Iterator[Pages]:
    with open_pages(COUNT) as opened:
        yield opened


def page_of(fault: MemoryFault, pages: Pages) -> int:
    """Which page failed. Where in it is up to the order in which a copy touches its bytes."""
    return (fault.address - pages.address) // PAGE


def fault_of(call: Callable[..., object], *arguments: object) -> MemoryFault:
    with pytest.raises(MemoryFault) as caught:
        call(*arguments)
    return caught.value


@pytest.mark.parametrize("bad", range(COUNT))
@pytest.mark.parametrize("offset", [0, 1, 4000, 4095])
@pytest.mark.parametrize("cut", [0, 1, 4000])
def test_a_read_yields_every_byte_before_the_bad_page(
    pages: Pages, bad: int, offset: int, cut: int
) -> None:
    pages.break_page(bad)
    fault = fault_of(_native.read, pages.memory, offset, COUNT * PAGE - offset - cut)
    first = max(bad * PAGE, offset)
    assert fault.done == first - offset
    assert fault.partial == pages.content[offset:first]
    assert page_of(fault, pages) == bad
    assert (fault.signal, fault.code, fault.lsb) == (signal.SIGBUS, BUS_ADRERR, 0)


def test_a_read_beside_the_bad_page_works(pages: Pages) -> None:
    pages.break_page(3)
    for offset, length in ((0, 3 * PAGE), (4 * PAGE, 4 * PAGE), (3 * PAGE, 0), (3 * PAGE - 1, 1)):
        expected = pages.content[offset : offset + length]
        assert _native.read(pages.memory, offset, length) == expected


def test_the_first_of_several_bad_pages_is_the_one_reported(pages: Pages) -> None:
    for bad in (7, 5, 2):  # the last page first: a copy may touch its end before its middle
        pages.break_page(bad)
        fault = fault_of(_native.read, pages.memory, 10, COUNT * PAGE - 10)
        assert fault.done == bad * PAGE - 10
        assert page_of(fault, pages) == bad
        assert fault.partial == pages.content[10 : bad * PAGE]


def test_a_forbidden_page_is_a_sigsegv(pages: Pages) -> None:
    pages.forbid_page(4)
    fault = fault_of(_native.read, pages.memory, 0, COUNT * PAGE)
    assert (fault.signal, fault.code) == (signal.SIGSEGV, SEGV_ACCERR)
    assert fault.partial == pages.content[: 4 * PAGE]


def test_read_into_leaves_the_good_bytes_in_the_target(pages: Pages) -> None:
    pages.break_page(2)
    target = bytearray(3 * PAGE)
    fault = fault_of(_native.read_into, pages.memory, 0, target)
    assert (fault.done, fault.partial) == (2 * PAGE, b"")
    assert target[: 2 * PAGE] == pages.content[: 2 * PAGE]


@pytest.mark.parametrize("write", [_native.write, _native.write_flush])
@pytest.mark.parametrize("offset", [0, 100, 4095])
def test_a_write_stores_every_byte_before_the_bad_page(
    pages: Pages, write: Callable[..., None], offset: int
) -> None:
    pages.break_page(3)
    data = pattern(COUNT * PAGE)[::-1][: 5 * PAGE]
    fault = fault_of(write, pages.memory, offset, data)
    assert fault.done == 3 * PAGE - offset
    assert page_of(fault, pages) == 3
    stored = os.pread(pages.fd, 3 * PAGE, 0)
    assert stored == pages.content[:offset] + data[: 3 * PAGE - offset]


@pytest.mark.parametrize("write", [_native.write, _native.write_flush])
def test_a_bad_source_of_a_write_is_told_by_the_address(
    pages: Pages, write: Callable[..., None]
) -> None:
    target = bytearray(COUNT * PAGE)
    pages.break_page(6)
    fault = fault_of(write, target, 0, pages.memory)
    assert (page_of(fault, pages), fault.done) == (6, 6 * PAGE)
    assert target[: 6 * PAGE] == pages.content[: 6 * PAGE]


def test_a_bad_target_of_a_read_is_told_by_the_address(pages: Pages) -> None:
    pages.break_page(1)
    fault = fault_of(_native.read_into, pattern(COUNT * PAGE), 0, pages.memory)
    assert (page_of(fault, pages), fault.done) == (1, PAGE)


def test_bad_pages_on_both_sides_end_at_the_earlier_one(pages: Pages) -> None:
    with open_pages(COUNT) as others:
        pages.break_page(5)
        others.break_page(3)
        fault = fault_of(_native.write, pages.memory, 0, others.memory)
        assert (page_of(fault, others), fault.done) == (3, 3 * PAGE)
        fault = fault_of(_native.write, others.memory, 100, memoryview(pages.memory)[:-100])
        assert (page_of(fault, others), fault.done) == (3, 3 * PAGE - 100)


def test_store_line_is_guarded(pages: Pages) -> None:
    pages.break_page(2)
    fault = fault_of(_native.store_line, pages.memory, 2 * PAGE + 64, bytes(64))
    assert (page_of(fault, pages), fault.done) == (2, 0)


def test_a_store_to_a_read_only_mapping_is_a_fault() -> None:
    fd = os.memfd_create("ro")
    os.ftruncate(fd, PAGE)
    address = _native.map_file(fd, 0, PAGE, mmap.PROT_READ, mmap.MAP_SHARED)
    fault = fault_of(_native.write, (ctypes.c_char * PAGE).from_address(address), 8, b"x")
    assert (fault.signal, fault.code) == (signal.SIGSEGV, SEGV_ACCERR)
    assert (fault.address, fault.done) == (address + 8, 0)
    _native.unmap(address, PAGE)
    os.close(fd)


def test_a_truncated_file_faults_beyond_its_last_page(pages: Pages) -> None:
    os.ftruncate(pages.fd, 2 * PAGE + 10)
    fault = fault_of(_native.read, pages.memory, 0, COUNT * PAGE)
    assert fault.partial == pages.content[: 2 * PAGE + 10] + bytes(PAGE - 10)
    assert page_of(fault, pages) == 3
    os.ftruncate(pages.fd, COUNT * PAGE)
    assert _native.read(pages.memory, 3 * PAGE, PAGE) == bytes(PAGE)


def test_a_mended_page_reads_again(pages: Pages) -> None:
    pages.break_page(1)
    fault_of(_native.read, pages.memory, 0, 2 * PAGE)
    pages.mend_page(1)
    assert _native.read(pages.memory, 0, 2 * PAGE) == pages.content[: 2 * PAGE]


def test_a_long_read_with_a_fault_near_its_end_is_exact() -> None:
    with open_pages(8192) as pages:  # 32 MiB, beyond any cache-sized copy
        pages.break_page(8000)
        fault = fault_of(_native.read, pages.memory, 5, 8192 * PAGE - 5)
        assert fault.done == 8000 * PAGE - 5
        assert fault.partial == pages.content[5 : 8000 * PAGE]


def test_ten_threads_catch_only_their_own_faults() -> None:
    errors: list[object] = []

    def work(number: int) -> None:
        with open_pages(COUNT) as pages:
            bad = number % COUNT
            pages.break_page(bad)
            for _ in range(300):
                try:
                    _native.read(pages.memory, 0, COUNT * PAGE)
                except MemoryFault as fault:
                    if page_of(fault, pages) == bad and (
                        fault.partial == pages.content[: bad * PAGE]
                    ):
                        continue
                    errors.append(fault)
                errors.append("no fault")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors


def test_rounding_survives_a_caught_fault(pages: Pages) -> None:
    libm = ctypes.CDLL("libm.so.6")
    upward = 0x800 if os.uname().machine == "x86_64" else 0x400000
    pages.break_page(0)
    try:
        assert libm.fesetround(upward) == 0
        fault_of(_native.read, pages.memory, 0, 1)
        assert libm.fegetround() == upward
    finally:
        libm.fesetround(0)


def test_other_python_threads_run_while_an_access_waits() -> None:
    """The page is filled in by another thread: with the GIL held it would wait for ever."""
    uffd = _native.userfaultfd(1 | os.O_CLOEXEC)
    memory = mmap.mmap(-1, PAGE)
    span = (_native.address_of(memory), PAGE)
    fcntl.ioctl(uffd, 0xC018AA3F, bytearray(struct.pack("=3Q", 0xAA, 0, 0)))  # UFFDIO_API
    fcntl.ioctl(uffd, 0xC020AA00, bytearray(struct.pack("=4Q", *span, 1, 0)))  # REGISTER, missing

    def fill() -> None:
        os.read(uffd, 32)
        fcntl.ioctl(uffd, 0xC020AA04, bytearray(struct.pack("=4Q", *span, 0, 0)))  # ZEROPAGE

    thread = threading.Thread(target=fill)
    thread.start()
    assert _native.read(memory, 7, 1) == b"\0"
    thread.join()
    os.close(uffd)


def test_a_fault_can_be_made_pickled_and_read() -> None:
    fault = MemoryFault(3, 0x7000, signal.SIGBUS, 4, 12, b"abc")
    again = pickle.loads(pickle.dumps(fault))
    assert vars(again) == vars(fault)
    assert str(fault) == "SIGBUS code 4 at address 0x7000 after 3 bytes"
