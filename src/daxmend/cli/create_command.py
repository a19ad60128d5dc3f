"""`daxmend create`: a new pool."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from daxmend.cli.option import PATH, SIZE, after, json_option, print_json
from daxmend.errors import UsageError
from daxmend.media.backing import Durability
from daxmend.media.pool import Content, MediumKind
from daxmend.stack.pool import create, create_table
from daxmend.units import CLEAR_UNIT, format_size


@click.command("create")
@click.argument("pool", type=PATH)
@click.option("--size", type=SIZE, help="Bytes of the device: 64M, 1G …; without --table.")
@click.option("--raw", is_flag=True, help="A bare device, without a file system.")
@click.option("--table", type=PATH, help="Make the device of others, by this dmsetup table.")
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
    show_default=True,
    help="How the emulated medium answers; see below.",
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
    size: int | None,
    raw: bool,
    table: Path | None,
    durability: str | None,
    medium: str,
    clear_unit: int,
    as_json: bool,
) -> None:
    """Make POOL: one sparse file that holds an emulated persistent-memory device.

    The device holds an empty file system, unless --raw is given. The file takes space only for
    what is written to it.

    \b
    Kinds of medium:
      plain           clears when it is told to: ordinary hardware
      clears-lines    a direct 64-byte store clears its cacheline, too
      heals-on-write  heals every cacheline that a store covers
      refuses         clears nothing, and says so
      clears-part     clears the first half, and says so
      lies            says that it cleared, and is still poisoned
    """
    wanted = Durability(durability) if durability else None
    content = Content.RAW if raw else Content.FS
    if (size is None) == (table is None):
        raise UsageError(f"{pool}: give either --size or --table")
    if size is None:
        assert table is not None
        _create_table(pool, table, wanted, content, as_json=as_json)
        return
    with _naming(pool):
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


def _create_table(
    pool: Path, table: Path, durability: Durability | None, content: Content, *, as_json: bool
) -> None:
    """A pool that holds a table: the device is made of what the table names (docs/dm.md)."""
    with _naming(pool):
        made = create_table(pool, table.read_text(), durability, content=content)
    document = {
        "pool": str(pool),
        "content": content.name.lower(),
        "size": made.size,
        "table": str(table),
        "volatile": made.is_volatile,
    }
    what = "a raw device" if content is Content.RAW else "a file system on a device"
    said = f"{pool}: {what} of {format_size(made.size)}, mapped by a table"
    if made.is_volatile:
        said += "; it has RAM members, and begins empty at every mount"
    with after(f"{pool} was made"):
        if as_json:
            print_json(document)
        else:
            click.echo(said)


@contextmanager
def _naming(pool: Path) -> Iterator[None]:
    """What the system says of an open file names no file: a size that it does not take, for one."""
    try:
        yield
    except OSError as error:
        if error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(pool)) from None
