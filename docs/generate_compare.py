"""Makes the tables of docs/compare.md and README.md, and the picture, from docs/compare/*.json.

    ./run test-kernel --results DIR -k compare
    .venv/bin/python docs/generate_compare.py DIR

takes the results of both kernels into docs/compare first. Without DIR the stored ones are used. A
test compares.
"""

import json
import re
import sys
from pathlib import Path

from daxmend.report.compare import Compared, Comparison, parse_document
from daxmend.report.comparetable import (
    TITLES,
    Table,
    format_markdown,
    main_damage,
    main_table,
    rounds_table,
    sweep_table,
    verdict_lines,
    verdicts,
)
from daxmend.report.damage import Damage
from daxmend.report.measure import Measure, Outcome
from daxmend.report.plot import draw
from daxmend.units import format_size

DOCS = Path(__file__).parent
STORED = DOCS / "compare"
PAGE = DOCS / "compare.md"
README = DOCS.parent / "README.md"
PICTURE = STORED / "strategies.svg"
KINDS = ("compare", "compare-many")

_BEGIN = "<!-- made by docs/generate_compare.py from docs/compare -->\n"
_END = "<!-- end -->\n"


def stored() -> list[str]:
    """Of which kernels there are results; the first is the one that picture and README show."""
    names = [path.name.split("-")[1] for path in STORED.glob("linux-*-compare.json")]
    return sorted(names, key=lambda name: [int(part) for part in name.split(".")], reverse=True)


def load(series: str, kind: str) -> Comparison:
    """A stored result."""
    return parse_document(json.loads((STORED / f"linux-{series}-{kind}.json").read_text()))


def has(series: str, kind: str) -> bool:
    """Whether that is stored."""
    return (STORED / f"linux-{series}-{kind}.json").exists()


def document() -> str:
    """The whole page: its tables are made anew, what stands around them stays."""
    head, _, rest = PAGE.read_text().partition(_BEGIN)
    _, _, tail = rest.partition(_END)
    tables = "".join(_results(each, is_first=each == stored()[0]) for each in stored())
    return head + _BEGIN + tables + _END + tail


def readme() -> str:
    """README.md with its table made anew."""
    head, _, rest = README.read_text().partition(_BEGIN)
    _, _, tail = rest.partition(_END)
    return (
        head + _BEGIN + "\n".join(_brief_table(load(stored()[0], "compare"))) + "\n" + _END + tail
    )


def _brief_table(found: Comparison) -> list[str]:
    """A row for each strategy, a column for each file system."""
    damage = main_damage(found)
    rows: dict[str, list[str]] = {}
    for system in found.systems:
        best = verdicts(system)[0].strategy
        for case in system.cases:
            if case.damage == damage:
                title = TITLES[case.strategy]
                said = _brief(case.rounds[0])
                rows.setdefault(title, [title]).append(f"**{said}**" if title == best else said)
    heads = (f"{damage} repaired by", *(system.name for system in found.systems))
    return format_markdown(Table(heads, [tuple(row) for row in rows.values()]))


def _brief(measure: Measure) -> str:
    """What matters of a repair, in a few words."""
    if measure.outcome is not Outcome.HEALED:
        return "cannot" if measure.outcome is Outcome.CANNOT else "does not heal"
    said = ["in place"]
    if measure.moved:
        count = measure.extents_after or 0
        is_more = count > 2 * (measure.extents_before or 0)
        said = [f"{count} extents" if is_more else f"{format_size(measure.moved)} move"]
    lost, left = measure.lost or 0, measure.left or 0
    said.append(f"{format_size(lost)} of good bytes lost" if lost else "nothing lost")
    said += [f"{format_size(left)} left bad in free space"] if left else []
    said += ["only by root"] if measure.privilege == "root" else []
    return ", ".join(said)


def _results(series: str, *, is_first: bool) -> str:
    found = load(series, "compare")
    damage, size = main_damage(found), format_size(found.size)
    lines = [f"## Linux {found.kernel}: {damage}, in a file of {size}", ""]
    for system in found.systems:
        lines += [f"**{system.name}** ({system.about})", ""]
        lines += [*format_markdown(main_table(system, damage)), ""]
    lines += ["The command says of it:", "", "```"]
    lines += [line for system in found.systems for line in verdict_lines(system)]
    lines += ["```", ""]
    if is_first:
        lines += _growth(found, damage)
        lines += _many(load(series, "compare-many")) if has(series, "compare-many") else []
    return "\n".join(lines) + "\n"


def _growth(found: Comparison, damage: Damage) -> list[str]:
    lines = ["### More and more pages", "", "Extents of the file after the repair; one before.", ""]
    for system in found.systems:
        lines += _titled(system, sweep_table(system, found.damages))
    lines += [f"### Again and again: {damage} each time", "", "Extents after each round.", ""]
    for system in found.systems:
        lines += _titled(system, rounds_table(system, damage, found.rounds))
    return lines


def _many(found: Comparison) -> list[str]:
    lines = [f"### A thousand pages, in a file of {format_size(found.size)}", ""]
    for damage in found.damages:
        for system in found.systems:
            table = main_table(system, damage)
            lines += [f"**{system.name}**, {damage}", "", *format_markdown(table), ""]
    return lines


def _titled(system: Compared, table: Table) -> list[str]:
    return [f"**{system.name}**", "", *format_markdown(table), ""]


def take(results: Path) -> None:
    """What `./run test-kernel --results` left: into the stored results."""
    for found in sorted(results.glob("*/compare*.json")):
        series = re.match(r"\d+\.\d+", found.parent.name)
        if series is not None and found.stem in KINDS:
            text = json.dumps(json.loads(found.read_text()), separators=(",", ":"))
            (STORED / f"linux-{series[0]}-{found.stem}.json").write_text(text + "\n")


if __name__ == "__main__":
    for name in sys.argv[1:]:
        take(Path(name))
    PAGE.write_text(document())
    README.write_text(readme())
    PICTURE.write_text(draw(load(stored()[0], "compare")))
