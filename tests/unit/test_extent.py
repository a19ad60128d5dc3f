"""Half-open ranges, sets of them, and the record's text format (R9)."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daxmend.errors import UsageError
from daxmend.extent import (
    Extent,
    ExtentSet,
    check_bounds,
    format_badblocks,
    merged,
    parse_badblocks_line,
)
from daxmend.units import CACHELINE, MAX_OFFSET, SECTOR

BOUNDARY = (1 << 32) * SECTOR  # where a set in sectors changes to its second bitmap
SMALL = st.builds(Extent, st.integers(0, 40), st.integers(0, 12))
UNITS = st.sampled_from([1, 2, 4, 8])


def members(extent: Extent) -> set[int]:
    """The bytes of an extent, counted one by one."""
    return set(range(extent.offset, extent.end))


# -- one extent --------------------------------------------------------------------------------


@given(SMALL, SMALL)
def test_overlap_and_intersection_are_those_of_the_bytes(one: Extent, other: Extent) -> None:
    common = members(one) & members(other)
    assert one.overlaps(other) == bool(common)
    assert members(one.intersection(other)) == common


@given(st.lists(SMALL.filter(lambda extent: extent.length)))
def test_merged_has_the_same_bytes_in_the_fewest_extents(extents: list[Extent]) -> None:
    found = merged(extents)
    assert set().union(*map(members, found)) == set().union(*map(members, extents))
    assert all(one.end < other.offset for one, other in pairwise(found))


@given(SMALL, SMALL)
def test_covering_is_having_every_byte(one: Extent, other: Extent) -> None:
    if other.length:
        assert one.covers(other) == (members(other) <= members(one))


@given(SMALL, UNITS)
def test_widened_is_the_smallest_aligned_extent_around(extent: Extent, unit: int) -> None:
    units = {byte // unit for byte in members(extent)}
    expected = {byte for u in units for byte in range(u * unit, (u + 1) * unit)}
    assert members(extent.widened(unit)) == expected
    assert extent.widened(unit).offset % unit == 0


@given(SMALL, UNITS)
def test_narrowed_is_the_largest_aligned_extent_inside(extent: Extent, unit: int) -> None:
    whole = [u for u in range(60) if set(range(u * unit, (u + 1) * unit)) <= members(extent)]
    expected = {byte for u in whole for byte in range(u * unit, (u + 1) * unit)}
    assert members(extent.narrowed(unit)) == expected


def test_nothing_becomes_bad_by_widening_no_bytes() -> None:
    assert Extent(100, 0).widened(64) == Extent(64, 0)


def test_between_is_empty_where_the_end_is_not_above_the_offset() -> None:
    assert Extent.between(5, 9) == Extent(5, 4)
    assert Extent.between(9, 5).length == 0


def test_sectors_are_512_bytes_and_shifting_keeps_the_length() -> None:
    assert Extent.of_sectors(3, 2) == Extent(1536, 1024)
    assert Extent(10, 4).shifted(-10) == Extent(0, 4)
    assert str(Extent(10, 4)) == "[10, 14)"


@pytest.mark.parametrize("extent", [Extent(-1, 1), Extent(0, -1), Extent(0, 101), Extent(100, 1)])
def test_bounds_name_the_thing_and_the_range(extent: Extent) -> None:
    with pytest.raises(UsageError, match="the thing"):
        check_bounds(extent, 100, "the thing")


@pytest.mark.parametrize("extent", [Extent(0, 100), Extent(100, 0), Extent(0, 0)])
def test_all_of_a_thing_is_inside_it(extent: Extent) -> None:
    check_bounds(extent, 100, "the thing")


# -- the kernel's text format (R9) -------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "extent"),
    [
        ("0 1", Extent(0, 512)),
        ("8 16\n", Extent(4096, 8192)),
        ("  8\t16  ", Extent(4096, 8192)),
        ("007 1", Extent(3584, 512)),
    ],
)
def test_a_record_line_is_sector_and_count(line: str, extent: Extent) -> None:
    assert parse_badblocks_line(line) == extent


@pytest.mark.parametrize(
    "line",
    [
        "",
        "8",
        "8 1 2",
        "-8 1",
        "8 -1",
        "8 0",
        "x 1",
        "8,1",
        "0x8 1",
        "\u0663 1",
        "\u00b2 1",
        "8.0 1",
    ]
    + [f"{MAX_OFFSET // SECTOR} 1", f"0 {MAX_OFFSET // SECTOR + 1}", "9" * 5000 + " 1"],
)
def test_any_other_line_is_refused_by_its_text(line: str) -> None:
    with pytest.raises(UsageError):
        parse_badblocks_line(line)


@given(st.lists(st.tuples(st.integers(0, 1 << 40), st.integers(1, 1 << 12)), max_size=5))
def test_what_is_printed_is_parsed_back(pairs: list[tuple[int, int]]) -> None:
    extents = [Extent.of_sectors(*pair) for pair in pairs]
    text = format_badblocks(extents)
    assert [parse_badblocks_line(line) for line in text.splitlines()] == extents


# -- sets --------------------------------------------------------------------------------------


def test_neighbours_merge_and_a_hole_splits() -> None:
    record = ExtentSet(SECTOR, [Extent.of_sectors(0, 1), Extent.of_sectors(1, 1)])
    assert list(record) == [Extent(0, 1024)]
    record.add(Extent.of_sectors(4, 4))
    record.discard(Extent.of_sectors(5, 1))
    assert list(record) == [Extent(0, 1024), Extent.of_sectors(4, 1), Extent.of_sectors(6, 2)]
    assert record.length == 5 * SECTOR


def test_an_overlapping_set_forgets_no_sector() -> None:
    """R8: Linux 6.1 loses sector 6 of this."""
    record = ExtentSet(SECTOR)
    for first, count in ((0, 1), (5, 1), (0, 7)):
        record.add(Extent.of_sectors(first, count))
    assert list(record) == [Extent.of_sectors(0, 7)]


@pytest.mark.parametrize("extent", [Extent(1, 64), Extent(0, 63), Extent(32, 64)])
def test_an_unaligned_extent_never_enters_silently(extent: Extent) -> None:
    lines = ExtentSet(CACHELINE, [Extent(0, 256)])
    for change in (lines.add, lines.discard):
        with pytest.raises(ValueError, match="aligned"):
            change(extent)
    assert list(lines) == [Extent(0, 256)]


def test_a_run_across_the_bitmaps_boundary_is_one_extent() -> None:
    run = Extent(BOUNDARY - 3 * SECTOR, 6 * SECTOR)
    record = ExtentSet(SECTOR, [run])
    assert list(record) == [run]
    assert record.length == run.length
    assert record.covers(run)
    assert record.overlaps(Extent(BOUNDARY - 1, 2))
    assert record.overlaps(Extent(BOUNDARY, 1))
    assert record.next_offset(BOUNDARY) == BOUNDARY
    assert not record.covers(Extent(run.offset, run.length + 1))
    record.discard(Extent(BOUNDARY - SECTOR, 2 * SECTOR))
    assert list(record) == [
        Extent(BOUNDARY - 3 * SECTOR, 2 * SECTOR),
        Extent(BOUNDARY + SECTOR, 2 * SECTOR),
    ]
    assert not record.overlaps(Extent(BOUNDARY - SECTOR, 2 * SECTOR))


def test_a_whole_bitmap_and_more_is_one_extent() -> None:
    run = Extent(SECTOR, 2 * BOUNDARY)  # from the first bitmap over all of the second to the third
    record = ExtentSet(SECTOR, [run])
    assert list(record) == [run]
    assert list(record.extents(Extent(BOUNDARY, 1))) == [Extent(BOUNDARY, 1)]
    record.discard(run)
    assert not record
    assert record.next_offset(0) is None


def test_what_is_asked_may_be_unaligned_and_the_answer_is_cut_to_it() -> None:
    lines = ExtentSet(CACHELINE, [Extent(64, 64)])
    assert lines.overlaps(Extent(127, 1))
    assert not lines.overlaps(Extent(128, 1))
    assert not lines.overlaps(Extent(100, 0))
    assert list(lines.extents(Extent(100, 100))) == [Extent(100, 28)]
    assert lines.next_offset(100) == 100


def test_a_copy_is_independent() -> None:
    record = ExtentSet(SECTOR, [Extent(0, SECTOR)])
    twin = record.copy()
    twin.add(Extent(SECTOR, SECTOR))
    assert list(record) == [Extent(0, SECTOR)]
    assert twin != record
    record.update([Extent(SECTOR, SECTOR)])
    assert twin == record
    assert twin != ExtentSet(CACHELINE, record)
    twin.clear()
    assert not twin
    assert record


def test_a_set_is_mutable_and_therefore_no_key() -> None:
    with pytest.raises(TypeError):
        hash(ExtentSet(SECTOR))
