"""The fenced blocks of the project's pages, for tests that run them."""

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
_FENCED = re.compile(r"^```(\w+)(.*?)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """A fenced block: its language, the other words behind the fence, what it holds."""

    language: str
    words: tuple[str, ...]
    body: str


def blocks(path: Path) -> list[Block]:
    """Every block of the page that names its language, in order."""
    return [
        Block(language, tuple(words.split()), body)
        for language, words, body in _FENCED.findall(path.read_text())
    ]


def pages() -> list[Path]:
    """Every page of the project: the README and all of docs."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
