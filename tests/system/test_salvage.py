"""`daxmend salvage`: everything readable, exactly what is lost, and a mapfile for GNU ddrescue."""

import json
import os
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
from filemount import Files
from rawmount import PAGE, SECTOR, Ran, cli, in_child, ordinary_user, program, wait

from daxmend.extent import Extent
from daxmend.rescue.mapfile import Status, parse_mapfile

pytestmark = pytest.mark.timeout(90, method="signal")
DIAGONAL = True

SIZE = 1_234_567  # ends inside a sector


def content(size: int = SIZE) -> bytes:
    return random.Random(size).randbytes(size)


def make(files: Files, data: bytes) -> Path:
    path = files.path("file")
    path.write_bytes(data)
    return path


def without(data: bytes, lost: list[dict[str, int]]) -> bytes:
    """The data with zeros where it is lost."""
    rest = bytearray(data)
    for run in lost:
        rest[run["offset"] : run["offset"] + run["length"]] = bytes(run["length"])
    return bytes(rest)


def salvage(name: object, out: Path, *options: object, status: int = 4) -> dict[str, Any]:
    ran = cli("salvage", name, "-o", out, *options, "--json")
    assert (ran.status, ran.err) == (status, ""), ran
    found = json.loads(ran.out)
    assert isinstance(found, dict)
    return found


def pairs(found: dict[str, Any]) -> list[tuple[int, int]]:
    return [(run["offset"], run["length"]) for run in found["ranges"]]


def refused(ran: Ran, status: int, *words: str) -> None:
    assert ran.status == status, ran
    for word in words:
        assert word in ran.complaint, ran


def test_all_but_the_bad_sectors_is_saved_on_a_mount(files: Files) -> None:
    data = content()
    path = make(files, data)
    files.damage(path, 2 * PAGE, SECTOR)
    files.damage(path, 3 * PAGE, 2 * PAGE)
    files.damage(path, SIZE - 5, 5)
    out = files.base / "out"
    found = salvage(path, out)
    tail = SIZE - SIZE % SECTOR
    assert pairs(found) == [(2 * PAGE, SECTOR), (3 * PAGE, 2 * PAGE), (tail, SIZE - tail)]
    assert found["lost"] == SECTOR + 2 * PAGE + SIZE - tail
    assert found["saved"] + found["lost"] == found["size"] == SIZE
    assert found["badblock_count"] == 1 + 16 + 1
    assert out.read_bytes() == without(data, found["ranges"])
    assert os.stat(path).st_size == SIZE


def test_a_file_without_damage_is_copied_and_exits_0(files: Files) -> None:
    data = content()
    found = salvage(make(files, data), files.base / "out", status=0)
    assert found["ranges"] == []
    assert (files.base / "out").read_bytes() == data


def test_an_empty_file_is_saved_too(files: Files) -> None:
    assert salvage(make(files, b""), files.base / "out", status=0)["size"] == 0


def test_of_a_pool_every_cacheline_is_saved_r12(files: Files) -> None:
    data = content()
    path = make(files, data)
    name = f"{files.pool}:/file"
    files.poison(path, 5 * PAGE + 128, 64)
    files.damage(path, 9 * PAGE, SECTOR)
    files.must_umount()
    out = files.base / "out"
    found = salvage(name, out, "--mapfile", files.base / "map")
    assert pairs(found) == [(5 * PAGE + 128, 64), (9 * PAGE, SECTOR)]
    assert out.read_bytes() == without(data, found["ranges"])
    refused(cli("salvage", files.pool, "-o", files.base / "x"), 16, "is a pool", ":/PATH")
    refused(cli("salvage", name, "-o", files.pool), 16, "nothing is ever written to it")
    files.must_mount()


