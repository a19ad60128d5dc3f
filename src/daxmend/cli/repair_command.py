"""`daxmend repair`: give the bad pages of a file new bytes, in place."""

import contextlib
import os
from pathlib import Path

import click

from daxmend.cli.each_file import Outcome, do_each, print_outcome
from daxmend.cli.option import PATH, TARGET, json_option, printable, progress_bar, warn
from daxmend.cli.repair_report import describe_repair, iter_lines
from daxmend.errors import EXIT_BAD_REMAINS, EXIT_DONE, EXIT_FAILED, UsageError
from daxmend.rescue import repairrun
from daxmend.rescue.repair import State, bad_ranges
from daxmend.rescue.repairjournal import JournalPlace
from daxmend.rescue.repairplan import Strategy
from daxmend.rescue.repairrun import RepairReport
from daxmend.rescue.subject import Subject
from daxmend.rescue.subjectopening import open_subject
from daxmend.rescue.tree import is_tree


@click.command("repair")
@click.argument("file", type=TARGET)
@click.option(
    "--from", "copy", type=TARGET, metavar="COPY", help="A copy that has what FILE has lost."
)
@click.option("--zero", is_flag=True, help="What is lost becomes zeros.")
@click.option("--punch", is_flag=True, help="Last resort: punch a hole, and write; FILE moves.")
@click.option("--apply", is_flag=True, help="Do it; without, only say what would be done.")
@click.option("--undo", is_flag=True, help="Take back the last repair.")
@click.option(
    "--journal", type=PATH, metavar="DIR", help="Directory of the journal, else beside FILE."
)
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

    FILE, and COPY, is any file, also on a mount, or POOL:/PATH, or a block device; one that is
    mounted, swap, or part of another, or a disk image that is, is refused as FILE. Without --apply
    nothing is changed. What was there, and what is to come, is kept in a journal first, so that a
    repair that was stopped is finished by the next one, and --undo can take it back.

    FILE may be a directory or a mount: every damaged file below it is repaired, with --from from
    the file of the same path in the directory COPY.

    Exits 0 if nothing is bad (any more), 4 if bad ranges remain, 2 if FILE may not be read, 8 if it
    could not be done.
    """
    strategy = _strategy(copy, zero, punch, apply=apply, undo=undo)

    def work(name: str, inside: str) -> Outcome:
        source = copy if copy is None or not inside else os.path.join(copy, inside)
        action = "undo" if undo else "apply" if apply else "plan"
        return _repair(name, source, strategy, journal, action, show=not as_json)

    if is_tree(file):
        if undo:
            raise UsageError(f"{file} is a directory: --undo takes back the repair of one file")
        if copy is not None and not is_tree(copy):
            raise UsageError(f"{copy} is no directory, and {file} is one; name one of its shape")
        return do_each(file, work, as_json=as_json)
    outcome = work(file, "")
    print_outcome(outcome, f"{printable(file)}: the repair has ended", as_json=as_json)
    return outcome.status


def _repair(
    file: str,
    copy: str | None,
    strategy: Strategy,
    journal: Path | None,
    action: str,
    *,
    show: bool,
) -> Outcome:
    """One file."""
    with contextlib.ExitStack() as stack:
        subject = _opened(stack, file, writable=action != "plan")
        source = None if copy is None else _opened(stack, copy, writable=False)
        place = JournalPlace(subject, journal)
        with progress_bar("read", subject.size, show=show) as progress:
            if action == "undo":
                report = repairrun.undo(subject, place)
            elif action == "apply":
                report = repairrun.apply(subject, source, strategy, place, progress, warn)
            else:
                report = repairrun.plan(subject, source, strategy, place, progress)
                warn(report.warnings)
    document = {"target": file, **describe_repair(report)}
    return Outcome(document, list(iter_lines(file, report)), _status(report))


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


def _opened(stack: contextlib.ExitStack, name: str, *, writable: bool) -> Subject:
    subject = open_subject(name, writable=writable)

    def close() -> None:
        subject.close()
        warn(subject.notices)

    stack.callback(close)
    return subject


def _status(report: RepairReport) -> int:
    if report.changed or any(result.state is State.CHANGED for result in report.results):
        return EXIT_FAILED
    return EXIT_BAD_REMAINS if bad_ranges(report.results) else EXIT_DONE
