"""What `daxmend repair` does with a file: plan, apply, finish what was stopped, take back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from daxmend.errors import ChangedError, UsageError
from daxmend.host.unknown import Unknown
from daxmend.rescue.repair import (
    PageResult,
    State,
    apply_journal,
    make_journal,
    undo_journal,
)
from daxmend.rescue.repairjournal import About, JournalPlace, RepairJournal
from daxmend.rescue.repairplan import Progress, RepairPlan, Strategy, plan_file_repair
from daxmend.rescue.subject import validate_free
from daxmend.rescue.target import FileExtent

if TYPE_CHECKING:
    from daxmend.rescue.subject import Subject

Say = Callable[[list[str]], None]  # prints warnings, before anything is changed


class RepairReport(NamedTuple):
    """What came of it, page by page.

    `journal` is where the bytes from before are. `stopped` is an earlier repair that was stopped:
    finished first where this one applied. `changed`: what somebody else did to the file meanwhile.
    """

    action: str  # `plan`, `apply` or `undo`
    results: list[PageResult]
    warnings: list[str]
    source: str | None = None  # the copy; None for zeros
    journal: Path | None = None
    stopped: About | None = None
    before: list[FileExtent] | Unknown | None = None
    after: list[FileExtent] | Unknown | None = None
    changed: str | None = None

    @property
    def extents_changed(self) -> bool | Unknown | None:
        """Whether the file lies elsewhere now; None where nothing was written."""
        for extents in (self.before, self.after):
            if extents is None or isinstance(extents, Unknown):
                return extents
        return self.before != self.after


def plan(
    subject: Subject,
    copy: Subject | None,
    strategy: Strategy,
    place: JournalPlace,
    progress: Progress,
) -> RepairReport:
    """Say what would be done; changes nothing. Raises what `apply` would."""
    validate_free(subject.name, subject.user())
    planned = plan_file_repair(subject, copy, strategy, progress)
    if planned.pages:
        place.validate_durable()
    journal = _last(place)
    stopped = None
    if journal is not None:
        stopped = None if journal.is_finished else journal.about
        journal.close()
    results = [PageResult(page, State.PLANNED, _intent(planned)) for page in planned.pages]
    results = _with_refused(results, planned)
    return RepairReport("plan", results, planned.warnings, planned.source, stopped=stopped)


def _intent(planned: RepairPlan) -> str:
    if planned.source is not None:
        return "punch and write" if planned.strategy is Strategy.PUNCH else "write"
    return planned.strategy.value


def _with_refused(results: list[PageResult], planned: RepairPlan) -> list[PageResult]:
    refused = [PageResult(page, State.REFUSED, why) for page, why in planned.refused]
    return sorted([*results, *refused], key=lambda result: result.page.extent)


def _last(place: JournalPlace) -> RepairJournal | None:
    try:
        return place.last()
    except FileNotFoundError as error:
        raise UsageError(
            f"{error.filename}, the directory of --journal, does not exist; make it first"
        ) from None


def apply(
    subject: Subject,
    copy: Subject | None,
    strategy: Strategy,
    place: JournalPlace,
    progress: Progress,
    say: Say,
) -> RepairReport:
    """Finish what was stopped, then repair what is bad; durable and read back on return.

    Nothing is written to the file before everything is known, and the journal durable (R46).
    Raises what planning and the journal raise, and nothing was changed then, but for what was
    finished.
    """
    validate_free(subject.name, subject.user())
    before = subject.extents()
    stopped, first, path = _finish_stopped(subject, place)
    planned = plan_file_repair(subject, copy, strategy, progress)
    say(planned.warnings)
    results: list[PageResult] = []
    if _is_torn(first):  # its journal must stay the last one, and is told again in the end
        said = f"good bytes are in {path} and nowhere else; that repair must succeed first"
        planned = planned._replace(pages=[], refused=[(page, said) for page in planned.all_pages])
    if planned.pages:
        place.validate_durable()
        journal = make_journal(subject, copy, planned, place)
        path = journal.path
        try:
            results = _apply_journal(subject, journal)
        except BaseException:
            subject.notices.append(
                f"the repair was stopped; {path} has what is needed: the same again finishes it, "
                "--undo takes it back"
            )
            raise
        finally:
            journal.close()
    torn = {result.page.extent.offset for result in first if result.state is State.TORN}
    results = [r for r in _with_refused(results, planned) if r.page.extent.offset not in torn]
    again = {result.page.extent.offset for result in results}
    results += [result for result in first if result.page.extent.offset not in again]
    results.sort(key=lambda result: result.page.extent)
    written = [r for r in results if r.state in (State.HEALED, State.BAD, State.TORN)]
    after = subject.extents() if written else None
    return RepairReport(
        "apply",
        results,
        planned.warnings,
        planned.source,
        path,
        stopped,
        before if written else None,
        after,
        _changed(subject),
    )


def _finish_stopped(
    subject: Subject, place: JournalPlace
) -> tuple[About | None, list[PageResult], Path | None]:
    journal = _last(place)
    if journal is None:
        return None, [], None
    try:
        if journal.is_finished:
            return None, [], None
        return journal.about, _apply_journal(subject, journal), journal.path
    finally:
        journal.close()


def _apply_journal(subject: Subject, journal: RepairJournal) -> list[PageResult]:
    """The file says itself, while good bytes may be nowhere but in the journal, where that is."""
    subject.note_journal(journal.path)
    results = list(apply_journal(subject, journal))
    _finish(subject, journal, results)
    return results


def _finish(subject: Subject, journal: RepairJournal, results: list[PageResult]) -> None:
    """Unless good bytes are nowhere but in it."""
    if not _is_torn(results):
        subject.note_journal(None)
        journal.finish()


def _is_torn(results: list[PageResult]) -> bool:
    return any(result.state is State.TORN for result in results)


def _changed(subject: Subject) -> str | None:
    try:
        subject.validate()
    except ChangedError as error:
        return str(error)
    return None


def undo(subject: Subject, place: JournalPlace) -> RepairReport:
    """Take back the last repair; its journal is removed when all of it is.

    Raises `UsageError` where there is none.
    """
    validate_free(subject.name, subject.user())
    journal = _last(place)
    if journal is None:
        raise UsageError(
            f"{subject.name}: there is no journal of a repair to take back; was another --journal "
            "directory named?"
        )
    try:
        before = subject.extents()
        journal.reopen()
        subject.note_journal(journal.path)
        results = list(undo_journal(subject, journal))
        is_kept = any(result.state in (State.CHANGED, State.TORN) for result in results)
        if not is_kept:
            subject.note_journal(None)
            journal.remove()
        else:
            _finish(subject, journal, results)
        return RepairReport(
            "undo",
            results,
            [],
            journal=journal.path if is_kept else None,
            before=before,
            after=subject.extents(),
            changed=_changed(subject),
        )
    finally:
        journal.close()
