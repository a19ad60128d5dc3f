"""The lower part of the picture: how the extents of a file grow from round to round."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import Final, NamedTuple

from daxmend.report.compare import Compared, Comparison
from daxmend.report.comparetable import TITLES
from daxmend.report.damage import Damage

STYLE: Final = """
.grow { fill: none; stroke-width: 2.5; } .g0 { stroke: #1a7f37; } .g3 { stroke: #b42318; }
.g1 { stroke: #9a6700; stroke-dasharray: 6 4; } .g2 { stroke: #0969da; stroke-dasharray: 2 3; }
.small { font-size: 12px; }
@media (prefers-color-scheme: dark) { .g0 { stroke: #57c46d; } .g3 { stroke: #ff9a8d; }
.g1 { stroke: #e3b341; } .g2 { stroke: #79c0ff; } }
"""
_KINDS: Final = 4  # of lines that can be told apart
_LEFT: Final = 20
_WIDTH: Final = 260
_STEP: Final = 280
_COLUMNS: Final = 3
_HEAD: Final = 60
_HEIGHT: Final = 110
_LEGEND: Final = 17


class _Series(NamedTuple):
    """The strategies whose extents are these, after each round."""

    titles: list[str]
    extents: list[int]


def draw_growth(comparison: Comparison, damage: Damage, top: int) -> tuple[list[str], int]:
    """The elements, and how high they are; nothing for one round."""
    if comparison.rounds < 2:
        return [], 0
    found = [(system, _series(system, damage)) for system in comparison.systems]
    largest = max(
        (each for _, series in found for one in series for each in one.extents), default=1
    )
    said = f"Extents after each of {comparison.rounds} rounds, in which other pages go bad"
    lines = [f'<text class="name" x="{_LEFT}" y="{top + 22}">{said}</text>']
    y = top + 36
    for first in range(0, len(found), _COLUMNS):
        row = found[first : first + _COLUMNS]
        for column, (system, series) in enumerate(row):
            x = _LEFT + column * _STEP
            lines += _chart(system.name, series, comparison.rounds, largest, x, y)
        y += _HEAD + _HEIGHT + _LEGEND * max(len(series) for _, series in row)
    return lines, y - top


def _series(system: Compared, damage: Damage) -> list[_Series]:
    """Those that grow most come last."""
    found: dict[tuple[int, ...], list[str]] = {}
    for case in system.cases:
        extents = tuple(each.extents_after or 0 for each in case.rounds if each.extents_after)
        if case.damage == damage and extents:
            found.setdefault(extents, []).append(TITLES[case.strategy])
    return [_Series(found[key], list(key)) for key in sorted(found, key=lambda key: key[-1])]


def _chart(
    name: str, series: list[_Series], rounds: int, largest: int, x: int, y: int
) -> Iterator[str]:
    yield _small(x, y + 12, name)
    bottom = y + 24 + _HEIGHT
    yield f'<line class="line" x1="{x}" x2="{x + _WIDTH}" y1="{bottom}" y2="{bottom}"/>'
    for number, each in enumerate(series):
        points = " ".join(
            f"{x + _WIDTH * at / max(rounds - 1, 1):.0f},{bottom - _HEIGHT * value / largest:.0f}"
            for at, value in enumerate(each.extents)
        )
        is_last = number and number == len(series) - 1
        kind = f"grow g{_KINDS - 1 if is_last else min(number, _KINDS - 2)}"
        yield f'<polyline class="{kind}" points="{points}"/>'
        at = bottom + 22 + _LEGEND * number
        yield f'<line class="{kind}" x1="{x}" x2="{x + 22}" y1="{at - 4}" y2="{at - 4}"/>'
        yield _small(x + 28, at, f"{each.extents[-1]}: {_names(each.titles)}")


def _names(titles: list[str]) -> str:
    if len(titles) < 3:
        return ", ".join(title.removesuffix(" + write") for title in titles)
    return f"{titles[0]}, {len(titles) - 1} others"


def _small(x: int, y: int, text: str) -> str:
    return f'<text class="small" x="{x}" y="{y}">{escape(text)}</text>'
