"""`daxmend scrub`: look for poison that nobody has met yet."""

import sys

import click

from daxmend.cli.option import SIZE, TARGET, after, json_option, print_json, printable, using
from daxmend.errors import EXIT_BAD_REMAINS, EXIT_DONE
from daxmend.extent import Extent
from daxmend.rescue import Target, open_target


@click.command("scrub", short_help="Find what has failed unnoticed.")
@click.argument("target", type=TARGET)
@click.option("--offset", type=SIZE, help="First byte, from the start of TARGET.")
@click.option("--length", type=SIZE, help="How many bytes.")
@json_option
def command(target: str, offset: int | None, length: int | None, as_json: bool) -> int:
    """Walk TARGET's medium, or a range of it, and record what has failed.

    TARGET is a pool, a mount's directory, or a file: POOL:/PATH, or on a mount; of a file, what it
    lies on is walked.

    Exits 0 if nothing in the record is bad afterwards, 4 if bad ranges remain.
    """
    if (offset is None) != (length is None):
        raise click.UsageError("--offset and --length go together")
    extent = None if offset is None or length is None else Extent(offset, length)
    with using(open_target(target, writable=True)) as opened:
        before = sum(run.length for run in opened.badblocks())
        _run(opened, extent, show_progress=not as_json)
        recorded = sum(run.length for run in opened.badblocks())
    found = recorded - before
    said = f"{printable(target)}: {found} bytes found bad, {recorded} bytes recorded in all"
    with after(said):
        if as_json:
            print_json({"target": target, "found": found, "recorded": recorded})
        else:
            click.echo(said)
    return EXIT_BAD_REMAINS if recorded else EXIT_DONE


def _run(target: Target, extent: Extent | None, *, show_progress: bool) -> None:
    """A bar on a terminal, nothing in a pipe."""
    slices = target.scrub(extent)
    if not show_progress or not sys.stderr.isatty():
        for _ in slices:
            pass
        return
    size = target.status()["size"] if extent is None else extent.length
    assert isinstance(size, int)
    with click.progressbar(length=size, label="scrub", file=sys.stderr) as bar:
        for done in slices:
            bar.update(done.length)
