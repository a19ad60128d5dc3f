"""The halves of a write that the kernel cut (R50), at the grain of a sector."""

import contextlib
import errno

import pytest

from daxmend.dax import io
from daxmend.dax.api import Recovery
from daxmend.errors import MediaError
from daxmend.events import Event, RecoveryRefused
from daxmend.extent import Extent
from daxmend.mounts.cutwrite import CutWrites
from daxmend.pmem.device import PmemDevice
from daxmend.stack import open_device

SECTOR, PAGE = 512, 4096


class Mounted:
    def __init__(self) -> None:
        self.device: PmemDevice = open_device("ram:1M")
        self.events: list[Event] = []
        self.device.events.subscribe(self.events.append)
        self.cut = CutWrites(self.device, SECTOR, io.write_raw)

    def write(self, fh: int, offset: int, data: bytes, recovery: Recovery = Recovery.AUTO) -> int:
        return self.cut.write(fh, offset, memoryview(data), recovery)

    def make_bad(self, sector: int, count: int = 1) -> None:
        self.device.inject(Extent.of_sectors(sector, count))

    def bad(self) -> list[tuple[int, int]]:
        whole = Extent(0, self.device.size)
        return [(e.offset // SECTOR, e.length // SECTOR) for e, _ in self.device.badblocks(whole)]

    def refusals(self) -> list[Event]:
        return [event for event in self.events if isinstance(event, RecoveryRefused)]


@pytest.fixture
def raw() -> Mounted:
    return Mounted()


def test_halves_are_joined_whole_sectors_at_once(raw: Mounted) -> None:
    raw.make_bad(8, 8)
    assert raw.write(1, PAGE, b"1" * 1000) == 1000
    assert raw.bad() == [(9, 7)]
    assert raw.cut.held_offset(1) == PAGE + SECTOR
    assert raw.write(1, PAGE + 1000, b"2" * 3096) == 3096
    assert raw.bad() == []
    assert raw.cut.held_offset(1) is None
    assert io.read(raw.device, Extent(PAGE, PAGE)) == b"1" * 1000 + b"2" * 3096
    raw.cut.sync(1)
    assert raw.refusals() == []


def test_three_pieces_are_joined_too(raw: Mounted) -> None:
    raw.make_bad(8)
    for at, byte in ((0, b"a"), (100, b"b"), (300, b"c")):
        assert raw.bad() == [(8, 1)]
        length = {0: 100, 100: 200, 300: 212}[at]
        assert raw.write(1, PAGE + at, byte * length) == length
    assert raw.bad() == []
    expected = b"a" * 100 + b"b" * 200 + b"c" * 212
    assert io.read(raw.device, Extent(PAGE, SECTOR)) == expected


@pytest.mark.parametrize("offset", [0, PAGE, PAGE + 99, PAGE + 101, PAGE + SECTOR, 9 * PAGE])
def test_anything_else_in_between_drops_the_half_and_says_so(raw: Mounted, offset: int) -> None:
    raw.make_bad(8, 2)
    assert raw.write(1, PAGE, b"1" * 100) == 100
    with contextlib.suppress(MediaError):
        raw.write(1, offset, b"2" * 50)
    assert raw.bad() == [(8, 2)]
    assert raw.refusals()
    for _ in range(2):
        with pytest.raises(OSError) as info:
            raw.cut.sync(1)
        assert info.value.errno == errno.EIO
    raw.cut.sync(2)


def test_closing_a_duplicate_reports_a_half_but_does_not_drop_it(raw: Mounted) -> None:
    raw.make_bad(8)
    raw.write(1, PAGE, b"1" * 100)
    with pytest.raises(OSError) as info:
        raw.cut.flush(1)
    assert info.value.errno == errno.EIO
    assert raw.write(1, PAGE + 100, b"2" * 412) == 412
    assert raw.bad() == []
    raw.cut.flush(1)
    raw.cut.sync(1)
    assert raw.refusals() == []


def test_what_begins_inside_a_bad_sector_is_not_held(raw: Mounted) -> None:
    raw.make_bad(8)
    for offset, length in ((PAGE + 1, 511), (PAGE + 100, 50), (PAGE + 511, 2)):
        with pytest.raises(OSError):
            raw.write(1, offset, b"x" * length)
    assert raw.cut.held_offset(1) is None
    raw.cut.sync(1)


def test_with_recovery_off_nothing_is_held_r23(raw: Mounted) -> None:
    raw.make_bad(8)
    with pytest.raises(OSError):
        raw.write(1, PAGE, b"x" * 100, Recovery.NEVER)
    assert raw.cut.held_offset(1) is None


def test_a_half_never_comes_back_over_what_somebody_else_wrote_meanwhile(raw: Mounted) -> None:
    raw.make_bad(8)
    assert raw.write(1, PAGE, b"1" * 100) == 100
    assert raw.write(2, PAGE, b"2" * SECTOR) == SECTOR
    assert raw.write(1, PAGE + 100, b"3" * 10) == 10
    expected = b"2" * 100 + b"3" * 10 + b"2" * (SECTOR - 110)
    assert io.read(raw.device, Extent(PAGE, SECTOR)) == expected
    raw.cut.sync(1)
    assert raw.refusals() == []


def test_a_half_never_comes_back_over_zeros_that_somebody_made_meanwhile(raw: Mounted) -> None:
    raw.make_bad(8, 8)
    assert raw.write(1, PAGE, b"1" * 100) == 100
    io.zero_raw(raw.device, Extent(PAGE, PAGE))
    assert raw.write(1, PAGE + 100, b"3" * 10) == 10
    assert io.read(raw.device, Extent(PAGE, PAGE)) == bytes(100) + b"3" * 10 + bytes(PAGE - 110)


def test_two_opens_may_each_hold_a_half_and_the_first_to_complete_wins(raw: Mounted) -> None:
    raw.make_bad(8)
    assert raw.write(1, PAGE, b"1" * 100) == 100
    assert raw.write(2, PAGE, b"2" * 200) == 200
    assert raw.write(2, PAGE + 200, b"2" * 312) == 312
    assert raw.bad() == []
    assert raw.write(1, PAGE + 100, b"1" * 412) == 412
    assert io.read(raw.device, Extent(PAGE, SECTOR)) == b"2" * 100 + b"1" * 412


def test_salvage_has_the_held_bytes_until_they_are_dropped(raw: Mounted) -> None:
    raw.make_bad(8)
    raw.write(1, PAGE, b"1" * 128)
    assert raw.device.recovery_read(Extent(PAGE, 128)).data == b"1" * 128
    raw.cut.release(1)
    assert raw.device.recovery_read(Extent(PAGE, 128)).lost == [Extent(PAGE, 128)]


def test_release_forgets_the_open(raw: Mounted) -> None:
    raw.make_bad(8)
    raw.write(1, PAGE, b"1" * 100)
    raw.cut.release(1)
    assert raw.refusals()
    assert raw.write(1, PAGE, b"2" * SECTOR) == SECTOR  # the number is used again
    raw.cut.sync(1)
