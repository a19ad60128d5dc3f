"""The map: every bad byte shows, wherever it is, and nothing else does."""

from hypothesis import given
from hypothesis import strategies as st

from daxmend.extent import Extent
from daxmend.report.pagemap import PARTS, Strip, bars_of

TIB = 1 << 40


def test_one_sector_of_a_large_device_is_seen() -> None:
    assert bars_of([Extent(0, 512)], TIB) == [(0, 1)]
    assert bars_of([Extent(TIB - 512, 512)], TIB) == [(PARTS - 1, 1)]
    assert bars_of([], TIB) == []
    assert bars_of([Extent(0, TIB)], TIB) == [(0, PARTS)]


def test_neighbours_are_one_bar() -> None:
    part = TIB // PARTS
    assert bars_of([Extent(0, part), Extent(part, 1), Extent(3 * part, 1)], TIB) == [(0, 2), (3, 1)]


def test_a_thing_smaller_than_the_strip_and_one_without_bytes_can_be_drawn() -> None:
    assert bars_of([Extent(0, 3)], 3) == [(0, PARTS)]
    assert bars_of([Extent(2, 1)], 3) == [(170, 86)]
    assert bars_of([Extent(0, 512)], 0) == []


@given(
    st.integers(1, 1 << 50),
    st.lists(st.tuples(st.integers(0, 1 << 50), st.integers(0, 1 << 50)).map(lambda e: Extent(*e))),
)
def test_a_part_is_marked_exactly_where_something_is_in_it(
    size: int, extents: list[Extent]
) -> None:
    strip = Strip(size)
    for extent in extents:
        strip.mark(extent)
    marked = {part for start, length in strip.bars() for part in range(start, start + length)}
    inside = [extent.intersection(Extent(0, size)) for extent in extents]
    for part in range(PARTS):
        scaled = Extent(part * size, size)  # a byte is PARTS wide, a part is as wide as the size
        hit = any(scaled.overlaps(Extent(e.offset * PARTS, e.length * PARTS)) for e in inside)
        assert (part in marked) == hit
