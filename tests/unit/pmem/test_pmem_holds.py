"""What a device holds for the writer of a cut write, beside what a recovery kept (R18, R50)."""

from collections.abc import Callable
from pathlib import Path

import pytest

from daxmend.errors import UnsupportedError
from daxmend.events import Event, EventHub, RecoveryRefused
from daxmend.extent import Extent
from daxmend.media.pool import open_pool
from daxmend.pmem.device import PmemDevice
from daxmend.pmem.intent import Hold, Kept
from daxmend.units import MIB, PAGE, SECTOR

ALL = Extent(0, MIB)
PAGE_1 = Extent(PAGE, PAGE)
KEPT = bytes(range(256)) * (PAGE // 256)
HALF = Extent(PAGE, 1000)

OpenDevice = Callable[[], PmemDevice]


def keep_page(device: PmemDevice) -> None:
    """As an interrupted recovery leaves a page: lost, and its good bytes kept."""
    device._record.set_lost([PAGE_1])
    device._record.keep([Kept(PAGE_1, KEPT)])


def test_dropping_a_hold_leaves_what_a_recovery_kept_there(device: PmemDevice) -> None:
    """R18: the bytes of an interrupted recovery are not the writer's to drop."""
    keep_page(device)
    device.hold(HALF.offset, b"h" * HALF.length, PAGE)
    assert device.recovery_read(PAGE_1).data == b"h" * HALF.length + KEPT[HALF.length :]
    device.drop_hold(HALF)
    salvage = device.recovery_read(PAGE_1)
    assert (salvage.data, salvage.lost) == (KEPT, [])


def test_a_hold_and_what_was_kept_beside_it_survive_a_compaction_each_for_itself(
    open_device: OpenDevice,
) -> None:
    keep_page(open_device())
    record = open_device()._record
    record.hold(Hold(Kept(HALF, b"h" * HALF.length), PAGE))
    record._journal.compact()
    record.release(Extent(HALF.offset, 10))
    record._journal.compact()
    rest = Extent(HALF.offset + 10, HALF.length - 10)
    assert record.holds == [Hold(Kept(rest, b"h" * rest.length), PAGE)]
    assert record.kept == [Kept(PAGE_1, KEPT)]


@pytest.mark.parametrize("unit", [SECTOR, PAGE])
def test_a_half_that_a_stop_left_is_dropped_at_attach_and_its_unit_is_named(
    pool_path: Path, unit: int
) -> None:
    """R50: its writer was promised it, and nobody can complete it."""
    device = PmemDevice(open_pool(pool_path))
    keep_page(device)
    device.hold(PAGE, b"h" * 100, unit)
    device.close()  # a mount would have released it: this is a server that was killed
    heard: list[Event] = []
    hub = EventHub()
    hub.subscribe(heard.append)
    device = PmemDevice(open_pool(pool_path), hub)
    (event,) = heard
    assert isinstance(event, RecoveryRefused)
    assert event.extent == Extent(PAGE, unit)
    (notice,) = device.notices
    assert str(Extent(PAGE, unit)) in notice
    assert "write all of this range again" in notice
    assert device.recovery_read(PAGE_1).data == KEPT
    assert [run for run, _ in device.badblocks(ALL)] == [PAGE_1]
    device.close()
    device = PmemDevice(open_pool(pool_path))
    assert (device.notices, device._record.holds) == ([], []), "told once"
    device.close()


def test_a_reader_names_a_leftover_half_and_leaves_it_to_the_next_writer(pool_path: Path) -> None:
    device = PmemDevice(open_pool(pool_path))
    device.inject(Extent(PAGE, SECTOR))
    device.hold(PAGE, b"h" * 100, SECTOR)
    device.close()
    for writable in (False, True):
        device = PmemDevice(open_pool(pool_path, writable=writable))
        assert len(device.notices) == 1
        device.close()


def test_a_half_whose_unit_healed_is_not_told(pool_path: Path) -> None:
    device = PmemDevice(open_pool(pool_path))
    device.inject(Extent(PAGE, SECTOR))
    device.hold(PAGE, b"h" * 100, SECTOR)
    device.write_sectors(PAGE // SECTOR, bytes(SECTOR))
    device.close()
    device = PmemDevice(open_pool(pool_path))
    assert device.notices == []
    device.close()


def test_an_entry_of_an_unknown_kind_is_refused_by_name(open_device: OpenDevice) -> None:
    open_device()._record._journal.append(77, b"")
    with pytest.raises(UnsupportedError, match="kind 77"):
        open_device()
