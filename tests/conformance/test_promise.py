"""The model of the rules and the judge alone, without a mount."""

import copy
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from answer import same_answer
from judge import Allocator, Transcript, ideal, judge
from own import generated_scenarios, own_scenarios
from promise import Model
from replay import Replay
from scenario import DATA, Scenario, load_scenarios
from score import Score

RECORDED = load_scenarios(sorted(DATA.glob("*.json")))
OWN = own_scenarios()
MODES = ["direct", "cached"]
OPS = {
    "inject", "pread", "pwrite", "preadv", "pwritev", "fallocate", "load", "store", "truncate",
    "fsync", "unlink", "remount", "other_file_write", "copy_range", "sendfile", "bdev_pread",
    "bdev_pwrite", "bdev_zeroout",
}  # fmt: skip


def _name(scenario: Scenario) -> str:
    return scenario.name


def _failures(scenario: Scenario, mode: str, transcript: Transcript) -> list[str]:
    verdicts = judge(scenario, mode, transcript)
    return [text for verdict in verdicts for text in verdict.failures]


# -- against the kernels' observations -----------------------------------------------------


def test_there_are_34_recorded_scenarios_each_of_four_kernels() -> None:
    assert len(RECORDED) == 34
    kernels = {"6.1 ext4", "6.1 xfs", "6.12 ext4", "6.12 xfs"}
    assert all(set(scenario.observed) == kernels for scenario in RECORDED)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("scenario", RECORDED, ids=_name)
def test_a_rule_explains_every_difference_from_every_kernel(
    scenario: Scenario, mode: str, scores: dict[str, Score]
) -> None:
    for kernel, seen in scenario.observed.items():
        alone = Scenario(scenario.name, scenario.steps, scenario.why, {kernel: seen})
        verdicts = judge(alone, mode, ideal(alone, mode, seen))
        assert [text for verdict in verdicts for text in verdict.failures] == []
        scores.setdefault(f"the rules alone, {kernel}, open={mode}", Score()).add(
            scenario.name, verdicts
        )


@pytest.mark.parametrize("mode", MODES)
def test_a_difference_that_no_rule_allows_is_a_failure(mode: str) -> None:
    for scenario in RECORDED:
        kernel, seen = next(iter(scenario.observed.items()))
        if scenario.name == "collapse_range":
            continue
        results = [copy.deepcopy(result) for result in seen.results]
        results[0]["bad_after"] = [*results[0]["bad_after"], 99_999]
        strange = Scenario(scenario.name, scenario.steps)
        strange.observed[kernel] = type(seen)(tuple(results), seen.end)
        assert _failures(strange, mode, ideal(strange, mode)), scenario.name


# -- planted damage: the judge sees it -------------------------------------------------------


def _damaged_results(result: dict) -> Iterator[tuple[str, dict]]:
    if "ret" in result:
        yield "one more", {**result, "ret": result["ret"] + 1}
        yield "an error", {"errno": "EIO", "bad_after": result["bad_after"]}
        yield "another close", {**result, "close": "ENOSPC"}
    if "errno" in result:
        yield "another error", {**result, "errno": "EFAULT"}
        yield "no error", {"ret": 0, "bad_after": result["bad_after"]}
    if result.get("data", "?") != "?":
        yield "other data", {**result, "data": result["data"] + " !*1"}
    if "signal" in result:
        yield "another address", {**result, "si_addr_offset": result["si_addr_offset"] + 1}
        yield "no signal", {"ok": "load ok A", "bad_after": result["bad_after"]}
    if "ok" in result:
        yield "another byte", {**result, "ok": "load ok ?"}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("scenario", [*RECORDED, *OWN], ids=_name)
def test_the_ideal_mount_passes_and_one_with_a_fault_does_not(
    scenario: Scenario, mode: str
) -> None:
    alone = Scenario(scenario.name, scenario.steps)
    transcript = ideal(alone, mode)
    assert _failures(alone, mode, transcript) == []
    model = Model(mode)
    for step, done in zip(scenario.steps, transcript.steps, strict=True):
        promise = model.apply(step)
        assert promise.complaints({**done.result, "bad_after": [*promise.bad, 99_999]})
        for what, result in _damaged_results(done.result):
            accepted = any(same_answer(answer, result) for answer in promise.answers)
            is_left_free = len(promise.answers) > 1 and accepted
            assert promise.complaints(result) or is_left_free, (step, what)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("scenario", RECORDED, ids=_name)
def test_another_end_is_a_failure(scenario: Scenario, mode: str) -> None:
    alone = Scenario(scenario.name, scenario.steps)
    transcript = ideal(alone, mode)
    for key, value in transcript.end.items():
        other = value + 1 if isinstance(value, int) else [*value, 99]
        end = {**transcript.end, key: other}
        assert _failures(alone, mode, Transcript(transcript.steps, end)), key


@pytest.mark.parametrize("start", [0, 64, 1000])
@pytest.mark.parametrize("clears", [False, True])
def test_wherever_the_allocator_puts_pages_the_ideal_mount_passes(start: int, clears: bool) -> None:
    for scenario in [*RECORDED, *OWN]:
        alone = Scenario(scenario.name, scenario.steps)
        transcript = ideal(alone, "cached", allocator=Allocator(start, clears=clears))
        assert _failures(alone, "cached", transcript) == [], scenario.name


