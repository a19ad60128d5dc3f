"""`daxmend inject`: make bytes of an emulated device bad, to rehearse what follows."""

from pathlib import Path

import click

from daxmend.cli.option import SIZE, json_option, print_json
from daxmend.extent import Extent
from daxmend.rescue import open_target


@click.command("inject")
@click.argument("target", type=click.Path(path_type=Path))
@click.option("--offset", type=SIZE, required=True, help="First byte, from the device's start.")
@click.option("--length", type=SIZE, required=True, help="How many bytes.")
@click.option("--latent", is_flag=True, help="Poison only: nothing is recorded until it is met.")
@click.option("--uninject", is_flag=True, help="Take the poison away; the record stays.")
@json_option
def command(
    target: Path, offset: int, length: int, latent: bool, uninject: bool, as_json: bool
) -> None:
    """Make a range of TARGET bad: a pool, mounted or not, or a mount's directory.

    The range widens to sectors of 512 bytes, with --latent to cachelines of 64. Its bytes are
    overwritten: this is a rehearsal, not for a pool that holds your only copy.
    """
    if latent and uninject:
        raise click.UsageError("--latent and --uninject exclude each other")
    if length == 0:
        raise click.UsageError("--length 0 names nothing")
    opened = open_target(target, writable=True)
    try:
        extent = Extent(offset, length)
        done = opened.uninject(extent) if uninject else opened.inject(extent, latent=latent)
    finally:
        opened.close()
    state = "free of poison" if uninject else "latent poison" if latent else "bad and recorded"
    if as_json:
        ranges = [{"offset": done.offset, "length": done.length}]
        print_json({"target": str(target), "state": state, "ranges": ranges})
    else:
        click.echo(f"{target}: {done.length} bytes at offset {done.offset} are now {state}")
