"""Fault plans as text and as objects."""

import pytest

from daxmend.errors import UsageError
from daxmend.extent import Extent
from daxmend.faults import Fault, FaultKind, format_plan, parse_plan
from daxmend.units import CACHELINE, SECTOR


def test_a_plan_is_read_line_by_line_without_comments() -> None:
    text = "# all of it\n\n- 4K 512 until-written  # a sector\n*.db 64 1 latent\n"
    assert parse_plan(text) == [
        Fault(Extent(4096, SECTOR), FaultKind.UNTIL_WRITTEN, "-"),
        Fault(Extent(64, CACHELINE), FaultKind.LATENT, "*.db"),
    ]


def test_ranges_widen_to_sectors_and_latent_ones_to_lines() -> None:
    extent = Extent(700, 10)
    assert Fault.of(extent).extent == Extent(512, SECTOR)
    assert Fault.of(extent, FaultKind.ONCE).extent == Extent(512, SECTOR)
    assert Fault.of(extent, FaultKind.LATENT).extent == Extent(640, 128)


def test_a_pattern_may_have_spaces() -> None:
    assert parse_plan("my file 0 512 once")[0].pattern == "my file"


def test_a_plan_that_was_written_reads_the_same() -> None:
    faults = [
        Fault.of(Extent(0, 1), FaultKind.ONCE),
        Fault.of(Extent(4096, 8192), FaultKind.UNTIL_WRITTEN, "a b"),
        Fault.of(Extent(100, 1), FaultKind.LATENT, "x"),
    ]
    assert parse_plan(format_plan(faults)) == faults


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("- 0 512", "not 'PATTERN OFFSET LENGTH KIND'"),
        ("- 0 512 sometimes", "'sometimes' is not one of"),
        ("- x 512 once", "'x' is not a size"),
        ("- 0 0 once", "length of 0"),
        ("- -1 5 once", "'-1' is not a size"),
        ("- 9223372036854775807 5 once", "overflows"),
    ],
)
def test_a_malformed_line_is_named_with_its_number_and_reason(line: str, reason: str) -> None:
    with pytest.raises(UsageError, match=r"line 2: .*") as caught:
        parse_plan(f"# first\n{line}\n")
    assert reason in str(caught.value)
