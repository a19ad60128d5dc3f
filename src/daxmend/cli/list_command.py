"""`daxmend list`: what the bad-block record says."""

import click

from daxmend.cli.option import (
    TARGET,
    describe_badblocks,
    describe_owner,
    describe_range,
    json_option,
    print_json,
    printable,
    using,
)
from daxmend.errors import EXIT_BAD_REMAINS, EXIT_DONE
from daxmend.extent import Extent
from daxmend.rescue import Target, open_target


@click.command("list", short_help="Print what the bad-block record says.")
@click.argument("target", type=TARGET)
@json_option
def command(target: str, as_json: bool) -> int:
    """Print the bad-block record of TARGET.

    TARGET is a pool, a mount's directory, or a file: POOL:/PATH, or on a mount. Offsets are bytes
    from the start of the thing named. A pool with a file system also says who owns each range.

    An emulated device also shows its poison; poison that is not recorded is latent. Exits 0 if
    the record is empty, 4 if bad ranges remain, 2 if it could not be asked.
    """
    with using(open_target(target)) as opened:
        badblocks = opened.badblocks()
        if as_json:
            ranges = [describe_range(found, opened) for found in opened.ranges()]
            record = describe_badblocks(badblocks)
            print_json({"target": opened.name, **record, "ranges": ranges})
        else:
            _print_table(opened, badblocks)
    return EXIT_BAD_REMAINS if badblocks else EXIT_DONE


def _print_table(target: Target, badblocks: list[Extent]) -> None:
    length = sum(run.length for run in badblocks)
    said = f"{length} bytes are recorded as bad" if length else "no bad blocks recorded"
    click.echo(f"{printable(target.name)}: {said}")
    has_owners = target.content == "fs"
    ranges = target.ranges()
    if ranges:
        click.echo(
            f"{'OFFSET':>16} {'LENGTH':>12}   " + ("STATE        OWNER" * has_owners or "STATE")
        )
    for found in ranges:
        state = f"{found.kind:<12} {describe_owner(found)}" if has_owners else found.kind
        click.echo(f"{found.extent.offset:>16} {found.extent.length:>12}   {state}")
