"""The PATTERN of a fault plan: a shell pattern over the paths below a directory.

A pattern without a slash matches a name at any depth; one with a slash matches the whole path from
the top, which may begin with a slash. `*`, `?` and `[...]`, a set of characters, stop at a slash,
`**` does not. What is not printable ASCII, a blank, `#` and `%` are written `%XX`, so that a
pattern is one word of one line.
"""

from __future__ import annotations

import os
import re
from urllib.parse import quote_from_bytes, unquote_to_bytes

from daxmend.errors import UsageError

_MAGIC = re.compile(r"([*?\[])")
_LITERAL = re.compile(r"\[([*?\[])\]")
_TOKEN = re.compile(r"\*\*|\*|\?|\[!?+\]?+[^\]]*\]|.", re.DOTALL)
_SAFE = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in "#%")


def format_pattern(path: str | bytes) -> str:
    """The pattern that matches exactly this path, given from the top, and nothing else."""
    absolute = "/" + os.fsdecode(path).lstrip("/")
    return encode_pattern(_MAGIC.sub(r"[\1]", absolute))


def encode_pattern(pattern: str) -> str:
    """A shell pattern as one word of a plan."""
    word = quote_from_bytes(os.fsencode(pattern), _SAFE)
    return f"%{ord(word[0]):02X}{word[1:]}" if word.startswith("-") else word


def _decode(word: str) -> str:
    return os.fsdecode(unquote_to_bytes(word))


def literal_path(word: str) -> str | None:
    """The one path that the pattern can match, without its leading slash; None for others."""
    pattern = _decode(word)
    plain = _LITERAL.sub("", pattern)
    if "/" not in pattern or _MAGIC.search(plain):
        return None
    return _LITERAL.sub(r"\1", pattern).lstrip("/")


class Pattern:
    """A compiled PATTERN. Raises `UsageError` if it is none: a range of characters backwards."""

    def __init__(self, word: str) -> None:
        text = _decode(word)
        self._is_path = "/" in text
        regex = "".join(map(_translate, _TOKEN.findall(text.lstrip("/"))))
        try:
            self._regex = re.compile(regex, re.DOTALL)
        except re.error:
            raise UsageError(f"'{word}' is no pattern: a range in [...] must go upwards") from None

    def matches(self, path: str) -> bool:
        """Whether it matches `path`, which is relative to the top."""
        subject = path if self._is_path else path.rsplit("/", 1)[-1]
        return self._regex.fullmatch(subject) is not None


def _translate(token: str) -> str:
    simple = {"**": ".*", "*": "[^/]*", "?": "[^/]"}.get(token)
    if simple is not None:
        return simple
    if len(token) == 1:
        return re.escape(token)
    inside = token[1:-1]
    negated = "^" if inside.startswith("!") else ""
    members = re.sub(r"([\\\[\]^&~|])", r"\\\1", inside.removeprefix("!"))
    return f"(?!/)[{negated}{members}]"
