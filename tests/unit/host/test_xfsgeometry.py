"""Where XFS keeps what never moves."""

import os
import struct
from pathlib import Path

from daxmend.extent import Extent
from daxmend.host.unknown import Unknown
from daxmend.host.xfsgeometry import XfsGeometry, read_geometry, unpack_geometry

BLOCK = 4096


def answer(log_start: int) -> bytes:
    # 25600 blocks a group need 15 bits: group 2's first block is number 2 << 15
    head = struct.pack("=8I4Q", BLOCK, 4096, 25600, 4, 16384, 512, 512, 25, 102400, 0, 0, log_start)
    return head + bytes(112 - len(head))


def test_headers_and_log_follow_from_the_geometry() -> None:
    found = unpack_geometry(answer((2 << 15) + 6))
    log = Extent((2 * 25600 + 6) * BLOCK, 16384 * BLOCK)
    assert found == XfsGeometry(BLOCK, 512, 25600 * BLOCK, 4, log)
    headers = [Extent(group * 25600 * BLOCK, BLOCK) for group in range(4)]
    assert list(found.fixed_metadata()) == [*headers, log]


def test_a_log_on_another_device_is_nowhere_here() -> None:
    assert unpack_geometry(answer(0)).log.length == 0


def test_other_file_systems_are_none(tmp_path: Path) -> None:
    fd = os.open("/proc", os.O_RDONLY)
    assert isinstance(read_geometry(fd), Unknown)
    os.close(fd)
