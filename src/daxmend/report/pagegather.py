"""`gather`: from what a command line names to the facts of its report."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import TYPE_CHECKING, cast

from daxmend.errors import DaxmendError, UnknownStateError, UsageError
from daxmend.extent import Extent, ExtentSet
from daxmend.report import pageadvice
from daxmend.report.pagefacts import (
    EVENTS,
    EXTENTS,
    FILES,
    RANGES,
    DamagedFile,
    Facts,
    Group,
    Placed,
    Sum,
)
from daxmend.report.pagemap import Lane, Strip, bars_of
from daxmend.report.pagetext import absolute
from daxmend.rescue.file import FileTarget
from daxmend.rescue.hosttarget import HostDax, HostFileTarget, HostMount, HostTarget
from daxmend.rescue.opening import open_target
from daxmend.rescue.shadow import ShadowTarget
from daxmend.rescue.target import FileExtent, Range, Target, merged_ranges
from daxmend.rescue.tree import find_recorded, is_tree
from daxmend.units import CACHELINE

if TYPE_CHECKING:
    from daxmend.rescue.target import DeviceTarget

_NOTHING = ExtentSet(CACHELINE)
_KINDS = {
    "file": "file",
    "shadow-file": "file",
    "shadow": "shadow mount",
    "raw": "raw device",
    "fs": "file system",
}
_LANES = {
    "recorded": ("recorded", "in the record of bad blocks: an access is an error"),
    "lost": ("lost", "cleared, but not yet written again: what it held is gone"),
    "quarantined": ("quarantined", "free space that is bad, and kept from every file"),
    "latent": ("latent", "poisoned, and in no record: the next access fails"),
    "file": ("in files", ""),
    "metadata": ("in metadata", ""),
    "free": ("in free space", ""),
    "unowned": ("owner unknown", ""),
    "places": ("damaged files", "where the extents of the files below lie"),
    "data": ("data", "where the file is no hole"),
}

Progress = Callable[[int, int], None]  # files looked at, files there are


def gather(named: str, progress: Progress = lambda done, total: None) -> Facts:
    """Ask all there is to know of a target; of a directory, what is recorded of its files.

    Raises as `open_target`, but for `UnknownStateError`: that is an answer. Nothing is written.
    """
    try:
        target = open_target(named)
    except UnknownStateError as error:
        return _finished(Facts(named, "target", time.time_ns(), unknown=[str(error)]), None)
    except UsageError:
        if not is_tree(named):
            raise
        return _of_directory(named)
    with closing(target):
        facts = Facts(named, _kind(target), time.time_ns())
        try:
            _ask(target, facts, progress)
        except UnknownStateError as error:
            facts.unknown.append(str(error))
        return _finished(facts, target)


def _kind(target: Target) -> str:
    kinds: tuple[tuple[type, str], ...] = (
        (HostFileTarget, "file"),
        (HostMount, "mount point"),
        (HostDax, "dax device"),
        (HostTarget, "block device"),
    )
    for each, kind in kinds:
        if isinstance(target, each):
            return kind
    return _KINDS[target.content]


def _of_directory(named: str) -> Facts:
    facts = Facts(named, "directory", time.time_ns())
    found = find_recorded(named)
    facts.whole = found.mount_point
    facts.unknown += found.unknown
    facts.notices += found.notices
    _take(None, facts, found.ranges)
    return _finished(facts, None)


def _ask(target: Target, facts: Facts, progress: Progress) -> None:
    if isinstance(target, HostTarget):
        ranges = target.locate(progress)
        facts.size = target.size
        try:
            facts.status = target.status()
        except UnknownStateError as error:
            facts.unasked.append(str(error))
    else:
        found = target.ranges()
        ranges = _with_latent(found, each_file=_is_shadow(target))
        if isinstance(target, FileTarget):
            facts.status = target.describe(found)
        else:
            facts.status = target.status()
        facts.size = None if _is_shadow(target) else cast("int", facts.status["size"])
    facts.unknown += target.unknown
    _take(target, facts, ranges)
    try:
        events = target.events()
    except (UnknownStateError, OSError) as error:
        facts.unasked.append(f"what happened to it cannot be asked: {error}")
    else:
        facts.events_total = len(events or ())
        facts.events = None if events is None else events[-EVENTS:]


def _is_shadow(target: Target | None) -> bool:
    """Whether offsets count in each file, and there is no device."""
    return isinstance(target, ShadowTarget) and target.path is None


# -- ranges ----------------------------------------------------------------------------------


def _with_latent(found: list[Range], *, each_file: bool) -> list[Range]:
    """The record as `locate` has it, and as `latent` the poison that is not in it; ascending."""
    latent = _latent(found, each_file=each_file)
    return sorted([*merged_ranges(found), *latent], key=lambda each: (each.extent, each.path))


def _latent(found: list[Range], *, each_file: bool) -> Iterator[Range]:
    recorded: dict[bytes, ExtentSet] = {}
    for each in found:
        if each.is_recorded:
            known = recorded.setdefault(each.path * each_file, ExtentSet(CACHELINE))
            known.add(each.extent.widened(CACHELINE))
    for each in found:
        if not each.is_recorded:
            latent = each._replace(kind="latent")
            known = recorded.get(each.path * each_file, _NOTHING)
            at = each.extent.offset
            for run in [*known.extents(each.extent), Extent(each.extent.end, 0)]:
                if at < run.offset:
                    yield latent.part(Extent.between(at, run.offset))
                at = run.end


def _take(target: Target | None, facts: Facts, ranges: list[Range]) -> None:
    """Sort the ranges by what they are of, and ask where the worst files lie."""
    recorded = [each for each in ranges if each.kind != "latent"]
    facts.hit = list(pageadvice.describe_hit(facts.kind, recorded))
    # Files of one device may have a range in common.
    is_host = isinstance(target, HostTarget)
    distinct = {(each.extent, b"" if is_host else each.path): each for each in recorded}
    facts.recorded = Sum.of(list(distinct.values()))
    facts.latent = Sum.of([each for each in ranges if each.kind == "latent"])
    by_file: dict[bytes, list[Range]] = {}
    by_group: dict[str, list[Range]] = {}
    for each in ranges:
        if facts.kind == "file":
            by_file.setdefault(b"", []).append(each)
        elif pageadvice.is_of_file(each):
            by_file.setdefault(each.path, []).append(each)
        else:
            by_group.setdefault(pageadvice.group_of(each, facts.kind), []).append(each)
    strip = Strip(facts.size or 0)
    facts.files_total = len(by_file)
    worst = sorted(by_file, key=lambda path: (-Sum.of(by_file[path]).length, path))
    for path in worst[:FILES]:
        facts.files.append(_damaged_file(target, facts, path, by_file[path], strip))
    of_host = target is None or is_host
    for kind in filter(by_group.__contains__, pageadvice.TITLES):
        found = by_group[kind]
        commands = pageadvice.group_commands(kind, facts, of_host=of_host)
        title = pageadvice.TITLES[kind]
        facts.groups.append(Group(title, Sum.of(found), found[:RANGES], commands))
    if facts.size and (ranges or not facts.unknown):
        facts.lanes = list(_lanes(target, facts, ranges, strip))


# -- files -----------------------------------------------------------------------------------


def _damaged_file(
    target: Target | None, facts: Facts, path: bytes, ranges: list[Range], strip: Strip
) -> DamagedFile:
    """One file; `strip` is marked where it lies."""
    name = _name(target, facts, path)
    own = [each._replace(extent=_in_file(each)) for each in ranges]
    own.sort(key=lambda each: (each.extent, each.kind))
    size, placed, why = None, None, ""
    try:
        size, extents = _places(target, path, name)
        placed = None if extents is None else _placed(extents, size, own)
        for each in extents or ():
            offset = each.offset if facts.kind == "file" else each.device_offset
            strip.mark(Extent(offset, each.length))
        why = "" if placed else "a shadow has no device below it"
    except (DaxmendError, OSError) as error:
        why = str(error)
    return DamagedFile(
        name,
        size,
        Sum.of(own),
        own[:RANGES],
        placed,
        why,
        bars_of((each.extent for each in own), size or 0),
        pageadvice.repair_commands(name, _source(target, facts, path)),
    )


def _in_file(found: Range) -> Extent:
    at = found.extent.offset if found.file_offset is None else found.file_offset
    return Extent(at, found.extent.length)


def _name(target: Target | None, facts: Facts, path: bytes) -> str:
    """How commands call the file."""
    if facts.kind == "file":
        return absolute(facts.target)
    if target is None or isinstance(target, HostTarget):
        return os.fsdecode(path)
    mounted = facts.status["mounted"]
    top = str(mounted) if mounted else f"{absolute(facts.target)}:"
    return top + os.fsdecode(path)


def _source(target: Target | None, facts: Facts, path: bytes) -> str | None:
    """Where the good bytes of a shadow's file are."""
    if not isinstance(target, ShadowTarget):
        return None
    found = str(facts.status["source"]) + os.fsdecode(target.path or path)
    return found if os.path.isfile(found) else None


