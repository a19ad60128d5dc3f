"""`ExtentMap` against a dict from page to place."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from daxmend.fs.extentmap import ExtentMap, Run

PAGES = 40

pages = st.integers(0, PAGES - 1)
counts = st.integers(1, 12)


class MapMachine(RuleBasedStateMachine):
    """Each page is mapped to a place of its own, with neighbours that often continue it."""

    def __init__(self) -> None:
        super().__init__()
        self.map = ExtentMap()
        self.model: dict[int, tuple[int, bool]] = {}

    @rule(first=pages, count=counts, shift=st.sampled_from([100, 100, 300]), written=st.booleans())
    def do_map(self, first: int, count: int, shift: int, written: bool) -> None:
        for page in range(first, first + count):  # only what is not mapped may be
            if page in self.model:
                count = page - first
                break
        if count:
            self.map.map(Run(first, first + shift, count, written))
            self.model.update(
                {page: (page + shift, written) for page in range(first, first + count)}
            )

    @rule(first=pages, count=counts)
    def unmap(self, first: int, count: int) -> None:
        removed = self.map.unmap(first, first + count)
        gone = {
            page: self.model.pop(page) for page in range(first, first + count) if page in self.model
        }
        assert expanded(removed) == gone

    @rule(first=pages, count=counts)
    def mark_written(self, first: int, count: int) -> None:
        self.map.mark_written(first, first + count)
        for page in range(first, first + count):
            if page in self.model:
                self.model[page] = (self.model[page][0], True)

    @rule(first=pages, count=counts)
    def look_at_a_part(self, first: int, count: int) -> None:
        end = first + count
        found = list(self.map.runs(first, end))
        assert all(first <= run.pgoff < run.end <= end for run in found)
        assert expanded(found) == {p: v for p, v in self.model.items() if first <= p < end}

    @rule(page=st.integers(0, PAGES + 20))
    def find(self, page: int) -> None:
        found = self.map.find(page)
        later = [each for each in self.model if each >= page]
        if not later:
            assert found is None
        else:
            assert found is not None
            assert found.pgoff <= min(later) < found.end
            assert expanded([found]).items() <= self.model.items()

    @invariant()
    def it_is_the_dict_in_the_fewest_runs(self) -> None:
        runs = list(self.map.runs())
        assert expanded(runs) == self.model
        assert len(self.map) == len(runs) == fewest(self.model)
        assert self.map.page_count == len(self.model)
        assert self.map.last() == (runs[-1] if runs else None)

    @invariant()
    def packing_keeps_everything(self) -> None:
        packed = self.map.pack()
        assert len(packed) == 24 * len(self.map)
        twin = ExtentMap.unpack(packed)
        assert list(twin.runs()) == list(self.map.runs())
        assert twin.page_count == self.map.page_count


def expanded(runs: list[Run]) -> dict[int, tuple[int, bool]]:
    return {
        run.pgoff + at: (run.place + at, run.is_written) for run in runs for at in range(run.pages)
    }


def fewest(model: dict[int, tuple[int, bool]]) -> int:
    return sum(
        model.get(page - 1) != (place - 1, is_written)
        for page, (place, is_written) in model.items()
    )


TestExtentMap = MapMachine.TestCase
TestExtentMap.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)


def test_a_run_is_cut_to_a_range_with_its_place() -> None:
    run = Run(10, 100, 5, True)
    assert run.cut(12, 14) == Run(12, 102, 2, True)
    assert run.cut(0, 11) == Run(10, 100, 1, True)
    assert run.cut(14, 99) == Run(14, 104, 1, True)


def test_written_and_unwritten_neighbours_are_two_runs_until_both_are_written() -> None:
    extents = ExtentMap()
    extents.map(Run(0, 50, 2, True))
    extents.map(Run(2, 52, 2, False))
    assert len(extents) == 2
    extents.mark_written(2, 4)
    assert list(extents.runs()) == [Run(0, 50, 4, True)]


def test_ten_thousand_scattered_runs_are_found_again() -> None:
    rng = random.Random(1)
    extents = ExtentMap()
    order = list(range(0, 20_000, 2))
    rng.shuffle(order)
    for page in order:
        extents.map(Run(page, 3 * page, 1, True))
    assert len(extents) == 10_000
    assert extents.find(9_999) == Run(10_000, 30_000, 1, True)
    assert [run.pgoff for run in extents.runs(5, 11)] == [6, 8, 10]


@given(st.binary(max_size=200))
def test_columns_of_whole_runs_are_unpacked_and_others_refused(columns: bytes) -> None:
    if len(columns) % 24 == 0:
        assert ExtentMap.unpack(columns).pack() == columns
    elif len(columns) // 3 % 8:
        with pytest.raises(ValueError, match="multiple"):
            ExtentMap.unpack(columns)
