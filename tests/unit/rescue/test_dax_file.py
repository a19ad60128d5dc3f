"""A dax device as a subject. A file stands for the device: what lies behind its end faults."""

import os
import random
from pathlib import Path

import pytest

from daxmend.errors import UnsupportedError, UsageError
from daxmend.extent import Extent
from daxmend.rescue.daxfile import DaxFile
from daxmend.rescue.mapfile import Status
from daxmend.rescue.salvage import Salvage
from daxmend.rescue.subjectopening import open_subject
from daxmend.units import MIB, PAGE, SECTOR

SIZE = 6 * MIB
DATA = random.Random(4).randbytes(SIZE)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "dax"
    path.write_bytes(DATA)
    return path


def test_pages_that_fault_and_recorded_sectors_are_lost_and_nothing_else(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "daxmend.rescue.knownbad.KnownBad.within",
        lambda self, extent: [
            part for run in [Extent(3 * PAGE, SECTOR)] if (part := run.intersection(extent)).length
        ],
    )
    file = DaxFile(path, "dax", SIZE)
    os.truncate(path, SIZE - 5 * PAGE)
    out = path.with_name("out")
    run = Salvage(file, out, None)
    report = run.run(lambda _: None)
    run.close()
    assert report.lost == [Extent(3 * PAGE, SECTOR), Extent(SIZE - 5 * PAGE, 5 * PAGE)]
    rest = bytearray(DATA)
    for lost in report.lost:
        rest[lost.offset : lost.end] = bytes(lost.length)
    assert out.read_bytes() == rest
    assert run.map.extents(Status.BAD) == report.lost
    assert file.salvage(Extent(PAGE + 5, 10)).data == DATA[PAGE + 5 : PAGE + 15]
    file.close()


def test_it_is_not_repaired_and_another_character_device_is_none(path: Path) -> None:
    with pytest.raises(UnsupportedError, match="clear-errors"):
        DaxFile(path, "dax", SIZE, writable=True)
    with pytest.raises(UsageError, match="no dax device"):
        open_subject("/dev/null")
