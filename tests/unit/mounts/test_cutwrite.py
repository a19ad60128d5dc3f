"""The halves of a cut write (R50), as the mount joins them.

First at the grain of a page and of a raw device's sector, then, of one mount, at that of a sector.
"""

import contextlib
import errno

import pytest

from daxmend.dax import io
from daxmend.dax.api import AccessMode, Recovery
from daxmend.errors import BadBlockError, MediaError
from daxmend.events import Event, RecoveryRefused
from daxmend.extent import Extent
from daxmend.media.pool import MediumKind, create_memory_pool
from daxmend.mounts.content import DeviceContent
from daxmend.mounts.cutwrite import CutWrites
from daxmend.pmem.device import PmemDevice
from daxmend.stack.device import open_device
from daxmend.units import MIB, PAGE, SECTOR

FH = 1
NODEID = 2
DATA = bytes(range(256)) * 64


class PagedContent(DeviceContent):
    """A device whose pages heal as a whole, as a file's do."""

    unit = PAGE

    def write(self, offset: int, data: memoryview, recovery: Recovery) -> int:
        return io.write(self._device, offset, data, recovery)

    def needs_rest(self, start: Extent) -> bool:
        return any(self._device.badblocks(start.widened(PAGE)))


class Cut(CutWrites):
    """The cut writes of one device."""

    def __init__(self, device: PmemDevice, unit: int = SECTOR) -> None:
        super().__init__(device)
        kind = DeviceContent if unit == SECTOR else PagedContent
        self.content = kind(device, NODEID, lambda extent: extent.length)


@pytest.fixture(params=[SECTOR, PAGE])
def unit(request: pytest.FixtureRequest) -> int:
    value: int = request.param
    return value


@pytest.fixture
def cut(device: PmemDevice, unit: int) -> Cut:
    return Cut(device, unit)


def write(cut: Cut, offset: int, data: bytes, fh: int = FH) -> int:
    return cut.write(fh, cut.content, offset, memoryview(data), Recovery.AUTO)


def is_bad(device: PmemDevice, extent: Extent) -> bool:
    return any(device.badblocks(extent))


@pytest.mark.parametrize("at", [1, 16, 100, 448, 511])
def test_two_halves_of_one_write_heal_what_they_cover_together(
    device: PmemDevice, cut: Cut, unit: int, at: int
) -> None:
    device.inject(Extent(0, 3 * unit))
    data = DATA[: 3 * unit]
    middle = unit + at
    assert write(cut, 0, data[:middle]) == middle
    assert is_bad(device, Extent(unit, unit))
    assert write(cut, middle, data[middle:]) == len(data) - middle
    cut.sync(FH)
    assert not is_bad(device, Extent(0, device.size))
    assert io.read(device, Extent(0, len(data))) == data


def test_a_write_may_come_in_many_pieces(device: PmemDevice, cut: Cut, unit: int) -> None:
    device.inject(Extent(0, 2 * unit))
    data = DATA[: 2 * unit]
    for start in range(0, len(data), 100):
        piece = data[start : start + 100]
        assert write(cut, start, piece) == len(piece)
    cut.sync(FH)
    assert io.read(device, Extent(0, len(data))) == data


def test_a_held_half_is_still_bad_and_can_be_salvaged_after_a_stop(
    device: PmemDevice, cut: Cut, unit: int
) -> None:
    device.inject(Extent(0, unit))
    write(cut, 0, DATA[:100])
    with pytest.raises(BadBlockError):
        io.read(device, Extent(0, 10))
    assert device.recovery_read(Extent(0, 100)).data == DATA[:100]


@pytest.mark.parametrize("end", ["sync", "other write", "release"])
def test_a_half_that_stays_alone_is_dropped_and_the_open_says_so(
    device: PmemDevice, cut: Cut, unit: int, events: list[Event], end: str
) -> None:
    device.inject(Extent(0, unit))
    write(cut, 0, DATA[:100])
    if end == "release":
        cut.release(FH)
    else:
        if end == "other write":
            write(cut, 8 * PAGE, b"elsewhere")
        with pytest.raises(OSError, match="Input/output"):
            cut.sync(FH)
        with pytest.raises(OSError, match="Input/output"):
            cut.sync(FH)
    assert is_bad(device, Extent(0, unit))
    refusals = [event.extent for event in events if isinstance(event, RecoveryRefused)]
    assert refusals[-1] == Extent(0, unit)
    assert device.recovery_read(Extent(0, unit)).lost == [Extent(0, unit)]
    cut.release(FH)
    cut.sync(FH)  # the number may be another open's by now


def test_another_open_does_not_complete_the_half(device: PmemDevice, cut: Cut, unit: int) -> None:
    device.inject(Extent(0, unit))
    write(cut, 0, DATA[:100])
    with pytest.raises(MediaError):
        write(cut, 100, DATA[100:unit], fh=2)
    assert write(cut, 100, DATA[100:unit]) == unit - 100
    assert not is_bad(device, Extent(0, unit))


def test_a_write_that_begins_inside_a_bad_unit_is_eio_at_once(
    device: PmemDevice, cut: Cut, unit: int
) -> None:
    device.inject(Extent(0, unit))
    with pytest.raises(MediaError):
        write(cut, 100, DATA[:100])
    cut.sync(FH)


