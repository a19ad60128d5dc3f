"""`ExtentSet` against a set of ints."""

import itertools
from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from daxmend.extent import Extent, ExtentSet, merged

BITMAP = 1 << 32  # units in one of the set's bitmaps
# Where the interesting places are: the start, and both sides of each bitmap's end.
BASES = [0, BITMAP - 24, 2 * BITMAP - 24]
SPAN = 48

starts = st.builds(int.__add__, st.sampled_from(BASES), st.integers(0, SPAN))
counts = st.integers(0, 30)


class SetMachine(RuleBasedStateMachine):
    """Every step is done to both; every question is asked of both."""

    @initialize(grain=st.sampled_from([1, 64, 512, 4096]))
    def begin(self, grain: int) -> None:
        self.grain = grain
        self.real = ExtentSet(grain)
        self.model: set[int] = set()

    def extent(self, first: int, count: int) -> Extent:
        return Extent(first * self.grain, count * self.grain)

    @rule(first=starts, count=counts)
    def add(self, first: int, count: int) -> None:
        self.real.add(self.extent(first, count))
        self.model.update(range(first, first + count))

    @rule(first=starts, count=counts)
    def discard(self, first: int, count: int) -> None:
        self.real.discard(self.extent(first, count))
        self.model.difference_update(range(first, first + count))

    @rule(first=starts, count=counts)
    def is_a_range_in_it(self, first: int, count: int) -> None:
        asked = self.extent(first, count)
        units = set(range(first, first + count))
        assert self.real.overlaps(asked) == bool(units & self.model)
        assert self.real.covers(asked) == (units <= self.model)

    @rule(first=starts, skip=st.integers(0, 5000), length=st.integers(1, 9000))
    def is_an_unaligned_range_in_it(self, first: int, skip: int, length: int) -> None:
        asked = Extent(first * self.grain + skip, length)
        units = set(range(asked.offset // self.grain, (asked.end - 1) // self.grain + 1))
        assert self.real.overlaps(asked) == bool(units & self.model)
        assert self.real.covers(asked) == (units <= self.model)
        found = list(self.real.extents(asked))
        assert all(asked.covers(piece) for piece in found)
        assert merged([*found, *self.real.gaps(asked)]) == [asked]
        expected = sum(
            asked.intersection(self.extent(unit, 1)).length for unit in units & self.model
        )
        assert sum(piece.length for piece in found) == expected
        assert sum(gap.length for gap in self.real.gaps(asked)) == asked.length - expected

    @rule(first=starts)
    def what_comes_next(self, first: int) -> None:
        later = [unit for unit in self.model if unit >= first]
        expected = min(later) * self.grain if later else None
        assert self.real.next_offset(first * self.grain) == expected

    @invariant()
    def the_same_is_in_both(self) -> None:
        extents = list(self.real)
        units = {
            unit
            for extent in extents
            for unit in range(extent.offset // self.grain, extent.end // self.grain)
        }
        assert units == self.model
        assert self.real.length == len(self.model) * self.grain
        assert bool(self.real) == bool(self.model)
        for one, other in itertools.pairwise(extents):
            assert one.end < other.offset, "merged, and ascending"
        assert self.real.copy() == self.real


TestSet = SetMachine.TestCase

ranges = st.lists(st.tuples(starts, counts), max_size=20)


@given(ranges, ranges)
def test_sets_are_equal_if_and_only_if_their_bytes_are(
    one: list[tuple[int, int]], other: list[tuple[int, int]]
) -> None:
    def build(pairs: list[tuple[int, int]]) -> tuple[ExtentSet, set[int]]:
        made = ExtentSet(1, (Extent(*pair) for pair in pairs))
        return made, {byte for first, count in pairs for byte in range(first, first + count)}

    (one_set, one_bytes), (other_set, other_bytes) = build(one), build(other)
    assert (one_set == other_set) == (one_bytes == other_bytes)


@given(ranges, st.permutations(range(20)))
def test_the_order_of_adding_does_not_matter(
    pairs: list[tuple[int, int]], order: list[int]
) -> None:
    key: Callable[[tuple[int, tuple[int, int]]], int] = lambda item: order[item[0]]  # noqa: E731
    shuffled = [pair for _, pair in sorted(enumerate(pairs), key=key)]
    assert ExtentSet(1, (Extent(*p) for p in pairs)) == ExtentSet(1, (Extent(*p) for p in shuffled))
