"""What is mapped where, as the kernel says it."""

import mmap
import os
from pathlib import Path

import pytest

from daxmend import _native
from daxmend.host.memorymap import MappedFile, find_maps, parse_map

PAGE = 4096
READ, WRITE, EXEC = mmap.PROT_READ, mmap.PROT_WRITE, mmap.PROT_EXEC


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            b"7f00-9f00 rw-s 00002000 08:01 77                /tmp/a file",
            MappedFile(0x7F00, 0x2000, READ | WRITE, True, 0x2000, 2049, 77, "/tmp/a file"),
        ),
        (
            b"1000-2000 r-xp 00000000 08:01 77 /tmp/gone (deleted)",
            MappedFile(0x1000, 0x1000, READ | EXEC, False, 0, 2049, 77, None),
        ),
        (
            b"1000-2000 ---p 00000000 00:00 0 [heap]",
            MappedFile(0x1000, 0x1000, 0, False, 0, 0, 0, "[heap]"),
        ),
        (
            b"1000-2000 rw-s 00000000 00:01 5 /dev/zero (deleted)",
            MappedFile(0x1000, 0x1000, READ | WRITE, True, 0, 1, 0, None),
        ),
        (
            b"1000-2000 r--p 00000000 08:01 5 /tmp/two\\012lines",
            MappedFile(0x1000, 0x1000, READ, False, 0, 2049, 5, "/tmp/two\nlines"),
        ),
    ],
)
def test_a_line_says_what_is_there(line: bytes, expected: MappedFile) -> None:
    assert parse_map(line) == expected


def test_a_mapping_of_this_process_is_found(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(bytes(8 * PAGE))
    with path.open("rb") as file:
        memory = mmap.mmap(file.fileno(), 4 * PAGE, prot=READ, offset=2 * PAGE)
    address = _native.address_of(memory)
    (found,) = find_maps(address + PAGE + 1, 1)
    assert found[:5] == (address, 4 * PAGE, READ, True, 2 * PAGE)
    assert (found.path, found.inode) == (str(path), path.stat().st_ino)
    assert found.is_file
    path.unlink()
    assert find_maps(address, PAGE)[0].path is None


def test_nothing_is_found_where_nothing_is() -> None:
    address = _native.map_file(-1, 0, PAGE, READ, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    assert [found.is_file for found in find_maps(address, 1)] == [False]
    _native.unmap(address, PAGE)
    fd = os.memfd_create("x")
    os.ftruncate(fd, PAGE)
    with mmap.mmap(fd, PAGE) as memory:
        assert find_maps(_native.address_of(memory), PAGE)[0].path is None
    os.close(fd)
