"""Prints docs/performance.md with the tables of the last whole `./run bench`; redirect it there.

What stands around the tables stays as it is.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_PAGE = Path(__file__).with_name("performance.md")
_RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"
_BEGIN = "<!-- made by docs/generate_performance.py from benchmarks/results -->\n"
_END = "<!-- end -->\n"

_TITLES = {
    "guard": "Guards",
    "device": "The device",
    "record": "The record",
    "mapped": "Mapped devices",
    "mount": "The raw mount",
    "files": "Files",
    "salvage": "Salvage",
    "scrub": "Scrub",
    "replica": "A replica of PMDK's",
    "shadow": "Shadow mounts",
    "locate": "Locate",
}

_Entries = list[dict[str, Any]]


def document() -> str:
    """The whole page."""
    head, _, rest = _PAGE.read_text().partition(_BEGIN)
    _, _, tail = rest.partition(_END)
    newest = max(_RESULTS.glob("*.json"))
    return head + _BEGIN + _tables(json.loads(newest.read_text())) + _END + tail


def _tables(run: dict[str, Any]) -> str:
    machine, peers = run["machine"], run["peers"]
    goals = [entry.get("met") for entries in run["parts"].values() for entry in entries]
    lines = [
        f"{run['date']}, commit {run['commit']}, {run['seconds'] // 60 + 1} minutes: "
        f"{machine['cpus']} CPUs {machine['cpu']}, {machine['memory_gib']:g} GiB, "
        f"Linux {machine['kernel']}, Python {machine['python']}; "
        f"the load was {machine['load_before']:g} before it.",
        f"Peers: {', '.join(f'{name} {version}' for name, version in peers.items())}.",
        f"Goals: {goals.count(True)} met, {goals.count(False)} missed (bold).",
    ]
    for part, entries in run["parts"].items():
        lines += ["", f"### {_TITLES[part]}"]
        for table in (_rows, _measures, _notes):
            made = list(table(entries))
            lines += ["", *made] if made else []
    return "\n".join(lines) + "\n"


def _rows(entries: _Entries) -> Iterator[str]:
    rows = [entry for entry in entries if "ratio" in entry]
    if rows:
        yield "| what | ours | peer | ratio | goal |"
        yield "|---|---|---|---|---|"
    for row in rows:
        ratio = _bold_if_missed(f"{row['ratio']:.3g}", row["met"])
        goal = "" if row["goal"] is None else f"{row['goal']:.3g}"
        peer = f"{row['peer']} {_seconds(row['peer_s'])}"
        yield f"| {row['name']} | {_seconds(row['ours_s'])} | {peer} | {ratio} | {goal} |"


def _measures(entries: _Entries) -> Iterator[str]:
    measures = [entry for entry in entries if "value" in entry]
    if measures:
        yield "| what | measured | at most |"
        yield "|---|---|---|"
    for each in measures:
        value = _bold_if_missed(f"{each['value']:.3g} {each['unit']}", each["met"])
        yield f"| {each['name']} | {value} | {each['limit']:g} {each['unit']} |"


def _notes(entries: _Entries) -> Iterator[str]:
    yield from (f"- {entry['note']}" for entry in entries if "note" in entry)


def _bold_if_missed(text: str, met: bool | None) -> str:
    return f"**{text}**" if met is False else text


def _seconds(value: float) -> str:
    """`1.13 µs`, `4.8 ms`."""
    for factor, unit in ((1, "s"), (1e3, "ms"), (1e6, "µs")):
        if value * factor >= 1:
            return f"{value * factor:.3g} {unit}"
    return f"{value * 1e9:.3g} ns"


if __name__ == "__main__":
    sys.stdout.write(document())
