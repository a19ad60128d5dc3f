"""dmsetup's table text: what is read, and what is refused, by line and reason."""

import pytest
from members import Members, in_pages, mapped

from daxmend.dm import MappedDevice, format_table, make_targets, parse_table
from daxmend.dm.linear import Linear
from daxmend.dm.zero import Zero
from daxmend.errors import TableError, UsageError
from daxmend.extent import Extent
from daxmend.units import MIB, PAGE

GOOD = """\
# two pools, and nothing between them
0 {4} linear a {1}

{4}   {2}\tzero   # a hole
{6} {8} striped 2 {2} a {8} b 0
"""


def test_a_table_is_read_line_by_line_without_comments() -> None:
    lines = parse_table(in_pages(GOOD))
    assert [(line.number, line.target) for line in lines] == [
        (2, "linear"),
        (4, "zero"),
        (5, "striped"),
    ]
    assert lines[0].extent == (0, 4 * PAGE)
    assert lines[2].arguments == ("2", "16", "a", "64", "b", "0")


def test_what_is_printed_is_read_back_the_same() -> None:
    lines = parse_table(in_pages(GOOD))
    again = parse_table(format_table(lines))
    assert [line[1:] for line in again] == [line[1:] for line in lines]


def test_the_device_prints_its_table_and_its_status() -> None:
    with mapped(GOOD) as (device, _):
        assert device.table == in_pages(
            "0 {4} linear a {1}\n{4} {2} zero\n{6} {8} striped 2 {2} a {8} b 0\n"
        )
        assert device.status() == device.table
        assert device.size == 14 * PAGE
    with mapped("0 {1} faulty 0:512:until-written,1K:1:latent a 0") as (device, _):
        assert device.status() == "0 8 faulty 0:512:until-written,1K:1:latent a 0 1 9\n"


@pytest.mark.parametrize(
    ("table", "line", "reason"),
    [
        ("", 1, "empty"),
        ("# nothing\n\n", 1, "empty"),
        ("0 8", 1, "START LENGTH TARGET"),
        ("0", 1, "START LENGTH TARGET"),
        ("zero 0 8", 1, "START 'zero' is not a whole number"),
        ("0 eight zero", 1, "LENGTH 'eight'"),
        ("0 -8 zero", 1, "LENGTH '-8'"),
        ("-0 8 zero", 1, "START '-0'"),
        ("0 8.0 zero", 1, "LENGTH '8.0'"),
        ("0 0x8 zero", 1, "LENGTH '0x8'"),
        ("0 ٨ zero", 1, "LENGTH"),  # a digit, but not one of dmsetup's
        ("0 0 zero", 1, "LENGTH is 0"),
        ("0 7 zero", 1, "multiple of a page"),
        ("0 99999999999999999999999999999999999 zero", 1, "LENGTH"),
        ("0 999999999999999999992 zero", 1, "more than a file offset"),
        ("8 8 zero", 1, "begins at sector 8, not at 0"),
        ("0 8 zero\n16 8 zero", 2, "a gap: line 1 ends at sector 8"),
        ("0 8 zero\n\n0 8 zero", 3, "an overlap: line 1"),
        ("0 16 zero\n8 8 zero", 2, "an overlap"),
        ("0 8 zeros", 1, "no target 'zeros'; there are .*error.*faulty.*linear.*striped.*zero"),
        ("0 8 Zero", 1, "no target"),
        ("0 8 zero 0", 1, "zero takes no arguments, and has 1"),
        ("0 8 error x", 1, "error takes no arguments"),
        ("0 8 linear", 1, "linear takes MEMBER OFFSET, and has 0"),
        ("0 8 linear a", 1, "and has 1 arguments"),
        ("0 8 linear a 0 0", 1, "and has 3 arguments"),
        ("0 8 linear a b", 1, "OFFSET 'b'"),
        ("0 8 linear a 4", 1, "OFFSET 4 is no multiple of a page"),
        ("0 8 linear a 2048", 1, "a is too small: it ends at sector 2048, and 2056 is needed"),
        ("0 2056 linear a 0", 1, "too small"),
        ("0 8 linear gone 0", 1, "No such file"),
        ("0 8 linear x/y 0", 1, "not a daxmend pool"),
        ("0 8 zero\n8 8 linear x/y 0", 2, "not a daxmend pool"),
        ("0 8 linear a 0\n8 8 linear a 0", 2, r"a: \[0, 4096\) is used by line 1 too"),
        ("0 8 linear a 8\n8 16 linear a 0", 2, "used by line 1 too"),
        ("0 16 striped 2 8 a 0 a 0", 1, "used by the same line twice"),
        ("0 16 striped", 1, "striped takes"),
        ("0 16 striped 2 8", 1, "striped 2 takes 2 times MEMBER OFFSET, and has 0"),
        ("0 16 striped 2 8 a 0", 1, "and has 2 arguments"),
        ("0 16 striped 2 8 a 0 b", 1, "and has 3"),
        ("0 16 striped 0 8", 1, "striped 0 takes"),
        ("0 16 striped two 8 a 0 b 0", 1, "COUNT 'two'"),
        ("0 16 striped 2 0 a 0 b 0", 1, "CHUNK is 0"),
        ("0 16 striped 2 4 a 0 b 0", 1, "CHUNK 4 is no multiple of a page"),
        ("0 24 striped 2 8 a 0 b 0", 1, "LENGTH 24 does not divide"),
        ("0 16 striped 2 16 a 0 b 0", 1, "LENGTH 16 does not divide"),
        ("0 16 striped 2 8 a 0 b 2048", 1, "b is too small"),
        ("0 8 faulty a 0", 1, "faulty takes PLAN MEMBER OFFSET"),
        ("0 8 faulty 0:512:sometimes a 0", 1, "sometimes"),
        ("0 8 faulty 4096:512:latent a 0", 1, "reaches beyond its end at 4096"),
        ("0 8 faulty x:512:latent a 0", 1, "'x' is not a size"),
    ],
)
def test_a_table_that_cannot_be_is_refused(table: str, line: int, reason: str) -> None:
    members = Members()
    with pytest.raises(TableError, match=reason) as caught:
        make_targets(table, members)
    assert caught.value.line == line
    assert isinstance(caught.value, UsageError)
    members.close()


def test_targets_made_by_a_program_are_looked_at_too() -> None:
    members = Members()
    a = members.open_member("a")
    with pytest.raises(TableError, match="used by"):
        MappedDevice("top", [Linear(2 * PAGE, a, 0), Linear(PAGE, a, PAGE)])
    with pytest.raises(TableError, match="too small"):
        MappedDevice("top", [Zero(PAGE), Linear(MIB, a, PAGE)])
    with pytest.raises(TableError, match="empty"):
        MappedDevice("top", [])
    members.close()


def test_the_same_member_may_be_used_in_ranges_that_do_not_touch_each_other() -> None:
    with mapped("0 {1} linear a {1}\n{1} {1} linear a 0\n{2} {1} linear a {9}") as (_, members):
        assert list(members.devices) == ["a"]


def test_a_fault_plan_may_stand_in_a_file() -> None:
    members = Members()
    members.texts["plan"] = "# what the first demo breaks\n- 4096 512 until-written\n"
    with mapped("0 {4} faulty plan ram {1}", members) as (device, _):
        assert [run for run, _ in device.badblocks(Extent(0, 4 * PAGE))] == [(4096, 512)]
        assert device.message(8, ["plan"]) == "- 4096 512 until-written\n"
        with pytest.raises(UsageError, match="knows the message 'plan'"):
            device.message(8, ["plane"])
