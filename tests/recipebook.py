"""The command lines of docs/recipes.md, for tests that run them."""

import re
from typing import NamedTuple

from page import ROOT, blocks

_EXITS = re.compile(r"\s+# exits (\d+)$")


class Line(NamedTuple):
    """A line of shell, and how it exits while there is damage."""

    command: str
    status: int


def recipes() -> dict[str, list[Line]]:
    """The lines of every recipe by name; those in the background are left out."""
    return {
        words[0].removeprefix("recipe="): [_line(text) for text in body.splitlines()]
        for _, words, body in blocks(ROOT / "docs/recipes.md")
        if words and words[0].startswith("recipe=") and "background" not in words
    }


def _line(text: str) -> Line:
    found = _EXITS.search(text)
    return Line(_EXITS.sub("", text), int(found[1]) if found else 0)
