"""`daxmend create`: a new pool."""

from pathlib import Path

import click

from daxmend.cli.option import PATH, SIZE, json_option, print_json
from daxmend.media.backing import Durability
from daxmend.media.pool import MediumKind
from daxmend.stack import create
from daxmend.units import format_size


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
@json_option
def command(
    pool: Path, size: int, raw: bool, durability: str | None, medium: str, as_json: bool
) -> None:
    """Make POOL: one sparse file that holds an emulated persistent-memory device.

    The file takes space only for what is written to it.
    """
    if not raw:
        raise click.UsageError(
            f"only raw pools can be made yet: daxmend create {pool} --size {size} --raw"
        )
    header = create(pool, size, Durability(durability) if durability else None, MediumKind(medium))
    document = {
        "pool": str(pool),
        "size": size,
        "durability": header.durability.value,
        "medium": header.medium.value,
    }
    if as_json:
        print_json(document)
    else:
        click.echo(
            f"{pool}: a raw device of {format_size(size)}, durability {header.durability.value}"
        )
