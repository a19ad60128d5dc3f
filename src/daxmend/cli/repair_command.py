"""`daxmend repair`: give the bad pages of a file new bytes, in place."""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from daxmend.cli.option import PATH, TARGET, after, json_option, print_json, printable
from daxmend.cli.repair_report import describe_repair, iter_lines
from daxmend.errors import EXIT_BAD_REMAINS, EXIT_DONE, EXIT_FAILED
from daxmend.rescue import repairrun
from daxmend.rescue.hostfile import HostFile
from daxmend.rescue.poolfile import PoolFile
from daxmend.rescue.repair import State, lost_ranges
from daxmend.rescue.repairjournal import JournalPlace
from daxmend.rescue.repairplan import Progress, Strategy
from daxmend.rescue.repairrun import RepairReport
from daxmend.rescue.subjectopening import open_subject


@click.command("repair", short_help="Give bad pages new bytes, in place.")
@click.argument("file", type=TARGET)
@click.option("--from", "copy", type=TARGET, help="A copy that has what FILE has lost.")
@click.option("--zero", is_flag=True, help="What is lost becomes zeros.")
@click.option("--punch", is_flag=True, help="Last resort: punch a hole, and write; FILE moves.")
@click.option("--apply", is_flag=True, help="Do it; without, only say what would be done.")
@click.option("--undo", is_flag=True, help="Take back the last repair.")
@click.option("--journal", type=PATH, help="Directory of the journal, else beside FILE.")
@json_option
def command(
    file: str,
    copy: str | None,
    zero: bool,
    punch: bool,
    apply: bool,
    undo: bool,
    journal: Path | None,
    as_json: bool,
) -> int:
    """Repair the bad pages of FILE: good bytes are kept, what is lost comes from --from, or is
    zeros.

    FILE, and COPY, is any file, also on a mount, or POOL:/PATH. Without --apply nothing is changed.
    What was there, and what is to come, is kept in a journal first, so that a repair that was
    stopped is finished by the next one, and --undo can take it back.

    Exits 0 if nothing is bad (any more), 4 if bad ranges remain, 2 if FILE may not be read, 8 if it
    could not be done.
    """
    strategy = _strategy(copy, zero, punch, apply=apply, undo=undo)
    with contextlib.ExitStack() as stack:
        subject = _opened(stack, file, writable=apply or undo)
        source = None if copy is None else _opened(stack, copy, writable=False)
        place = JournalPlace(subject, journal)
        with _progress(subject.size, show=not as_json) as progress:
            if undo:
                report = repairrun.undo(subject, place)
            elif apply:
                report = repairrun.apply(subject, source, strategy, place, progress, _warn)
            else:
                report = repairrun.plan(subject, source, strategy, place, progress)
                _warn(report.warnings)
    with after(f"{printable(file)}: the repair has ended"):
        if as_json:
            print_json({"target": file, **describe_repair(report)})
        else:
            for line in iter_lines(file, report):
                click.echo(line)
    return _status(report)


def _strategy(copy: str | None, zero: bool, punch: bool, *, apply: bool, undo: bool) -> Strategy:
    if undo:
        if copy is not None or zero or punch or apply:
            raise click.UsageError("--undo takes back the last repair, and goes with nothing else")
        return Strategy.WRITE
    if zero and (copy is not None or punch):
        raise click.UsageError("--zero does not go with --from or --punch")
    if punch:
        return Strategy.PUNCH
    if zero:
        return Strategy.ZERO
    if copy is None:
        raise click.UsageError("say where the lost bytes come from: --from COPY, --zero or --punch")
    return Strategy.WRITE


def _opened(stack: contextlib.ExitStack, name: str, *, writable: bool) -> HostFile | PoolFile:
    subject = open_subject(name, writable=writable)

    def close() -> None:
        subject.close()
        _warn(subject.notices)

    stack.callback(close)
    return subject


def _warn(warnings: list[str]) -> None:
    for warning in warnings:
        click.echo(f"daxmend: {warning}", err=True)


@contextlib.contextmanager
def _progress(size: int, *, show: bool) -> Iterator[Progress]:
    """A bar on a terminal while the file is read, nothing in a pipe."""
    if not show or not sys.stderr.isatty():
        yield lambda _: None
        return
    with click.progressbar(length=size, label="read", file=sys.stderr) as bar:
        yield bar.update


def _status(report: RepairReport) -> int:
    if report.changed or any(result.state is State.CHANGED for result in report.results):
        return EXIT_FAILED
    return EXIT_BAD_REMAINS if lost_ranges(report.results) else EXIT_DONE
