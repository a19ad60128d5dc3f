"""`daxmend status`: a screenful on one target."""

import click

from daxmend.cli.option import TARGET, json_option, print_json, printable, using
from daxmend.errors import EXIT_BAD_REMAINS, EXIT_DONE
from daxmend.rescue import open_target
from daxmend.units import format_size

_SIZES = ("size", "recorded", "lost", "poison", "healed", "free", "quarantined")


@click.command("status")
@click.argument("target", type=TARGET)
@json_option
def command(target: str, as_json: bool) -> int:
    """Print what TARGET says of itself: its size, what is bad, what happened since it was mounted.

    TARGET is a pool, a mount's directory, or a file: POOL:/PATH, or on a mount.

    Exits 0 if the record is empty, 4 if bad ranges remain, 2 if it could not be asked.
    """
    with using(open_target(target)) as opened:
        status = opened.status()
    if as_json:
        print_json(status)
    else:
        _print_table(status)
    return EXIT_BAD_REMAINS if status["recorded"] else EXIT_DONE


def _print_table(status: dict[str, object]) -> None:
    for name, value in status.items():
        if isinstance(value, dict):
            value = ", ".join(f"{key} {count}" for key, count in value.items()) or "none"
        elif name in _SIZES and isinstance(value, int):
            value = format_size(value)
        elif isinstance(value, list):
            value = "; ".join(map(str, value)) or "none"
        click.echo(f"{name + ':':<12} {'-' if value is None else printable(str(value))}")
