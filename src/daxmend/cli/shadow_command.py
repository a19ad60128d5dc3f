"""`daxmend shadow`: any directory once more, with faults where they are wanted."""

import os
from pathlib import Path

import click

from daxmend.cli.mount_command import parse_options, take_away_dead
from daxmend.cli.option import PATH, foreground_option, log_option, mount_options
from daxmend.errors import UsageError
from daxmend.faults import Pattern, encode_pattern
from daxmend.mounts.option import ShadowOptions
from daxmend.mounts.shadowserver import SHADOW_PREFIX, serve_shadow, shadow_in_background
from daxmend.stack.textfile import read_text


@click.command("shadow")
@click.argument("source", type=PATH)
@click.argument("directory", type=PATH)
@click.option("--arm", multiple=True, metavar="PATTERN", help="Files that may go bad while open.")
@click.option("--plan", type=PATH, metavar="FILE", help="A fault plan to begin with.")
@click.option("--cache", "seconds", type=click.FloatRange(0, 3600), default=1.0, show_default=True,
              metavar="SECONDS",
              help="Seconds until a change made in SOURCE itself must show.")  # fmt: skip
@mount_options
@foreground_option
@log_option
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
    text = "" if plan is None else read_text(plan)
    take_away_dead(directory, SHADOW_PREFIX + os.path.realpath(source))
    if foreground:
        serve_shadow(source, directory, chosen, text)
    else:
        shadow_in_background(source, directory, chosen, text, log)


def _check_pattern(word: str) -> None:
    if not word:
        raise UsageError("--arm '' matches nothing")
    Pattern(word)
