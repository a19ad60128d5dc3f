"""Every recorded scenario, and our own, replayed through real system calls on a mount.

The answer to each step must be what the rules promise; where a kernel did otherwise, a rule must
allow it. The score is printed at the end.

    pytest tests/conformance                               all of it, and the score
    DAXMEND_SCENARIOS=FILE[:FILE] pytest …                 more recorded scenarios
    DAXMEND_CONFORMANCE_SEED=N DAXMEND_CONFORMANCE_COUNT=N pytest …    other generated ones
"""

from pathlib import Path

import pytest
from judge import judge
from mount import TABLES, replay_on_mount
from own import own_scenarios
from scenario import Scenario, load_scenarios, scenario_files
from score import Score

pytestmark = [pytest.mark.timeout(120, method="signal"), pytest.mark.usefixtures("mounts")]

RECORDED = load_scenarios(scenario_files())
OWN = own_scenarios()
WRITING = [scenario for scenario in [*RECORDED, *OWN] if scenario.writes]


def _name(scenario: Scenario) -> str:
    return scenario.name


def _replay_and_judge(
    scenario: Scenario,
    mode: str,
    helper: Path,
    score: Score,
    buffer: str = "aligned",
    table: str | None = None,
) -> None:
    transcript = replay_on_mount(scenario, mode, helper, buffer, table)
    verdicts = judge(scenario, mode, transcript, buffer)
    score.add(scenario.name, verdicts)
    failures = [text for verdict in verdicts for text in verdict.failures]
    assert not failures, "\n".join([scenario.why, *failures])


@pytest.mark.parametrize("scenario", RECORDED, ids=_name)
def test_the_mount_does_in_a_recorded_scenario_what_the_rules_promise(
    scenario: Scenario, mode: str, helper: Path, scores: dict[str, Score]
) -> None:
    score = scores.setdefault(f"recorded, open={mode}", Score())
    _replay_and_judge(scenario, mode, helper, score)


@pytest.mark.parametrize("scenario", OWN, ids=_name)
def test_the_mount_does_in_an_unseen_scenario_what_the_rules_promise(
    scenario: Scenario, mode: str, helper: Path, scores: dict[str, Score]
) -> None:
    score = scores.setdefault(f"our own, open={mode}", Score())
    _replay_and_judge(scenario, mode, helper, score)


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("scenario", RECORDED, ids=_name)
def test_a_mapped_device_below_changes_no_answer_r36(
    scenario: Scenario, mode: str, table: str, helper: Path, scores: dict[str, Score]
) -> None:
    score = scores.setdefault(f"recorded, over {table}, open={mode}", Score())
    _replay_and_judge(scenario, mode, helper, score, table=table)


@pytest.mark.parametrize("scenario", WRITING, ids=_name)
@pytest.mark.parametrize("buffer", ["unaligned", "untouched"])
def test_it_does_not_matter_where_the_written_data_lies_r50(
    scenario: Scenario, mode: str, buffer: str, helper: Path, scores: dict[str, Score]
) -> None:
    score = scores.setdefault(f"{buffer} buffers, open={mode}", Score())
    _replay_and_judge(scenario, mode, helper, score, buffer)
