"""The reader of pages believes nothing: planted mistakes in a page are found."""

from pathlib import Path

import pytest

from transcript import Reader

_CONSOLE = "```console\n{}```\n"
_SECOND = "```console second\n{}```\n"


def follow(tmp_path: Path, text: str) -> int:
    page = tmp_path / "page.md"
    page.write_text(text)
    return Reader(tmp_path).follow(page)


def test_commands_are_run_and_counted(tmp_path: Path) -> None:
    text = "# A page\n\n```\nnot run\n```\n" + _CONSOLE.format("$ echo one\none\n$ true\n")
    assert follow(tmp_path, text) == 2


@pytest.mark.parametrize("shown", ["", "two\n", "one\ntwo\n"])
def test_other_output_than_the_page_shows_fails(tmp_path: Path, shown: str) -> None:
    with pytest.raises(AssertionError, match="echo one"):
        follow(tmp_path, _CONSOLE.format(f"$ echo one\n{shown}"))


def test_both_outputs_are_shown(tmp_path: Path) -> None:
    assert follow(tmp_path, _CONSOLE.format("$ echo wrong >&2; echo right\nwrong\nright\n")) == 1


def test_a_cd_lasts_and_files_of_the_page_are_made_where_it_leads(tmp_path: Path) -> None:
    program = "```sh\n# hello.sh\necho hello\n```\n"
    inside = _CONSOLE.format("$ mkdir lesson\n$ cd lesson\n")
    outside = _CONSOLE.format("$ sh hello.sh\nhello\n$ cd ..\n$ ls lesson\nhello.sh\n")
    assert follow(tmp_path, inside + program + outside) == 5


def test_a_second_terminal_goes_on_beside_the_first(tmp_path: Path) -> None:
    text = _CONSOLE.format("$ mkfifo pipe\n") + _SECOND.format("$ sed -u 's/^/got /' pipe\n")
    text += _CONSOLE.format("$ echo hello > pipe\n") + _SECOND.format("got hello\n^C\n")
    assert follow(tmp_path, text) == 3


@pytest.mark.parametrize("shown", ["ready\nmore\n", "something\n^C\n", "ready\n^C\n"])
def test_a_second_terminal_that_shows_otherwise_or_is_left_alone_fails(
    tmp_path: Path, shown: str
) -> None:
    notes = "```text\n# notes\nready\nmore\n```\n"
    with pytest.raises(AssertionError):
        follow(tmp_path, notes + _SECOND.format(f"$ tail -n 2 -f notes\n{shown}"))
