"""`daxmend salvage`: save everything readable of a file, and say exactly what is lost."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import click

from daxmend.cli.each_file import Outcome, do_each, print_outcome
from daxmend.cli.option import (
    PATH,
    TARGET,
    describe_badblocks,
    json_option,
    printable,
    progress_bar,
    warn,
)
from daxmend.errors import EXIT_BAD_REMAINS, EXIT_DONE, EXIT_FAILED, UsageError
from daxmend.extent import Extent, merged
from daxmend.rescue.salvage import Salvage, SalvageReport
from daxmend.rescue.subjectopening import open_subject
from daxmend.rescue.tree import is_tree
from daxmend.units import SECTOR


@click.command("salvage")
@click.argument("file", type=TARGET)
@click.option(
    "-o", "--output", "out", type=PATH, required=True, metavar="OUT", help="The copy to make."
)
@click.option(
    "--mapfile",
    type=PATH,
    metavar="MAP",
    help="What was saved, as GNU ddrescue keeps it; to go on.",
)
@click.option("--overwrite", is_flag=True, help="Make OUT and MAP anew if they exist.")
@json_option
def command(file: str, out: Path, mapfile: Path | None, overwrite: bool, as_json: bool) -> int:
    """Save everything that can be read of FILE into OUT, and print what is lost.

    FILE is any file, also on a mount, or POOL:/PATH, or a block device; nothing is ever written to
    it. OUT has zeros where bytes are lost, and holes where FILE has them. With a mapfile an
    interrupted run goes on, and GNU ddrescue can.

    FILE may be a directory or a mount: every damaged file below it is saved in the directory OUT,
    under the same path, and MAP is a directory of mapfiles.

    Exits 0 if all was saved, 4 if something is lost, 2 if FILE may not be read, 8 if it could not
    be done, or FILE was changed meanwhile.
    """
    if is_tree(file):
        _validate_apart(file, out)

        def work(name: str, inside: str) -> Outcome:
            part = None if mapfile is None else mapfile / f"{inside}.map"
            for path in (out / inside, part):
                if path is not None:
                    path.parent.mkdir(parents=True, exist_ok=True)
            return _salvage(name, out / inside, part, overwrite=overwrite, show=not as_json)

        return do_each(file, work, as_json=as_json)
    outcome = _salvage(file, out, mapfile, overwrite=overwrite, show=not as_json)
    size, saved = outcome.document["size"], outcome.document["saved"]
    done = f"{printable(file)}: {saved} of {size} bytes were saved"
    print_outcome(outcome, done, as_json=as_json)
    return outcome.status


def _validate_apart(directory: str, out: Path) -> None:
    """Raise `UsageError` where what is saved would lie among what is damaged."""
    top, real = os.path.realpath(directory), os.path.realpath(out)
    if os.path.commonpath([top, real]) == top:
        raise UsageError(f"{out} lies in {directory}, which is damaged; name another directory")


def _salvage(file: str, out: Path, mapfile: Path | None, *, overwrite: bool, show: bool) -> Outcome:
    """One file."""
    subject = open_subject(file)
    try:
        with (
            contextlib.closing(Salvage(subject, out, mapfile, overwrite=overwrite)) as run,
            progress_bar("salvage", subject.size, show=show) as progress,
        ):
            report = run.run(progress)
    finally:
        subject.close()
        warn(subject.notices)
    status = EXIT_BAD_REMAINS if report.lost else EXIT_DONE
    if report.changed is not None:
        warn([report.changed])
        status = EXIT_FAILED
    return Outcome(_describe(file, out, report), list(_iter_lines(file, out, report)), status)


def describe_lost(lost: list[Extent]) -> dict[str, object]:
    """Lost ranges in bytes, and the sectors that they touch (R47)."""
    return {
        **describe_badblocks(merged(run.widened(SECTOR) for run in lost)),
        "ranges": [{"offset": run.offset, "length": run.length} for run in lost],
    }


def _describe(file: str, out: Path, report: SalvageReport) -> dict[str, object]:
    return {
        "target": file,
        "output": str(out),
        "size": report.size,
        "saved": report.saved,
        "lost": report.size - report.saved,
        "changed": report.changed,
        **describe_lost(report.lost),
    }


def _iter_lines(file: str, out: Path, report: SalvageReport) -> Iterator[str]:
    lost = report.size - report.saved
    said = f"{lost} bytes are lost" if lost else "nothing is lost"
    yield f"{printable(file)}: {report.saved} bytes saved in {printable(str(out))}, {said}"
    if lost:
        yield f"{'OFFSET':>16} {'LENGTH':>12}"
    for run in report.lost:
        yield f"{run.offset:>16} {run.length:>12}"
