"""`daxmend scrub`: look for poison that nobody has met yet."""

import sys
from pathlib import Path

import click

from daxmend.cli.option import PATH, SIZE, announced, json_option, print_json
from daxmend.errors import EXIT_BAD_REMAINS, EXIT_DONE
from daxmend.extent import Extent
from daxmend.rescue import Target, open_target


@click.command("scrub")
@click.argument("target", type=PATH)
@click.option("--offset", type=SIZE, help="First byte, from the device's start.")
@click.option("--length", type=SIZE, help="How many bytes.")
@json_option
def command(target: Path, offset: int | None, length: int | None, as_json: bool) -> int:
    """Walk TARGET's medium, or a range of it, and record what has failed.

    Exits 0 if nothing in the record is bad afterwards, 4 if bad ranges remain.
    """
    if (offset is None) != (length is None):
        raise click.UsageError("--offset and --length go together")
    extent = None if offset is None or length is None else Extent(offset, length)
    opened = announced(open_target(target, writable=True))
    try:
        before = sum(run.length for run in opened.badblocks())
        _run(opened, extent, show_progress=not as_json)
        after = sum(run.length for run in opened.badblocks())
    finally:
        opened.close()
    if as_json:
        print_json({"target": str(target), "found": after - before, "recorded": after})
    else:
        click.echo(f"{target}: {after - before} bytes found bad, {after} bytes recorded in all")
    return EXIT_BAD_REMAINS if after else EXIT_DONE


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
