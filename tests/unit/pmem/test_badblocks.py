"""The record in memory: recorded sectors, and which of them are lost (R1, R8)."""

import pytest

from daxmend.dax.api import SectorState
from daxmend.extent import Extent
from daxmend.pmem.badblocks import BadBlocks
from daxmend.units import KIB

ALL = Extent(0, 1 << 40)
BAD, LOST = SectorState.BAD, SectorState.LOST


def sectors(first: int, count: int = 1) -> Extent:
    return Extent.of_sectors(first, count)


def states(record: BadBlocks, within: Extent = ALL) -> list[tuple[Extent, SectorState]]:
    return list(record.states(within))


@pytest.fixture
def record() -> BadBlocks:
    return BadBlocks()


def test_setting_0_then_5_then_0_to_7_keeps_all_of_0_to_6(record: BadBlocks) -> None:
    """R8: the kernel's record loses sector 6 here."""
    for extent in (sectors(0), sectors(5), sectors(0, 7)):
        record.set(extent)
    assert states(record) == [(sectors(0, 7), BAD)]


def test_a_range_may_be_longer_than_the_kernels_256_kib(record: BadBlocks) -> None:
    """R8: a kernel record ends at 512 sectors."""
    record.set(Extent(0, 300 * KIB))
    assert states(record) == [(Extent(0, 300 * KIB), BAD)]


def test_more_than_512_ranges_are_kept(record: BadBlocks) -> None:
    """R8: a kernel table has room for 512."""
    for first in range(0, 4000, 2):
        record.set(sectors(first))
    assert [extent.offset // 512 for extent, _ in states(record)] == list(range(0, 4000, 2))


def test_clearing_inside_a_huge_range_splits_it(record: BadBlocks) -> None:
    huge = Extent(0, 1 << 41)
    record.set(huge)
    record.clear(sectors(1 << 30))
    assert states(record, huge) == [
        (Extent.between(0, 1 << 39), BAD),
        (Extent.between((1 << 39) + 512, 1 << 41), BAD),
    ]


@pytest.mark.parametrize("extent", [Extent(1535, 1), Extent(0, 4096), Extent(1024, 512)])
def test_a_touched_sector_is_found_whatever_the_alignment(
    record: BadBlocks, extent: Extent
) -> None:
    record.set(sectors(2))
    assert record.check(extent)
    assert record.first(extent) == max(1024, extent.offset)


@pytest.mark.parametrize("extent", [Extent(0, 1024), Extent(1536, 100), Extent(1100, 0)])
def test_an_untouched_sector_is_not_found(record: BadBlocks, extent: Extent) -> None:
    record.set(sectors(2))
    assert not record.check(extent)
    assert record.first(extent) is None


def test_lost_is_a_part_of_the_record_and_stands_in_it_by_state(record: BadBlocks) -> None:
    record.set(sectors(0, 8))
    record.set_lost(sectors(2, 2))
    record.set_lost(sectors(10))
    assert states(record) == [
        (sectors(0, 2), BAD),
        (sectors(2, 2), LOST),
        (sectors(4, 4), BAD),
        (sectors(10), LOST),
    ]
    assert states(record, Extent(1300, 800)) == [
        (Extent(1300, 748), LOST),
        (Extent(2048, 52), BAD),
    ]


def test_a_lost_sector_that_fails_again_stays_lost(record: BadBlocks) -> None:
    """R1: its content is gone, whatever else happens to it."""
    record.set_lost(sectors(3))
    record.set(sectors(0, 8))
    assert (sectors(3), LOST) in states(record)


def test_a_cleared_sector_is_neither_recorded_nor_lost(record: BadBlocks) -> None:
    record.set_lost(sectors(0, 3))
    record.clear(sectors(1))
    assert states(record) == [(sectors(0), LOST), (sectors(2), LOST)]
    record.set(sectors(1))
    assert (sectors(1), BAD) in states(record)
