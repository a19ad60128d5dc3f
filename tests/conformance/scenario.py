"""Scenarios and what kernels did with them: the files in data/, and any others.

`DAXMEND_SCENARIOS=FILE[:FILE…]` adds files of the same shape. The result of a step may be missing:
then there is nothing to compare with, and the rules alone judge.
"""

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Step = dict[str, Any]
Result = dict[str, Any]

DATA = Path(__file__).with_name("data")
WRITES = frozenset({"pwrite", "pwritev"})


@dataclass(frozen=True)
class Observation:
    """What one kernel did with a scenario."""

    results: tuple[Result, ...]
    end: dict[str, Any] | None


@dataclass
class Scenario:
    """A name, steps, and by kernel (`6.1 ext4`) what was observed."""

    name: str
    steps: list[Step]
    why: str = ""
    observed: dict[str, Observation] = field(default_factory=dict)

    @property
    def writes(self) -> bool:
        """Whether a buffer's place in memory can matter (R50)."""
        return any(step["op"] in WRITES for step in self.steps)


def _label(record: dict[str, Any], path: Path) -> str:
    """`6.1 ext4`; the file's name where a record does not say its kernel."""
    if not record.get("kernel"):
        return path.stem
    return f"{'.'.join(str(record['kernel']).split('.')[:2])} {record.get('fs', '')}".strip()


def _observation(record: dict[str, Any]) -> Observation | None:
    results = [entry.get("result") for entry in record["steps"] if isinstance(entry, dict)]
    if any(result is None for result in results):
        return None
    return Observation(tuple(results), record.get("end"))


def load_scenarios(paths: Iterable[Path]) -> list[Scenario]:
    """The scenarios of the files, merged by name; a name stands for the same steps in all."""
    found: dict[str, Scenario] = {}
    for path in paths:
        for record in json.loads(path.read_text()):
            steps = [entry.get("step", entry) for entry in record["steps"]]
            why = record.get("why", "")
            scenario = found.setdefault(record["name"], Scenario(record["name"], steps, why))
            if scenario.steps != steps:
                raise ValueError(f"{path}: the steps of '{record['name']}' are not those of others")
            if (observation := _observation(record)) is not None:
                scenario.observed[_label(record, path)] = observation
    return list(found.values())


def scenario_files() -> list[Path]:
    """The recorded ones, and those that the environment names."""
    more = [Path(name) for name in os.environ.get("DAXMEND_SCENARIOS", "").split(":") if name]
    return [*sorted(DATA.glob("*.json")), *more]
