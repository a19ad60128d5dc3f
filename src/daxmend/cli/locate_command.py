"""`daxmend locate`: what the bad blocks mean for files, and where a file lies."""

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
from daxmend.errors import EXIT_BAD_REMAINS, EXIT_DONE, UsageError
from daxmend.rescue import FileExtent, FileTarget, Range, Target, locate, open_target


@click.command("locate", short_help="Print which bytes of which files are bad.")
@click.argument("target", type=TARGET)
@click.option("--extents", is_flag=True, help="Print all extents of a file instead.")
@json_option
def command(target: str, extents: bool, as_json: bool) -> int:
    """Print which bytes of which files are bad.

    TARGET is a pool or a mount's directory: each bad range of the device, and the file and the
    bytes of it that lie there, metadata, or free space. Or a file, POOL:/PATH or on a mount: its
    bad ranges, in bytes of the file. Latent poison is not among them; a scrub finds it.

    Exits 0 if nothing is bad, 4 if bad ranges remain, 2 if it could not be asked.
    """
    with using(open_target(target)) as opened:
        if extents and not isinstance(opened, FileTarget):
            raise UsageError(f"{target} is no file: --extents asks where a file lies")
        found = locate(opened)
        if as_json:
            _print_document(opened, found, with_extents=extents)
        elif isinstance(opened, FileTarget):
            _print_extents(opened.extents) if extents else _print_file(opened, found)
        else:
            _print_device(opened, found)
    return EXIT_BAD_REMAINS if found else EXIT_DONE


def _print_document(target: Target, found: list[Range], *, with_extents: bool) -> None:
    document: dict[str, object] = {
        "target": target.name,
        **describe_badblocks(target.badblocks()),
        "ranges": [describe_range(each, target) for each in found],
    }
    if with_extents and isinstance(target, FileTarget):
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


def _say_sum(target: Target, found: list[Range]) -> None:
    length = sum(each.extent.length for each in found)
    said = f"{length} bytes are bad" if found else "nothing is recorded as bad"
    click.echo(f"{printable(target.name)}: {said}")


def _print_file(target: Target, found: list[Range]) -> None:
    _say_sum(target, found)
    if found:
        click.echo(f"{'FILE_OFFSET':>16} {'LENGTH':>12} {'DEVICE_OFFSET':>16}   STATE")
    for each in found:
        offsets = f"{each.extent.offset:>16} {each.extent.length:>12} {each.device_offset:>16}"
        click.echo(f"{offsets}   {each.kind}")


def _print_device(target: Target, found: list[Range]) -> None:
    _say_sum(target, found)
    if found:
        click.echo(
            f"{'DEVICE_OFFSET':>16} {'LENGTH':>12}   {'STATE':<12} {'FILE_OFFSET':>16}   OWNER"
        )
    for each in found:
        at = "-" if each.file_offset is None else each.file_offset
        range_ = f"{each.extent.offset:>16} {each.extent.length:>12}   {each.kind:<12}"
        click.echo(f"{range_} {at:>16}   {describe_owner(each)}")
