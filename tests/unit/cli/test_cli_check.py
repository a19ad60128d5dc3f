"""`daxmend check`: its exit statuses, and what it says; `list` and `locate` where it fails."""

import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from daxmend.cli import run
from daxmend.cli.option import printable
from daxmend.extent import Extent
from daxmend.fs import ROOT_INO, FileSystem
from daxmend.media.pool import Content
from daxmend.stack.device import open_device
from daxmend.stack.filesystem import open_filesystem
from daxmend.stack.pool import create
from daxmend.units import MIB, PAGE

NAME = b"odd\n\xff"


@pytest.fixture
def pool(shm: Path) -> Path:
    """A pool with a file system, in which there is one file."""
    path = shm / "pool"
    create(path, 4 * MIB, content=Content.FS)
    device = open_device(path)
    fs = open_filesystem(device)
    fs.write(fs.make(fs.root, NAME, stat.S_IFREG | 0o644, 0, 0), 0, b"x" * PAGE)
    fs.close()
    device.close()
    return path


def plant(pool: Path, damage: Callable[[FileSystem], object]) -> None:
    """Put damage on the medium."""
    device = open_device(pool)
    fs = open_filesystem(device)
    damage(fs)
    fs.checkpoint()
    fs.close()
    device.close()


def too_many_links(fs: FileSystem) -> None:
    inode = fs._state.inode(fs.lookup(fs.root, NAME))
    fs._touch(inode, nlink=7)


def lose_file(fs: FileSystem) -> None:
    inode = fs._state.inode(ROOT_INO)
    inode.record = None
    inode.drop_name(NAME)


def make_bad(pool: Path, *extents: Extent) -> None:
    device = open_device(pool)
    for extent in extents:
        device.inject(extent)
    device.close()


def checked(
    capsys: pytest.CaptureFixture[str], pool: Path, *options: str, status: int
) -> dict[str, Any]:
    """The document of a check that ended so."""
    capsys.readouterr()
    assert run(["check", str(pool), *options, "--json"]) == status
    out, err = capsys.readouterr()
    assert err == ""
    found = json.loads(out)
    assert isinstance(found, dict)
    return found


def said(capsys: pytest.CaptureFixture[str], *words: object, status: int) -> list[str]:
    """The lines on stdout of a command that ended so."""
    capsys.readouterr()
    assert run([str(word) for word in words]) == status
    out, err = capsys.readouterr()
    assert err == ""
    return out.splitlines()


