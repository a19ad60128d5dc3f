"""`daxmend status`: a screenful on one target."""

from pathlib import Path

import click

from daxmend.cli.option import PATH, announced, json_option, print_json
from daxmend.errors import EXIT_BAD_REMAINS, EXIT_DONE
from daxmend.rescue import open_target
from daxmend.units import format_size

_SIZES = ("size", "recorded", "lost", "poison", "healed")


@click.command("status")
@click.argument("target", type=PATH)
@json_option
def command(target: Path, as_json: bool) -> int:
    """Print what TARGET says of itself: its size, what is bad, what happened since it was mounted.

    Exits 0 if the record is empty, 4 if bad ranges remain, 2 if it could not be asked.
    """
    opened = announced(open_target(target))
    try:
        status = opened.status()
    finally:
        opened.close()
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
        click.echo(f"{name + ':':<12} {'-' if value is None else value}")
