"""One line of a device-mapper table, as dmsetup writes it: `START LENGTH TARGET ARGUMENTS…`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from daxmend.errors import TableError
from daxmend.extent import Extent
from daxmend.units import MAX_OFFSET, PAGE, SECTOR

_NUMBER = re.compile(r"\d{1,30}", re.ASCII)
_PAGE_SECTORS = PAGE // SECTOR


class Line(NamedTuple):
    """A line that has been taken apart. `start` and `length` are sectors, as in the text (R47)."""

    number: int  # in the text, from 1
    start: int
    length: int
    target: str
    arguments: tuple[str, ...]

    @property
    def extent(self) -> Extent:
        """Where the line lies in the mapped device, in bytes."""
        return Extent.of_sectors(self.start, self.length)

    def refused(self, reason: str) -> TableError:
        """The error for this line."""
        return TableError(self.number, reason)

    def check_count(self, usage: Sequence[str]) -> None:
        """Raise `TableError` unless there are as many arguments as names in `usage`."""
        if len(self.arguments) != len(usage):
            wanted = " ".join(usage) or "no arguments"
            raise self.refused(
                f"{self.target} takes {wanted}, and has {len(self.arguments)} arguments"
            )

    def sectors(self, text: str, what: str, *, positive: bool = False) -> int:
        """A number of sectors, in whole pages. Raises `TableError` for anything else."""
        count = parse_sectors(self.number, text, what)
        if count % _PAGE_SECTORS:
            raise self.refused(
                f"{what} {count} is no multiple of a page ({_PAGE_SECTORS} sectors), and DAX "
                "maps pages"
            )
        if positive and count == 0:
            raise self.refused(f"{what} is 0")
        return count

    def __str__(self) -> str:
        return " ".join((str(self.start), str(self.length), self.target, *self.arguments))


def parse_sectors(number: int, text: str, what: str) -> int:
    """A whole number of sectors in line `number`. Raises `TableError` for anything else."""
    if not _NUMBER.fullmatch(text):
        raise TableError(number, f"{what} '{text}' is not a whole number of sectors")
    if int(text) * SECTOR > MAX_OFFSET:
        raise TableError(number, f"{what} {text} is more than a file offset can hold")
    return int(text)


def parse_lines(text: str) -> list[Line]:
    """The lines of a table, in order; blank ones and `#` comments are skipped.

    Raises `TableError` for a malformed line, a gap, an overlap, a table that does not begin at
    sector 0 or is empty, and lengths that are no whole pages. What a target is, and what its
    arguments mean, is not looked at.
    """
    lines: list[Line] = []
    for number, raw in enumerate(text.splitlines(), 1):
        words = _words(raw)
        if words:
            line = _parse_line(number, words)
            _check_follows(line, lines[-1] if lines else None)
            lines.append(line)
    if not lines:
        raise TableError(1, "the table is empty; a line is START LENGTH TARGET ARGUMENTS…")
    return lines


def _words(raw: str) -> list[str]:
    """The words before a comment, which begins with a `#` of its own: a name may have one in it."""
    words = raw.split()
    for at, word in enumerate(words):
        if word.startswith("#"):
            return words[:at]
    return words


def _parse_line(number: int, words: list[str]) -> Line:
    if len(words) < 3:
        raise TableError(number, f"'{' '.join(words)}' is not START LENGTH TARGET ARGUMENTS…")
    start = parse_sectors(number, words[0], "START")
    line = Line(number, start, 0, words[2], tuple(words[3:]))
    length = line.sectors(words[1], "LENGTH", positive=True)
    if (start + length) * SECTOR > MAX_OFFSET:
        raise line.refused(f"{start} + {length} is more than a file offset can hold")
    return line._replace(length=length)


def _check_follows(line: Line, last: Line | None) -> None:
    """Raise unless the line begins where the last one ends."""
    end = 0 if last is None else last.start + last.length
    if line.start == end:
        return
    if last is None:
        raise line.refused(f"the table begins at sector {line.start}, not at 0")
    what = "a gap" if line.start > end else "an overlap"
    raise line.refused(
        f"{what}: line {last.number} ends at sector {end}, and this one begins at {line.start}"
    )
