"""A report as one page of HTML that needs nothing else, and as one JSON document."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from importlib import resources
from typing import Any

import jinja2

from daxmend import __version__
from daxmend.report import pageadvice
from daxmend.report.pagefacts import Command, DamagedFile, Facts, Group, Sum
from daxmend.report.pagemap import PARTS
from daxmend.report.pagetext import absolute, counted, escaped, shell_line
from daxmend.rescue.target import Range
from daxmend.units import format_size

_SIZES = frozenset({"size", "recorded", "lost", "poison", "healed", "free", "quarantined"})


def render(facts: Facts) -> bytes:
    """The page, in UTF-8. Every name in it is escaped: for people first, then for HTML."""
    text = _template.render(
        facts=facts,
        name=absolute(facts.target),
        parts=PARTS,
        host=os.uname().nodename,
        version=__version__,
        status=_flat(facts.status),
        members=_rows(facts.status, "members"),
        table=facts.status.get("table"),
        locate=pageadvice.locate_line(facts),
        history=pageadvice.history_line(facts),
        events=[_event(event) for event in facts.events or ()],
    )
    return text.encode("utf-8")


def _shell(words: list[str]) -> str:
    return shell_line(*words)


def _when(time_ns: int) -> str:
    """Local time, with its zone."""
    return time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(time_ns // 10**9))


_environment = jinja2.Environment(
    autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
)
_environment.filters.update(
    escaped=escaped, size=format_size, counted=counted, when=_when, shell=_shell
)
_template = _environment.from_string(
    resources.files(__package__).joinpath("page.html").read_text("utf-8")
)


def _flat(status: Mapping[str, object]) -> list[tuple[str, str]]:
    """What a target says of itself, but for what has tables of its own."""
    said = ((k, v) for k, v in status.items() if k not in ("members", "table"))
    return [(name.replace("_", " "), _describe(name, value)) for name, value in said]


def _describe(name: str, value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if name.endswith("_ns") and isinstance(value, int):
        return _when(value)
    if name in _SIZES and isinstance(value, int):
        return f"{format_size(value)} ({value} bytes)" if value >= 1024 else f"{value} bytes"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_plain(each)}" for key, each in value.items()) or "none"
    if isinstance(value, list):
        return "; ".join(map(_plain, value)) or "none"
    return _plain(value)


def _plain(value: object) -> str:
    return "–" if value is None else escaped(str(value))


def _rows(status: Mapping[str, object], name: str) -> list[dict[str, str]]:
    found = status.get(name)
    if not isinstance(found, list):
        return []
    return [{key: _describe(key, value) for key, value in each.items()} for each in found]


def _event(event: Mapping[str, Any]) -> dict[str, str]:
    """A row: when, what, where, and the rest in words."""
    rest = dict(event)
    stamp, name = rest.pop("time_ns", None), rest.pop("event")
    offset, length = rest.pop("offset", None), rest.pop("length", None)
    rest.pop("sequence", None)
    return {
        "when": "just now" if stamp is None else _when(stamp).rpartition(" ")[0],
        "event": str(name).replace("_", " "),
        "offset": _plain(offset),
        "length": _plain(length),
        "rest": ", ".join(f"{key.replace('_', ' ')} {_plain(v)}" for key, v in rest.items()),
    }


# -- JSON ------------------------------------------------------------------------------------


def describe(facts: Facts) -> dict[str, object]:
    """The same facts, with the same limits, as JSON types. Names are as `os.fsdecode` has them."""
    return {
        "target": facts.target,
        "kind": facts.kind,
        "time_ns": facts.taken_ns,
        "verdict": facts.verdict.value,
        "headline": facts.headline,
        "steps": _commands(facts.steps),
        "size": facts.size,
        "recorded": _sum(facts.recorded),
        "latent": _sum(facts.latent),
        "map": [lane._asdict() for lane in facts.lanes],
        "map_parts": PARTS,
        "files": [_file(each) for each in facts.files],
        "others": [_group(each) for each in facts.groups],
        "left_out": {
            "files": facts.files_left,
            "ranges_of_files": sum(each.total.ranges - len(each.ranges) for each in facts.files),
            "ranges_of_others": sum(each.total.ranges - len(each.ranges) for each in facts.groups),
            "events": facts.events_total - len(facts.events or ()),
            "command": pageadvice.locate_line(facts),
        },
        "events": facts.events,
        "unknown": facts.unknown,
        "not_asked": facts.unasked,
        "notices": facts.notices,
        "status": facts.status,
    }


def _sum(total: Sum) -> dict[str, int]:
    return {"ranges": total.ranges, "bytes": total.length}


def _commands(commands: list[Command]) -> list[dict[str, str | None]]:
    return [{"what": each.what, "command": each.line} for each in commands]


def _range(found: Range) -> dict[str, object]:
    return {
        "offset": found.extent.offset,
        "length": found.extent.length,
        "state": found.kind,
        "device_offset": found.device_offset,
        "stack": [place._asdict() for place in found.places],
    }


def _file(file: DamagedFile) -> dict[str, object]:
    placed = file.placed
    return {
        "name": file.name,
        "size": file.size,
        **_sum(file.total),
        "bad": [_range(each) for each in file.ranges],
        "extents": placed and placed.extents,
        "extents_hit": placed and placed.hit,
        "extents_shown": placed and [each._asdict() for each in placed.shown],
        "extents_unknown": file.why or None,
        "commands": _commands(file.commands),
    }


def _group(group: Group) -> dict[str, object]:
    return {
        "title": group.title,
        **_sum(group.total),
        "bad": [{**_range(each), "path": os.fsdecode(each.path) or None} for each in group.ranges],
        "commands": _commands(group.commands),
    }
