"""Recovery on media that clear in units from a line to a page (R7), above all a sector (R33)."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from daxmend.dax import io
from daxmend.dax.api import SectorState
from daxmend.errors import MediaError, UsageError
from daxmend.extent import Extent
from daxmend.media.backing import Durability
from daxmend.media.pool import MediumKind, create_memory_pool, create_pool, open_pool
from daxmend.pmem.device import PmemDevice
from daxmend.units import CACHELINE, PAGE, SECTOR

PAGES = 6
SIZE = PAGES * PAGE
ALL = Extent(0, SIZE)
OLD = (bytes(range(1, 252)) * (SIZE // 251 + 1))[:SIZE]
NEW = bytes(b ^ 0xFF for b in OLD)
UNITS = [64, 256, 512, 1024, 4096]
BAD, LOST = SectorState.BAD, SectorState.LOST


def make_device(clear_unit: int, kind: MediumKind = MediumKind.PLAIN) -> PmemDevice:
    device = PmemDevice(create_memory_pool(SIZE, kind, clear_unit))
    io.write(device, 0, OLD)
    return device


@pytest.fixture(params=UNITS)
def device(request: pytest.FixtureRequest) -> Iterator[PmemDevice]:
    made = make_device(request.param)
    yield made
    made.close()


def new(extent: Extent) -> bytes:
    return NEW[extent.offset : extent.end]


def write_sectors(device: PmemDevice, extent: Extent) -> int:
    return device.write_sectors(extent.offset // SECTOR, new(extent))


def overlay(*extents: Extent) -> bytes:
    content = bytearray(OLD)
    for extent in extents:
        content[extent.offset : extent.end] = new(extent)
    return bytes(content)


@pytest.mark.parametrize("number", range(8))
def test_a_sector_heals_alone_whatever_the_clear_unit(device: PmemDevice, number: int) -> None:
    """R33: and its good neighbours, which the medium cleared too, hold what they held."""
    sector = Extent(PAGE + number * SECTOR, SECTOR)
    device.inject(sector)
    assert write_sectors(device, sector) == SECTOR
    assert list(device.badblocks(ALL)) == []
    assert list(device.poison(ALL)) == []
    assert io.read(device, ALL) == overlay(sector)


@pytest.mark.parametrize("extent", [Extent(PAGE, 2 * PAGE), Extent(PAGE + 700, PAGE)], ids=str)
def test_pages_heal_whatever_the_clear_unit(device: PmemDevice, extent: Extent) -> None:
    """R14, R16."""
    device.inject(Extent(PAGE + 2 * SECTOR, SECTOR))
    device.inject(Extent(PAGE + 3 * SECTOR, 1), latent=True)
    assert io.write(device, extent.offset, new(extent)) == extent.length
    assert list(device.badblocks(ALL)) == []
    assert io.read(device, ALL) == overlay(extent)


def test_sectors_of_many_units_heal_in_one_write(device: PmemDevice) -> None:
    """R33: a partial unit at each end, one with a bad sector that is not covered."""
    extent = Extent.between(PAGE + 3 * SECTOR, 3 * PAGE + 5 * SECTOR)
    for at in (PAGE + 3 * SECTOR, 2 * PAGE, 3 * PAGE + 4 * SECTOR):
        device.inject(Extent(at, SECTOR))
    beside = Extent(3 * PAGE + 7 * SECTOR, SECTOR)
    device.inject(beside)
    assert write_sectors(device, extent) == extent.length
    assert [run for run, _ in device.badblocks(ALL)] == [beside]
    assert io.read(device, Extent(0, beside.offset)) == overlay(extent)[: beside.offset]
    assert write_sectors(device, beside) == SECTOR
    assert io.read(device, ALL) == overlay(extent, beside)


def test_a_bad_neighbour_stays_bad_and_what_could_be_salvaged_of_it_still_can(
    device: PmemDevice,
) -> None:
    """R12, R46: one bad line in the neighbour; clearing the unit must not cost its seven others."""
    sector, beside = Extent(PAGE + 2 * SECTOR, SECTOR), Extent(PAGE + 3 * SECTOR, SECTOR)
    line = Extent(beside.offset + 3 * CACHELINE, CACHELINE)
    device.inject(sector)
    device.inject(line, latent=True)
    with pytest.raises(MediaError):
        io.read(device, line)
    before = device.recovery_read(beside)
    assert before.lost == [line]
    assert write_sectors(device, sector) == SECTOR
    assert device.recovery_read(beside) == before
    state = LOST if device.pool.header.clear_unit > SECTOR else BAD
    assert list(device.badblocks(ALL)) == [(beside, state)]
    assert io.read(device, sector) == new(sector)
    device.inject(sector)
    assert write_sectors(device, sector) == SECTOR, "and once more, beside a lost one"
    assert device.recovery_read(beside) == before
    assert write_sectors(device, beside) == SECTOR
    assert io.read(device, ALL) == overlay(sector, beside)


def test_latent_poison_of_a_neighbour_is_not_cleared_unseen(device: PmemDevice) -> None:
    """R3, R12: what the medium clears with the unit is found first."""
    sector, beside = Extent(PAGE, SECTOR), Extent(PAGE + SECTOR, SECTOR)
    device.inject(sector)
    device.inject(Extent(beside.offset, CACHELINE), latent=True)
    assert write_sectors(device, sector) == SECTOR
    with pytest.raises(MediaError):
        io.read(device, beside)
    assert device.recovery_read(beside).lost == [Extent(beside.offset, CACHELINE)]


def test_a_good_unit_at_the_end_of_a_write_is_left_alone(device: PmemDevice) -> None:
    """Only a unit of which the write heals a part is taken in: its other bad sectors stay bad."""
    extent = Extent.between(PAGE, 2 * PAGE + SECTOR)
    device.inject(Extent(PAGE, SECTOR))
    beside = Extent(2 * PAGE + 4 * SECTOR, SECTOR)
    device.inject(beside)
    assert write_sectors(device, extent) == extent.length
    assert list(device.badblocks(ALL)) == [(beside, BAD)]
    assert list(device.poison(ALL)) == [beside]


@pytest.mark.parametrize("kind", [MediumKind.REFUSES, MediumKind.CLEARS_PART, MediumKind.LIES])
@pytest.mark.parametrize("clear_unit", UNITS)
def test_a_medium_that_does_not_clear_costs_no_neighbour_unseen(
    kind: MediumKind, clear_unit: int
) -> None:
    """R21: every sector is in the record, or holds what it held; what was good can be salvaged."""
    device = make_device(clear_unit, kind)
    sector = Extent(PAGE + 2 * SECTOR, SECTOR)
    device.inject(sector)
    with pytest.raises(MediaError):
        write_sectors(device, sector)
    record = [run for run, _ in device.badblocks(ALL)]
    assert any(run.covers(sector) for run in record)
    for at in range(0, SIZE, SECTOR):
        other = Extent(at, SECTOR)
        if not any(run.overlaps(other) for run in record):
            assert io.read(device, other) == OLD[at : at + SECTOR]
        if other != sector:
            salvage = device.recovery_read(other)
            assert (salvage.data, salvage.lost) == (OLD[at : at + SECTOR], [])
    device.close()


@pytest.mark.parametrize("clear_unit", [0, 1, 32, 63, 96, 768, 8192, -256])
def test_a_clear_unit_is_a_power_of_two_from_a_line_to_a_page(shm: Path, clear_unit: int) -> None:
    """R7."""
    with pytest.raises(UsageError, match="power of two from 64 to 4096"):
        create_pool(shm / "p", SIZE, durability=Durability.PROCESS, clear_unit=clear_unit)
    with pytest.raises(UsageError, match="power of two"):
        create_memory_pool(SIZE, clear_unit=clear_unit)
    assert list(shm.iterdir()) == []


@pytest.mark.parametrize("clear_unit", UNITS)
def test_a_pool_remembers_its_clear_unit(shm: Path, clear_unit: int) -> None:
    create_pool(shm / "p", SIZE, durability=Durability.PROCESS, clear_unit=clear_unit)
    device = PmemDevice(open_pool(shm / "p"))
    assert device.pool.header.clear_unit == device._medium.clear_unit == clear_unit
    device.close()