def test_a_whole_file_system_is_left_alone(pool: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = pool.read_bytes()
    assert said(capsys, "check", pool, status=0) == [f"{pool}: the file system is whole"]
    assert said(capsys, "check", pool, "--repair", status=0) == [
        f"{pool}: the file system is whole"
    ]
    found = checked(capsys, pool, "--repair", "--apply", status=0)
    assert (found["findings"], found["steps"], found["remaining"]) == ([], [], [])
    assert found["applied"] is False
    assert len(pool.read_bytes()) == len(before)


def test_damage_is_found_planned_repaired_and_gone(
    pool: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plant(pool, too_many_links)
    found = checked(capsys, pool, status=8)
    (finding,) = found["findings"]
    assert finding["invariant"] == "F8"
    assert finding["path"] == "/odd\n\udcff"
    assert "steps" not in found
    planned = checked(capsys, pool, "--repair", status=8)
    assert planned["findings"] == planned["remaining"] == [finding]
    assert (len(planned["steps"]), planned["applied"]) == (1, False)
    assert checked(capsys, pool, status=8) == found  # a plan changes nothing
    repaired = checked(capsys, pool, "--repair", "--apply", status=1)
    assert (repaired["findings"], repaired["steps"]) == ([finding], planned["steps"])
    assert (repaired["remaining"], repaired["applied"]) == ([], True)
    again = checked(capsys, pool, "--repair", "--apply", status=0)
    assert (again["findings"], again["steps"], again["applied"]) == ([], [], False)


def test_people_are_told_what_comes_next(pool: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plant(pool, lose_file)
    lines = said(capsys, "check", pool, status=8)
    assert lines[-1] == f"what a repair would do: daxmend check {pool} --repair"
    lines = said(capsys, "check", pool, "--repair", status=8)
    assert lines[0] == f"{pool}: 2 findings"
    assert "a repair would:" in lines
    last = f"nothing was changed; do it with: daxmend check {pool} --repair --apply"
    assert lines[-1] == last
    lines = said(capsys, "check", pool, "--repair", "--apply", status=1)
    assert "repaired:" in lines
    assert lines[-1] == f"{pool}: checked again: the file system is whole"


def test_bad_ranges_remain_after_a_repair_and_say_so(
    pool: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plant(pool, too_many_links)
    device = open_device(pool)
    fs = open_filesystem(device, writable=False)
    (mapping,) = fs.extents(fs.lookup(fs.root, NAME))
    fs.close()
    device.close()
    make_bad(pool, Extent(mapping.device_offset, 512))
    assert checked(capsys, pool, status=8)["badblock_count"] == 1  # 8, then 4
    assert checked(capsys, pool, "--repair", "--apply", status=4)["badblock_count"] == 1
    lines = said(capsys, "check", pool, status=4)
    assert lines == [
        f"{pool}: the file system is whole",
        f"{pool}: 512 bytes are recorded as bad; see: daxmend locate {pool}",
    ]


def test_damaged_copies_are_rewritten_by_a_repair_r43(
    pool: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_bad(pool, Extent(0, PAGE))
    (finding,) = checked(capsys, pool, status=8)["findings"]
    assert (finding["invariant"], finding["is_healed"]) == ("F1", True)
    assert checked(capsys, pool, "--repair", "--apply", status=1)["badblock_count"] == 0
    assert checked(capsys, pool, status=0)["findings"] == []


def test_latent_poison_under_metadata_is_met_by_a_check_of_a_pool(
    pool: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    device = open_device(pool)
    device.inject(Extent(0, 64), latent=True)
    device.close()
    (finding,) = checked(capsys, pool, status=8)["findings"]
    assert finding["invariant"] == "F1"
    assert checked(capsys, pool, "--repair", "--apply", status=1)["remaining"] == []


def test_a_medium_that_refuses_leaves_findings(
    shm: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = shm / "stubborn"
    words = ["create", str(path), "--size", "4M", "--medium", "refuses"]
    assert run(words) == 0
    make_bad(path, Extent(0, PAGE))
    assert run(["check", str(path), "--repair", "--apply"]) == 8
    assert run(["check", str(path)]) == 8


def test_without_any_superblock_the_search_names_it_and_list_still_answers(
    pool: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_bad(pool, Extent(0, PAGE), Extent(4 * MIB - PAGE, PAGE))
    capsys.readouterr()
    assert run(["check", str(pool)]) == 8
    assert "F1: no superblock counts" in capsys.readouterr().out
    for command in ("list", "locate"):
        assert run([command, str(pool), "--json"]) == 4
        out, err = capsys.readouterr()
        assert {r["owner"] for r in json.loads(out)["ranges"]} == {"metadata"}
        assert f"look at: daxmend check {pool}" in err
    assert run(["locate", f"{pool}:/x"]) == 8


def test_apply_alone_is_a_usage_error(pool: Path) -> None:
    assert run(["check", str(pool), "--apply"]) == 16


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (b"/plain \xc3\xa4", "/plain ä"),
        (b"/a\nb\tc\r\x1b[1m", "/a\\nb\\tc\\r\\x1b[1m"),
        (b"/\xff\\", "/\\xff\\\\"),
        ("/\u2028\u202e", "/\\u2028\\u202e"),
    ],
)
def test_a_name_is_printed_on_one_line(name: str | bytes, text: str) -> None:
    assert printable(name) == text
