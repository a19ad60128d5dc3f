"""`daxmend mount`: a pool becomes files that real programs see."""

import os
from pathlib import Path

import click

from daxmend.cli.option import PATH, foreground_option, log_option, mount_options
from daxmend.dax.api import Recovery
from daxmend.errors import UsageError
from daxmend.fuse import find_mount, is_dead, unmount_dead
from daxmend.mounts.daemon import mount_in_background, serve
from daxmend.mounts.option import MountOptions, OpenMode


@click.command("mount")
@click.argument("pool", type=PATH)
@click.argument("directory", type=PATH)
@click.option("--raw", is_flag=True, help="Show the device of a raw pool, as DIRECTORY/device.")
@mount_options
@foreground_option
@log_option
def command(
    pool: Path,
    directory: Path,
    raw: bool,
    options: tuple[str, ...],
    foreground: bool,
    log: Path | None,
) -> None:
    """Mount POOL at DIRECTORY (empty, existing); returns when it is ready.

    Shows the file system in it, or with --raw the device of a raw pool.

    Root's mounts are for everybody that the modes allow, a user's mount is the user's own. If the
    server of POOL has died, what it left at DIRECTORY is taken away first.

    \b
    Options (-o, separated by commas):
      recovery=on|off          whether a write may heal; off: bad is EIO for writers, too
      open=auto|direct|cached  direct: the unit of damage is the sector; cached: the page
      verify_writes            read back what was written; a write over latent poison is EIO
    """
    parsed = parse_options(",".join(options))
    take_away_dead(directory, os.path.realpath(pool))
    if foreground:
        serve(pool, directory, parsed, raw=raw)
    else:
        mount_in_background(pool, directory, parsed, log, raw=raw)


def take_away_dead(directory: Path, source: str) -> None:
    """A server that died left its mount behind; mounting `source` there again clears that up."""
    found = find_mount(directory)
    if found is None or found.fstype != "fuse.daxmend":
        return
    is_own = os.geteuid() in (0, found.user_id)
    is_same = source in (found.source, os.path.realpath(found.source))
    if is_own and is_same and is_dead(found):
        unmount_dead(directory)


def parse_options(text: str) -> MountOptions:
    """`-o` as mount(8) writes it: `name=value`, separated by commas."""
    options = MountOptions()
    for word in filter(None, text.split(",")):
        name, _, value = word.partition("=")
        if name == "open" and value in list(OpenMode):
            options = options._replace(open_mode=OpenMode(value))
        elif name == "recovery" and value in ("on", "off"):
            recovery = Recovery.AUTO if value == "on" else Recovery.NEVER
            options = options._replace(recovery=recovery)
        elif word == "verify_writes":
            options = options._replace(verify_writes=True)
        else:
            raise UsageError(
                f"-o {word} is not known; there are recovery=on|off, open=auto|direct|cached "
                "and verify_writes"
            )
    return options
