"""Who owns blocks, as GETFSMAP tells it."""

import os
import struct
from pathlib import Path

import pytest

from daxmend.extent import Extent
from daxmend.host.fsmap import FsmapFlag, read_fsmap, unpack_fsmap
from daxmend.host.unknown import Unknown

SPECIAL = FsmapFlag.SPECIAL_OWNER


def record(flags: int, owner: int, offset: int = 0) -> bytes:
    return struct.pack("=IIQQQQ24x", 0x10300, flags, 4096, owner, offset, 8192)


def answer(*records: bytes) -> bytes:
    return struct.pack("=IIII48x", 0, 1, 256, len(records)) + bytes(128) + b"".join(records)


@pytest.mark.parametrize(
    ("flags", "owner", "kind"),
    [
        (SPECIAL, 1, "free"),
        (SPECIAL, 2, "untold"),
        (SPECIAL, 3, "metadata"),
        (SPECIAL, 0x5800000001, "metadata"),
        (0, 132, "data"),
        (FsmapFlag.ATTR_FORK, 132, "metadata"),
        (FsmapFlag.EXTENT_MAP, 132, "metadata"),
    ],
)
def test_owners_are_told_apart(flags: int, owner: int, kind: str) -> None:
    (found,) = unpack_fsmap(answer(record(flags, owner)))
    kinds = {"free": found.is_free, "untold": found.is_untold, "metadata": found.is_metadata}
    assert [name for name, holds in kinds.items() if holds] == ([] if kind == "data" else [kind])
    assert found.ino == (None if flags & SPECIAL else 132)
    assert (found.device, found.extent) == (os.makedev(259, 0), Extent(4096, 8192))


def test_a_file_system_without_it_says_so() -> None:
    fd = os.open("/proc", os.O_RDONLY)
    found = read_fsmap(fd, os.fstat(fd).st_dev, Extent(0, 4096))
    os.close(fd)
    assert isinstance(found, Unknown)
    assert "GETFSMAP" in found.why


def test_the_running_system_answers_in_the_range_asked_or_is_unknown(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    wanted = Extent(1 << 20, 64 << 20)
    found = read_fsmap(fd, os.fstat(fd).st_dev, wanted)
    os.close(fd)
    if not isinstance(found, Unknown):
        assert all(wanted.covers(each.extent) for each in found)
        ends = [each.extent.end for each in found]
        assert ends == sorted(ends)
