"""`repair`: makes the invariants hold again, losing as little as can be (format.md §6.5).

A plan is made in memory, and says what it would do; nothing is written before it is applied.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from daxmend.fs.check import check_loaded
from daxmend.fs.filesystem import FileSystem
from daxmend.fs.finding import Finding, Invariant
from daxmend.fs.loading import Loaded, load
from daxmend.fs.mend import mend

if TYPE_CHECKING:
    from daxmend.dax.api import DaxDevice


class Plan(NamedTuple):
    """What a repair would do: nothing, if there are no steps."""

    findings: list[Finding]
    steps: list[str]
    repaired: Loaded  # the state as it would be


def plan_repair(device: DaxDevice) -> Plan:
    """Look for everything that is wrong, and for what can be done about it; changes nothing.

    Raises what `load` raises: then there is nothing to repair from.
    """
    loaded = load(device)
    findings = list(check_loaded(device, loaded))
    steps = [
        f"rewrite copy {copy} of the {structure} from the other ({reason})"
        for structure, copy, reason in loaded.damage()
    ]
    steps += [
        f"write both superblocks anew: {loss.text}"
        if loss.invariant is Invariant.SUPERBLOCK
        else f"go on without what is lost: {loss.text}"
        for loss in loaded.losses
    ]
    mended = mend(device, loaded)
    repaired = loaded._replace(state=mended.state, losses=[])
    return Plan(findings, steps + mended.steps, repaired)


def apply_repair(device: DaxDevice, plan: Plan) -> None:
    """Write what the plan says; durable on return. To be followed by a check."""
    if plan.steps:
        fs = FileSystem(device, commits_each=True, loaded=plan.repaired)
        try:
            fs.checkpoint()
            fs.tidy()  # what of the old metadata cannot be read is cleared: it is not needed
        finally:
            fs.close()
