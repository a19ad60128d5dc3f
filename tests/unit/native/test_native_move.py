"""Moves that meet no fault, and arguments that are refused."""

import ctypes
import mmap
import threading
from collections.abc import Callable

import pytest
from native_memory import PAGE, open_pages, pattern

from daxmend import _native

Write = Callable[[bytearray, int, bytes | memoryview], None]


def test_read_returns_exactly_the_range() -> None:
    data = pattern(3 * PAGE)
    for offset, length in ((0, 1), (1, 63), (4095, 2), (5, 8200), (0, len(data)), (len(data), 0)):
        assert _native.read(data, offset, length) == data[offset : offset + length]


def test_read_into_fills_the_whole_target() -> None:
    data, target = pattern(2 * PAGE), bytearray(5000)
    _native.read_into(data, 1234, target)
    assert target == data[1234:6234]


@pytest.mark.parametrize("write", [_native.write, _native.write_flush])
def test_writes_store_the_bytes_and_touch_no_neighbour(write: Write) -> None:
    data = pattern(1024)
    for offset in (*range(130), 4000):
        for length in (0, 1, 2, 63, 64, 65, 127, 128, 129, 500, 1000):
            memory = bytearray(b"\xee" * 8192)
            write(memory, offset, data[:length])
            expected = bytearray(b"\xee" * 8192)
            expected[offset : offset + length] = data[:length]
            assert memory == expected, (offset, length)


@pytest.mark.parametrize("write", [_native.write, _native.write_flush])
def test_a_source_of_any_alignment_is_copied(write: Write) -> None:
    data = pattern(4096)
    for start in range(70):
        memory = bytearray(4096)
        write(memory, 3, memoryview(data)[start : start + 3000])
        assert memory[3:3003] == data[start : start + 3000]


def test_a_fence_changes_nothing() -> None:
    with open_pages(2) as pages:
        _native.fence()
        assert pages.memory[:] == pages.content


def test_store_line_stores_one_line() -> None:
    memory = mmap.mmap(-1, PAGE)
    line = pattern(64)
    _native.store_line(memory, 128, line)
    _native.fence()
    assert memory[:] == bytes(128) + line + bytes(PAGE - 192)


def test_store_line_refuses_other_addresses_and_lengths() -> None:
    memory = mmap.mmap(-1, PAGE)
    with pytest.raises(ValueError, match="not aligned to 64 bytes"):
        _native.store_line(memory, 32, bytes(64))
    for length in (0, 63, 65):
        with pytest.raises(ValueError, match=f"a line is 64 bytes, got {length}"):
            _native.store_line(memory, 0, bytes(length))
    memory.close()


@pytest.mark.parametrize(
    ("offset", "length"),
    [(-1, 1), (0, -1), (0, PAGE + 1), (PAGE, 1), (PAGE + 1, 0), (1, 2**63 - 1), (2**63 - 1, 1)],
)
def test_a_range_outside_is_refused_with_its_numbers(offset: int, length: int) -> None:
    memory = mmap.mmap(-1, PAGE)
    with pytest.raises(ValueError, match=f"{offset} and length {length} .* {PAGE} bytes"):
        _native.read(memory, offset, length)
    memory.close()  # a refused call keeps no hold on the buffer


def test_a_number_beyond_any_range_is_refused() -> None:
    for number in (2**63, -(2**63) - 1, 2**200):
        with pytest.raises(ValueError):
            _native.read(b"x", number, 1)


def test_a_source_or_target_that_reaches_outside_is_refused() -> None:
    memory = mmap.mmap(-1, PAGE)
    with pytest.raises(ValueError, match="offset 4000 and length 100 are outside"):
        _native.read_into(memory, 4000, bytearray(100))
    for write in (_native.write, _native.write_flush):
        with pytest.raises(ValueError, match="offset 4000 and length 100 are outside"):
            write(memory, 4000, bytes(100))
    memory.close()


def test_overlapping_ranges_are_refused() -> None:
    memory = bytearray(pattern(200))
    view = memoryview(memory)
    with pytest.raises(ValueError, match="overlap"):
        _native.write(memory, 10, view[:20])
    with pytest.raises(ValueError, match="overlap"):
        _native.read_into(memory, 0, view[5:55])
    _native.write(memory, 100, view[:100])
    assert memory[100:] == memory[:100]


def test_memory_that_is_not_writable_or_not_contiguous_is_refused() -> None:
    for write in (_native.write, _native.write_flush, _native.store_line):
        with pytest.raises((BufferError, TypeError)):
            write(bytes(64), 0, bytes(64))
    with pytest.raises((BufferError, TypeError)):
        _native.read_into(b"abc", 0, b"abc")
    with pytest.raises(BufferError):
        _native.read(memoryview(b"abcdef")[::2], 0, 2)


@pytest.mark.parametrize("arguments", [(), (b"x",), (b"x", 0), (b"x", 0, 1, 2)])
def test_a_wrong_number_of_arguments_is_a_type_error(arguments: tuple[object, ...]) -> None:
    for name in ("read", "read_into", "write", "write_flush", "store_line"):
        with pytest.raises(TypeError, match=r"takes 3 arguments"):
            getattr(_native, name)(*arguments)


def test_wrong_types_are_type_errors() -> None:
    read: Callable[..., bytes] = _native.read
    for arguments in ((1, 0, 1), (b"x", "0", 1), (b"x", 0, None), (b"x", 0.0, 1)):
        with pytest.raises(TypeError):
            read(*arguments)


def test_a_buffer_in_use_cannot_be_closed_under_the_copy() -> None:
    memory = mmap.mmap(-1, 32 << 20)
    target = bytearray(len(memory))
    refusals = 0
    is_over = threading.Event()

    def copy() -> None:
        for _ in range(20):
            _native.read_into(memory, 0, target)
        is_over.set()

    thread = threading.Thread(target=copy)
    thread.start()
    while not is_over.is_set():
        try:
            memory.resize(len(memory))
        except BufferError:
            refusals += 1
    thread.join()
    assert refusals


def test_windows_map_and_show_a_file() -> None:
    with open_pages(2) as pages:
        address = _native.map_file(
            pages.fd, PAGE, PAGE, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED
        )
        view = memoryview((ctypes.c_ubyte * PAGE).from_address(address)).cast("B")
        assert view == pages.content[PAGE:]
        view[:3] = b"new"
        _native.madvise(address, PAGE, mmap.MADV_DONTNEED)
        assert bytes(view[:3]) == b"new"
        assert pages.memory[PAGE : PAGE + 3] == b"new"
        assert _native.address_of(view) == address
        _native.unmap(address, PAGE)


def test_a_refused_system_call_is_an_oserror() -> None:
    with pytest.raises(OSError, match="Invalid argument"):
        _native.map_file(-1, 0, 0, mmap.PROT_READ, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with pytest.raises(OSError, match="Invalid argument"):
        _native.madvise(PAGE, PAGE, 999)
    with pytest.raises(OSError, match="Invalid argument"):
        _native.unmap(1, PAGE)
    with pytest.raises(OSError, match="No such file"):
        _native.forget_segv(PAGE, PAGE)
    with pytest.raises(OSError):
        _native.userfaultfd(1 << 30)


def test_no_address_and_no_length_are_refused() -> None:
    for address, length in ((0, PAGE), (PAGE, 0), (PAGE, -1), (2**64 - 1, 2)):
        with pytest.raises((ValueError, OverflowError)):
            _native.forward_segv(address, length)
