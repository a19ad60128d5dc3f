"""The same file, the same damage, repaired by each strategy on each file system."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from daxmend.errors import DaxmendError
from daxmend.report.damage import Damage, Pattern, bad_sectors, content
from daxmend.report.measure import Measure, Outcome, make_file, measure, put_back
from daxmend.report.strategy import Strategy
from daxmend.report.system import System

Progress = Callable[[str], None]  # told what is played next


class Case(NamedTuple):
    """One strategy, one damage: a measure for each round, in which other pages of the same file
    go bad. The rounds end with the first that did not heal; what one lost is put back."""

    strategy: str
    damage: Damage
    rounds: list[Measure]


class Compared(NamedTuple):
    """All cases of one file system."""

    name: str
    about: str
    cases: list[Case]


class Comparison(NamedTuple):
    """`left_out` are file systems that could not be had, and why; `root` is who compared."""

    kernel: str
    root: bool
    size: int
    seed: int
    rounds: int
    damages: list[Damage]
    systems: list[Compared]
    left_out: list[tuple[str, str]]


class Question(NamedTuple):
    """What is to be compared: a file of `size` bytes, the damages, how many rounds."""

    size: int
    seed: int
    rounds: int
    damages: list[Damage]
    strategies: tuple[Strategy, ...]


def compare_system(system: System, question: Question, progress: Progress) -> Compared:
    """Every damage by every strategy, each on a new stage.

    Raises what keeps a stage from being made; nothing is left then.
    """
    data = content(question.size, question.seed)
    cases = []
    for strategy in question.strategies:
        lacking: Measure | None = None
        for damage in question.damages:
            progress(f"{system.name}: {strategy.title}, {damage}")
            if lacking is None:
                rounds = list(_rounds(system, strategy, damage, data, question))
                if rounds[-1].outcome is Outcome.CANNOT:
                    lacking = rounds[-1]
            else:  # what is not there for one page is not there for a hundred
                rounds = [lacking]
            cases.append(Case(strategy.key, damage, rounds))
    return Compared(system.name, system.about, cases)


def _rounds(
    system: System, strategy: Strategy, damage: Damage, data: bytes, question: Question
) -> Iterator[Measure]:
    with system.stage() as stage:
        make_file(stage, data)
        for number in range(question.rounds):
            bad = bad_sectors(damage, question.size, question.seed + number)
            found = measure(stage, strategy, data, bad)
            yield found
            if found.outcome is not Outcome.HEALED:
                return
            if found.lost:
                put_back(stage, data)


def compare(
    systems: Iterator[System | tuple[str, str]], question: Question, progress: Progress
) -> Comparison:
    """All of it. A system that cannot be had is left out: its name, and why (R44)."""
    found: list[Compared] = []
    left_out: list[tuple[str, str]] = []
    for system in systems:
        if isinstance(system, tuple):
            left_out.append(system)
            continue
        try:
            found.append(compare_system(system, question, progress))
        except (DaxmendError, OSError) as error:
            left_out.append((system.name, str(error)))
    root = os.geteuid() == 0
    return Comparison(
        os.uname().release,
        root,
        question.size,
        question.seed,
        question.rounds,
        question.damages,
        found,
        left_out,
    )


# -- the document --------------------------------------------------------------------------


def as_document(comparison: Comparison) -> dict[str, Any]:
    """JSON types; `parse_document` reads it back."""
    return {
        **comparison._asdict(),
        "damages": [damage._asdict() for damage in comparison.damages],
        "systems": [
            {
                **system._asdict(),
                "cases": [
                    {
                        "strategy": case.strategy,
                        **case.damage._asdict(),
                        "rounds": [each._asdict() for each in case.rounds],
                    }
                    for case in system.cases
                ],
            }
            for system in comparison.systems
        ],
        "left_out": [{"name": name, "why": why} for name, why in comparison.left_out],
    }


def parse_document(document: dict[str, Any]) -> Comparison:
    """The comparison of a stored document."""
    return Comparison(
        **{
            **document,
            "damages": [_damage(each) for each in document["damages"]],
            "systems": [_compared(each) for each in document["systems"]],
            "left_out": [(each["name"], each["why"]) for each in document["left_out"]],
        }
    )


def _damage(document: dict[str, Any]) -> Damage:
    return Damage(document["pages"], Pattern(document["pattern"]))


def _compared(document: dict[str, Any]) -> Compared:
    cases = [
        Case(
            case["strategy"],
            _damage(case),
            [Measure(**{**each, "outcome": Outcome(each["outcome"])}) for each in case["rounds"]],
        )
        for case in document["cases"]
    ]
    return Compared(document["name"], document["about"], cases)
