"""What a repair of a file did, for people and as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from daxmend.cli.option import printable
from daxmend.cli.salvage_command import describe_lost
from daxmend.host.unknown import Unknown
from daxmend.report.pagetext import counted
from daxmend.rescue.repair import PageResult, State, bad_ranges
from daxmend.rescue.repairrun import RepairReport
from daxmend.rescue.target import FileExtent

_SAID = {
    State.PLANNED: "would be repaired",
    State.HEALED: "repaired",
    State.READABLE: "can be read again, left as it is",
    State.CHANGED: "somebody else wrote to it, left as it is",
    State.BAD: "still bad",
    State.TORN: "still bad, its good bytes are in the journal",
    State.REFUSED: "stays bad",
    State.UNDONE: "taken back",
}


def describe_repair(report: RepairReport) -> dict[str, object]:
    """The report as JSON types; `ranges` is what is bad now (R47)."""
    changed = report.extents_changed
    return {
        "action": report.action,
        "source": report.source,
        "journal": None if report.journal is None else str(report.journal),
        "finished_stopped_repair": report.action == "apply" and report.stopped is not None,
        **describe_lost(bad_ranges(report.results)),
        "pages": [_describe_page(result) for result in report.results],
        "extents_changed": None if isinstance(changed, Unknown) else changed,
        "extents_before": _describe_extents(report.before),
        "extents_after": _describe_extents(report.after),
        "changed": report.changed,
        "warnings": report.warnings,
    }


def _describe_page(result: PageResult) -> dict[str, object]:
    return {
        "offset": result.page.extent.offset,
        "length": result.page.extent.length,
        "lost": [{"offset": run.offset, "length": run.length} for run in result.page.lost],
        "state": result.state.value,
        "how": result.how or None,
    }


def _describe_extents(extents: list[FileExtent] | Unknown | None) -> object:
    if extents is None or isinstance(extents, Unknown):
        return None
    return [
        {"offset": each.offset, "device_offset": each.device_offset, "length": each.length}
        for each in extents
    ]


def iter_lines(name: str, report: RepairReport) -> Iterator[str]:
    """The report, for people."""
    yield f"{printable(name)}: {_summary(report)}"
    if report.results:
        yield f"{'OFFSET':>16} {'LENGTH':>8} {'LOST':>8}   WHAT"
    for result in report.results:
        extent = result.page.extent
        said = _SAID[result.state] + (f": {result.how}" if result.how else "")
        if result.state in (State.PLANNED, State.HEALED):
            said += f"; {_origin(result, report.source)}"
        yield f"{extent.offset:>16} {extent.length:>8} {result.page.lost_length:>8}   {said}"
    yield from _footer(report)


def _origin(result: PageResult, source: str | None) -> str:
    """What is kept of a page, and where the rest comes from."""
    kept = result.page.extent.length - result.page.lost_length
    rest = "zeros" if source is None else f"from {printable(source)}"
    return f"{result.page.lost_length} bytes {rest}, {kept} kept"


def _summary(report: RepairReport) -> str:
    count = Counter(result.state for result in report.results)
    if report.action == "plan":
        if not report.results:
            return "nothing is bad"
        lost = sum(result.page.lost_length for result in report.results)
        pages = counted(len(report.results), "page")
        if not lost:
            return f"nothing is lost, and {pages} cannot be read as before; nothing was changed"
        return f"{lost} bytes are lost in {pages}; nothing was changed"
    done = State.UNDONE if report.action == "undo" else State.HEALED
    if not report.results:
        return "nothing is bad, nothing was changed"
    said = f"{counted(count[done], 'page')} {_SAID[done]}"
    rest = len(report.results) - count[done] - count[State.READABLE]
    return f"{said}, {rest} not" if rest else said


def _footer(report: RepairReport) -> Iterator[str]:
    if report.stopped is not None:
        where = f" from {report.stopped.source}" if report.stopped.source else ""
        if report.action == "plan":
            yield f"a repair{where} was stopped: --apply finishes it first, --undo takes it back"
        else:
            yield f"a repair{where} that was stopped before was finished first"
    changed = report.extents_changed
    if isinstance(changed, Unknown):
        yield f"whether the file lies where it did is unknown: {changed.why}"
    elif changed is not None:
        yield "the file lies elsewhere now" if changed else "the file lies where it did"
    if changed is True or any("punch" in result.how for result in report.results):  # R35
        for label, extents in (("before", report.before), ("after", report.after)):
            if not isinstance(extents, list):
                continue
            yield f"extents {label}: " + ", ".join(
                f"{each.offset}+{each.length} at {each.device_offset}" for each in extents
            )
    if report.journal is not None:
        journal = printable(str(report.journal))
        yield f"{journal} keeps what was there, for --undo; remove it when all is well"
    if report.changed is not None:
        yield f"but: {report.changed}"
    if report.action == "plan" and any(r.state is State.PLANNED for r in report.results):
        yield "to do it, the same with --apply"
