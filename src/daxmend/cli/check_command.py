"""`daxmend check`: is a file system whole, and what would make it so again."""

from typing import NamedTuple

import click

from daxmend.cli.option import (
    TARGET,
    describe_badblocks,
    json_option,
    print_json,
    printable,
    using,
)
from daxmend.errors import EXIT_BAD_REMAINS, EXIT_DONE, EXIT_FAILED, EXIT_REPAIRED
from daxmend.extent import Extent
from daxmend.fs import Finding
from daxmend.report.pagetext import counted, shell_line
from daxmend.rescue.opening import open_device_target
from daxmend.rescue.target import DeviceTarget


class _Outcome(NamedTuple):
    """What was found; what a repair would do, if one was asked for; what is wrong in the end."""

    findings: list[Finding]
    steps: list[str] | None
    is_applied: bool
    remaining: list[Finding]
    badblocks: list[Extent]

    @property
    def exit_status(self) -> int:
        """8, then 4 (docs/errors.md)."""
        if self.remaining:
            return EXIT_FAILED
        if self.badblocks:
            return EXIT_BAD_REMAINS
        return EXIT_REPAIRED if self.is_applied else EXIT_DONE


@click.command("check")
@click.argument("pool", type=TARGET)
@click.option("--repair", is_flag=True, help="Print what a repair would do, and change nothing.")
@click.option("--apply", "is_applying", is_flag=True, help="With --repair: do it, check again.")
@json_option
def command(pool: str, repair: bool, is_applying: bool, as_json: bool) -> int:
    """Check the file system of POOL, which may be mounted, or of a mount's directory.

    Finds where structures and the invariants of docs/format.md do not hold, F1 to F12; what the
    files hold is not looked at. A repair puts what has lost its name into /lost+found; it needs the
    pool unmounted.

    Exits 0 if the file system is whole, 1 if it was found broken and is repaired, 8 if findings
    remain, 4 if all is well but for bad ranges that the record still has.
    """
    if is_applying and not repair:
        raise click.UsageError("--apply goes with --repair")
    with using(open_device_target(pool, writable=is_applying)) as opened:
        outcome = _repair(opened, is_applying=is_applying) if repair else _check(opened)
        if as_json:
            _print_document(opened.name, outcome)
        else:
            _print_text(opened.name, outcome)
    return outcome.exit_status


def _check(target: DeviceTarget) -> _Outcome:
    findings = target.check()
    return _Outcome(findings, None, False, findings, target.badblocks())


def _repair(target: DeviceTarget, *, is_applying: bool) -> _Outcome:
    plan = target.plan_repair()
    will_apply = is_applying and bool(plan.steps)
    if will_apply:
        target.apply_repair(plan)
    remaining = target.check() if will_apply else plan.findings
    return _Outcome(plan.findings, plan.steps, will_apply, remaining, target.badblocks())


def _print_document(name: str, outcome: _Outcome) -> None:
    document: dict[str, object] = {
        "target": name,
        "findings": [_describe(finding) for finding in outcome.findings],
    }
    if outcome.steps is not None:
        document["steps"] = outcome.steps
        document["applied"] = outcome.is_applied
        document["remaining"] = [_describe(finding) for finding in outcome.remaining]
    print_json({**document, **describe_badblocks(outcome.badblocks)})


def _describe(finding: Finding) -> dict[str, object]:
    return {
        "invariant": finding.invariant.value,
        "text": finding.text,
        "path": finding.path.decode(errors="surrogateescape") or None,
        "is_healed": finding.is_healed,
    }


def _print_text(name: str, outcome: _Outcome) -> None:
    click.echo(f"{printable(name)}: {_verdict(outcome.findings)}")
    _print_findings(outcome.findings)
    if outcome.steps is not None:
        _print_repair(name, outcome)
    elif outcome.findings:
        plan = shell_line("daxmend", "check", name, "--repair")
        click.echo(f"what a repair would do: {plan}")
    length = sum(run.length for run in outcome.badblocks)
    if length:
        see = shell_line("daxmend", "locate", name)
        click.echo(f"{printable(name)}: {length} bytes are recorded as bad; see: {see}")


def _print_repair(name: str, outcome: _Outcome) -> None:
    if outcome.steps:
        click.echo("repaired:" if outcome.is_applied else "a repair would:")
    for step in outcome.steps or ():
        click.echo(f"  {printable(step)}")
    if outcome.is_applied:
        still = "still " * bool(outcome.remaining)
        click.echo(f"{printable(name)}: checked again: {still}{_verdict(outcome.remaining)}")
        _print_findings(outcome.remaining)
    elif outcome.steps:
        apply = shell_line("daxmend", "check", name, "--repair", "--apply")
        click.echo(f"nothing was changed; do it with: {apply}")
    elif outcome.findings:
        click.echo("there is no repair for that")


def _verdict(findings: list[Finding]) -> str:
    return counted(len(findings), "finding") if findings else "the file system is whole"


def _print_findings(findings: list[Finding]) -> None:
    for finding in findings:
        where = f"{printable(finding.path)}: " if finding.path else ""
        click.echo(f"  {finding.invariant}: {where}{printable(finding.text)}")
