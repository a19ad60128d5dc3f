"""Options and output that commands share."""

import json
from pathlib import Path
from typing import Any

import click

from daxmend.errors import UsageError
from daxmend.rescue import Target
from daxmend.units import parse_size


class Size(click.ParamType[int]):
    """Bytes, or a number with K, M, G or T (powers of 1024)."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The number of bytes; what is no size is a usage error."""
        if isinstance(value, int):
            return value
        try:
            return parse_size(str(value))
        except UsageError as error:
            self.fail(str(error), param, ctx)


class UntouchedPath(click.ParamType[Path]):
    """A path as it was given. `click.Path` looks at what is there, and a mount whose server is
    stuck would never answer."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Any text is a path."""
        return Path(value)


SIZE = Size()
PATH = UntouchedPath()

json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON document instead."
)


def announced(target: Target) -> Target:
    """The target, after what it has to say of itself is said on stderr."""
    for notice in target.notices:
        click.echo(f"daxmend: {notice}", err=True)
    return target


def print_json(document: object) -> None:
    """The one document of a `--json` run."""
    click.echo(json.dumps(document, indent=2))
