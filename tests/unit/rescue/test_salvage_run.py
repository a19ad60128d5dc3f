"""A salvage that is interrupted, killed or out of room: what its map claims is in the copy."""

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from disk import Disk, DiskFile, Killed

from daxmend.errors import DaxmendError
from daxmend.extent import Extent
from daxmend.rescue.mapfile import Status, parse_mapfile
from daxmend.rescue.salvage import Salvage
from daxmend.rescue.subject import CHUNK
from daxmend.units import PAGE, SECTOR

SIZE = 3 * CHUNK + 700
DATA = random.Random(6).randbytes(SIZE)
BAD = [Extent(SECTOR, SECTOR), Extent(CHUNK + PAGE, PAGE), Extent(2 * CHUNK, SECTOR)]


class StoppedFile(DiskFile):
    """A file whose reading stops at an offset, as often as `error` is not None."""

    error: BaseException | None = None
    stop_at = CHUNK + PAGE

    def pieces(self, extent: Extent) -> Iterator[tuple[Extent, memoryview | None]]:
        for part, data in super().pieces(extent):
            if self.error is not None and part.end > self.stop_at:
                raise self.error
            yield part, data


@pytest.fixture
def file(tmp_path: Path) -> StoppedFile:
    disk = Disk(DATA)
    for run in BAD:
        disk.hurt(run.offset, run.length)
    return StoppedFile(disk, tmp_path / "file")


def run(file: DiskFile, out: Path, mapfile: Path | None) -> list[Extent]:
    salvage = Salvage(file, out, mapfile)
    try:
        return salvage.run(lambda _: None).lost
    finally:
        salvage.close()


def expected() -> bytes:
    rest = bytearray(DATA)
    for each in BAD:
        rest[each.offset : each.end] = bytes(each.length)
    return bytes(rest)


def claimed(out: Path, mapfile: Path) -> int:
    """The bytes that the map says were saved; all of them are in the copy."""
    saved = parse_mapfile(mapfile.read_text(), SIZE, "map").extents(Status.SAVED)
    data = out.read_bytes()
    for each in saved:
        assert data[each.offset : each.end] == DATA[each.offset : each.end]
    return sum(each.length for each in saved)


@pytest.mark.parametrize("with_map", [True, False])
@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), OSError(6, "No such device"), OSError(28, "No space")]
)
def test_what_was_stopped_says_how_to_go_on_and_goes_on(
    file: StoppedFile, tmp_path: Path, error: BaseException, with_map: bool
) -> None:
    out, mapfile = tmp_path / "out", tmp_path / "map"
    file.error = error
    with pytest.raises((KeyboardInterrupt, OSError, DaxmendError)) as caught:
        run(file, out, mapfile if with_map else None)
    said = " ".join([str(caught.value), *file.notices])
    found = mapfile if with_map else Path(f"{out}.map")
    assert f"--mapfile {found}" in said
    assert CHUNK <= claimed(out, found) + SECTOR < SIZE
    file.error = None
    assert run(file, out, found) == BAD
    assert out.read_bytes() == expected()


def test_what_was_killed_has_a_map_that_claims_no_more_than_is_there(
    file: StoppedFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing runs after a kill: the last checkpoint is all there is."""
    out, mapfile = tmp_path / "out", tmp_path / "map"
    monkeypatch.setattr("daxmend.rescue.salvage._CHECKPOINT_SECONDS", 0)
    monkeypatch.setattr(Salvage, "_leave", lambda self: "")
    file.error, file.stop_at = Killed(), 2 * CHUNK + PAGE
    with pytest.raises(Killed):
        run(file, out, mapfile)
    assert claimed(out, mapfile) == 2 * CHUNK - SECTOR - PAGE
    file.error = None
    assert run(file, out, mapfile) == BAD
    assert out.read_bytes() == expected()


def test_a_map_is_replaced_as_a_whole(
    file: StoppedFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, mapfile = tmp_path / "out", tmp_path / "map"
    assert run(file, out, mapfile) == BAD
    before = mapfile.read_bytes()

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises((OSError, DaxmendError)):
        run(file, out, mapfile)
    assert mapfile.read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == ["map", "out"]