def _places(target: Target | None, path: bytes, name: str) -> tuple[int, list[FileExtent] | None]:
    """Size and extents of a file; None where it lies on nothing of its own."""
    if isinstance(target, FileTarget | HostFileTarget):
        return target.size, target.extents
    if isinstance(target, ShadowTarget):
        return os.lstat(name).st_size, None
    if target is not None and not isinstance(target, HostTarget):
        return cast("DeviceTarget", target).find_file(path)
    with closing(open_target(name)) as file:
        return _places(file, path, name)


def _placed(extents: list[FileExtent], size: int, bad: list[Range]) -> Placed:
    known = ExtentSet(CACHELINE, (each.extent.widened(CACHELINE) for each in bad))
    hit = [each for each in extents if known.overlaps(Extent(each.offset, each.length))]
    bars = bars_of((Extent(each.offset, each.length) for each in extents), size)
    return Placed(len(extents), len(hit), (hit or extents)[:EXTENTS], bars)


# -- the map ---------------------------------------------------------------------------------


def _lanes(
    target: Target | None, facts: Facts, ranges: list[Range], strip: Strip
) -> Iterator[Lane]:
    """What is bad by state, by owner, and where the damaged files lie."""
    size = facts.size or 0

    def lane(name: str, chosen: list[Range]) -> Lane:
        title, hint = _LANES[name]
        bars = bars_of((each.extent for each in chosen), size)
        return Lane(name, title, hint, *Sum.of(chosen), bars)

    is_host, is_file = isinstance(target, HostTarget), facts.kind == "file"
    states = ["recorded"] if is_host else ["recorded", "lost", "latent"]
    has_files = facts.kind in ("file system", "mount point", "block device")
    if facts.kind == "file system":
        states.insert(2, "quarantined")
    for state in states:
        yield lane(state, [each for each in ranges if each.kind == state])
    for owner in ("file", "metadata", "free") if has_files else ():
        yield lane(owner, [each for each in ranges if each.owner == owner])
    unowned = [each for each in ranges if each.owner is None]
    if has_files and unowned:
        yield lane("unowned", unowned)
    if facts.files:
        title, hint = _LANES["data" if is_file else "places"]
        count = sum(each.placed.extents for each in facts.files if each.placed)
        yield Lane("places", title, hint, count, 0, strip.bars())


# -- the end ---------------------------------------------------------------------------------


def _finished(facts: Facts, target: Target | None) -> Facts:
    """With what is unknown, and what to do next."""
    if target is not None:
        facts.notices = list(dict.fromkeys(target.notices))
    facts.unasked += _unasked(facts, target)
    facts.headline = pageadvice.headline(facts)
    facts.steps = pageadvice.next_steps(facts, can_scrub=target is not None)
    return facts


def _unasked(facts: Facts, target: Target | None) -> Iterator[str]:
    name = facts.target
    if isinstance(target, HostTarget):
        yield (
            f"{name}: what no access has met yet (latent) is in no record of the kernel; a scrub "
            "looks for it"
        )
        yield f"{name}: nobody keeps what has happened to it; daxmend watch tells it as it happens"
    elif isinstance(target, ShadowTarget):
        yield (
            f"{name}: told is what was injected; what is bad below is of "
            f"{facts.status.get('source')}, which has a report of its own"
        )
    elif facts.kind == "directory":
        yield f"{name}: of a directory only the record is asked; latent poison is not in it"
    members = facts.status.get("members")
    for member in members if isinstance(members, list) else ():
        if member["recorded"] is None:
            yield f"{member['name']}: a member without error management, which keeps no record"
