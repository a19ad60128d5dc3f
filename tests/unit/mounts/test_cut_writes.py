"""The halves of a cut write (R50), as the mount joins them; `unit` is the raw device's sector."""

import pytest

from daxmend.dax import io
from daxmend.dax.api import Recovery
from daxmend.errors import BadBlockError, MediaError
from daxmend.events import Event, RecoveryRefused
from daxmend.extent import Extent
from daxmend.media.pool import MediumKind, create_memory_pool
from daxmend.mounts.cutwrite import CutWrites
from daxmend.pmem.device import PmemDevice
from daxmend.units import MIB, PAGE, SECTOR

FH = 1
DATA = bytes(range(256)) * 64


@pytest.fixture(params=[SECTOR, PAGE])
def unit(request: pytest.FixtureRequest) -> int:
    value: int = request.param
    return value


@pytest.fixture
def cut(device: PmemDevice, unit: int) -> CutWrites:
    return CutWrites(device, unit, io.write_raw if unit == SECTOR else io.write)


def write(cut: CutWrites, offset: int, data: bytes, fh: int = FH) -> int:
    return cut.write(fh, offset, memoryview(data), Recovery.AUTO)


def is_bad(device: PmemDevice, extent: Extent) -> bool:
    return any(device.badblocks(extent))


@pytest.mark.parametrize("at", [1, 16, 100, 448, 511])
def test_two_halves_of_one_write_heal_what_they_cover_together(
    device: PmemDevice, cut: CutWrites, unit: int, at: int
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


def test_a_write_may_come_in_many_pieces(device: PmemDevice, cut: CutWrites, unit: int) -> None:
    device.inject(Extent(0, 2 * unit))
    data = DATA[: 2 * unit]
    for start in range(0, len(data), 100):
        piece = data[start : start + 100]
        assert write(cut, start, piece) == len(piece)
    cut.sync(FH)
    assert io.read(device, Extent(0, len(data))) == data


def test_a_held_half_is_still_bad_and_can_be_salvaged_after_a_stop(
    device: PmemDevice, cut: CutWrites, unit: int
) -> None:
    device.inject(Extent(0, unit))
    write(cut, 0, DATA[:100])
    with pytest.raises(BadBlockError):
        io.read(device, Extent(0, 10))
    assert device.recovery_read(Extent(0, 100)).data == DATA[:100]


@pytest.mark.parametrize("end", ["sync", "other write", "release"])
def test_a_half_that_stays_alone_is_dropped_and_the_open_says_so(
    device: PmemDevice, cut: CutWrites, unit: int, events: list[Event], end: str
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


def test_another_open_does_not_complete_the_half(
    device: PmemDevice, cut: CutWrites, unit: int
) -> None:
    device.inject(Extent(0, unit))
    write(cut, 0, DATA[:100])
    with pytest.raises(MediaError):
        write(cut, 100, DATA[100:unit], fh=2)
    assert write(cut, 100, DATA[100:unit]) == unit - 100
    assert not is_bad(device, Extent(0, unit))


def test_a_write_that_begins_inside_a_bad_unit_is_eio_at_once(
    device: PmemDevice, cut: CutWrites, unit: int
) -> None:
    device.inject(Extent(0, unit))
    with pytest.raises(MediaError):
        write(cut, 100, DATA[:100])
    cut.sync(FH)


def test_without_recovery_nothing_is_held(device: PmemDevice, cut: CutWrites, unit: int) -> None:
    device.inject(Extent(0, unit))
    with pytest.raises(MediaError):
        cut.write(FH, 0, memoryview(DATA[:100]), Recovery.NEVER)
    cut.sync(FH)


def test_a_medium_that_does_not_clear_fails_the_second_half_and_the_sync() -> None:
    device = PmemDevice(create_memory_pool(MIB, MediumKind.REFUSES))
    cut = CutWrites(device, SECTOR, io.write_raw)
    device.inject(Extent(0, SECTOR))
    assert write(cut, 0, DATA[:100]) == 100
    with pytest.raises(MediaError):
        write(cut, 100, DATA[100:SECTOR])
    with pytest.raises(OSError, match="Input/output"):
        cut.sync(FH)
    device.close()
