"""`daxmend status`: a screenful on one target."""

from datetime import datetime
from typing import Any

import click

from daxmend.cli.option import TARGET, json_option, print_json, printable, record_status, using
from daxmend.rescue.opening import open_target
from daxmend.units import format_size

_SWITCHES = {"recovery": ("off", "on")}
_SIZES = ("size", "recorded", "lost", "poison", "healed", "free", "quarantined")


@click.command("status")
@click.argument("target", type=TARGET)
@json_option
def command(target: str, as_json: bool) -> int:
    """Print what TARGET says of itself: its size, what is bad, what happened since it was mounted.

    TARGET is a pool, a mount point, a file (POOL:/PATH, or any), or a block or dax device.

    Exits 0 if the record is empty, 4 if bad ranges remain, 2 if it could not be asked.
    """
    with using(open_target(target)) as opened:
        status = opened.status()
        if as_json:
            print_json(status)
        else:
            _print_table(status)
        return record_status(opened, is_bad=bool(status["recorded"]))


def _print_table(status: dict[str, object]) -> None:
    for name, value in status.items():
        click.echo(f"{name + ':':<12} {printable(_describe(name, value))}")


def _describe(name: str, value: object) -> str:
    if name == "scrub" and isinstance(value, dict):
        return _describe_scrub(value)
    if name == "mounted_ns" and isinstance(value, int):
        return f"{datetime.fromtimestamp(value // 10**9).astimezone()}"
    if isinstance(value, bool):
        return _SWITCHES.get(name, ("no", "yes"))[value]
    if name in _SIZES and isinstance(value, int):
        return format_size(value)
    if isinstance(value, dict):
        return ", ".join(f"{key} {count}" for key, count in value.items()) or "none"
    if isinstance(value, list):
        return "; ".join(map(_describe_item, value)) or "none"
    return "-" if value is None else str(value)


def _describe_item(item: object) -> str:
    """An entry of a list: a notice, a line of a table, or a member of one."""
    if not isinstance(item, dict):
        return str(item)
    rest = ", ".join(f"{key} {_describe(key, value)}" for key, value in item.items())
    return rest.removeprefix("name ")


def _describe_scrub(scrub: dict[str, Any]) -> str:
    """`N` done, `N+` one is running (R4)."""
    done, is_running, _ = str(scrub["state"]).partition("+")
    said = f"{done} done"
    if is_running:
        said += f", running: {format_size(scrub['scrubbed'])} of {format_size(scrub['total'])}"
    return f"{said}, stopped: {scrub['error']}" if scrub["error"] else said