def test_of_a_mount_every_cacheline_is_saved_and_what_recoveries_kept_r12_r18(
    files: Files,
) -> None:
    """A plain read gives neither."""
    data = content()
    path = make(files, data)
    files.lose(path, Extent(9 * PAGE, PAGE), PAGE - 100)
    files.lose(path, Extent(SIZE - SIZE % PAGE, SECTOR), SECTOR)
    files.poison(path, 5 * PAGE + 128, 64)
    out = files.base / "out"
    found = salvage(path, out)
    assert pairs(found) == [(5 * PAGE + 128, 64), (10 * PAGE - 100, 100)]
    assert out.read_bytes() == without(data, found["ranges"])
    files.must_umount()
    assert pairs(salvage(f"{files.pool}:/file", files.base / "again")) == pairs(found)
    files.must_mount()


def test_a_mounted_pool_is_asked_through_its_mount(files: Files) -> None:
    data = content()
    path = make(files, data)
    files.damage(path, 0, SECTOR)
    found = salvage(f"{files.pool}:/file", files.base / "out")
    assert pairs(found) == [(0, SECTOR)]


def test_holes_are_kept_and_poison_under_them_is_not_met_r13(files: Files) -> None:
    path = files.path("file")
    with open(path, "wb") as file:
        file.truncate(8 << 20)
        file.seek(4 << 20)
        file.write(b"x" * PAGE)
    out = files.base / "out"
    salvage(path, out, status=0)
    assert out.stat().st_size == 8 << 20
    assert out.stat().st_blocks * 512 < 1 << 20
    assert out.read_bytes() == path.read_bytes()


# -- the copy and the map ------------------------------------------------------------------


def test_nothing_is_overwritten_unasked_and_file_never(files: Files) -> None:
    data = content()
    path = make(files, data)
    out = files.base / "out"
    out.write_bytes(b"precious")
    os.link(path, files.path("link"))
    refused(cli("salvage", path, "-o", out), 16, "exists", "--overwrite")
    assert out.read_bytes() == b"precious"
    for same in (path, files.path("link")):
        refused(cli("salvage", path, "-o", same, "--overwrite"), 16, "is", "itself")
        refused(cli("salvage", path, "-o", out, "--mapfile", same, "--overwrite"), 16, "itself")
    refused(cli("salvage", path, "-o", out, "--mapfile", out, "--overwrite"), 16, "both")
    assert path.read_bytes() == data
    salvage(path, out, "--overwrite", status=0)
    assert out.read_bytes() == data


def test_a_second_run_goes_on_with_the_map_and_gets_what_has_healed(files: Files) -> None:
    data = content()
    path = make(files, data)
    out, mapfile = files.base / "out", files.base / "map"
    files.damage(path, 2 * PAGE)
    files.damage(path, 7 * PAGE)
    salvage(path, out, "--mapfile", mapfile)
    files.write_at(path, data[2 * PAGE : 3 * PAGE], 2 * PAGE)
    found = salvage(path, out, "--mapfile", mapfile)
    assert pairs(found) == [(7 * PAGE, PAGE)]
    assert out.read_bytes() == without(data, found["ranges"])
    out.unlink()
    refused(cli("salvage", path, "-o", out, "--mapfile", mapfile), 16, "is not there")


def test_a_map_of_something_else_is_refused(files: Files) -> None:
    path = make(files, content())
    out, mapfile = files.base / "out", files.base / "map"
    out.write_bytes(b"")
    for text, word in (
        ("0x0 + 1\n0x0 0x10000000 +\n", "another file's map"),
        ("hello\n", "no mapfile"),
        ("", "empty"),
        ("0 + 1\n0 512 +\n1024 512 +\n", "does not follow"),
    ):
        mapfile.write_text(text)
        refused(cli("salvage", path, "-o", out, "--mapfile", mapfile), 16, word)
        assert mapfile.read_text() == text


