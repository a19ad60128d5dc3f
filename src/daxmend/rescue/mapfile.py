"""The mapfile of GNU ddrescue: what of a file has been saved, what is lost, what is left to try.

The format is that of its manual, "Mapfile structure": ddrescue continues what we began, and we
what it began. Offsets and lengths are bytes.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from enum import StrEnum
from typing import Final

from daxmend.errors import UsageError
from daxmend.extent import Extent

_NUMBER: Final = r"(0[xX][0-9a-fA-F]{1,16}|\d{1,19})"
_STATUS_LINE: Final = re.compile(rf"{_NUMBER}\s+([?*/\-FG+])(?:\s+\d+)?", re.ASCII)
_BLOCK_LINE: Final = re.compile(rf"{_NUMBER}\s+{_NUMBER}\s+([?*/\-+])", re.ASCII)
_COMMENT: Final = re.compile(r"(^|\s)#.*")


class Status(StrEnum):
    """What is known of a block."""

    UNTRIED = "?"
    UNTRIMMED = "*"  # failed, and its edges were not looked for
    UNSCRAPED = "/"  # failed, and not every unit of it was tried
    BAD = "-"
    SAVED = "+"


class RescueMap:
    """A status for every byte of `[0, size)`."""

    def __init__(self, size: int) -> None:
        self.size = size
        # Where a status begins; it goes on to the next one.
        self._starts = [0]
        self._statuses = [Status.UNTRIED]

    def set(self, extent: Extent, status: Status) -> None:
        """The status of a range, which is cut to the map's."""
        start, end = max(extent.offset, 0), min(extent.end, self.size)
        if start >= end:
            return
        first = bisect_right(self._starts, start) - 1
        last = bisect_right(self._starts, end - 1) - 1
        starts, statuses = [start], [status]
        if self._starts[first] < start:
            starts.insert(0, self._starts[first])
            statuses.insert(0, self._statuses[first])
        following = self._starts[last + 1] if last + 1 < len(self._starts) else self.size
        if end < following:
            starts.append(end)
            statuses.append(self._statuses[last])
        self._starts[first : last + 1] = starts
        self._statuses[first : last + 1] = statuses

    def blocks(self) -> Iterator[tuple[Extent, Status]]:
        """Ascending and without gaps; neighbours differ."""
        start = 0
        for index, status in enumerate(self._statuses):
            is_last = index + 1 == len(self._statuses)
            end = self.size if is_last else self._starts[index + 1]
            if is_last or self._statuses[index + 1] is not status:
                if start < end:
                    yield Extent.between(start, end), status
                start = end

    def extents(self, *statuses: Status, within: Extent | None = None) -> list[Extent]:
        """Where one of these holds, ascending and merged, cut to `within`."""
        found: list[Extent] = []
        for extent, status in self.blocks():
            part = extent if within is None else extent.intersection(within)
            if status not in statuses or not part.length:
                continue
            if found and found[-1].end == part.offset:
                part = Extent.between(found.pop().offset, part.end)
            found.append(part)
        return found


def format_mapfile(rescue: RescueMap, comments: list[str]) -> str:
    """The text of a mapfile. `comments` are lines without `#`."""
    rest = rescue.extents(Status.UNTRIED)
    position = rest[0].offset if rest else 0
    status = Status.UNTRIED if rest else "+"
    lines = [f"# {comment}" for comment in comments]
    lines += ["# current_pos  current_status  current_pass", f"0x{position:08X}     {status}     1"]
    lines.append("#      pos        size  status")
    lines += [
        f"0x{extent.offset:08X}  0x{extent.length:08X}  {status}"
        for extent, status in rescue.blocks()
    ]
    return "\n".join(lines) + "\n"


def parse_mapfile(text: str, size: int, name: str) -> RescueMap:
    """The map of a file of `size` bytes; what the text does not speak of is untried.

    Raises `UsageError` for what is no mapfile, and for one that reaches beyond the file.
    """
    rescue = RescueMap(size)
    position: int | None = None  # behind the status line
    for number, raw in enumerate(text.splitlines(), 1):
        line = _COMMENT.sub("", raw).strip()
        if not line:
            continue
        match = (_STATUS_LINE if position is None else _BLOCK_LINE).fullmatch(line)
        if match is None:
            raise UsageError(f"{name} is no mapfile of GNU ddrescue: line {number} is '{line}'")
        if position is None:
            position = 0
            continue
        extent = Extent(_integer(match[1]), _integer(match[2]))
        if extent.offset < position or (position and extent.offset != position):
            raise UsageError(
                f"{name}: line {number}: a block at offset {extent.offset} does not follow the one "
                f"before it, which ends at {position}"
            )
        if extent.end > size:
            raise UsageError(
                f"{name}: line {number} reaches to offset {extent.end}, but the file has {size} "
                "bytes: it is another file's map, or the file became shorter"
            )
        rescue.set(extent, Status(match[3]))
        position = extent.end
    if position is None:
        raise UsageError(f"{name} is empty, and no mapfile; remove it to begin anew")
    return rescue


def _integer(text: str) -> int:
    """As ddrescue reads it: hexadecimal, octal with a leading 0, decimal."""
    if text[:2] in ("0x", "0X"):
        return int(text, 16)
    is_octal = text.startswith("0") and set(text) <= set("01234567")
    return int(text, 8 if is_octal else 10)
