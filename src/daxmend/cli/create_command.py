"""`daxmend create`: a new pool."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
from click.core import ParameterSource

from daxmend.cli.option import PATH, SIZE, after, json_option, print_json, printable
from daxmend.media.backing import Durability
from daxmend.media.pool import Content, MediumKind
from daxmend.stack.pool import create, create_table
from daxmend.stack.textfile import read_text
from daxmend.units import CLEAR_UNIT, format_size


@click.command("create")
@click.argument("pool", type=PATH)
@click.option("--size", type=SIZE, help="Bytes of the device: 64M, 1G …; without --table.")
@click.option("--raw", is_flag=True, help="A bare device, without a file system.")
@click.option(
    "--table", type=PATH, metavar="FILE", help="Make the device of others, by this dmsetup table."
)
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
    help="How the emulated medium answers; see above.",
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
    with _naming(pool):
        if table is None and size is not None:
            header = create(pool, size, wanted, MediumKind(medium), clear_unit, content=content)
            said = f"durability {header.durability.value}"
            more: dict[str, object] = {
                "durability": header.durability.value,
                "medium": header.medium.value,
                "clear_unit": header.clear_unit,
            }
        elif table is not None and size is None:
            _check_no_medium()
            made = create_table(pool, read_text(table), wanted, content=content)
            size = made.size
            said = "mapped by a table"
            if made.is_volatile:
                said += "; it has RAM members, and begins empty at every mount"
            more = {"table": str(table), "volatile": made.is_volatile}
        else:
            raise click.UsageError("give either --size or --table")
    name = printable(str(pool))
    what = "a raw device" if raw else "a file system on a device"
    with after(f"{name} was made"):
        if as_json:
            document = {"pool": str(pool), "content": content.name.lower(), "size": size}
            print_json(document | more)
        else:
            click.echo(f"{name}: {what} of {format_size(size)}, {said}")


def _check_no_medium() -> None:
    """A device that is made of others has no medium of its own."""
    context = click.get_current_context()
    for option in ("medium", "clear_unit"):
        if context.get_parameter_source(option) is ParameterSource.COMMANDLINE:
            raise click.UsageError("--medium and --clear-unit go with --size: members have media")


@contextmanager
def _naming(pool: Path) -> Iterator[None]:
    """What the system says of an open file names no file: a size that it does not take, for one."""
    try:
        yield
    except OSError as error:
        if error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(pool)) from None
