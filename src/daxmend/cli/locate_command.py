"""`daxmend locate`: what the bad blocks mean for files, and where a file lies."""

from pathlib import Path

import click

from daxmend.cli.option import (
    PATH,
    TARGET,
    describe_owner,
    describe_places,
    describe_range,
    describe_record,
    files_bar,
    json_option,
    print_json,
    printable,
    record_status,
    using,
)
from daxmend.errors import UsageError
from daxmend.extent import Extent, merged
from daxmend.rescue.file import FileTarget
from daxmend.rescue.hosttarget import HostFileTarget, HostTarget
from daxmend.rescue.opening import open_target
from daxmend.rescue.readscrub import read_mapfile, unreadable
from daxmend.rescue.shadow import ShadowTarget
from daxmend.rescue.target import FileExtent, Range, Target, locate
from daxmend.units import SECTOR


@click.command("locate")
@click.argument("target", type=TARGET)
@click.option("--extents", is_flag=True, help="Print all extents of a file instead.")
@click.option(
    "--mapfile",
    type=PATH,
    metavar="MAP",
    help="Locate what a scrub could not read, instead of the record.",
)
@json_option
def command(target: str, extents: bool, mapfile: Path | None, as_json: bool) -> int:
    """Print which bytes of which files are bad.

    TARGET is a pool, a mount point, or a block device: each bad range of the device, and the file
    and the bytes of it that lie there, metadata, or free space; of a real device also through
    partitions, dm and loop devices on it. Or a file, POOL:/PATH or any: its bad ranges, in bytes of
    the file. Latent poison is not among them; a scrub finds it. Of a device whose driver keeps no
    record, the mapfile of a scrub (or of GNU ddrescue) says what is bad.

    Exits 0 if nothing is bad, 4 if bad ranges remain, 2 if it could not be asked.
    """
    with using(open_target(target)) as opened:
        if extents and not isinstance(opened, FileTarget | HostFileTarget):
            raise UsageError(f"{target} is no file: --extents asks where a file lies")
        if mapfile is None:
            given = None
        elif isinstance(opened, HostTarget):
            given = unreadable(read_mapfile(mapfile, opened.size))
        else:
            raise UsageError(f"{target} has a record of its own: --mapfile is for other devices")
        found = _locate(opened, given, show_progress=not as_json)
        if as_json:
            _print_document(opened, found, with_extents=extents)
        elif isinstance(opened, FileTarget | HostFileTarget) and extents:
            _print_extents(opened.extents)
        elif found or not opened.unknown:
            _print_ranges(opened, found)
        return record_status(opened, is_bad=bool(found))


def _locate(target: Target, given: list[Extent] | None, *, show_progress: bool) -> list[Range]:
    """The ranges with their owners."""
    if not isinstance(target, HostTarget):
        return locate(target)
    with files_bar(show=show_progress) as progress:
        return target.locate(progress, given)


def _print_document(target: Target, found: list[Range], *, with_extents: bool) -> None:
    if isinstance(target, HostTarget):  # owners may share a range
        badblocks = merged(each.extent.widened(SECTOR) for each in found)
    else:
        badblocks = target.badblocks()
    document: dict[str, object] = {
        "target": target.name,
        **describe_record(target, badblocks),
        "ranges": [
            describe_range(each, target, has_owners=target.content == "host") for each in found
        ],
    }
    if with_extents and isinstance(target, FileTarget | HostFileTarget):
        document["extents"] = [
            {
                "offset": extent.offset,
                "device_offset": extent.device_offset,
                "length": extent.length,
                "state": _state(extent),
            }
            for extent in target.extents
        ]
    print_json(document)


def _state(extent: FileExtent) -> str:
    return "written" if extent.is_written else "unwritten"


def _print_extents(extents: list[FileExtent]) -> None:
    click.echo(f"{'FILE_OFFSET':>16} {'DEVICE_OFFSET':>16} {'LENGTH':>12}   STATE")
    for extent in extents:
        offsets = f"{extent.offset:>16} {extent.device_offset:>16}"
        click.echo(f"{offsets} {extent.length:>12}   {_state(extent)}")


def _print_ranges(target: Target, found: list[Range]) -> None:
    length = sum(run.length for run in merged(each.extent for each in found))
    said = f"{length} bytes are bad" if found else "nothing is recorded as bad"
    click.echo(f"{printable(target.name)}: {said}")
    if not found:
        return
    if isinstance(target, ShadowTarget):
        _print_shadow(target, found)
        return
    if target.content == "file":
        click.echo(f"{'FILE_OFFSET':>16} {'LENGTH':>12} {'DEVICE_OFFSET':>16}   STATE")
    else:
        click.echo(
            f"{'DEVICE_OFFSET':>16} {'LENGTH':>12}   {'STATE':<12} {'FILE_OFFSET':>16}   OWNER"
        )
    for each in found:
        click.echo(_file_line(each) if target.content == "file" else _device_line(each))
        if len(each.places) > 1:
            click.echo(f"{'':>16} on {describe_places(each)}")


def _print_shadow(target: ShadowTarget, found: list[Range]) -> None:
    """There is no device below."""
    owner = "   OWNER" if target.path is None else ""
    click.echo(f"{'FILE_OFFSET':>16} {'LENGTH':>12}   {'STATE':<12}{owner}".rstrip())
    for each in found:
        owner = f"   {describe_owner(each)}" if target.path is None else ""
        line = f"{each.extent.offset:>16} {each.extent.length:>12}   {each.kind:<12}{owner}"
        click.echo(line.rstrip())


def _file_line(found: Range) -> str:
    offsets = f"{found.extent.offset:>16} {found.extent.length:>12} {found.device_offset:>16}"
    return f"{offsets}   {found.kind}"


def _device_line(found: Range) -> str:
    at = "-" if found.file_offset is None else found.file_offset
    range_ = f"{found.extent.offset:>16} {found.extent.length:>12}   {found.kind:<12}"
    return f"{range_} {at:>16}   {describe_owner(found)}"
