"""What a strategy has in its hands, and what each asks of the file."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from daxmend.extent import Extent
from daxmend.host import zeroing
from daxmend.report import strategy
from daxmend.report.damage import content
from daxmend.report.strategy import Lost, Patient
from daxmend.units import MIB, PAGE, SECTOR

SIZE = 3 * MIB
DATA = content(SIZE, 1)
BAD = [Extent(PAGE + SECTOR, SECTOR), Extent(PAGE + 4 * SECTOR, SECTOR), Extent(MIB, 2 * MIB)]


@pytest.fixture
def patient(shm: Path) -> Iterator[Patient]:
    (shm / "file").write_bytes(bytes(SIZE))
    directory = os.open(shm, os.O_RDONLY)
    lost = [Lost(each, DATA[each.offset : each.end]) for each in BAD]
    with Patient(directory, "file", lost) as patient:
        yield patient
    os.close(directory)


def test_bad_pages_that_adjoin_are_one_run_of_at_most_a_mebibyte(patient: Patient) -> None:
    assert list(patient.bad_runs()) == [
        Extent(PAGE, PAGE),
        Extent(MIB, MIB),
        Extent(2 * MIB, MIB),
    ]


def test_the_copys_bytes_are_put_where_it_is_bad_and_nowhere_else(patient: Patient) -> None:
    found = patient.read_around(Extent(PAGE, PAGE))
    wanted = bytearray(PAGE)
    for each in BAD[:2]:
        wanted[each.offset - PAGE : each.end - PAGE] = DATA[each.offset : each.end]
    assert found == wanted


def test_of_a_long_bad_range_each_part_gets_its_own_bytes(patient: Patient) -> None:
    assert patient.read_around(Extent(2 * MIB, PAGE)) == DATA[2 * MIB : 2 * MIB + PAGE]


@pytest.mark.parametrize(
    ("repair", "verb"),
    [
        (strategy.zeroinit, "zeroinit"),
        (strategy.zero_range, "zero_range"),
        (strategy.punch, "punch_hole"),
        (strategy.zeroout, "zeroout_below"),
    ],
)
def test_the_verb_comes_before_the_write_of_each_range(
    patient: Patient, monkeypatch: pytest.MonkeyPatch, repair: object, verb: str
) -> None:
    asked: list[tuple[str, int]] = []
    pwrite = os.pwrite

    def counted(fd: int, data: bytes, offset: int) -> int:
        asked.append(("write", offset))
        return pwrite(fd, data, offset)

    monkeypatch.setattr(zeroing, verb, lambda fd, extent: asked.append((verb, extent.offset)))
    monkeypatch.setattr(os, "pwrite", counted)
    assert callable(repair)
    repair(patient)
    ranges = BAD if repair is strategy.zeroout else list(patient.bad_runs())
    assert asked == [(what, each.offset) for each in ranges for what in (verb, "write")]
    assert patient.requests == len(asked)


def test_a_copy_that_fails_leaves_nothing_and_the_old_file(
    patient: Patient, shm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError("no rename today")

    monkeypatch.setattr(os, "rename", full)
    with pytest.raises(OSError, match="no rename"):
        strategy.copy_and_rename(patient)
    assert os.listdir(shm) == ["file"]
    assert (shm / "file").read_bytes() == bytes(SIZE)
