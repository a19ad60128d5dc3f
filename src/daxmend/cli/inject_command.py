"""`daxmend inject`: make bytes of an emulated device bad, to rehearse what follows."""

from pathlib import Path

import click

from daxmend.cli.option import (
    PATH,
    SIZE,
    TARGET,
    after,
    json_option,
    print_json,
    printable,
    using,
)
from daxmend.errors import DaxmendError, UnknownStateError, UsageError
from daxmend.extent import Extent
from daxmend.faults import NO_FILES, Fault, FaultKind, parse_numbered
from daxmend.rescue.opening import open_target
from daxmend.rescue.shadow import ShadowTarget
from daxmend.rescue.target import Target
from daxmend.stack.textfile import read_text


@click.command("inject")
@click.argument("target", type=TARGET)
@click.option("--offset", type=SIZE, help="First byte, from the start of TARGET.")
@click.option("--length", type=SIZE, help="How many bytes.")
@click.option("--latent", is_flag=True, help="Poison only: nothing is recorded until it is met.")
@click.option("--once", is_flag=True, help="Let one access fail, and no more.")
@click.option("--uninject", is_flag=True, help="Take the poison away; the record stays.")
@click.option(
    "--plan",
    type=PATH,
    metavar="FILE",
    help="A fault plan: 'PATTERN OFFSET LENGTH until-written|once|latent' lines.",
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

    On a shadow mount the bytes below stay as they are; a plan for its directory says in each line
    which files go bad, and for every other TARGET the pattern is -.

    The range widens to sectors of 512 bytes, with --latent to cachelines of 64. In a
    pool its bytes are overwritten: this is a rehearsal, not for a pool that holds your only copy.
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
    numbered = parse_numbered(read_text(plan)) if plan is not None else []
    faults = [fault for _, fault in numbered]
    if offset is not None and length is not None:
        faults.append(Fault.of(Extent(offset, length), kind))
    try:
        opened = open_target(target, writable=True)
    except UnknownStateError as error:  # nobody asked for a state: this could not be done
        raise DaxmendError(str(error)) from None
    with using(opened):
        _check_patterns(opened, faults, plan)
        if uninject:
            done = [(opened.uninject(fault.extent), "free of poison") for fault in faults]
        else:
            if isinstance(opened, ShadowTarget) and numbered:
                opened.inject_numbered(numbered)
            else:
                opened.inject(faults)
            done = [(fault.extent, fault.kind.value) for fault in faults]
    with after(f"{target} was changed"):
        _report(target, done, as_json)


def _check_patterns(target: Target, faults: list[Fault], plan: Path | None) -> None:
    for fault in faults:
        if fault.pattern != NO_FILES and not isinstance(target, ShadowTarget):
            raise UsageError(f"{plan}: '{fault}': a device has no files; the pattern must be -")


def _report(target: str, done: list[tuple[Extent, str]], as_json: bool) -> None:
    if as_json:
        ranges = [{"offset": e.offset, "length": e.length, "state": state} for e, state in done]
        print_json({"target": target, "ranges": ranges})
        return
    for extent, state in done:
        click.echo(f"{printable(target)}: {extent.length} bytes at offset {extent.offset}: {state}")
