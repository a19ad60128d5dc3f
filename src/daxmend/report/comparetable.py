"""A comparison in words and tables: for a terminal, and for the documents."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from daxmend.report.compare import Case, Compared, Comparison
from daxmend.report.damage import Damage, Pattern
from daxmend.report.measure import Measure, Outcome
from daxmend.report.strategy import STRATEGIES
from daxmend.units import format_size

TITLES: Final = {strategy.key: strategy.title for strategy in STRATEGIES}
HEADS: Final = (
    "HEALED", "LOST", "EXTENTS", "MOVED", "LEFT BAD", "BY", "WRITES", "BYTES", "TIME",
)  # fmt: skip
LEGEND: Final = (
    "HEALED: pages, read back from the medium. LOST: good bytes of the bad pages. EXTENTS: of",
    "the file, before and after. MOVED: bytes that lie elsewhere now. LEFT BAD: bytes in free",
    "space, for the next file to find; with +, at least. BY: a user is anybody who may write the",
    "file. WRITES: requests that change something. BYTES: written and zeroed. TIME: of one repair.",
)


class Table(NamedTuple):
    """`rows` begin with a title; those of one more cell say in words why there are no others."""

    heads: tuple[str, ...]
    rows: list[tuple[str, ...]]


def main_damage(comparison: Comparison) -> Damage:
    """The one to show first: the most scattered pages that every file system could be given."""
    scattered = [each for each in comparison.damages if each.pattern is Pattern.SCATTERED]
    possible = [
        damage
        for damage in scattered or comparison.damages
        if not any(
            case.damage == damage and case.rounds[0].outcome is Outcome.UNDAMAGED
            for system in comparison.systems
            for case in system.cases
        )
    ]
    return max(possible or scattered or comparison.damages)


def main_table(system: Compared, damage: Damage) -> Table:
    """One row a strategy, of the first round."""
    rows = []
    for case in system.cases:
        if case.damage == damage:
            rows.append((TITLES[case.strategy], *cells(case.rounds[0], damage)))
    return Table(("STRATEGY", *HEADS), rows)


def cells(measure: Measure, damage: Damage) -> tuple[str, ...]:
    """The cells of `HEADS`, or one that says why there is nothing to say."""
    if measure.outcome is Outcome.CANNOT:
        return (f"cannot: {measure.why}",)
    if measure.outcome is Outcome.UNDAMAGED:
        return (f"not tried, that many cannot be made bad: {measure.why}",)
    is_all = measure.outcome is Outcome.HEALED
    assert measure.written is not None
    assert measure.zeroed is not None
    assert measure.seconds is not None
    return (
        "all" if is_all else f"{measure.healed} of {damage.pages}",
        _size(measure.lost),
        f"{_number(measure.extents_before)} -> {_number(measure.extents_after)}",
        _size(measure.moved),
        _size(measure.left) + ("+" if measure.left_why else ""),
        {"none": "user", "root": "root"}[measure.privilege or "none"],
        _number(measure.requests),
        _size(measure.written + measure.zeroed),
        _time(measure.seconds),
    )


def _size(length: int | None) -> str:
    if length is None:
        return "?"
    return format_size(length) if length else "0"


def _number(number: int | None) -> str:
    return "?" if number is None else str(number)


def _time(seconds: float) -> str:
    if seconds < 1:
        return f"{seconds * 1000:.3g} ms"
    return f"{seconds:.3g} s"


def sweep_table(system: Compared, damages: list[Damage]) -> Table:
    """Extents after the first round, a column for each damage."""
    heads = ["EXTENTS AFTER"]
    for damage, last in zip(damages, [None, *damages], strict=False):
        is_first = last is None or last.pattern is not damage.pattern
        heads.append(f"{damage.pages} {damage.pattern.upper()}" if is_first else str(damage.pages))
    rows = [
        (TITLES[key], *(_extents_after(cases, damage) for damage in damages))
        for key, cases in by_strategy(system).items()
    ]
    return Table(tuple(heads), rows)


def by_strategy(system: Compared) -> dict[str, list[Case]]:
    """The cases of each strategy, in the order in which they were played."""
    found: dict[str, list[Case]] = {}
    for case in system.cases:
        found.setdefault(case.strategy, []).append(case)
    return found


def _extents_after(cases: Iterable[Case], damage: Damage) -> str:
    for case in cases:
        if case.damage == damage:
            return _extents_cell(case.rounds[0])
    return "-"


def _extents_cell(measure: Measure) -> str:
    if measure.outcome in (Outcome.CANNOT, Outcome.UNDAMAGED):
        return "-"
    is_whole = measure.outcome is Outcome.HEALED
    return _number(measure.extents_after) + ("" if is_whole else " not healed")


def rounds_table(system: Compared, damage: Damage, rounds: int) -> Table:
    """Extents after each round of one damage."""
    heads = ("EXTENTS AFTER ROUND", *(str(number + 1) for number in range(rounds)))
    rows = []
    for case in system.cases:
        if case.damage == damage:
            found = [_extents_cell(each) for each in case.rounds]
            rows.append((TITLES[case.strategy], *found, *["-"] * (rounds - len(found))))
    return Table(heads, rows)


# -- which one -----------------------------------------------------------------------------


class Verdict(NamedTuple):
    """The strategy to use; `price` is what it costs all the same, or empty."""

    strategy: str
    price: str
    needs_root: bool = False


def verdicts(system: Compared) -> list[Verdict]:
    """The best strategy of those that any user has, then what root has that is better.

    Empty if nothing heals everything that it was tried on.
    """
    cases = by_strategy(system)
    ranked = [(rank, key) for key in cases if (rank := _rank(cases[key])) is not None]
    users = sorted(each for each in ranked if not _needs_root(cases[each[1]]))[:1]
    roots = sorted(each for each in ranked if _needs_root(cases[each[1]]))[:1]
    # What it writes is no reason to become root.
    better = [each for each in roots if not users or each[0][:_HARM] < users[0][0][:_HARM]]
    return [
        Verdict(TITLES[key], _price(rank, _tried(cases[key])), needs_root=is_root)
        for found, is_root in ((users, False), (better, True))
        for rank, key in found
    ]


def _tried(cases: list[Case]) -> list[Measure]:
    return [
        each
        for case in cases
        for each in case.rounds
        if each.outcome not in (Outcome.UNDAMAGED, Outcome.CANNOT)
    ]


def _needs_root(cases: list[Case]) -> bool:
    return any(each.privilege == "root" for each in _tried(cases))


def _rank(cases: list[Case]) -> tuple[int, ...] | None:
    """Small is good; None where it did not heal everything that it was tried on."""
    tried = _tried(cases)
    if not tried or any(each.outcome is not Outcome.HEALED for each in tried):
        return None
    return (
        sum(each.lost or 0 for each in tried),
        sum(each.left or 0 for each in tried),
        sum((each.extents_after or 0) - (each.extents_before or 0) for each in tried),
        sum(each.moved or 0 for each in tried),
        sum((each.written or 0) + (each.zeroed or 0) for each in tried),
        sum(each.requests or 0 for each in tried),
    )


_HARM: Final = 4  # of a rank: the rest is only work


def _price(rank: tuple[int, ...], tried: list[Measure]) -> str:
    lost, left, grown, moved = rank[:_HARM]
    said = []
    if lost:
        said.append("good bytes of the bad pages are lost")
    if left:
        said.append("bad blocks stay in free space")
    if grown > 0:
        said.append("the file falls to pieces")
    elif moved:
        said.append("the file moves")
    if any(each.moved is None for each in tried):  # unknown is not none (R44)
        said.append("where the file lies is not told")
    if not left and any(each.left_why for each in tried):
        said.append("what it leaves bad is not known")
    return ", ".join(said)


def verdict_lines(system: Compared) -> list[str]:
    """In words."""
    found = verdicts(system)
    if not found:
        return [f"{system.name}: nothing heals everything"]
    lines = []
    for strategy, price, needs_root in found:
        who = f"{system.name}, as root" if needs_root else system.name
        good = "heals all, loses nothing, moves nothing, leaves nothing bad"
        lines.append(f"{who}: {strategy} {f'heals all, but {price}' if price else good}")
    return lines


# -- text ----------------------------------------------------------------------------------


def format_text(comparison: Comparison) -> str:
    """Everything, for a terminal."""
    lines: list[str] = []
    damage = main_damage(comparison)
    for system in comparison.systems:
        size = format_size(comparison.size)
        lines += [f"{system.name} ({system.about}): {damage} of a file of {size}"]
        lines += [*format_table(main_table(system, damage)), ""]
        if len(comparison.damages) > 1:
            lines += [*format_table(sweep_table(system, comparison.damages)), ""]
        if comparison.rounds > 1:
            lines += [f"  {damage}, again and again:"]
            lines += [*format_table(rounds_table(system, damage, comparison.rounds)), ""]
    lines += [*LEGEND, ""]
    for name, why in comparison.left_out:
        lines.append(f"{name}: left out: {why}")
    for system in comparison.systems:
        lines += verdict_lines(system)
    return "\n".join(lines)


def format_table(table: Table) -> list[str]:
    """Columns, the first to the left, the others to the right; a lone cell runs on."""
    full = [row for row in (table.heads, *table.rows) if len(row) == len(table.heads)]
    widths = [max(map(len, column)) for column in zip(*full, strict=True)]
    widths[0] = max(len(row[0]) for row in (table.heads, *table.rows))
    lines = []
    for row in (table.heads, *table.rows):
        cells = row[1:]
        if len(row) == len(table.heads):
            cells = tuple(cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True))
        lines.append("  ".join(["", row[0].ljust(widths[0]), *cells]).rstrip())
    return lines


def format_markdown(table: Table) -> list[str]:
    """A table of the documents; a lone cell stands in the first column of numbers."""
    lines = [_markdown_row(table.heads), "|---" * len(table.heads) + "|"]
    for row in table.rows:
        lines.append(_markdown_row([*row, *[""] * (len(table.heads) - len(row))]))
    return lines


def _markdown_row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
