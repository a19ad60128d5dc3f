"""A scrub by reading: resumed, limited, and of what shrinks under it."""

import os
from pathlib import Path

import pytest

from daxmend.errors import ChangedError
from daxmend.extent import Extent, merged
from daxmend.rescue import readscrub
from daxmend.rescue.mapfile import Status, parse_mapfile
from daxmend.rescue.readscrub import ReadScrub
from daxmend.units import MIB

SIZE = 10 * MIB + 100


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "file"
    made.write_bytes(b"x" * SIZE)
    return made


def test_everything_is_read_once_and_in_order(path: Path) -> None:
    run = ReadScrub("file", str(path), SIZE)
    assert merged(run.run()) == [Extent(0, SIZE)]
    assert run.bad == []
    run.close()


def test_a_limited_one_asks_for_small_pieces_and_pauses_between_them(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    clock = [0.0]

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        clock[0] += seconds

    monkeypatch.setattr(readscrub.time, "sleep", sleep)
    monkeypatch.setattr(readscrub.time, "monotonic", lambda: clock[0])
    run = ReadScrub("file", str(path), SIZE, rate=2 * MIB)
    pieces = list(run.run())
    run.close()
    assert {piece.length for piece in pieces[:-1]} == {MIB // 4}
    assert sum(pauses) == pytest.approx(SIZE / (2 * MIB))


def test_one_that_is_stopped_says_how_far_it_came_and_goes_on_there(
    path: Path, tmp_path: Path
) -> None:
    mapfile = tmp_path / "map"
    run = ReadScrub("file", str(path), SIZE, mapfile=mapfile)
    pieces = run.run()
    first = next(pieces)
    pieces.close()
    run.close()
    found = parse_mapfile(mapfile.read_text(), SIZE, "map")
    assert found.extents(Status.SAVED) == [first]

    reads: list[Extent] = []
    again = ReadScrub("file", str(path), SIZE, mapfile=mapfile)
    assert again._reader is not None
    read = again._reader.pieces
    again._reader.pieces = lambda extent: (reads.append(extent), read(extent))[1]  # type: ignore[method-assign]
    assert merged(again.run()) == [Extent(0, SIZE)]
    again.close()
    assert merged(reads) == [Extent.between(first.end, SIZE)]


def test_what_shrinks_while_it_is_read_is_no_clean_one(path: Path, tmp_path: Path) -> None:
    mapfile = tmp_path / "map"
    run = ReadScrub("file", str(path), SIZE, mapfile=mapfile)
    os.truncate(path, 4096)
    with pytest.raises(ChangedError, match="shorter"):
        list(run.run())
    run.close()
    assert parse_mapfile(mapfile.read_text(), SIZE, "map").extents(Status.SAVED) == []
