"""Plans applied to a directory, without a mount."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from daxmend.errors import UsageError
from daxmend.extent import Extent
from daxmend.faults import parse_fault
from daxmend.mounts.option import ShadowOptions
from daxmend.mounts.shadowmodel import ShadowModel
from daxmend.mounts.shadownode import ShadowNodes
from daxmend.units import PAGE


def ignore(*_: object) -> None:
    pass


@pytest.fixture
def top(tmp_path: Path) -> Path:
    (tmp_path / "short.db").write_bytes(bytes(PAGE))
    (tmp_path / "long.db").write_bytes(bytes(8 * PAGE))
    return tmp_path


@pytest.fixture
def model(top: Path) -> Iterator[ShadowModel]:
    root = os.open(top, os.O_PATH | os.O_DIRECTORY)
    nodes = ShadowNodes(root, ignore)
    yield ShadowModel(nodes, ShadowOptions(), ignore, lambda node: [])
    nodes.close()


def lines(model: ShadowModel) -> list[str]:
    return sorted(str(fault) for fault in model.plan())


def test_a_file_too_short_for_one_line_keeps_what_another_says_of_it(model: ShadowModel) -> None:
    model.apply_plan(f"/short.db 0 512 until-written\n*.db {4 * PAGE} 512 until-written\n")
    assert lines(model) == [
        f"/long.db {4 * PAGE} 512 until-written",
        "/short.db 0 512 until-written",
    ]


def test_files_that_are_too_short_for_a_pattern_are_not_even_opened(model: ShadowModel) -> None:
    model.apply_plan(f"*.db {4 * PAGE} 512 until-written\n")
    assert model.known() == 2  # the root, and the long one


@pytest.mark.parametrize("word", ["/short.db", "short.*"])
def test_a_fault_behind_the_end_of_all_that_match_is_refused_and_changes_nothing(
    model: ShadowModel, word: str
) -> None:
    with pytest.raises(UsageError, match=r"line 2.*(short\.db|short\.\*)"):
        model.apply_plan(f"/long.db 0 512 once\n{word} {PAGE} 512 until-written\n")
    assert lines(model) == []
    assert model.known() == 1  # what the first line was about is let go of


def test_each_file_that_matches_by_several_names_is_taken_once(
    model: ShadowModel, top: Path
) -> None:
    (top / "also.db").hardlink_to(top / "long.db")
    told: list[object] = []
    model.events.subscribe(told.append)
    model.apply_plan(f"*.db {4 * PAGE} 512 until-written\n")
    assert len(lines(model)) == len(told) == 1
    model.plan_removal("also*", Extent(0, 8 * PAGE))()
    assert lines(model) == []


def test_faults_are_taken_away_from_those_that_match(model: ShadowModel) -> None:
    model.apply_plan("*.db 0 512 until-written\n")
    model.plan_removal("/short.db", Extent(0, PAGE))()
    assert lines(model) == ["/long.db 0 512 until-written"]


def test_the_lines_of_one_write_follow_each_other(model: ShadowModel) -> None:
    """Each is read before the first is obeyed."""
    everything = Extent(0, 8 * PAGE)
    later = [
        model.plan_fault(parse_fault("/short.db 0 512 once")),
        model.plan_removal("*.db", everything),
        model.plan_removal("/short.db", everything),
        model.plan_fault(parse_fault("/short.db 512 512 latent")),
    ]
    for change in later:
        change()
    assert lines(model) == ["/short.db 512 512 latent"]
