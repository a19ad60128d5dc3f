"""Reading around what is bad: what is known to be bad is not asked for, all else is."""

import errno
import os
import random
from pathlib import Path
from typing import Any

import pytest

from daxmend.extent import Extent
from daxmend.rescue.reader import Reader
from daxmend.units import MIB, PAGE, SECTOR

DATA = random.Random(2).randbytes(2 * MIB + 300)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(DATA)
    return path


def test_of_what_is_known_to_be_bad_only_the_first_grain_is_read(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fd = os.open(path, os.O_RDONLY)
    reader = Reader(fd, "file", len(DATA))
    asked: list[Extent] = []
    preadv = os.preadv

    def watched(fd: int, buffers: list[Any], offset: int) -> int:
        asked.append(Extent(offset, len(buffers[0])))
        if any(run.overlaps(asked[-1]) for run in known):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return preadv(fd, buffers, offset)

    known = [Extent(PAGE, PAGE), Extent(5 * PAGE, 2 * PAGE), Extent(9 * PAGE, SECTOR * 8)]
    monkeypatch.setattr(os, "preadv", watched)
    whole = Extent(0, len(DATA))
    data, lost = bytearray(len(DATA)), []
    for part, got in reader.pieces(whole, known):
        if got is None:
            lost.append(part)
        else:
            data[part.offset : part.end] = got
    assert lost == known
    assert sum(run.overlaps(each) for run in known for each in asked) == len(known)
    rest = bytearray(DATA)
    for run in known:
        rest[run.offset : run.end] = bytes(run.length)
    assert data == rest
    reader.close()
    os.close(fd)


def test_a_short_read_that_does_not_end_at_what_is_bad_loses_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A block device may end a read where one of its requests ended, far before the bad sector."""
    fd = os.open(path, os.O_RDONLY)
    reader = Reader(fd, "file", len(DATA))
    bad = 300 * SECTOR
    preadv = os.preadv

    def cut(fd: int, buffers: list[Any], offset: int) -> int:
        length = len(buffers[0])
        if offset <= bad < offset + length:
            done = (bad - offset) // (16 * PAGE) * 16 * PAGE
            if not done:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return preadv(fd, [buffers[0][:done]], offset)
        return preadv(fd, buffers, offset)

    monkeypatch.setattr(os, "preadv", cut)
    saved = reader.salvage(Extent(0, len(DATA)))
    assert saved.lost == [Extent(bad, reader.grain)]
    assert saved.data[:bad] == DATA[:bad]
    assert saved.data[bad + reader.grain :] == DATA[bad + reader.grain :]
    reader.close()
    os.close(fd)


def test_a_record_that_is_wrong_makes_nothing_lost(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    reader = Reader(fd, "file", len(DATA))
    data = b""
    for _, got in reader.pieces(Extent(0, len(DATA)), [Extent(PAGE, 3 * PAGE)]):
        assert got is not None
        data += got
    assert data == DATA
    reader.close()
    os.close(fd)
