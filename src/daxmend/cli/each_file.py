"""A command on a directory: the same for each damaged file below it, and one answer for all."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import click

from daxmend.cli.option import after, describe_owner, print_json, printable, warn
from daxmend.errors import (
    EXIT_BAD_REMAINS,
    EXIT_DONE,
    EXIT_FAILED,
    EXIT_UNKNOWN,
    EXIT_USAGE,
    DaxmendError,
    UnknownStateError,
)
from daxmend.report.pagetext import one_line
from daxmend.rescue.tree import Tree, find_damaged

_ORDER = (EXIT_FAILED, EXIT_BAD_REMAINS, EXIT_UNKNOWN)  # docs/errors.md


class Outcome(NamedTuple):
    """What was done to a file: as JSON, as lines for people, and as an exit status."""

    document: dict[str, object]
    lines: list[str]
    status: int


Work = Callable[[str, str], Outcome]  # the file, and its path from the directory on


def print_outcome(outcome: Outcome, done: str, *, as_json: bool) -> None:
    """What became of one file; `done` is said if that cannot be printed."""
    with after(done):
        if as_json:
            print_json(outcome.document)
        else:
            for line in outcome.lines:
                click.echo(line)


def do_each(directory: str, work: Work, *, as_json: bool) -> int:
    """Find the damaged files, do the work on each, and print what became of them."""
    tree = find_damaged(directory, _tell)
    warn(tree.notices)
    if tree.why is not None:
        warn([f"every file below {directory} was read to find what is bad: {tree.why}"])
    outcomes = [_attempt(work, directory, inside) for inside in tree.files]
    outcomes += [_failed(os.path.join(directory, name), error) for name, error in tree.unread]
    with after(f"{printable(directory)}: {len(outcomes)} files were dealt with"):
        if as_json:
            print_json(_document(directory, tree, outcomes))
        else:
            _print(directory, tree, outcomes)
    statuses = {outcome.status for outcome in outcomes}
    if tree.others:
        statuses.add(EXIT_BAD_REMAINS)
    if statuses - {EXIT_DONE, *_ORDER}:  # a usage error of one file ends nothing else
        statuses.add(EXIT_FAILED)
    return next((status for status in _ORDER if status in statuses), EXIT_DONE)


def _tell(inside: str) -> None:
    if sys.stderr.isatty():
        click.echo(f"\r\033[Kreading {printable(inside)}", nl=False, err=True)


def _attempt(work: Work, directory: str, inside: str) -> Outcome:
    name = str(Path(directory) / inside)
    try:
        return work(name, inside)
    except (DaxmendError, OSError) as error:
        return _failed(name, error)


def _failed(name: str, error: Exception) -> Outcome:
    """What could not be done to one file keeps no other from its repair."""
    status = error.exit_status if isinstance(error, DaxmendError) else EXIT_FAILED
    if isinstance(error, PermissionError | UnknownStateError):
        status = EXIT_UNKNOWN
    said = str(error)
    if isinstance(error, OSError) and not isinstance(error, DaxmendError):
        said = f"{error.filename or name}: {error.strerror}"
    status = EXIT_FAILED if status == EXIT_USAGE else status
    return Outcome({"target": name, "error": said}, [one_line(said)], status)


def _document(directory: str, tree: Tree, outcomes: list[Outcome]) -> dict[str, object]:
    return {
        "target": directory,
        "found_by": "record" if tree.why is None else "reading",
        "files": [outcome.document for outcome in outcomes],
        "others": [
            {"offset": each.extent.offset, "length": each.extent.length, "owner": each.owner}
            for each in tree.others
        ],
    }


def _print(directory: str, tree: Tree, outcomes: list[Outcome]) -> None:
    for outcome in outcomes:
        for line in outcome.lines:
            click.echo(line)
    for each in tree.others:
        click.echo(
            f"{each.extent.length} bytes at offset {each.extent.offset} of the device are bad and "
            f"no file's: {describe_owner(each)}"
        )
    if not outcomes and not tree.others:
        click.echo(f"{printable(directory)}: no file is damaged")