@pytest.mark.skipif(not shutil.which("ddrescue"), reason="GNU ddrescue is not installed")
def test_gnu_ddrescue_accepts_the_map_and_goes_on(files: Files) -> None:
    data = content()
    path = make(files, data)
    out, mapfile = files.base / "out", files.base / "map"
    files.damage(path, 2 * PAGE)
    files.damage(path, SIZE - 1, 1)
    salvage(path, out, "--mapfile", mapfile)
    shown = program("ddrescuelog", "-t", mapfile)
    assert shown.status == 0, shown
    assert "bad-sector:" in shown.out
    files.write_at(path, data[2 * PAGE : 3 * PAGE], 2 * PAGE)
    ran = program("ddrescue", "-r1", path, out, mapfile)
    assert ran.status == 0, ran
    tail = SIZE - SIZE % SECTOR
    assert out.read_bytes() == without(data, [{"offset": tail, "length": SIZE - tail}])
    again = parse_mapfile(mapfile.read_text(), SIZE, "map")
    assert again.extents(Status.BAD) == [Extent(tail, SIZE - tail)]
    # and we with what ddrescue has left
    files.write_at(path, data[SIZE - SIZE % PAGE :], SIZE - SIZE % PAGE)
    salvage(path, out, "--mapfile", mapfile, status=0)
    assert out.read_bytes() == data


@pytest.mark.skipif(not shutil.which("ddrescue"), reason="GNU ddrescue is not installed")
def test_we_go_on_with_what_gnu_ddrescue_began(files: Files) -> None:
    data = content()
    path = make(files, data)
    files.damage(path, 6 * PAGE, 2 * SECTOR)
    out, mapfile = files.base / "out", files.base / "map"
    ran = program("ddrescue", "-n", "-s", 20 * PAGE, path, out, mapfile)
    assert ran.status == 0, ran
    found = salvage(path, out, "--mapfile", mapfile)
    assert pairs(found) == [(6 * PAGE, 2 * SECTOR)]
    assert out.read_bytes() == without(data, found["ranges"])


@pytest.mark.parametrize(("user", "open_mode"), [("root", "direct")], indirect=True)
def test_a_full_disk_keeps_what_was_saved_and_says_how_to_go_on(files: Files) -> None:
    data = content(12 << 20)
    path = make(files, data)
    files.damage(path, PAGE)
    small = files.base / "small"
    small.mkdir()
    assert program("mount", "-t", "tmpfs", "-o", "size=6m", "none", small).status == 0
    try:
        out, mapfile = small / "out", files.base / "map"
        ran = cli("salvage", path, "-o", out, "--mapfile", mapfile)
        refused(ran, 8, "No space left", "to go on")
        saved = parse_mapfile(mapfile.read_text(), len(data), "map").extents(Status.SAVED)
        assert saved
        with open(out, "rb") as file:
            for run in saved:
                file.seek(run.offset)
                assert file.read(run.length) == data[run.offset : run.end]
        assert program("mount", "-o", "remount,size=20m", small).status == 0
        found = salvage(path, out, "--mapfile", mapfile)
        assert out.read_bytes() == without(data, found["ranges"])
    finally:
        program("umount", "-l", small)


# -- who and what --------------------------------------------------------------------------


def test_what_is_no_file_is_refused(files: Files) -> None:
    files.path("dir").mkdir()
    os.mkfifo(files.path("fifo"))
    out = files.base / "out"
    refused(cli("salvage", files.path("fifo"), "-o", out), 16, "no regular file")
    refused(cli("salvage", files.path("nothing"), "-o", out), 8, "No such file")
    assert not out.exists()


@pytest.mark.parametrize(("user", "open_mode"), [("root", "direct")], indirect=True)
def test_who_may_not_read_the_file_is_told_that_nothing_is_known_r44(files: Files) -> None:
    secret = files.base / "secret"
    secret.write_bytes(b"x")
    secret.chmod(0o600)

    def ask() -> None:
        ordinary_user().become()
        refused(cli("salvage", secret, "-o", "/tmp/daxmend-never"), 2, "Permission denied")

    assert wait(in_child(ask)) == 0


def test_a_dead_mount_is_told_and_not_waited_for(files: Files) -> None:
    path = make(files, b"x")
    files.kill_server()
    refused(cli("salvage", path, "-o", files.base / "out"), 2, "has died", "daxmend umount")
    assert not (files.base / "out").exists()
