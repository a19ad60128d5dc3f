"""Words of the command line that make no sense, and names that are hard to print."""

from pathlib import Path

import pytest

from daxmend.cli import run
from daxmend.errors import EXIT_BAD_REMAINS, EXIT_FAILED, EXIT_USAGE

NAMED = ("check", "create", "inject", "list", "locate", "message", "mount", "repair", "salvage")


@pytest.mark.parametrize("command", [*NAMED, "scrub", "shadow", "status", "umount", "watch"])
def test_a_name_that_is_empty_is_nothing_and_not_this_directory(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([command, ""]) == EXIT_USAGE
    assert "an empty name; was a variable not set?" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words", [["create", "p", "--table"], ["inject", "p", "--plan"], ["shadow", "s", "m", "--plan"]]
)
def test_a_file_that_should_be_text_and_is_not_is_named(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "bytes"
    file.write_bytes(b"0 8 \xff")
    assert run([*words, str(file)]) == EXIT_USAGE
    assert capsys.readouterr().err == f"daxmend: {file} is not text: byte 4 is not UTF-8\n"


def test_a_table_that_names_a_plan_which_is_no_text_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bytes").write_bytes(b"\xff")
    (tmp_path / "table").write_text("0 2048 faulty ./bytes ram:1M 0\n")
    assert run(["create", str(tmp_path / "t"), "--table", str(tmp_path / "table")]) == EXIT_USAGE
    assert "bytes is not text" in capsys.readouterr().err
    assert not (tmp_path / "t").exists()


@pytest.mark.parametrize("option", [("--medium", "lies"), ("--clear-unit", "256")])
def test_what_a_table_cannot_follow_is_refused_and_not_ignored(
    option: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "table").write_text("0 2048 linear ram:1M 0\n")
    words = ["create", str(tmp_path / "t"), "--table", str(tmp_path / "table"), *option]
    assert run(words) == EXIT_USAGE
    assert "go with --size" in capsys.readouterr().err
    assert not (tmp_path / "t").exists()


def test_a_file_of_which_nothing_is_known_is_named_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "two\nlines"
    file.write_bytes(b"x" * 5000)
    run(["list", str(file)])
    said = capsys.readouterr().err.splitlines()
    shown = str(tmp_path / r"two\nlines")
    assert all(line.startswith("daxmend: ") and line.count(f"{shown}: ") == 1 for line in said)


def test_an_error_is_one_line_whatever_the_name_in_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["list", "no\nsuch"]) == EXIT_FAILED
    assert capsys.readouterr().err == "daxmend: no\\nsuch: No such file or directory\n"


def test_a_command_that_is_advised_can_be_pasted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pool = tmp_path / "my pool"
    assert run(["create", str(pool), "--size", "1M"]) == 0
    run(["inject", str(pool), "--offset", "512K", "--length", "1"])
    assert run(["check", str(pool)]) == EXIT_BAD_REMAINS
    assert f"see: daxmend locate '{pool}'\n" in capsys.readouterr().out
