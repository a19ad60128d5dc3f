"""The clear command with the data that comes next (R7, R20)."""

from collections.abc import Callable, Iterator

import pytest

from daxmend.errors import PoisonError, UsageError
from daxmend.extent import Extent
from daxmend.media.medium import LEAK_PATTERN, Medium
from daxmend.media.pool import MediumKind, create_memory_pool
from daxmend.units import CLEAR_UNIT, PAGE

SIZE = 4 * PAGE
WHOLE = Extent(0, SIZE)
OLD = (bytes(range(1, 252)) * (SIZE // 251 + 1))[:SIZE]
NEW = bytes(byte ^ 0xFF for byte in OLD)
RANGE = Extent(PAGE, 2 * PAGE)
BAD = [Extent(PAGE + 64, 128), Extent(3 * PAGE - 64, 64)]
MakeMedium = Callable[[MediumKind], Medium]


@pytest.fixture
def make() -> Iterator[MakeMedium]:
    """Media of a kind that hold `OLD`, but for `BAD`."""
    made: list[Medium] = []

    def medium(kind: MediumKind) -> Medium:
        made.append(Medium(create_memory_pool(SIZE, kind)))
        made[-1].store(0, OLD)
        made[-1].inject(BAD)
        return made[-1]

    yield medium
    for each in made:
        each.close()


def clear_and_store(medium: Medium) -> int:
    return medium.clear_and_store(RANGE.offset, NEW[RANGE.offset : RANGE.end])


def readable(medium: Medium, extent: Extent) -> bytes | None:
    try:
        return medium.load(*extent)
    except PoisonError:
        return None


@pytest.mark.parametrize(
    "kind", [MediumKind.PLAIN, MediumKind.CLEARS_LINES, MediumKind.HEALS_ON_WRITE]
)
def test_what_was_cleared_holds_the_data_and_no_poison(make: MakeMedium, kind: MediumKind) -> None:
    medium = make(kind)
    assert clear_and_store(medium) == RANGE.length
    assert list(medium.find_poison(WHOLE)) == []
    assert medium.load(*WHOLE) == OLD[:PAGE] + NEW[PAGE : 3 * PAGE] + OLD[3 * PAGE :]


def test_a_medium_that_refuses_stores_nothing(make: MakeMedium) -> None:
    medium = make(MediumKind.REFUSES)
    assert clear_and_store(medium) == 0
    assert list(medium.find_poison(WHOLE)) == BAD
    assert medium.load(PAGE, 64) == OLD[PAGE : PAGE + 64]


def test_a_medium_that_clears_part_stores_to_that_part(make: MakeMedium) -> None:
    medium = make(MediumKind.CLEARS_PART)
    assert clear_and_store(medium) == PAGE
    assert list(medium.find_poison(WHOLE)) == BAD[1:]
    assert medium.load(PAGE, PAGE) == NEW[PAGE : 2 * PAGE]
    assert medium.load(2 * PAGE, PAGE - 64) == OLD[2 * PAGE : 3 * PAGE - 64]


def test_a_medium_that_lies_keeps_its_poison(make: MakeMedium) -> None:
    medium = make(MediumKind.LIES)
    assert clear_and_store(medium) == RANGE.length
    assert list(medium.find_poison(WHOLE)) == BAD


def test_nothing_poisoned_can_be_read_before_its_data_is_there(
    make: MakeMedium, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R7, R19: below each store of the command, and of the poison journal, a bad line is bad."""
    medium = make(MediumKind.PLAIN)
    seen: list[bytes | None] = []
    for name in ("store", "store_flush"):
        original = getattr(medium._backing, name)

        def watched(*args: object, original: Callable[..., None] = original) -> None:
            seen.extend(readable(medium, line) for line in BAD)
            original(*args)
            seen.extend(readable(medium, line) for line in BAD)

        monkeypatch.setattr(medium._backing, name, watched)
    clear_and_store(medium)
    assert len(seen) == 3 * 4  # the data, and an entry in each copy of the journal
    assert set(seen) == {None}
    assert LEAK_PATTERN not in medium.load(*RANGE)


@pytest.mark.parametrize("offset", [PAGE + CLEAR_UNIT // 2, -CLEAR_UNIT, SIZE])
def test_an_impossible_range_changes_nothing(make: MakeMedium, offset: int) -> None:
    medium = make(MediumKind.PLAIN)
    with pytest.raises(UsageError):
        medium.clear_and_store(offset, bytes(CLEAR_UNIT))
    assert list(medium.find_poison(WHOLE)) == BAD
    assert medium.load(2 * PAGE, PAGE - 64) == OLD[2 * PAGE : 3 * PAGE - 64]
