"""Options and output that commands share."""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click

from daxmend.errors import DaxmendError, UsageError
from daxmend.extent import Extent
from daxmend.rescue import Range, Target
from daxmend.units import SECTOR, parse_size, sector_of

_T = TypeVar("_T", bound=Target)


class Size(click.ParamType[int]):
    """Bytes, or a number with K, M, G or T (powers of 1024)."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The number of bytes; what is no size is a usage error."""
        if isinstance(value, int):
            return value
        try:
            return parse_size(str(value))
        except UsageError as error:
            self.fail(str(error), param, ctx)


class UntouchedPath(click.ParamType[Path]):
    """A path as it was given. `click.Path` looks at what is there, and a mount whose server is
    stuck would never answer."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Any text is a path."""
        return Path(value)


class TargetName(click.ParamType[str]):
    """What a target is called, as it was given: `POOL:/` is not what `Path` makes of it."""

    name = "target"


SIZE = Size()
PATH = UntouchedPath()
TARGET = TargetName()

json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON document instead."
)


@contextmanager
def using(target: _T) -> Iterator[_T]:
    """The target, closed in the end; what it has to say of itself is said on stderr then."""
    try:
        yield target
    finally:
        target.close()
        for notice in target.notices:
            click.echo(f"daxmend: {notice}", err=True)


@contextmanager
def after(done: str) -> Iterator[None]:
    """Around the output of what has changed something: if it fails, the change is told all the
    same, and nobody takes the one failure for the other."""
    try:
        yield
    except OSError as error:
        raise DaxmendError(f"{done}, but that could not be printed: {error.strerror}") from None


def printable(name: str | bytes) -> str:
    """A name that stays on one line and fits the terminal; what does not is escaped as in C."""
    escaped = "".join(_escape(character) for character in os.fsdecode(name))
    encoding = getattr(sys.stdout, "encoding", None) or "ascii"
    return escaped.encode(encoding, "backslashreplace").decode(encoding)


def _escape(character: str) -> str:
    if character.isprintable() and character != "\\":
        return character
    raw = os.fsencode(character)
    if len(raw) == 1 and raw[0] >= 0x80:  # a byte that is not UTF-8
        return f"\\x{raw[0]:02x}"
    return character.encode("unicode_escape").decode()


def describe_badblocks(badblocks: list[Extent]) -> dict[str, object]:
    """The record in sectors, as `ndctl list -M` prints it (R47)."""
    return {
        "badblock_count": sum(run.length for run in badblocks) // SECTOR,
        "badblocks": [
            {"offset": sector_of(run.offset), "length": run.length // SECTOR} for run in badblocks
        ],
    }


def describe_range(found: Range, target: Target) -> dict[str, object]:
    """A bad range in bytes of the thing named (R47), and what is known of it."""
    document: dict[str, object] = {
        "offset": found.extent.offset,
        "length": found.extent.length,
        "state": found.kind,
    }
    if target.content == "file":
        document["device_offset"] = found.device_offset
    elif target.content == "fs":
        document["owner"] = found.owner
        document["path"] = os.fsdecode(found.path) or None
        document["file_offset"] = found.file_offset
    return document


def describe_owner(found: Range) -> str:
    """Who owns a range, for people."""
    if found.owner == "file":
        return printable(found.path) if found.path else "(a file without a name)"
    return {"metadata": "(metadata)", "free": "(free space)"}.get(found.owner or "", "-")


def print_json(document: object) -> None:
    """The one document of a `--json` run."""
    click.echo(json.dumps(document, indent=2))
