"""PATTERNs of fault plans."""

import pytest

from daxmend.errors import UsageError
from daxmend.faults import Pattern, encode_pattern, format_pattern, literal_path, parse_plan

NAMES = ["file", "a b", "-x", "dir/f*l[e]?", "new\nline", "ü", "%41#", "\udcff", "a/b/c", "[!x]"]


@pytest.mark.parametrize("name", NAMES)
def test_a_path_becomes_a_pattern_for_itself_alone(name: str) -> None:
    word = format_pattern(name)
    assert word.isascii()
    assert not set(word) & set(" \n#")
    assert literal_path(word) == name
    assert Pattern(word).matches(name)
    assert not Pattern(word).matches(f"x/{name}")
    assert not Pattern(word).matches(f"{name}x")
    assert parse_plan(f"{word} 0 512 once\n")[0].pattern == word


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("*.db", ["a.db", "x/y.db"], ["a.dbx", "db"]),
        ("/*.db", ["a.db"], ["x/a.db"]),
        ("/x/**", ["x/a", "x/y/z"], ["x", "y/x/a"]),
        ("**", ["a", "a/b", ""], []),
        ("a?c", ["abc", "x/abc"], ["ac", "a/c"]),
        ("[a-c]", ["a", "c"], ["d", "-"]),
        ("[!a]", ["b"], ["a", "/"]),
        ("[]]", ["]"], ["a"]),
        ("[!]]", ["["], ["]"]),
        ("[!-a]", ["]", "^"], ["-", "a", "/"]),
        ("/x[.-0]y", ["x.y", "x0y"], ["x/y"]),
        ("[", ["["], ["a"]),
        ("[]", ["[]"], ["", "a"]),
        ("[!]", ["[!]"], ["a", "!"]),
        ("a.b", ["a.b"], ["axb"]),
    ],
)
def test_what_a_shell_pattern_matches(pattern: str, yes: list[str], no: list[str]) -> None:
    compiled = Pattern(encode_pattern(pattern))
    assert [path for path in yes if not compiled.matches(path)] == []
    assert [path for path in no if compiled.matches(path)] == []


@pytest.mark.parametrize("pattern", ["[z-a]", "/x/[!9-0]*", "[]-!]x"])
def test_a_range_that_goes_backwards_is_refused(pattern: str) -> None:
    with pytest.raises(UsageError, match="must go upwards"):
        Pattern(pattern)


def test_a_pattern_without_a_slash_is_no_one_path() -> None:
    assert literal_path("file") is None
    assert literal_path("/fi*") is None
    assert literal_path("/file") == "file"