def test_without_recovery_nothing_is_held(device: PmemDevice, cut: Cut, unit: int) -> None:
    device.inject(Extent(0, unit))
    with pytest.raises(MediaError):
        cut.write(FH, cut.content, 0, memoryview(DATA[:100]), Recovery.NEVER)
    cut.sync(FH)


def test_a_medium_that_does_not_clear_fails_the_second_half_and_the_sync() -> None:
    device = PmemDevice(create_memory_pool(MIB, MediumKind.REFUSES))
    cut = Cut(device)
    device.inject(Extent(0, SECTOR))
    assert write(cut, 0, DATA[:100]) == 100
    with pytest.raises(MediaError):
        write(cut, 100, DATA[100:SECTOR])
    with pytest.raises(OSError, match="Input/output"):
        cut.sync(FH)
    device.close()


# -- at the grain of a sector --------------------------------------------------------------


class Mounted:
    def __init__(self, device: PmemDevice | None = None) -> None:
        self.device = device or open_device("ram:1M")
        self.events: list[Event] = []
        self.device.events.subscribe(self.events.append)
        self.cut = Cut(self.device)

    def write(self, fh: int, offset: int, data: bytes, recovery: Recovery = Recovery.AUTO) -> int:
        return self.cut.write(fh, self.cut.content, offset, memoryview(data), recovery)

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
    raw.cut.content.zero(Extent(PAGE, PAGE))
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


@pytest.mark.parametrize("lengths", [(100, 60), (60, 100), (100, 100)])
@pytest.mark.parametrize("dropped", [1, 2])
@pytest.mark.parametrize("is_truncated", [False, True])
def test_a_half_that_is_dropped_takes_no_other_opens_half_from_the_device_r50(
    raw: Mounted, lengths: tuple[int, int], dropped: int, is_truncated: bool
) -> None:
    """It is promised durably: what is held of one unit is held for each open."""
    raw.make_bad(8)
    for fh, length in enumerate(lengths, 1):
        assert raw.write(fh, PAGE, bytes([fh]) * length) == length
    stays = 3 - dropped
    if is_truncated and lengths[dropped - 1] > lengths[stays - 1]:
        start = lengths[stays - 1]
        raw.cut.discard(NODEID, Extent(PAGE + start, SECTOR - start))
    else:
        raw.cut.release(dropped)
    length = lengths[stays - 1]
    salvage = raw.device.recovery_read(Extent(PAGE, SECTOR))
    assert salvage.data[:length] == bytes([stays]) * length
    assert salvage.lost == [Extent(PAGE + length, SECTOR - length)]
    assert raw.write(stays, PAGE + length, b"r" * (SECTOR - length)) == SECTOR - length
    raw.cut.sync(stays)
    expected = bytes([stays]) * length + b"r" * (SECTOR - length)
    assert io.read(raw.device, Extent(PAGE, SECTOR)) == expected


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


def test_a_half_of_a_sector_that_healed_by_a_store_meanwhile_is_not_written_again_r6_r50() -> None:
    """No event tells of lines that healed by themselves; the record does."""
    raw = Mounted(PmemDevice(create_memory_pool(1 << 20, MediumKind.HEALS_ON_WRITE)))
    raw.make_bad(8)
    assert raw.write(1, PAGE, b"1" * 100) == 100
    window = raw.device.direct_access(Extent(PAGE, SECTOR), AccessMode.RECOVERY)
    window.store(0, b"n" * SECTOR)
    raw.device.fence()
    assert raw.bad() == []
    assert raw.write(1, PAGE + 100, b"3" * 10) == 10
    expected = b"n" * 100 + b"3" * 10 + b"n" * (SECTOR - 110)
    assert io.read(raw.device, Extent(PAGE, SECTOR)) == expected
    raw.cut.sync(1)


def test_a_unit_that_left_the_record_while_the_head_was_written_is_not_held_r50() -> None:
    raw = Mounted(PmemDevice(create_memory_pool(1 << 20, MediumKind.HEALS_ON_WRITE)))
    raw.make_bad(8, 2)
    tail = raw.device.direct_access(Extent(PAGE + SECTOR, SECTOR), AccessMode.RECOVERY)
    tail.store(0, b"t" * SECTOR)  # healed, and in the record until a fence
    assert raw.bad() == [(8, 2)]
    assert raw.write(1, PAGE, b"1" * (SECTOR + 100)) == SECTOR + 100
    assert raw.cut.held_offset(1) is None
    assert raw.bad() == []
    expected = b"1" * (SECTOR + 100) + b"t" * (SECTOR - 100)
    assert io.read(raw.device, Extent(PAGE, 2 * SECTOR)) == expected


def test_on_a_device_that_must_not_recover_nothing_is_held_r23(raw: Mounted) -> None:
    raw.make_bad(8)
    raw.device.allows_recovery = False
    with pytest.raises(MediaError):
        raw.write(1, PAGE, b"x" * 100)
    assert raw.cut.held_offset(1) is None


def test_a_mount_that_must_not_recover_tells_of_each_write_that_it_refused_r23_r48(
    raw: Mounted,
) -> None:
    """`-o recovery=off` is the device's switch and each write's `NEVER` at once."""
    raw.make_bad(8)
    raw.device.allows_recovery = False
    for data in (b"x" * SECTOR, b"x" * 100):
        raw.events.clear()
        with pytest.raises(MediaError):
            raw.write(1, PAGE, data, Recovery.NEVER)
        assert len(raw.refusals()) == 1
