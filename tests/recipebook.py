"""The command lines of docs/recipes.md, for tests that run them."""

import re
from pathlib import Path
from typing import NamedTuple

_PAGE = Path(__file__).parents[1] / "docs" / "recipes.md"
_BLOCK = re.compile(r"^```sh recipe=(\S+)( background)?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_EXITS = re.compile(r"\s+# exits (\d+)$")


class Line(NamedTuple):
    """A line of shell, and how it exits while there is damage."""

    command: str
    status: int


def recipes() -> dict[str, list[Line]]:
    """The lines of every recipe by name; those in the background are left out."""
    return {
        name: [_line(text) for text in body.splitlines()]
        for name, background, body in _BLOCK.findall(_PAGE.read_text())
        if not background
    }


def _line(text: str) -> Line:
    found = _EXITS.search(text)
    return Line(_EXITS.sub("", text), int(found[1]) if found else 0)
