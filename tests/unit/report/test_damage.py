"""The damage of a comparison: which pages, by chance, and always the same."""

from itertools import pairwise

import pytest

from daxmend.errors import UsageError
from daxmend.extent import Extent
from daxmend.report.damage import Damage, Pattern, bad_pages, bad_sectors, content
from daxmend.units import PAGE, SECTOR

SIZE = 64 * PAGE


@pytest.mark.parametrize("pages", [1, 2, 31, 32])
@pytest.mark.parametrize("seed", range(5))
def test_scattered_pages_have_one_bad_sector_and_do_not_touch(pages: int, seed: int) -> None:
    bad = bad_sectors(Damage(pages, Pattern.SCATTERED), SIZE, seed)
    assert len(bad) == pages
    assert all(each.length == SECTOR and each.offset % SECTOR == 0 for each in bad)
    found = bad_pages(bad)
    assert len(found) == pages
    assert all(later.offset - page.end >= PAGE for page, later in pairwise(found))
    assert found[-1].end <= SIZE


@pytest.mark.parametrize("pages", [1, 5, 64])
def test_clustered_pages_are_one_stretch_and_bad_as_a_whole(pages: int) -> None:
    (bad,) = bad_sectors(Damage(pages, Pattern.CLUSTERED), SIZE, 3)
    assert bad.length == pages * PAGE
    assert bad.offset % PAGE == 0
    assert bad.end <= SIZE


def test_the_same_seed_is_the_same_damage_and_another_is_another() -> None:
    damage = Damage(8, Pattern.SCATTERED)
    assert bad_sectors(damage, SIZE, 1) == bad_sectors(damage, SIZE, 1)
    assert bad_sectors(damage, SIZE, 1) != bad_sectors(damage, SIZE, 2)


@pytest.mark.parametrize(
    "damage",
    [Damage(33, Pattern.SCATTERED), Damage(65, Pattern.CLUSTERED), Damage(0, Pattern.CLUSTERED)],
)
def test_more_pages_than_fit_are_refused(damage: Damage) -> None:
    with pytest.raises(UsageError, match="do not fit"):
        bad_sectors(damage, SIZE, 1)


def test_a_page_with_two_bad_sectors_is_one_bad_page() -> None:
    bad = [Extent(512, 512), Extent(2048, 4096), Extent(3 * PAGE, PAGE)]
    assert bad_pages(bad) == [Extent(0, PAGE), Extent(PAGE, PAGE), Extent(3 * PAGE, PAGE)]


def test_the_content_has_no_zeros_so_that_zeros_show() -> None:
    data = content(SIZE, 1)
    assert len(data) == SIZE
    assert 0 not in data
