"""`daxmend list`: what the bad-block record says."""

import click

from daxmend.cli.option import (
    TARGET,
    describe_owner,
    describe_places,
    describe_range,
    describe_record,
    json_option,
    print_json,
    printable,
    record_status,
    using,
)
from daxmend.extent import Extent
from daxmend.rescue.opening import open_target
from daxmend.rescue.target import Target


@click.command("list")
@click.argument("target", type=TARGET)
@json_option
def command(target: str, as_json: bool) -> int:
    """Print the bad-block record of TARGET.

    TARGET is a pool, a mount point, a file (POOL:/PATH, or any), or a block or dax device. Offsets
    are bytes from the start of the thing named, of a mount point from the start of its device. A
    pool with a file system also says who owns each range. Of a real device or file, what the
    kernel's drivers have recorded is printed, and where each range lies on the devices below.

    An emulated device also shows its poison; poison that is not recorded is latent. Exits 0 if
    the record is empty, 4 if bad ranges remain, 2 if it could not be asked: then nothing is known,
    and `daxmend scrub` can find out.
    """
    with using(open_target(target)) as opened:
        badblocks = opened.badblocks()
        if as_json:
            ranges = [describe_range(found, opened) for found in opened.ranges()]
            record = describe_record(opened, badblocks)
            print_json({"target": opened.name, **record, "ranges": ranges})
        elif badblocks or not opened.unknown:
            _print_table(opened, badblocks)
        return record_status(opened, is_bad=bool(badblocks))


def _print_table(target: Target, badblocks: list[Extent]) -> None:
    length = sum(run.length for run in badblocks)
    said = f"{length} bytes are recorded as bad" if length else "no bad blocks recorded"
    click.echo(f"{printable(target.name)}: {said}")
    has_owners = target.content in ("fs", "shadow")
    ranges = target.ranges()
    has_places = any(found.places for found in ranges)
    if ranges:
        more = "STATE        OWNER" if has_owners else "STATE"
        more = "STATE        ON" if has_places else more
        click.echo(f"{'OFFSET':>16} {'LENGTH':>12}   {more}")
    for found in ranges:
        state = f"{found.kind:<12} {describe_owner(found)}" if has_owners else found.kind
        state = f"{found.kind:<12} {describe_places(found)}" if has_places else state
        click.echo(f"{found.extent.offset:>16} {found.extent.length:>12}   {state}")
