"""`daxmend compare`: the same damage, repaired by each strategy."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import click

from daxmend.cli.option import PATH, SIZE, after, json_option, print_json, printable
from daxmend.errors import EXIT_DONE, EXIT_FAILED, UsageError
from daxmend.report.compare import Comparison, Progress, Question, as_document, compare
from daxmend.report.comparetable import format_text
from daxmend.report.damage import Damage, Pattern, bad_sectors
from daxmend.report.interrupt import interruptible
from daxmend.report.plot import draw
from daxmend.report.strategy import STRATEGIES
from daxmend.report.system import FSTYPES, iter_systems
from daxmend.units import MIB, PAGE, is_aligned

_MEMORY = Path("/dev/shm")
_NEEDED = 512 * MIB  # of it, before pools are put there
_KEYS = [strategy.key for strategy in STRATEGIES]


class _Numbers(click.ParamType[list[int]]):
    name = "numbers"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> list[int]:
        """Whole numbers above 0, separated by commas."""
        if isinstance(value, list):
            return value
        words = str(value).split(",")
        if not all(word.isascii() and word.isdigit() and 0 < int(word) < 10**9 for word in words):
            self.fail(f"'{value}' is not N,N,…: whole numbers above 0", param, ctx)
        return sorted({int(word) for word in words})


@click.command("compare")
@click.argument("where", nargs=-1)
@click.option(
    "--pages",
    type=_Numbers(),
    default="1,10,100,1000",
    show_default=True,
    help="How many pages go bad; each number is a case.",
)
@click.option(
    "--pattern",
    "patterns",
    multiple=True,
    type=click.Choice([each.value for each in Pattern]),
    help="Only bad pages that lie so; may be repeated.",
)
@click.option(
    "--strategy",
    "strategies",
    multiple=True,
    type=click.Choice(_KEYS),
    help="Only this one; may be repeated.",
)
@click.option(
    "--rounds",
    type=click.IntRange(1, 1000),
    default=1,
    show_default=True,
    help="How often the same file is damaged and repaired: how its extents grow.",
)
@click.option(
    "--size", type=SIZE, default="16M", show_default=True, help="Of the file; whole pages."
)
@click.option("--seed", type=int, default=1, show_default=True, help="For what is left to chance.")
@click.option(
    "--fs",
    "fstypes",
    multiple=True,
    type=click.Choice(FSTYPES),
    help="Beside daxmend's own only this one; may be repeated.",
)
@click.option("--plot", type=PATH, help="Draw the result into this SVG file.")
@click.option("--yes", is_flag=True, help="Overwrite everything on the device WHERE.")
@json_option
def command(
    where: tuple[str, ...],
    pages: list[int],
    patterns: tuple[str, ...],
    strategies: tuple[str, ...],
    rounds: int,
    size: int,
    seed: int,
    fstypes: tuple[str, ...],
    plot: Path | None,
    yes: bool,
    as_json: bool,
) -> int:
    """Damage a file, repair it by each of six strategies, and print what each of them did.

    Without WHERE on file systems made for it: daxmend's own, and for root ext4 and XFS on loop
    devices. WHERE is a directory on a daxmend mount, or a device whose driver keeps a bad-block
    record (/dev/pmem0): on that, ext4 and XFS are made, mounted -o dax where it can, and all that
    was there is gone; so it needs --yes. daxmend's own always stands beside them. What is made
    lies in $TMPDIR or /dev/shm meanwhile, and nothing is left behind.

    \b
    Strategies (--strategy):
      pwrite      write the page: what can be read of it, and the copy's bytes
      zeroinit    zero it in place with daxmend's verb, then write
      zero-range  zero it by FALLOC_FL_ZERO_RANGE, then write
      zeroout     zero the bad sectors below it (FIEMAP, BLKZEROOUT), then write
      punch       punch a hole, then write
      copy        write a new file, and rename it over the old one

    Scattered pages have one bad sector each, clustered ones are bad as a whole. Who repairs has
    the right bytes of what is bad, and of the rest what can be read.

    Exits 0 when it has compared something, whatever came of it; 8 if there was nothing.
    """
    if size < PAGE or not is_aligned(size, PAGE):
        raise UsageError(f"--size {size} is not a number of whole pages of {PAGE} bytes")
    lies = [pattern for pattern in Pattern if _is_in(pattern, patterns)]
    damages = [Damage(number, pattern) for pattern in lies for number in pages]
    for damage in damages:
        bad_sectors(damage, size, seed)  # it fits
    chosen = tuple(each for each in STRATEGIES if _is_in(each.key, strategies))
    question = Question(size, seed, rounds, damages, chosen)
    with (
        interruptible(),
        tempfile.TemporaryDirectory(prefix="daxmend-compare-", dir=_base()) as base,
    ):
        systems = iter_systems(where, Path(base), size, fstypes or FSTYPES, overwrite=yes)
        with closing(systems), _progress(show=not as_json) as progress:
            found = compare(systems, question, progress)
    return _print(found, plot, as_json=as_json)


def _is_in(name: str, names: tuple[str, ...]) -> bool:
    return not names or name in names


def _base() -> Path | None:
    """In memory, if there is room and nobody said where: what is compared is no disk."""
    if "TMPDIR" in os.environ:
        return Path(os.environ["TMPDIR"])
    if not os.access(_MEMORY, os.W_OK):
        return None
    free = os.statvfs(_MEMORY)
    return _MEMORY if free.f_bavail * free.f_frsize >= _NEEDED else None


@contextmanager
def _progress(*, show: bool) -> Iterator[Progress]:
    """On a terminal, what is played now, on one line."""
    if not show or not sys.stderr.isatty():
        yield lambda said: None
        return
    try:
        yield lambda said: click.echo(f"\r\x1b[K{said}", nl=False, err=True)
    finally:
        click.echo("\r\x1b[K", nl=False, err=True)


def _print(found: Comparison, plot: Path | None, *, as_json: bool) -> int:
    with after("the comparison was made"):
        if plot is not None:
            plot.write_text(draw(found), encoding="utf-8")
        if as_json:
            print_json(as_document(found))
        else:
            click.echo("\n".join(map(printable, format_text(found).splitlines())))
    return EXIT_DONE if found.systems else EXIT_FAILED
