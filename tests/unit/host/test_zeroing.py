"""The ways to zero a range, whichever are there."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from daxmend.extent import Extent
from daxmend.host import zeroing
from daxmend.host.unknown import Unknown
from daxmend.host.zeroing import MISSING, ZeroVerb, probe_verbs

SIZE = 5 * 4096


@pytest.fixture
def fd(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "file").write_bytes(b"x" * SIZE)
    fd = os.open(tmp_path / "file", os.O_RDWR)
    yield fd
    os.close(fd)


@pytest.mark.parametrize(
    "function",
    [zeroing.write_zeroes, zeroing.zero_range, zeroing.write_zeros, zeroing.punch_hole,
     zeroing.zeroinit],
)  # fmt: skip
def test_each_zeroes_its_range_and_no_more_or_is_missing_and_changes_nothing(
    fd: int, function: Callable[[int, Extent], None]
) -> None:
    number = None
    try:
        function(fd, Extent(4096, 8192))
    except OSError as error:
        number = error.errno
    zeroed = b"x" * 4096 + bytes(8192) + b"x" * 8192
    assert number is None or number in MISSING
    assert os.pread(fd, SIZE, 0) == (zeroed if number is None else b"x" * SIZE)
    assert os.fstat(fd).st_size == SIZE


def test_probing_leaves_nothing_and_agrees_with_trying(tmp_path: Path, fd: int) -> None:
    found = probe_verbs(tmp_path)
    if isinstance(found, Unknown):
        pytest.skip(found.why)
    assert found[ZeroVerb.WRITE]
    assert not found[ZeroVerb.ZEROINIT]  # no daxmend mount
    assert sorted(os.listdir(tmp_path)) == ["file"]
    try:
        zeroing.write_zeroes(fd, Extent(0, 4096))
        assert found[ZeroVerb.WRITE_ZEROES]
    except OSError:
        assert not found[ZeroVerb.WRITE_ZEROES]


def test_where_nothing_can_be_made_probing_says_why() -> None:
    found = probe_verbs("/proc")
    assert isinstance(found, Unknown)
    assert "/proc" in found.why


def test_a_mode_that_no_kernel_has_is_missing(fd: int) -> None:
    with pytest.raises(OSError) as caught:
        zeroing.fallocate(fd, 0x4000_0000, Extent(0, 4096))
    assert caught.value.errno in MISSING
