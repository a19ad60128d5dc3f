"""Sizes, alignment, and lengths as text (R47)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daxmend.errors import UsageError
from daxmend.units import (
    CACHELINE,
    CLEAR_UNIT,
    MAX_OFFSET,
    PAGE,
    SECTOR,
    align_down,
    align_up,
    format_size,
    is_aligned,
    parse_size,
)

OFFSETS = st.integers(0, MAX_OFFSET)
UNITS = st.sampled_from([CACHELINE, CLEAR_UNIT, SECTOR, PAGE])


def test_the_units_are_those_of_the_rules() -> None:
    assert (CACHELINE, CLEAR_UNIT, SECTOR, PAGE) == (64, 256, 512, 4096)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("4096", 4096),
        ("0004096", 4096),
        ("64K", 64 << 10),
        ("64k", 64 << 10),
        ("3M", 3 << 20),
        ("1G", 1 << 30),
        ("2t", 2 << 40),
        (" 1G\n", 1 << 30),
        (str(MAX_OFFSET), MAX_OFFSET),
        ("8388607T", 8388607 << 40),
    ],
)
def test_a_size_is_a_whole_number_and_a_power_of_1024(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text",
    ["", " ", "K", "-1", "+5", "1.5G", "1e3", "0x10", "1_000", "1 K", "1KB", "1KiB", "1P", "1K1"]
    + ["\uff11", "1\u212a", "\u00b2", "1\n2"],  # digits and letters of other scripts are not sizes
)
def test_anything_else_is_no_size(text: str) -> None:
    with pytest.raises(UsageError, match="is not a size"):
        parse_size(text)


@pytest.mark.parametrize("text", [str(MAX_OFFSET + 1), "8388608T", "9" * 30, "9" * 5000])
def test_a_size_that_no_file_offset_holds_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_size(text)


@given(OFFSETS, UNITS)
def test_aligning_moves_less_than_a_unit_and_ends_on_one(offset: int, unit: int) -> None:
    down, up = align_down(offset, unit), align_up(offset, unit)
    assert is_aligned(down, unit)
    assert is_aligned(up, unit)
    assert offset - unit < down <= offset <= up < offset + unit
    assert is_aligned(offset, unit) == (down == up)


@pytest.mark.parametrize(
    ("length", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1 KiB"), (1536, "1.5 KiB"), (3 << 29, "1.5 GiB")],
)
def test_people_read_lengths_in_binary_units(length: int, text: str) -> None:
    assert format_size(length) == text
