"""Options and output that commands share."""

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click

from daxmend.errors import (
    EXIT_BAD_REMAINS,
    EXIT_DONE,
    EXIT_UNKNOWN,
    DaxmendError,
    UsageError,
)
from daxmend.extent import Extent
from daxmend.report.pagetext import escaped, one_line, shell_line
from daxmend.rescue.hosttarget import HostTarget
from daxmend.rescue.target import Range, Target
from daxmend.units import SECTOR, parse_size

_T = TypeVar("_T", bound=Target)
_NO_NAME = "an empty name; was a variable not set?"


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
        """Any text is a path; of a shell's variable that is not set `Path` would make `.`."""
        if value == "":
            self.fail(_NO_NAME, param, ctx)
        return Path(value)


class TargetName(click.ParamType[str]):
    """What a target is called, as it was given: `POOL:/` is not what `Path` makes of it."""

    name = "target"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Any text is a name."""
        if value == "":
            self.fail(_NO_NAME, param, ctx)
        return str(value)


SIZE = Size()
PATH = UntouchedPath()
TARGET = TargetName()


json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON document instead."
)
mount_options = click.option(
    "-o",
    "options",
    multiple=True,
    metavar="OPTIONS",
    help="recovery=on|off, open=auto|direct|cached, verify_writes",
)
foreground_option = click.option(
    "-f", "--foreground", is_flag=True, help="Stay in the foreground until unmounted."
)
log_option = click.option(
    "--log", type=PATH, metavar="FILE", help="Where the server writes complaints."
)


@contextmanager
def using(target: _T) -> Iterator[_T]:
    """The target, closed in the end; what it has to say of itself is said on stderr then."""
    try:
        yield target
    finally:
        target.close()
        warn(target.notices)


def warn(messages: Iterable[str]) -> None:
    """What the operator should know, on stderr; a newline in a name stays on its line."""
    for message in messages:
        click.echo(f"daxmend: {one_line(message)}", err=True)


@contextmanager
def progress_bar(label: str, size: int, *, show: bool) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal, nothing in a pipe; told of bytes that are done."""
    if not show or not sys.stderr.isatty():
        yield lambda _: None
        return
    with click.progressbar(length=size, label=label, file=sys.stderr) as bar:
        yield bar.update


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
    encoding = getattr(sys.stdout, "encoding", None) or "ascii"
    return escaped(name).encode(encoding, "backslashreplace").decode(encoding)


@contextmanager
def files_bar(*, show: bool) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal where every file has to be looked at: told how many, of how many."""
    if not show or not sys.stderr.isatty():
        yield lambda done, total: None
        return
    with click.progressbar(length=1, label="files", file=sys.stderr) as bar:

        def advance(done: int, total: int) -> None:
            bar.length = max(total, 1)
            bar.update(done - bar.pos)

        yield advance


def describe_badblocks(badblocks: list[Extent]) -> dict[str, object]:
    """The record in sectors, as `ndctl list -M` prints it (R47)."""
    return {
        "badblock_count": sum(run.length for run in badblocks) // SECTOR,
        "badblocks": [
            {"offset": run.offset // SECTOR, "length": run.length // SECTOR} for run in badblocks
        ],
    }


def describe_record(target: Target, badblocks: list[Extent]) -> dict[str, object]:
    """`describe_badblocks`; of a real device or file also why there may be more (R44).

    Where nothing is known to be bad and more may be, there is no count: null, not 0.
    """
    record = describe_badblocks(badblocks)
    if not isinstance(target, HostTarget):
        return record
    if target.unknown and not badblocks:
        record = dict.fromkeys(record)
    return {**record, "unknown": target.unknown}


def record_status(target: Target, *, is_bad: bool) -> int:
    """The exit status after the record was asked: bad, unknown, or clean; says what is unknown."""
    name = target.name
    warn(why if why.startswith(f"{name}: ") else f"{name}: {why}" for why in target.unknown)
    if is_bad:
        return EXIT_BAD_REMAINS
    if target.unknown:
        scrub = shell_line("daxmend", "scrub", name)
        warn([f"{name}: nothing is known; reading it finds out: {scrub}"])
        return EXIT_UNKNOWN
    return EXIT_DONE


def describe_range(found: Range, target: Target, *, has_owners: bool = False) -> dict[str, object]:
    """A bad range in bytes of the thing named (R47), and what is known of it."""
    document: dict[str, object] = {
        "offset": found.extent.offset,
        "length": found.extent.length,
        "state": found.kind,
    }
    if target.content == "file":
        document["device_offset"] = found.device_offset
    elif has_owners or target.content in ("fs", "shadow"):
        document["owner"] = found.owner
        document["path"] = os.fsdecode(found.path) or None
        document["file_offset"] = found.file_offset
    if found.places:
        document["stack"] = [place._asdict() for place in found.places]
    return document


def describe_places(found: Range) -> str:
    """Where a range lies on the devices below, for people: `/dev/pmem0 4096, /dev/dm-0 0`."""
    return ", ".join(f"{printable(place.device)} {place.offset}" for place in found.places)


def describe_owner(found: Range) -> str:
    """Who owns a range, for people."""
    if found.owner == "file":
        return printable(found.path) if found.path else "(a file without a name)"
    if found.owner == "metadata" and found.path:
        return f"(metadata of {printable(found.path)})"
    return {"metadata": "(metadata)", "free": "(free space)"}.get(found.owner or "", "-")


def print_json(document: object) -> None:
    """The one document of a `--json` run."""
    click.echo(json.dumps(document, indent=2))
