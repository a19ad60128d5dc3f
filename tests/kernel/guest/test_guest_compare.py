"""Strategies compared on ext4 and XFS -o dax, with daxmend's own mount beside them, on one kernel.

The document is kept with the ring's results: the tables of docs/compare.md are made of it.
"""

import json
from pathlib import Path

import pytest
from pmem import PAGE, SECTOR, Pmem
from program import DAXMEND, program

from daxmend.report.compare import Case, Comparison, parse_document
from daxmend.report.damage import Damage, Pattern
from daxmend.report.measure import Outcome

KEPT = Path("/ring")  # the share, which `--results` copies
PAGES = (1, 10, 100)
ROUNDS = 3
DAX = ("ext4 -o dax", "xfs -o dax")
ON_ALL = pytest.mark.parametrize("system", ["daxmend", *DAX])
ON_DAX = pytest.mark.parametrize("system", DAX)
SCATTERED = [Damage(pages, Pattern.SCATTERED) for pages in PAGES]
ON_SCATTERED = pytest.mark.parametrize("damage", SCATTERED, ids=str)

pytestmark = pytest.mark.timeout(1200)


@pytest.fixture(scope="module")
def comparison(pmems: list[Pmem]) -> Comparison:
    """Every strategy, once."""
    words = ("--pages", ",".join(map(str, PAGES)), "--pattern", "scattered", "--rounds", ROUNDS)
    return compare("compare.json", pmems[0], "--size", "2M", *words)


@pytest.fixture(scope="module")
def many(pmems: list[Pmem]) -> Comparison:
    """A thousand pages, by two of them."""
    words = ("--pages", 1000, "--strategy", "pwrite", "--strategy", "punch")
    return compare("compare-many.json", pmems[0], "--size", "8M", *words)


def compare(kept: str, pmem: Pmem, *words: object) -> Comparison:
    """The command, on a namespace; its document is kept."""
    ran = program(DAXMEND, "compare", pmem.path, "--yes", "--json", *words)
    (KEPT / kept).write_text(json.dumps(ran.json, indent=1) + "\n")
    assert pmem.bad_sectors() == []  # nothing is left behind
    return parse_document(ran.json)


def case_of(comparison: Comparison, system: str, strategy: str, damage: Damage) -> Case:
    (found,) = [each for each in comparison.systems if each.name == system]
    (case,) = [each for each in found.cases if (each.strategy, each.damage) == (strategy, damage)]
    return case


def test_nothing_is_left_out(comparison: Comparison) -> None:
    assert comparison.left_out == []
    assert [system.name for system in comparison.systems] == ["daxmend", *DAX]


@ON_ALL
@ON_SCATTERED
def test_a_write_heals_in_place_for_any_user_r14(
    comparison: Comparison, system: str, damage: Damage
) -> None:
    for each in case_of(comparison, system, "pwrite", damage).rounds:
        assert each.outcome is Outcome.HEALED
        assert (each.moved, each.left, each.privilege) == (0, 0, "none")
        assert each.extents_after == each.extents_before == 1


@ON_SCATTERED
def test_what_is_good_in_a_bad_page_is_kept_here_and_lost_by_the_kernel_r10(
    comparison: Comparison, damage: Damage
) -> None:
    assert case_of(comparison, "daxmend", "pwrite", damage).rounds[0].lost == 0
    for system in DAX:
        found = case_of(comparison, system, "pwrite", damage).rounds[0]
        assert found.lost == damage.pages * (PAGE - SECTOR)


@ON_DAX
@ON_SCATTERED
def test_only_root_keeps_it_by_going_to_the_device_below_r34(
    comparison: Comparison, system: str, damage: Damage
) -> None:
    found = case_of(comparison, system, "zeroout", damage).rounds[0]
    assert found.outcome is Outcome.HEALED
    assert (found.lost, found.moved, found.left, found.privilege) == (0, 0, 0, "root")


@ON_SCATTERED
def test_zeroinit_is_in_place_and_the_kernel_has_none_r29(
    comparison: Comparison, damage: Damage
) -> None:
    for verb in ("zeroinit", "zero-range"):
        found = case_of(comparison, "daxmend", verb, damage).rounds[-1]
        assert found.outcome is Outcome.HEALED
        assert (found.lost, found.moved, found.left, found.extents_after) == (0, 0, 0, 1)
    for system in DAX:
        found = case_of(comparison, system, "zeroinit", damage).rounds[0]
        assert found.outcome is Outcome.CANNOT


@ON_DAX
@pytest.mark.parametrize("strategy", ["punch", "copy"])
@ON_SCATTERED
def test_a_bad_block_that_is_given_up_stays_bad_in_free_space_r31(
    comparison: Comparison, system: str, strategy: str, damage: Damage
) -> None:
    found = case_of(comparison, system, strategy, damage).rounds[0]
    assert found.left is not None
    assert found.left > 0
    assert case_of(comparison, "daxmend", strategy, damage).rounds[0].left == 0


@ON_DAX
def test_the_kernels_record_does_not_hold_a_thousand_ranges_r8(
    many: Comparison, system: str
) -> None:
    damage = Damage(1000, Pattern.SCATTERED)
    assert case_of(many, "daxmend", "pwrite", damage).rounds[0].healed == 1000
    assert case_of(many, system, "pwrite", damage).rounds[0].outcome is Outcome.UNDAMAGED
    clustered = case_of(many, system, "pwrite", damage._replace(pattern=Pattern.CLUSTERED))
    assert clustered.rounds[0].healed == 1000


@ON_DAX
def test_a_file_that_is_punched_falls_to_pieces_and_one_that_is_written_does_not_r35(
    comparison: Comparison, system: str
) -> None:
    damage = Damage(100, Pattern.SCATTERED)
    written = case_of(comparison, system, "pwrite", damage).rounds
    assert [each.extents_after for each in written] == [1] * len(written)
    punched = case_of(comparison, system, "punch", damage).rounds[0].extents_after
    assert punched is not None
    assert punched > 100
