"""What is printed and drawn of a comparison, and which strategy it is said to be for."""

import json
from xml.etree import ElementTree

import pytest

from daxmend.report.compare import Case, Compared, Comparison, as_document, parse_document
from daxmend.report.comparetable import (
    cells,
    format_markdown,
    format_table,
    format_text,
    main_damage,
    main_table,
    rounds_table,
    sweep_table,
    verdicts,
)
from daxmend.report.damage import Damage, Pattern
from daxmend.report.measure import Measure, Outcome
from daxmend.report.plot import draw

TEN = Damage(10, Pattern.SCATTERED)
MANY = Damage(1000, Pattern.SCATTERED)
CLUSTER = Damage(10, Pattern.CLUSTERED)
GOOD = Measure(
    Outcome.HEALED, healed=10, lost=0, extents_before=1, extents_after=1, moved=0, left=0,
    privilege="none", seconds=0.01, requests=10, written=40960, zeroed=0,
)  # fmt: skip
PUNCHED = GOOD._replace(extents_after=21, moved=40960, left=5120, requests=20)
ROOT_ONLY = GOOD._replace(privilege="root", zeroed=5120, written=5120)
LOSING = GOOD._replace(lost=35840)
CANNOT = Measure(Outcome.CANNOT, "it has no zeroinit (ENOTTY)")
FULL = Measure(Outcome.UNDAMAGED, "the record is full")
TORN = GOOD._replace(outcome=Outcome.PARTLY, healed=3, why="28672 bytes cannot be read")


def system(name: str = "fs", **measures: list[Measure]) -> Compared:
    cases = [Case(key.replace("_", "-"), TEN, rounds) for key, rounds in measures.items()]
    return Compared(name, "somewhere", cases)


def comparison(*systems: Compared, damages: list[Damage] | None = None) -> Comparison:
    left_out = [("xfs on a loop device", "mkfs.xfs is missing: install it first")]
    return Comparison("6.12", True, 1 << 24, 1, 2, damages or [TEN], list(systems), left_out)


ALL = comparison(
    system(
        pwrite=[GOOD, GOOD],
        zeroinit=[CANNOT],
        zero_range=[TORN],
        zeroout=[ROOT_ONLY, ROOT_ONLY],
        punch=[PUNCHED, PUNCHED._replace(extents_before=21, extents_after=39)],
    )
)


def test_a_document_is_read_back_as_it_was() -> None:
    assert parse_document(json.loads(json.dumps(as_document(ALL)))) == ALL


def test_each_way_that_a_case_can_end_is_a_cell_that_says_so() -> None:
    assert cells(GOOD, TEN) == (
        "all", "0", "1 -> 1", "0", "0", "user", "10", "40 KiB", "10 ms",
    )  # fmt: skip
    assert cells(TORN, TEN)[0] == "3 of 10"
    assert cells(CANNOT, TEN) == ("cannot: it has no zeroinit (ENOTTY)",)
    assert cells(FULL, TEN) == (
        "not tried, that many cannot be made bad: the record is full",
    )  # fmt: skip
    assert cells(ROOT_ONLY, TEN)[5] == "root"


def test_what_is_not_known_is_no_zero() -> None:
    found = cells(GOOD._replace(extents_before=None, extents_after=None, moved=None), TEN)
    assert found[2:4] == ("? -> ?", "?")
    at_least = GOOD._replace(left=512, left_why="the kernel shows no more than a page")
    assert cells(at_least, TEN)[4] == "512 B+"


def test_the_main_damage_is_the_greatest_that_could_be_done_everywhere() -> None:
    cases = [Case("pwrite", TEN, [GOOD]), Case("pwrite", MANY, [FULL])]
    found = comparison(Compared("fs", "", cases), damages=[TEN, MANY, CLUSTER])
    assert main_damage(found) == TEN
    assert main_damage(found._replace(damages=[CLUSTER])) == CLUSTER


