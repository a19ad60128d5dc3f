"""dmsetup's table text, from and to targets; tables that cannot be are refused (`TableError`)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

from daxmend.dm.error import Error
from daxmend.dm.faulty import Faulty
from daxmend.dm.line import Line, parse_lines
from daxmend.dm.linear import Linear
from daxmend.dm.log_writes import LogWrites
from daxmend.dm.striped import Striped
from daxmend.dm.target import Context, Target
from daxmend.dm.writecache import Writecache
from daxmend.dm.zero import Zero
from daxmend.errors import TableError, UsageError
from daxmend.units import SECTOR

TARGETS: dict[str, type[Target]] = {
    target.name: target for target in (Linear, Striped, LogWrites, Writecache, Error, Zero, Faulty)
}


def parse_table(text: str) -> list[Line]:
    """The lines of a table whose targets are known; no member is opened.

    Raises `TableError` as `parse_lines`, and for unknown targets.
    """
    lines = parse_lines(text)
    for line in lines:
        if line.target not in TARGETS:
            known = ", ".join(sorted(TARGETS))
            raise line.refused(f"there is no target '{line.target}'; there are {known}")
    return lines


def format_table(lines: Iterable[Line]) -> str:
    """The text that `parse_table` reads back: one line each, as dmsetup prints it."""
    return "".join(f"{line}\n" for line in lines)


def make_targets(text: str, context: Context) -> list[Target]:
    """The targets of a table, whose members `context` opens.

    Raises `TableError` for what the text says, members that are too small, and two uses of the
    same bytes of a member; what else keeps a member from being opened is raised as it is.
    """
    targets = [_make_target(line, context) for line in parse_table(text)]
    check_uses(targets)
    return targets


def _make_target(line: Line, context: Context) -> Target:
    try:
        target = TARGETS[line.target].parse(line, context)
    except TableError as error:
        if error.line == line.number:
            raise
        raise line.refused(error.reason) from error
    except (UsageError, FileNotFoundError, IsADirectoryError) as error:
        raise line.refused(str(error)) from error
    target.line = line
    return target


def check_uses(targets: Sequence[Target]) -> None:
    """Raise `TableError` for uses beyond a member's end, or of the same bytes twice."""
    uses = []
    for at, target in enumerate(targets, 1):
        number = at if target.line is None else target.line.number
        for use in target.uses:
            if use.extent.end > use.device.size:
                raise TableError(
                    number,
                    f"{use.device.name} is too small: it ends at sector "
                    f"{use.device.size // SECTOR}, and {use.extent.end // SECTOR} is needed",
                )
            uses.append((id(use.device), use.extent, number, use.device.name))
    uses.sort()
    for (one, extent, first, name), (other, again, second, _) in pairwise(uses):
        if one == other and extent.overlaps(again):
            both = f"line {min(first, second)} too" if first != second else "the same line twice"
            raise TableError(
                max(first, second), f"{name}: {again.intersection(extent)} is used by {both}"
            )
