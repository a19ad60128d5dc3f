"""`daxmend inject`: make bytes of an emulated device bad, to rehearse what follows."""

from pathlib import Path

import click

from daxmend.cli.option import SIZE, TARGET, after, json_option, print_json, printable, using
from daxmend.errors import DaxmendError, UnknownStateError, UsageError
from daxmend.extent import Extent
from daxmend.faults import NO_FILES, Fault, FaultKind, parse_plan
from daxmend.rescue import open_target


@click.command("inject", short_help="Make bytes bad, to rehearse.")
@click.argument("target", type=TARGET)
@click.option("--offset", type=SIZE, help="First byte, from the start of TARGET.")
@click.option("--length", type=SIZE, help="How many bytes.")
@click.option("--latent", is_flag=True, help="Poison only: nothing is recorded until it is met.")
@click.option("--once", is_flag=True, help="Let one access fail, and no more.")
@click.option("--uninject", is_flag=True, help="Take the poison away; the record stays.")
@click.option(
    "--plan",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="A fault plan: '- OFFSET LENGTH until-written|once|latent' lines.",
)
@json_option
def command(
    target: str,
    offset: int | None,
    length: int | None,
    latent: bool,
    once: bool,
    uninject: bool,
    plan: Path | None,
    as_json: bool,
) -> None:
    """Make a range of TARGET bad.

    TARGET is a pool, mounted or not, a mount's directory, or a file: POOL:/PATH, or on a mount.
    Offsets are bytes from the start of the thing named; a range that meets a hole of a file is an
    error, and nothing becomes bad.

    The range widens to sectors of 512 bytes, with --latent to cachelines of 64. Its bytes are
    overwritten: this is a rehearsal, not for a pool that holds your only copy.
    """
    if plan is not None and (latent or once or uninject):
        raise click.UsageError("a plan says itself how its faults fail")
    if sum((latent, once, uninject)) > 1:
        raise click.UsageError("--latent, --once and --uninject exclude each other")
    if (plan is None) == (offset is None or length is None):
        raise click.UsageError("give --offset and --length, or --plan")
    if length == 0:
        raise click.UsageError("--length 0 names nothing")
    kind = FaultKind.ONCE if once else FaultKind.UNTIL_WRITTEN
    if latent or uninject:  # of lines, not of sectors
        kind = FaultKind.LATENT
    faults = _read_plan(plan) if plan is not None else []
    if offset is not None and length is not None:
        faults.append(Fault.of(Extent(offset, length), kind))
    try:
        opened = open_target(target, writable=True)
    except UnknownStateError as error:  # nobody asked for a state: this could not be done
        raise DaxmendError(str(error)) from None
    with using(opened):
        if uninject:
            done = [(opened.uninject(fault.extent), "free of poison") for fault in faults]
        else:
            opened.inject(faults)
            done = [(fault.extent, fault.kind.value) for fault in faults]
    with after(f"{target} was changed"):
        _report(target, done, as_json)


def _read_plan(plan: Path) -> list[Fault]:
    try:
        faults = parse_plan(plan.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise UsageError(f"{plan} is not text: byte {error.start} is not UTF-8") from None
    for fault in faults:
        if fault.pattern != NO_FILES:
            raise UsageError(f"{plan}: '{fault}': a device has no files; the pattern must be -")
    return faults


def _report(target: str, done: list[tuple[Extent, str]], as_json: bool) -> None:
    if as_json:
        ranges = [{"offset": e.offset, "length": e.length, "state": state} for e, state in done]
        print_json({"target": target, "ranges": ranges})
        return
    for extent, state in done:
        click.echo(f"{printable(target)}: {extent.length} bytes at offset {extent.offset}: {state}")
