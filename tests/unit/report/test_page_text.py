"""Names on a page: what is shown is one line, and what a shell is given is exactly the name."""

import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daxmend.report.pagetext import ShellText, counted, escaped, listed, shell_line, shell_word

NAMES = [
    b"plain",
    b"two words",
    b"it's",
    b'"quoted" $HOME `id` $(id) \\ ; & | > <',
    b"-dash",
    b"*?[a]{b,c}~!",
    b"new\nline\ttab\r\x1b[31m",
    b"not \xff\xfe UTF-8 \xc3",
    "ä 汉 \N{RIGHT-TO-LEFT OVERRIDE}txt.exe \N{ZERO WIDTH SPACE}".encode(),
    b"\x011 octal then a digit",
    b"#comment",
    b"",
]


def as_bash_has_it(word: str) -> bytes:
    """The one argument that bash makes of the word."""
    script = f'printf "%s\\0" {word}'.encode()
    return subprocess.run(["bash", "-c", script], capture_output=True, check=True).stdout


@pytest.mark.parametrize("name", NAMES)
def test_a_shell_word_is_printable_and_means_the_name(name: bytes) -> None:
    word = shell_word(name)
    assert word.isprintable()
    assert as_bash_has_it(word) == name + b"\0"


@given(st.lists(st.binary(max_size=20).map(lambda raw: raw.replace(b"\0", b"")), min_size=1))
def test_every_list_of_names_comes_through_a_shell(names: list[bytes]) -> None:
    line = shell_line(*names)
    assert line.isprintable()
    assert as_bash_has_it(line) == b"".join(name + b"\0" for name in names)


def test_what_is_the_shells_own_is_not_quoted() -> None:
    assert shell_line("a", ShellText('"${SAFE:?}"/x'), "b c") == "a \"${SAFE:?}\"/x 'b c'"
    assert shell_line('"${SAFE:?}"') == "'\"${SAFE:?}\"'"


@pytest.mark.parametrize("name", NAMES)
def test_what_people_see_is_one_line_that_can_be_encoded(name: bytes) -> None:
    shown = escaped(name)
    assert shown.isprintable()
    shown.encode("utf-8")
    assert "\N{RIGHT-TO-LEFT OVERRIDE}" not in shown


def test_numbers_and_lists_read_as_english() -> None:
    assert [counted(n, "file") for n in (0, 1, 2)] == ["0 files", "1 file", "2 files"]
    assert [listed("abc"[:n]) for n in (1, 2, 3)] == ["a", "a and b", "a, b and c"]
