"""`daxmend shadow`: any directory once more, with faults where they are wanted."""

import os
from pathlib import Path

import click

from daxmend.cli.mount_command import parse_options
from daxmend.cli.option import PATH, read_plan
from daxmend.errors import UsageError
from daxmend.faults import Pattern, encode_pattern
from daxmend.fuse import find_mount, is_dead, unmount_dead
from daxmend.mounts.option import ShadowOptions
from daxmend.mounts.shadowserver import SHADOW_PREFIX, serve_shadow, shadow_in_background


@click.command("shadow")
@click.argument("source", type=PATH)
@click.argument("directory", type=PATH)
@click.option("--arm", multiple=True, metavar="PATTERN", help="Files that may go bad while open.")
@click.option("--plan", type=PATH, help="A fault plan to begin with.")
@click.option("--cache", "seconds", type=click.FloatRange(0, 3600), default=1.0, show_default=True,
              help="Seconds until a change made in SOURCE itself must show.")  # fmt: skip
@click.option(
    "-o", "options", multiple=True, help="recovery=on|off, open=auto|direct|cached, verify_writes"
)
@click.option("-f", "--foreground", is_flag=True, help="Stay in the foreground until unmounted.")
@click.option("--log", type=PATH, help="Where the server writes complaints.")
def command(
    source: Path,
    directory: Path,
    arm: tuple[str, ...],
    plan: Path | None,
    seconds: float,
    options: tuple[str, ...],
    foreground: bool,
    log: Path | None,
) -> None:
    """Show the directory SOURCE at DIRECTORY (empty, existing, outside of SOURCE).

    The same files, owners, links and attributes; changes go to SOURCE. `daxmend inject` makes bytes
    of a file bad: reads of them fail, mappings fault, an aligned write heals them. What is below
    stays untouched. Faults are the mount's: they end with it.

    As root, a clean file is opened in passthrough, where the kernel can (Linux 6.9): as fast as
    SOURCE itself, but no fault can be shown to who has it open so. A file that matches --arm
    PATTERN (`*.db`, or a path: `/data/*.db`) can go bad at any time.

    The plan has `PATTERN OFFSET LENGTH until-written|once|latent` lines; DIRECTORY/.daxmend/faults
    says them of all faults there are.
    """
    armed = tuple(map(encode_pattern, arm))
    for word in armed:
        _check_pattern(word)
    chosen = ShadowOptions(parse_options(",".join(options)), armed, seconds)
    text = "" if plan is None else read_plan(plan)
    _take_away_dead(source, directory)
    if foreground:
        serve_shadow(source, directory, chosen, text)
    else:
        shadow_in_background(source, directory, chosen, text, log)


def _check_pattern(word: str) -> None:
    if not word:
        raise UsageError("--arm '' matches nothing")
    Pattern(word)


def _take_away_dead(source: Path, directory: Path) -> None:
    """A server that died left its mount behind; mounting there again clears that up."""
    found = find_mount(directory)
    is_own = found is not None and found.source == SHADOW_PREFIX + os.path.realpath(source)
    if found is not None and is_own and os.geteuid() in (0, found.user_id) and is_dead(found):
        unmount_dead(directory)