def test_every_difference_stands_in_the_docs() -> None:
    """Each rule that explains a recorded difference has its line in docs/differences.md."""
    used = set()
    for scenario in RECORDED:
        for kernel, seen in scenario.observed.items():
            alone = Scenario(scenario.name, scenario.steps, "", {kernel: seen})
            for mode in MODES:
                for verdict in judge(alone, mode, ideal(alone, mode, seen)):
                    used.update(verdict.kernels[kernel])
    text = (Path(__file__).parents[2] / "docs" / "differences.md").read_text()
    rules = {rule for rule in used if rule.startswith("R")}
    assert {rule for rule in rules if f"| {rule} |" not in text} == set()


def _mapped_model() -> Model:
    model = Model("direct")
    model.apply({"op": "inject", "sector": 96, "count": 1})
    model.apply({"op": "fallocate", "mode": "punch", "off": 49152, "len": 4096})
    return model


def _mapping(**changes: tuple[int, str] | None) -> dict[int, tuple[int, str]]:
    mapping = {page: (page, "written") for page in range(64)}
    for page, place in changes.items():
        mapping.pop(int(page[1:]))
        if place is not None:
            mapping[int(page[1:])] = place
    return mapping


def test_a_page_that_moves_is_seen_r14() -> None:
    model = Model("direct")
    assert model.adopt([], {"file": _mapping()}) == []
    assert model.adopt([], {"file": _mapping(p3=(77, "written"))})
    assert model.adopt([], {"file": _mapping(p3=(3, "unwritten"))})
    assert model.adopt([], {"file": _mapping(p3=None)})


def test_a_freed_bad_page_may_be_reused_only_when_it_is_clear_r31() -> None:
    write = {"op": "pwrite", "off": 49152, "len": 4096, "byte": "D"}
    for bad, place, is_right in (
        ([96], 12, False), ([96], 70, True), ([], 12, True), ([], 11, False),
    ):  # fmt: skip
        model = _mapped_model()
        model.apply(write)
        assert (model.adopt(bad, {"file": _mapping(p12=(place, "written"))}) == []) is is_right


def test_a_cleared_sector_does_not_come_back_r8() -> None:
    model = _mapped_model()
    model.adopt([], None)
    promise = model.apply({"op": "fsync"})
    assert promise.complaints({"ret": 0, "bad_after": []}) == []
    assert promise.complaints({"ret": 0, "bad_after": [96]})


def test_free_space_that_is_never_cleared_is_a_failure_r31() -> None:
    steps = [
        {"op": "inject", "sector": 96, "count": 1},
        {"op": "fallocate", "mode": "punch", "off": 49152, "len": 4096},
    ]
    scenario = Scenario("punched", steps)
    transcript = ideal(scenario, "direct")
    assert _failures(scenario, "direct", transcript) == []
    kept = Transcript(transcript.steps, transcript.end, (96,))
    assert any("R31" in text for text in _failures(scenario, "direct", kept))


# -- our own scenarios -----------------------------------------------------------------------


def test_our_own_scenarios_are_many_and_use_every_operation() -> None:
    assert len(OWN) >= 40
    generated = generated_scenarios(2021, 60)
    assert {step["op"] for scenario in generated for step in scenario.steps} == OPS
    modes = {step.get("mode") for scenario in generated for step in scenario.steps}
    assert modes >= {"alloc", "punch", "zero", "collapse", "insert", "write_zeroes"}


def test_a_seed_makes_the_same_scenarios_again() -> None:
    one, two = generated_scenarios(7, 5), generated_scenarios(7, 5)
    assert [s.steps for s in one] == [s.steps for s in two]
    assert one[0].steps != generated_scenarios(8, 5)[0].steps


# -- the replay's system calls, on tmpfs, where nothing is ever bad ----------------------------


class PlainDirectory:
    """A target without poison, record and extents: POSIX alone."""

    def __init__(self, directory: Path, helper: Path) -> None:
        self.directory = directory
        self.helper = helper
        self.device = Path("/nonexistent")

    def read_badblocks(self) -> list[tuple[int, int]]:
        return []

    def inject(self, sector: int) -> None:
        raise AssertionError("nothing can be injected here")

    def mapping(self, path: Path) -> None:
        return None

    def remount(self) -> None:
        pass


def _is_plain(step: dict) -> bool:
    """What tmpfs can do, and does as every file system."""
    if step["op"].startswith("bdev") or step["op"] == "inject":
        return False
    return step.get("mode") in (None, "alloc", "punch") and not step.get("direct")


@pytest.mark.parametrize("buffer", ["aligned", "unaligned", "untouched"])
@pytest.mark.parametrize("scenario", generated_scenarios(1, 40), ids=_name)
def test_without_faults_the_model_is_what_tmpfs_does(
    scenario: Scenario, buffer: str, shm: Path, helper: Path
) -> None:
    plain = Scenario(scenario.name, [step for step in scenario.steps if _is_plain(step)])
    transcript = Replay(PlainDirectory(shm, helper), buffer).run(plain)
    end = {"size": transcript.end["size"]} if transcript.end else {}
    model_end = judge(plain, "direct", transcript, buffer)[:-1]
    assert [text for verdict in model_end for text in verdict.failures] == []
    assert end == transcript.end
    assert set(os.listdir(shm)) <= {"file", "other"}
