"""`daxmend scrub`: look for what has failed, and nobody has met yet."""

import contextlib
from pathlib import Path

import click

from daxmend.cli.option import (
    PATH,
    SIZE,
    TARGET,
    after,
    describe_badblocks,
    json_option,
    print_json,
    printable,
    progress_bar,
    record_status,
    using,
)
from daxmend.errors import EXIT_BAD_REMAINS, EXIT_DONE
from daxmend.extent import Extent, check_bounds, merged
from daxmend.rescue.busscrub import BusScrub, bus_scrub
from daxmend.rescue.hosttarget import HostTarget
from daxmend.rescue.opening import open_target
from daxmend.rescue.readscrub import ReadScrub
from daxmend.rescue.target import Target
from daxmend.units import SECTOR, format_size


@click.command("scrub")
@click.argument("target", type=TARGET)
@click.option("--offset", type=SIZE, help="First byte, from the start of TARGET.")
@click.option("--length", type=SIZE, help="How many bytes.")
@click.option("--read", "by_reading", is_flag=True, help="Read, also where the bus can scrub.")
@click.option("--rate", type=SIZE, help="When reading: bytes a second at most.")
@click.option(
    "--mapfile",
    type=PATH,
    metavar="MAP",
    help="When reading: what was read, as GNU ddrescue keeps it.",
)
@json_option
def command(
    target: str,
    offset: int | None,
    length: int | None,
    by_reading: bool,
    rate: int | None,
    mapfile: Path | None,
    as_json: bool,
) -> int:
    """Walk TARGET's medium, or a range of it, and find what has failed.

    TARGET is a pool, a daxmend mount, or a file in one: its device walks, and what it finds enters
    the record. Or a block or dax device, a mount point, or any file: where a bus of persistent
    memory has a scrub of its own, that is started (or followed, if it runs); else, or with --read,
    all of it is read past the caches, and what cannot be read is printed. With a mapfile, a scrub
    that was stopped goes on where it was.

    Exits 0 if nothing is bad afterwards, 4 if bad ranges remain, 2 if it may not be read.
    """
    if (offset is None) != (length is None):
        raise click.UsageError("--offset and --length go together")
    if rate is not None and rate < 1:
        raise click.UsageError("--rate is bytes a second, and not 0")
    extent = None if offset is None or length is None else Extent(offset, length)
    with using(open_target(target, writable=True)) as opened:
        if not isinstance(opened, HostTarget):
            if by_reading or rate is not None or mapfile is not None:
                raise click.UsageError(f"{target} is scrubbed by its device, not by reading")
            return _scrub_own(opened, extent, as_json=as_json)
        is_asked = by_reading or extent is not None or mapfile is not None or rate is not None
        bus = None if is_asked else bus_scrub(opened)
        if bus is not None:
            return _scrub_bus(opened, bus, as_json=as_json)
        return _scrub_by_reading(opened, extent, mapfile, rate, as_json=as_json)


def _scrub_own(target: Target, extent: Extent | None, *, as_json: bool) -> int:
    before = sum(run.length for run in target.badblocks())
    size = target.status()["size"] if extent is None else extent.length
    assert isinstance(size, int)
    with progress_bar("scrub", size, show=not as_json) as advance:
        for done in target.scrub(extent):
            advance(done.length)
    recorded = sum(run.length for run in target.badblocks())
    found = recorded - before
    said = f"{printable(target.name)}: {found} bytes found bad, {recorded} bytes recorded in all"
    with after(said):
        if as_json:
            print_json({"target": target.name, "found": found, "recorded": recorded})
        else:
            click.echo(said)
    return EXIT_BAD_REMAINS if recorded else EXIT_DONE


def _scrub_bus(target: HostTarget, bus: BusScrub, *, as_json: bool) -> int:
    before = sum(run.length for run in target.badblocks())
    if not as_json:
        what = "a scrub of it runs already" if bus.start() else "its scrub was started"
        click.echo(f"{printable(target.name)}: on {bus.name}; {what}", err=True)
    else:
        bus.start()
    bus.wait()
    target.records.forget()
    badblocks = target.badblocks()
    recorded = sum(run.length for run in badblocks)
    if as_json:
        document = {"found": recorded - before, "recorded": recorded, "scrubbed_by": bus.name}
        print_json({"target": target.name, **document, "unknown": target.unknown})
    else:
        click.echo(
            f"{printable(target.name)}: {recorded - before} bytes found bad, {recorded} bytes "
            "recorded in all"
        )
    return record_status(target, is_bad=bool(badblocks))


def _scrub_by_reading(
    target: HostTarget,
    extent: Extent | None,
    mapfile: Path | None,
    rate: int | None,
    *,
    as_json: bool,
) -> int:
    whole = Extent(0, target.size) if extent is None else extent
    check_bounds(whole, target.size, target.name)
    run = ReadScrub(target.name, target.path, target.size, mapfile=mapfile, rate=rate)
    bar = progress_bar("scrub", whole.length, show=not as_json)
    with contextlib.closing(run), bar as advance:
        for done in run.run(whole):
            advance(done.length)
    bad = [part for each in run.bad if (part := each.intersection(whole)).length]
    length = sum(each.length for each in bad)
    sectors = merged(each.widened(SECTOR) for each in bad)
    if as_json:
        ranges = [{"offset": each.offset, "length": each.length} for each in bad]
        document = {"read": whole.length, "unreadable": length, **describe_badblocks(sectors)}
        print_json({"target": target.name, **document, "ranges": ranges})
        return EXIT_BAD_REMAINS if bad else EXIT_DONE
    said = f"{length} bytes cannot be read" if bad else "all of them can be read"
    click.echo(f"{printable(target.name)}: {format_size(whole.length)} asked for, {said}")
    if bad:
        click.echo(f"{'OFFSET':>16} {'LENGTH':>12}")
    for each in bad:
        click.echo(f"{each.offset:>16} {each.length:>12}")
    return EXIT_BAD_REMAINS if bad else EXIT_DONE
