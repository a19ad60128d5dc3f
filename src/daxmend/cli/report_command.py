"""`daxmend report`: all that is known of one target, as a page that people look at."""

import sys
from pathlib import Path

import click

from daxmend.cli.option import (
    PATH,
    TARGET,
    after,
    files_bar,
    json_option,
    print_json,
    printable,
)
from daxmend.report.page import describe, render
from daxmend.report.pagefile import validate_free, write_page
from daxmend.report.pagegather import gather

_STDOUT = Path("-")


@click.command("report")
@click.argument("target", type=TARGET)
@click.option(
    "-o",
    "--output",
    "out",
    type=PATH,
    metavar="OUT",
    help="The page to make; - is standard output.",
)
@click.option("--overwrite", is_flag=True, help="Make OUT anew if it exists.")
@json_option
def command(target: str, out: Path | None, overwrite: bool, as_json: bool) -> int:
    """Write a page that says what is bad on TARGET, whose it is, and what to do about it.

    TARGET is what locate and status take, or a directory: then what is recorded of the files below
    it. Nothing is written to TARGET. The page is one file of HTML that needs nothing else: a map,
    the damaged files with the commands that save and repair them, where they lie, what happened,
    and what is not known. Of very many files the worst are named, and the command that lists all.

    With --json the same facts are printed as one document, and -o may be left out.

    Exits 0 if nothing is recorded as bad, 4 if bad ranges remain, 2 if it could not be asked.
    """
    if out is None and not as_json:
        raise click.UsageError("say where the page goes: -o FILE, or -o - for standard output")
    if as_json and out == _STDOUT:
        raise click.UsageError("-o - and --json would both print; name a file, or leave -o out")
    if out is not None and out != _STDOUT:
        validate_free(out, target, overwrite=overwrite)
    with files_bar(show=not as_json) as progress:
        facts = gather(target, progress)
    if out == _STDOUT:
        sys.stdout.buffer.write(render(facts))
    elif out is not None:
        write_page(out, render(facts), overwrite=overwrite)
        with after(f"{printable(str(out))} was written"):
            if not as_json:
                click.echo(
                    f"{printable(str(out))}: {printable(target)}: {printable(facts.headline)}"
                )
    if as_json:
        print_json(describe(facts))
    return facts.verdict.exit_status
