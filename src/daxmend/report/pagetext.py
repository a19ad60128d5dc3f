"""Names for people, and for a shell: any bytes, on one line, that read as what they are."""

import os
import shlex
from collections.abc import Iterable


def escaped(name: str | bytes) -> str:
    """The name on one line; what cannot be shown, and a backslash, is escaped as in C."""
    return "".join(map(_escape, os.fsdecode(name)))


def one_line(message: str) -> str:
    """The message on one line; its backslashes stay, for names in it may be escaped by now."""
    return "".join(each if each == "\\" else _escape(each) for each in message)


def _escape(character: str) -> str:
    if character.isprintable() and character != "\\":
        return character
    raw = os.fsencode(character)
    if len(raw) == 1 and raw[0] >= 0x80:  # a byte that is not UTF-8
        return f"\\x{raw[0]:02x}"
    return character.encode("unicode_escape").decode()


def absolute(name: str) -> str:
    """The name from the root on; `POOL:/PATH` keeps its shape, so nothing is normalized."""
    return os.path.join(os.getcwd(), name)


def shell_word(word: str | bytes) -> str:
    """The word as a shell takes it, printable: `$'…'` (bash, zsh, ksh) only where it must be.

    What turns text around, or is no text, is written as its bytes in octal: what is shown is what
    is meant.
    """
    text = os.fsdecode(word)
    if text.isprintable():
        return shlex.quote(text)
    return "$'" + "".join(map(_octal, text)) + "'"


def _octal(character: str) -> str:
    if character in "\\'":
        return "\\" + character
    if character.isprintable():
        return character
    return "".join(f"\\{byte:03o}" for byte in os.fsencode(character))


class ShellText(str):
    """A part of a command that is the shell's own and is not quoted."""


def shell_line(*words: str | bytes) -> str:
    """A command of these words."""
    return " ".join(w if isinstance(w, ShellText) else shell_word(w) for w in words)


def listed(parts: Iterable[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    *first, last = parts
    return f"{', '.join(first)} and {last}" if first else last


def counted(number: int, what: str) -> str:
    """`1 file`, `2 files`."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
