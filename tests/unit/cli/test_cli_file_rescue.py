"""`salvage` and `repair` of ordinary files without damage, and what they refuse."""

import json
import os
from pathlib import Path

import pytest

from daxmend.cli import run


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "file"
    path.write_bytes(b"good" * 5000)
    path.chmod(0o640)
    return path


def test_a_good_file_is_saved_and_nothing_is_on_stderr(
    file: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(["salvage", "file", "-o", "out", "--mapfile", "map"]) == 0
    out, err = capfd.readouterr()
    assert (out, err) == ("file: 20000 bytes saved in out, nothing is lost\n", "")
    assert Path("out").read_bytes() == file.read_bytes()
    assert Path("out").stat().st_mode & 0o007 == 0  # no more may read it than before
    assert sorted(os.listdir()) == ["file", "map", "out"]


def test_the_documents_say_what_there_is(file: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["salvage", "file", "-o", "out", "--json"]) == 0
    found = json.loads(capfd.readouterr().out)
    assert (found["size"], found["saved"], found["lost"]) == (20000, 20000, 0)
    assert (found["ranges"], found["badblocks"], found["badblock_count"]) == ([], [], 0)
    assert run(["repair", "file", "--from", "out", "--json"]) == 0
    found = json.loads(capfd.readouterr().out)
    assert (found["action"], found["pages"], found["ranges"]) == ("plan", [], [])


def test_a_repair_of_a_good_file_changes_nothing(
    file: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = file.stat().st_mtime_ns
    for options in (["--zero"], ["--zero", "--apply"], ["--punch", "--apply"]):
        assert run(["repair", "file", *options]) == 0
        assert "nothing is bad" in capfd.readouterr().out
    assert os.listdir() == ["file"]
    assert file.stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("arguments", "status", "word"),
    [
        (["salvage", "file"], 16, "Missing option"),
        (["salvage", "file", "-o", "file"], 16, "itself"),
        (["salvage", "file", "-o", "/dev/null", "--overwrite"], 16, "no regular file"),
        (["salvage", "file", "-o", "no/out"], 8, "No such file"),
        (["salvage", ".", "-o", "out"], 16, "directory"),
        (["repair", "file"], 16, "--from COPY"),
        (["repair", "file", "--from", "file"], 16, "itself"),
        (["repair", "file", "--from", "/dev/zero"], 16, "no dax device"),
        (["repair", "file", "--undo"], 16, "no journal"),
        (["repair", "file", "--undo", "--apply"], 16, "nothing else"),
        (["repair", "file", "--zero", "--apply", "--journal", "away"], 16, "away, the directory"),
        (["repair", "nothing", "--zero"], 8, "No such file"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_a_status(
    file: Path, arguments: list[str], status: int, word: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == status
    err = capfd.readouterr().err
    assert word in err
    assert "Traceback" not in err
    assert file.read_bytes() == b"good" * 5000
    assert os.listdir() == ["file"]
