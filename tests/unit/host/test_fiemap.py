"""Where an ordinary file lies."""

import os
import struct
from pathlib import Path

import pytest

from daxmend.extent import Extent
from daxmend.host.fiemap import FiemapFlag, device_of, file_extents, unpack_fiemap
from daxmend.host.unknown import Unknown


def test_the_answer_of_the_kernel_is_unpacked() -> None:
    head = struct.pack("=QQIIII", 0, 1 << 40, 1, 2, 8, 0)
    one = struct.pack("=QQQQQIIII", 0, 4096, 8192, 0, 0, 0, 0, 0, 0)
    two = struct.pack("=QQQQQIIII", 8192, 65536, 4096, 0, 0, 0x801 | 0x2000, 0, 0, 0)
    first, second = unpack_fiemap(head + one + two + bytes(56))
    assert first[:3] == (0, 4096, 8192)
    assert first.is_written
    assert first.has_place
    assert not first.is_shared
    assert second.flags & FiemapFlag.LAST
    assert not second.is_written
    assert second.is_shared


def test_a_place_that_is_none_is_told() -> None:
    head = struct.pack("=QQIIII", 0, 1 << 40, 1, 1, 8, 0)
    for flag in (0x2, 0x4, 0x8, 0x80, 0x100, 0x200, 0x400):
        (extent,) = unpack_fiemap(head + struct.pack("=QQQQQIIII", 0, 0, 9, 0, 0, flag, 0, 0, 0))
        assert not extent.has_place, flag


def test_a_real_file_is_covered_or_unknown_with_why(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 100_000)
    fd = os.open(path, os.O_RDONLY)
    found = file_extents(fd)
    if isinstance(found, Unknown):
        assert "FIEMAP" in found.why
    else:
        assert found[0].offset == 0
        assert found[-1].offset + found[-1].length >= 100_000
        part = file_extents(fd, Extent(50_000, 10))
        assert isinstance(part, list)
        (one,) = part  # perhaps cut
        (all_of_it,) = (e for e in found if e.offset <= 50_000 < e.offset + e.length)
        assert one.offset <= 50_000 < one.offset + one.length
        distance = one.offset - all_of_it.offset
        assert one.device_offset == all_of_it.device_offset + distance
    assert isinstance(device_of(fd), int | Unknown)
    os.close(fd)


def test_a_file_system_without_it_says_so() -> None:
    fd = os.open("/proc/self/maps", os.O_RDONLY)
    found = file_extents(fd)
    os.close(fd)
    assert isinstance(found, Unknown)
    assert "FIEMAP" in found.why


def test_a_descriptor_that_is_none_is_an_error() -> None:
    with pytest.raises(OSError):
        file_extents(10_000)
