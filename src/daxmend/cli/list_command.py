"""`daxmend list`: what the bad-block record says."""

from pathlib import Path

import click

from daxmend.cli.option import PATH, announced, json_option, print_json
from daxmend.errors import EXIT_BAD_REMAINS, EXIT_DONE
from daxmend.extent import Extent
from daxmend.rescue import Target, open_target
from daxmend.units import SECTOR, sector_of


@click.command("list")
@click.argument("target", type=PATH)
@json_option
def command(target: Path, as_json: bool) -> int:
    """Print the bad-block record of TARGET: a pool, mounted or not, or a mount's directory.

    An emulated device also shows its poison; poison that is not recorded is latent. Exits 0 if
    the record is empty, 4 if bad ranges remain, 2 if it could not be asked.
    """
    opened = announced(open_target(target))
    try:
        badblocks = opened.badblocks()
        if as_json:
            print_json(_document(opened, badblocks))
        else:
            _print_table(opened, badblocks)
    finally:
        opened.close()
    return EXIT_BAD_REMAINS if badblocks else EXIT_DONE


def _document(target: Target, badblocks: list[Extent]) -> dict[str, object]:
    """`badblocks` is in sectors as `ndctl list -M` prints them, `ranges` in bytes (R47)."""
    return {
        "target": target.name,
        "badblock_count": sum(run.length for run in badblocks) // SECTOR,
        "badblocks": [
            {"offset": sector_of(run.offset), "length": run.length // SECTOR} for run in badblocks
        ],
        "ranges": [
            {"offset": found.extent.offset, "length": found.extent.length, "state": found.kind}
            for found in target.ranges()
        ],
    }


def _print_table(target: Target, badblocks: list[Extent]) -> None:
    length = sum(run.length for run in badblocks)
    said = f"{length} bytes are recorded as bad" if length else "no bad blocks recorded"
    click.echo(f"{target.name}: {said}")
    ranges = target.ranges()
    if ranges:
        click.echo(f"{'OFFSET':>16} {'LENGTH':>12}   STATE")
    for found in ranges:
        click.echo(f"{found.extent.offset:>16} {found.extent.length:>12}   {found.kind}")
