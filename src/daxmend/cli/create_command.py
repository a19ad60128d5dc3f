"""`daxmend create`: a new pool."""

from pathlib import Path

import click

from daxmend.cli.option import PATH, SIZE, after, json_option, print_json
from daxmend.media.backing import Durability
from daxmend.media.pool import Content, MediumKind
from daxmend.stack import create
from daxmend.units import CLEAR_UNIT, format_size


@click.command("create")
@click.argument("pool", type=PATH)
@click.option("--size", type=SIZE, required=True, help="Bytes of the device: 64M, 1G …")
@click.option("--raw", is_flag=True, help="A bare device, without a file system.")
@click.option(
    "--durability",
    type=click.Choice([d.value for d in Durability]),
    help="What a fence promises: machine (stable storage; the default on disks) or process "
    "(survives kill -9; the default on tmpfs).",
)
@click.option(
    "--medium",
    type=click.Choice([kind.value for kind in MediumKind]),
    default=MediumKind.PLAIN.value,
    help="How the emulated medium behaves when it is told to clear, or is written to.",
)
@click.option(
    "--clear-unit",
    type=SIZE,
    default=CLEAR_UNIT,
    show_default=True,
    help="Bytes that the medium's clear command works in: a power of two from 64 to 4096.",
)
@json_option
def command(
    pool: Path,
    size: int,
    raw: bool,
    durability: str | None,
    medium: str,
    clear_unit: int,
    as_json: bool,
) -> None:
    """Make POOL: one sparse file that holds an emulated persistent-memory device.

    The device holds an empty file system, unless --raw is given. The file takes space only for
    what is written to it.
    """
    wanted = Durability(durability) if durability else None
    content = Content.RAW if raw else Content.FS
    header = create(pool, size, wanted, MediumKind(medium), clear_unit, content=content)
    document = {
        "pool": str(pool),
        "content": content.name.lower(),
        "size": size,
        "durability": header.durability.value,
        "medium": header.medium.value,
        "clear_unit": header.clear_unit,
    }
    what = "a raw device" if raw else "a file system on a device"
    said = f"{pool}: {what} of {format_size(size)}, durability {header.durability.value}"
    with after(f"{pool} was made"):
        if as_json:
            print_json(document)
        else:
            click.echo(said)
