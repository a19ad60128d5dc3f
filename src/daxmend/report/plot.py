"""A comparison as a picture: one SVG that needs nothing else, and reads in light and in dark."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import Final, NamedTuple

from daxmend.report.compare import Compared, Comparison
from daxmend.report.comparetable import TITLES, cells, main_damage, verdicts
from daxmend.report.damage import Damage
from daxmend.report.measure import Measure, Outcome
from daxmend.report.plotgrowth import STYLE, draw_growth
from daxmend.units import format_size

_WIDTH: Final = 860
_LEFT: Final = 20
_ROW: Final = 27
_PANEL_HEAD: Final = 46
_PANEL_GAP: Final = 22
_TITLE: Final = 74
_FOOT: Final = 62
_TITLES_AT: Final = 44
_BAR: Final = 58  # the longest
_STYLE: Final = """
svg { font: 14px system-ui, 'DejaVu Sans', sans-serif; background: #fff; }
text { fill: #1b1f24; } .sub, .head, .none { fill: #59636e; } .head { font-size: 12px; }
.title { font-size: 19px; font-weight: 600; } .name { font-size: 15px; font-weight: 600; }
.best { font-weight: 600; } .mark { fill: #1a7f37; font-weight: 700; }
.good { fill: #1a7f37; } .bad { fill: #b42318; } .none { font-style: italic; }
.paper { fill: #fff; } .row { fill: #e9f6ec; } .bar { fill: #f2b8b0; }
.work { fill: #ccd3da; } .line { stroke: #d1d9e0; }
@media (prefers-color-scheme: dark) {
svg { background: #0d1117; } text { fill: #e6edf3; } .sub, .head, .none { fill: #9198a1; }
.mark, .good { fill: #57c46d; } .bad { fill: #ff9a8d; } .paper { fill: #0d1117; }
.row { fill: #12261a; } .bar { fill: #6e2a24; }
.work { fill: #444c56; } .line { stroke: #30363d; } }
"""


class _Column(NamedTuple):
    """`at` is its left edge; `good` the value that costs nothing."""

    head: str
    at: int
    good: int | None


_COLUMNS: Final = (
    _Column("good bytes lost", 222, 0),
    _Column("extents of the file", 354, 1),
    _Column("left bad in free space", 486, 0),
    _Column("written", 634, None),
    _Column("by", 770, None),
)


def draw(comparison: Comparison) -> str:
    """The text of the SVG; as high as there are file systems, 860 units wide."""
    damage = main_damage(comparison)
    top = _TITLE
    panels: list[str] = []
    scales = _scales(comparison, damage)
    for system in comparison.systems:
        rows = [case for case in system.cases if case.damage == damage]
        panels += _panel(system, damage, scales, top)
        top += _PANEL_HEAD + len(rows) * _ROW + _PANEL_GAP
    growth, more = draw_growth(comparison, damage, top)
    panels += growth
    top += more
    height = top + _FOOT
    return "\n".join([*_begin(comparison, damage, height), *panels, *_end(comparison, top)]) + "\n"


def _begin(comparison: Comparison, damage: Damage, height: int) -> Iterator[str]:
    said = f"{damage} of a file of {format_size(comparison.size)}, repaired in each way"
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" '
        f'width="{_WIDTH}" height="{height}" style="max-width:100%;height:auto" role="img" '
        f'aria-label="{escape(said)}">'
    )
    yield f"<style>{_STYLE}{STYLE}</style>"
    yield f'<rect class="paper" width="{_WIDTH}" height="{height}"/>'
    yield _text(_LEFT, 32, f"{damage}, repaired in each way", "title")
    detail = f"in a file of {format_size(comparison.size)}, one extent; one bad sector in each page"
    yield _text(_LEFT, 55, f"{detail}; Linux {comparison.kernel}", "sub")


def _end(comparison: Comparison, top: int) -> Iterator[str]:
    lines = [
        "Good bytes lost: of the bad pages, beyond the sectors that were bad.",
        "Left bad: blocks that the file gave up, for the next file to find. "
        "By: a user is anybody who may write the file.",
    ]
    for number, line in enumerate(lines):
        yield _text(_LEFT, top + 12 + 19 * number, line, "head")
    yield "</svg>"


def _scales(comparison: Comparison, damage: Damage) -> list[int]:
    """The largest value of each column, over all file systems."""
    found = [
        _values(case.rounds[0])
        for system in comparison.systems
        for case in system.cases
        if case.damage == damage
    ]
    return [max(column, default=0) for column in zip(*found, strict=True)] or [0] * 4


def _values(measure: Measure) -> tuple[int, ...]:
    return (
        measure.lost or 0,
        measure.extents_after or 0,
        measure.left or 0,
        (measure.written or 0) + (measure.zeroed or 0),
    )


def _panel(system: Compared, damage: Damage, scales: list[int], top: int) -> Iterator[str]:
    yield f'<line class="line" x1="{_LEFT}" x2="{_WIDTH - _LEFT}" y1="{top}" y2="{top}"/>'
    yield _text(_LEFT, top + 22, system.name, "name")
    for column in _COLUMNS:
        yield _text(column.at, top + 38, column.head, "head")
    good = [each.strategy for each in verdicts(system)][:1]
    y = top + _PANEL_HEAD
    for case in system.cases:
        if case.damage == damage:
            title = TITLES[case.strategy]
            yield from _row(title, case.rounds[0], damage, scales, y, is_best=title in good)
            y += _ROW


def _row(
    title: str, measure: Measure, damage: Damage, scales: list[int], y: int, *, is_best: bool
) -> Iterator[str]:
    base = y + 19
    if is_best:
        width = _WIDTH - 2 * _LEFT + 8
        yield f'<rect class="row" x="{_LEFT - 4}" y="{y}" width="{width}" height="{_ROW}" rx="4"/>'
        yield _text(_LEFT, base, "\N{HEAVY CHECK MARK}", "mark")
    yield _text(_TITLES_AT, base, title, "best" if is_best else "")
    said = cells(measure, damage)
    if len(said) == 1:
        yield _text(_COLUMNS[0].at, base, said[0], "none")
        return
    if measure.outcome is not Outcome.HEALED:
        yield _text(_COLUMNS[0].at, base, f"healed {said[0]} pages", "bad")
        return
    labels = (said[1], said[2].split()[-1], said[4], said[7])
    for column, value, scale, label in zip(
        _COLUMNS, _values(measure), scales, labels, strict=False
    ):
        yield from _cell(column, value, scale, label, y)
    kind = "good" if said[5] == "user" else "bad"
    yield _text(_COLUMNS[4].at, base, said[5], kind)


def _cell(column: _Column, value: int, scale: int, label: str, y: int) -> Iterator[str]:
    """A bar as long as the value, and the value behind it."""
    is_good = column.good is not None and value == column.good
    width = 0 if is_good or not scale else max(2, round(_BAR * value / scale))
    if width:
        bar = "work" if column.good is None else "bar"
        yield (
            f'<rect class="{bar}" x="{column.at}" y="{y + 6}" width="{width}" height="{_ROW - 12}" '
            'rx="2"/>'
        )
    kind = "good" if is_good else "" if column.good is None else "bad"
    yield _text(column.at + (width + 5 if width else 0), y + 19, label, kind)


def _text(x: int, y: int, text: str, kind: str = "") -> str:
    named = f' class="{kind}"' if kind else ""
    return f'<text x="{x}" y="{y}"{named}>{escape(text)}</text>'
