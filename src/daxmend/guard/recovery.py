"""Salvage and repair of a mapped file: `rescue`'s, by one call each."""

from __future__ import annotations

import contextlib
import os
import warnings
from pathlib import Path

from daxmend.errors import UsageError
from daxmend.rescue import repairrun
from daxmend.rescue.repairjournal import JournalPlace
from daxmend.rescue.repairplan import Strategy
from daxmend.rescue.repairrun import RepairReport
from daxmend.rescue.salvage import Salvage, SalvageReport
from daxmend.rescue.subjectopening import open_subject

Name = str | os.PathLike[str]


def salvage(
    path: Name, out: Name, *, mapfile: Name | None = None, overwrite: bool = False
) -> SalvageReport:
    """Save all that can be read of a file into `out`, durably; the report says what is lost (R12).

    Never raises for what is bad; zeros stand there in the copy. With `mapfile`, an earlier run is
    gone on with. As `daxmend salvage`, whose errors it raises.
    """
    with contextlib.closing(open_subject(path)) as subject:
        run = Salvage(
            subject, Path(out), None if mapfile is None else Path(mapfile), overwrite=overwrite
        )
        with contextlib.closing(run):
            report = run.run(lambda _: None)
        _tell(subject.notices)
    return report


def repair(
    path: Name,
    *,
    copy: Name | None = None,
    zero: bool = False,
    punch: bool = False,
    apply: bool = True,
    journal: Name | None = None,
) -> RepairReport:
    """Give the bad pages of a file new bytes in place, and read them back (R14, R35, R45).

    Good bytes are kept; what is lost comes from `copy`, or is zeros with `zero`. One of the two, or
    `punch` (with a copy or without) as the last resort. Without `apply` only the plan is made. The
    journal stands beside the file, or in the directory `journal`. Mappings of the file see the new
    data at once (R27); zeros of a `Watch` go with its `refresh`. As `daxmend repair`, whose errors
    it raises; what it warns of is a `UserWarning`.
    """
    is_said = zero or punch or copy is not None
    if not is_said or (zero and (punch or copy is not None)):
        raise UsageError("say where the lost bytes come from: copy=…, or zero=True, or punch=True")
    strategy = Strategy.PUNCH if punch else Strategy.ZERO if zero else Strategy.WRITE
    with contextlib.ExitStack() as stack:
        subject = stack.enter_context(contextlib.closing(open_subject(path, writable=apply)))
        source = None
        if copy is not None:
            source = stack.enter_context(contextlib.closing(open_subject(copy)))
        place = JournalPlace(subject, None if journal is None else Path(journal))
        if not apply:
            return repairrun.plan(subject, source, strategy, place, lambda _: None)
        report = repairrun.apply(subject, source, strategy, place, lambda _: None, _tell)
        _tell(subject.notices)
    return report


def _tell(said: list[str]) -> None:
    for each in said:
        warnings.warn(each, stacklevel=3)