def test_tables_have_a_row_for_each_strategy() -> None:
    (fs,) = ALL.systems
    assert [row[0] for row in main_table(fs, TEN).rows] == [
        "aligned pwrite",
        "zeroinit + write",
        "ZERO_RANGE + write",
        "BLKZEROOUT + write",
        "punch + write",
    ]
    assert sweep_table(fs, [TEN]).rows[2] == ("ZERO_RANGE + write", "1 not healed")
    assert sweep_table(fs, [TEN, MANY]).rows[1] == ("zeroinit + write", "-", "-")
    assert rounds_table(fs, TEN, 2).rows[4] == ("punch + write", "21", "39")
    assert rounds_table(fs, TEN, 2).rows[1] == ("zeroinit + write", "-", "-")


def test_the_text_says_all_of_it_in_a_hundred_columns() -> None:
    text = format_text(ALL)
    for said in ("cannot: it has no zeroinit", "3 of 10", "1 -> 21", "mkfs.xfs is missing"):
        assert said in text
    assert max(map(len, text.splitlines())) <= 110
    assert text.isascii()


def test_a_markdown_table_has_as_many_cells_in_each_row() -> None:
    lines = format_markdown(main_table(ALL.systems[0], TEN))
    assert len({line.count("|") for line in lines}) == 1


def test_columns_stand_below_each_other() -> None:
    lines = format_table(rounds_table(ALL.systems[0], TEN, 2))
    assert len({len(line) for line in lines}) == 1


@pytest.mark.parametrize(
    ("measures", "wanted"),
    [
        ({"pwrite": [GOOD], "punch": [PUNCHED]}, [("aligned pwrite", "", False)]),
        ({"pwrite": [GOOD], "zeroout": [ROOT_ONLY]}, [("aligned pwrite", "", False)]),
        (
            {"pwrite": [LOSING], "zeroout": [ROOT_ONLY], "zeroinit": [CANNOT]},
            [
                ("aligned pwrite", "good bytes of the bad pages are lost", False),
                ("BLKZEROOUT + write", "", True),
            ],
        ),
        (
            {"pwrite": [TORN], "punch": [PUNCHED]},
            [("punch + write", "bad blocks stay in free space, the file falls to pieces", False)],
        ),
        ({"pwrite": [TORN], "zeroinit": [CANNOT]}, []),
        (
            {"pwrite": [GOOD._replace(extents_before=None, extents_after=None, moved=None)]},
            [("aligned pwrite", "where the file lies is not told", False)],
        ),
        (
            {"pwrite": [GOOD._replace(left_why="the record is cut")]},
            [("aligned pwrite", "what it leaves bad is not known", False)],
        ),
        (
            {"pwrite": [GOOD, TORN], "copy": [GOOD._replace(moved=1 << 24)]},
            [("copy + rename", "the file moves", False)],
        ),
    ],
)
def test_the_verdict_is_for_what_heals_and_costs_least(
    measures: dict[str, list[Measure]], wanted: list[tuple[str, str, bool]]
) -> None:
    assert [tuple(each) for each in verdicts(system(**measures))] == wanted


def test_the_picture_is_an_svg_that_needs_nothing_else() -> None:
    text = draw(ALL)
    root = ElementTree.fromstring(text)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    said = " ".join(root.itertext())
    for word in ("aligned pwrite", "cannot: it has no zeroinit", "healed 3 of 10 pages", "root"):
        assert word in said
    for word in ("http://", "https://", "<script", "url("):
        assert word not in text.replace("http://www.w3.org/2000/svg", "")


def test_names_cannot_break_the_picture() -> None:
    odd = comparison(system('<&">', pwrite=[GOOD]))
    assert '<&">' in " ".join(ElementTree.fromstring(draw(odd)).itertext())


def test_growth_is_drawn_once_for_all_strategies_that_grow_alike() -> None:
    fs = system(
        pwrite=[GOOD, GOOD],
        zeroinit=[GOOD, GOOD],
        zeroout=[ROOT_ONLY, ROOT_ONLY],
        punch=[PUNCHED, PUNCHED._replace(extents_after=39)],
        copy=[CANNOT],
    )
    root = ElementTree.fromstring(draw(comparison(fs)))
    lines = [each for each in root.iter() if each.tag.endswith("polyline")]
    assert len(lines) == 2
    said = list(root.itertext())
    assert "1: aligned pwrite, 2 others" in said
    assert "39: punch" in said
    once = comparison(fs)._replace(rounds=1)
    assert "polyline" not in draw(once)
