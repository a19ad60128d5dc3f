"""`daxmend salvage`: save everything readable of a file, and say exactly what is lost."""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from daxmend.cli.option import (
    PATH,
    TARGET,
    after,
    describe_badblocks,
    json_option,
    print_json,
    printable,
)
from daxmend.errors import EXIT_BAD_REMAINS, EXIT_DONE, EXIT_FAILED
from daxmend.extent import Extent, merged
from daxmend.rescue.salvage import Progress, Salvage, SalvageReport
from daxmend.rescue.subjectopening import open_subject
from daxmend.units import SECTOR


@click.command("salvage", short_help="Save all of a file that can be read.")
@click.argument("file", type=TARGET)
@click.option("-o", "--output", "out", type=PATH, required=True, help="The copy to make.")
@click.option("--mapfile", type=PATH, help="What was saved, as GNU ddrescue keeps it; to go on.")
@click.option("--overwrite", is_flag=True, help="Make OUT and MAP anew if they exist.")
@json_option
def command(file: str, out: Path, mapfile: Path | None, overwrite: bool, as_json: bool) -> int:
    """Save everything that can be read of FILE into OUT, and print what is lost.

    FILE is any file, also on a mount, or POOL:/PATH; nothing is ever written to it. OUT has zeros
    where bytes are lost, and holes where FILE has them. With a mapfile an interrupted run goes on,
    and GNU ddrescue can.

    Exits 0 if all was saved, 4 if something is lost, 2 if FILE may not be read, 8 if it could not
    be done, or FILE was changed meanwhile.
    """
    subject = open_subject(file)
    try:
        with (
            contextlib.closing(Salvage(subject, out, mapfile, overwrite=overwrite)) as run,
            _progress(subject.size, show=not as_json) as progress,
        ):
            report = run.run(progress)
    finally:
        subject.close()
        for notice in subject.notices:
            click.echo(f"daxmend: {notice}", err=True)
    with after(f"{printable(file)}: {report.saved} of {report.size} bytes were saved"):
        if as_json:
            _print_document(file, out, report)
        else:
            _print_report(file, out, report)
    if report.changed is not None:
        click.echo(f"daxmend: {report.changed}", err=True)
        return EXIT_FAILED
    return EXIT_BAD_REMAINS if report.lost else EXIT_DONE


@contextlib.contextmanager
def _progress(size: int, *, show: bool) -> Iterator[Progress]:
    """A bar on a terminal, nothing in a pipe."""
    if not show or not sys.stderr.isatty():
        yield lambda _: None
        return
    with click.progressbar(length=size, label="salvage", file=sys.stderr) as bar:
        yield bar.update


def describe_lost(lost: list[Extent]) -> dict[str, object]:
    """Lost ranges in bytes, and the sectors that they touch (R47)."""
    sectors: list[Extent] = []
    for run in lost:
        wide = run.widened(SECTOR)
        if sectors and wide.offset < sectors[-1].end:
            wide = Extent.between(sectors[-1].end, wide.end)
        if wide.length:
            sectors.append(wide)
    return {
        **describe_badblocks(merged(sectors)),
        "ranges": [{"offset": run.offset, "length": run.length} for run in lost],
    }


def _print_document(file: str, out: Path, report: SalvageReport) -> None:
    print_json(
        {
            "target": file,
            "output": str(out),
            "size": report.size,
            "saved": report.saved,
            "lost": report.size - report.saved,
            "changed": report.changed,
            **describe_lost(report.lost),
        }
    )


def _print_report(file: str, out: Path, report: SalvageReport) -> None:
    lost = report.size - report.saved
    said = f"{lost} bytes are lost" if lost else "nothing is lost"
    click.echo(f"{printable(file)}: {report.saved} bytes saved in {printable(str(out))}, {said}")
    if lost:
        click.echo(f"{'OFFSET':>16} {'LENGTH':>12}")
    for run in report.lost:
        click.echo(f"{run.offset:>16} {run.length:>12}")
