"""A measure against planted results: what it says is what was done, by strategies that lie too."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from daxmend.errors import UnsupportedError
from daxmend.extent import Extent
from daxmend.report.damage import content
from daxmend.report.measure import (
    FILE_NAME,
    Measure,
    Outcome,
    joined,
    make_file,
    measure,
    moved_length,
    put_back,
)
from daxmend.report.strategy import STRATEGIES, Patient, Strategy
from daxmend.report.system import Left
from daxmend.rescue.target import FileExtent
from daxmend.units import PAGE, SECTOR

SIZE = 32 * PAGE
DATA = content(SIZE, 1)
BAD = [Extent(2 * PAGE + SECTOR, SECTOR), Extent(9 * PAGE, PAGE)]
BY_KEY = {strategy.key: strategy for strategy in STRATEGIES}


class PlainStage:
    """A directory whose files go bad by becoming zeros: nothing fails, and nothing is right."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def make_bad(self, path: Path, extents: list[Extent]) -> None:
        fd = os.open(path, os.O_WRONLY)
        for extent in extents:
            os.pwrite(fd, bytes(extent.length), extent.offset)
        os.close(fd)

    def left(self) -> Left:
        return Left(SECTOR, "for some reason")


@pytest.fixture
def stage(shm: Path) -> PlainStage:
    stage = PlainStage(shm)
    make_file(stage, DATA)
    return stage


def played(stage: PlainStage, repair: Callable[[Patient], None]) -> Measure:
    return measure(stage, Strategy("own", "own", "it has no own", repair), DATA, BAD)


@pytest.mark.parametrize("key", ["pwrite", "punch", "copy"])
def test_each_strategy_puts_every_byte_back(stage: PlainStage, key: str) -> None:
    found = measure(stage, BY_KEY[key], DATA, BAD)
    assert found.outcome is Outcome.HEALED
    assert (found.healed, found.lost, found.privilege) == (2, 0, "none")
    assert (found.left, found.left_why) == (SECTOR, "for some reason")
    assert (stage.directory / FILE_NAME).read_bytes() == DATA
    assert os.listdir(stage.directory) == [FILE_NAME]


def test_writes_are_counted(stage: PlainStage) -> None:
    assert measure(stage, BY_KEY["pwrite"], DATA, BAD)[-3:] == (2, 2 * PAGE, 0)
    assert measure(stage, BY_KEY["punch"], DATA, BAD)[-3:] == (4, 2 * PAGE, 0)
    found = measure(stage, BY_KEY["copy"], DATA, BAD)  # to make it, to write it, to rename it
    assert found[-3:] == (3, SIZE, 0)


@pytest.mark.parametrize("key", ["zeroinit", "zeroout"])
def test_what_a_file_system_lacks_is_told_and_has_changed_nothing(
    stage: PlainStage, key: str
) -> None:
    found = measure(stage, BY_KEY[key], DATA, BAD)
    assert found.outcome is Outcome.CANNOT
    assert BY_KEY[key].lacking in found.why
    assert found.privilege is None


def test_a_strategy_that_does_nothing_has_failed(stage: PlainStage) -> None:
    found = played(stage, lambda patient: None)
    assert (found.outcome, found.healed, found.lost) == (Outcome.FAILED, 0, 0)


def test_a_strategy_that_repairs_one_page_did_so_partly(stage: PlainStage) -> None:
    def one(patient: Patient) -> None:
        extent, right = patient.lost[0]
        patient.write(extent.offset, right)

    found = played(stage, one)
    assert (found.outcome, found.healed, found.lost) == (Outcome.PARTLY, 1, 0)


def test_good_bytes_that_are_thrown_away_are_counted_to_the_byte(stage: PlainStage) -> None:
    def careless(patient: Patient) -> None:
        for extent, right in patient.lost:
            page = extent.widened(PAGE)
            data = bytearray(PAGE)
            data[extent.offset - page.offset :][: extent.length] = right
            patient.write(page.offset, data)
            patient.write(extent.offset, right)
        patient.write(20 * PAGE, b"\0" * 7)  # and of a page that nothing was wrong with

    found = played(stage, careless)
    assert found.outcome is Outcome.HEALED
    assert found.lost == PAGE - SECTOR + 7


def test_what_was_lost_is_put_back_for_the_next_round(stage: PlainStage) -> None:
    path = stage.directory / FILE_NAME
    path.write_bytes(DATA[:PAGE] + bytes(3 * PAGE) + DATA[4 * PAGE :])
    put_back(stage, DATA)
    assert path.read_bytes() == DATA


def test_an_error_in_the_middle_is_told_with_what_was_done(stage: PlainStage) -> None:
    def dies(patient: Patient) -> None:
        extent, right = patient.lost[0]
        patient.write(extent.offset, right)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    found = played(stage, dies)
    assert (found.outcome, found.healed) == (Outcome.PARTLY, 1)
    assert found.why == "Input/output error (EIO)"


def test_a_verb_that_is_missing_after_something_was_written_has_failed(stage: PlainStage) -> None:
    def halfway(patient: Patient) -> None:
        patient.write(0, DATA[:1])
        raise OSError(errno.ENOTTY, os.strerror(errno.ENOTTY))

    assert played(stage, halfway).outcome is Outcome.FAILED


def test_a_stage_that_cannot_be_damaged_says_why(
    stage: PlainStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, extents: list[Extent]) -> None:
        raise UnsupportedError("the record is full")

    monkeypatch.setattr(stage, "make_bad", full)
    found = played(stage, lambda patient: None)
    assert (found.outcome, found.why) == (Outcome.UNDAMAGED, "the record is full")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can find out what root alone can do")
def test_what_a_user_may_not_do_is_tried_by_root_and_said(stage: PlainStage) -> None:
    users = []

    def privileged(patient: Patient) -> None:
        users.append(os.geteuid())
        if os.geteuid() != 0:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        for extent, right in patient.lost:
            patient.write(extent.offset, right)

    found = played(stage, privileged)
    assert (found.outcome, found.privilege) == (Outcome.HEALED, "root")
    assert users[0] != 0
    assert users[1] == 0
    assert os.geteuid() == 0


def test_extents_that_adjoin_in_everything_are_one() -> None:
    parts = [
        FileExtent(0, 100, 10, True),
        FileExtent(10, 110, 10, True),
        FileExtent(20, 120, 10, False),
        FileExtent(30, 500, 10, False),
        FileExtent(45, 515, 10, False),
    ]
    assert joined(parts) == [FileExtent(0, 100, 20, True), *parts[2:]]


def test_bytes_that_lie_elsewhere_have_moved() -> None:
    before = [FileExtent(0, 1000, 100, True), FileExtent(100, 5000, 50, True)]
    assert moved_length(before, before) == 0
    cut = [
        FileExtent(0, 1000, 30, True),
        FileExtent(30, 9000, 20, True),
        FileExtent(50, 1050, 50, True),
        FileExtent(110, 5010, 40, False),
    ]
    assert moved_length(before, cut) == 20 + 10
    assert moved_length(before, []) == 150
