"""The files of text in the control directory of a shadow mount.

faults       a fault plan, all there is; write lines of one to make bytes bad, and
             `-PATTERN OFFSET LENGTH` to take faults away; a write is done as a whole, or not at all
ranges       `OFFSET LENGTH recorded|poison OWNER` a line, in bytes of the file (`deviceuse.py`)
passthrough  `OPENS OWNER` a line: files that are open so that no fault can be shown
scrub        `N`; write `1` to make latent poison known (R4)
status       JSON
metrics      Prometheus text
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from daxmend.errors import UsageError
from daxmend.events import Event
from daxmend.extent import Extent
from daxmend.faults import FaultKind, format_plan, parse_fault
from daxmend.mounts.controlfile import Action, ControlFile
from daxmend.mounts.deviceuse import format_file
from daxmend.mounts.shadowfaults import InFile
from daxmend.mounts.status import EventCounts, format_metrics
from daxmend.units import MAX_OFFSET, SECTOR, align_down, parse_size

if TYPE_CHECKING:
    from daxmend.mounts.shadowmodel import ShadowModel
    from daxmend.mounts.shadownode import ShadowNode

_WHOLE = Extent(0, align_down(MAX_OFFSET, SECTOR))


class ShadowFiles:
    """Implements `ControlFiles`. `source` is what the directory below is called."""

    def __init__(self, model: ShadowModel, source: str) -> None:
        self._model = model
        self._source = source
        self._refused: str | None = None
        self._started_ns = time.time_ns()
        self._counts = EventCounts()
        self._scrubs = 0
        model.events.subscribe(self._count)

    def files(self) -> list[ControlFile]:
        """See `ControlFiles`."""
        return [
            ControlFile(b"faults", self._read_faults, self._parse_fault, lambda event: True),
            ControlFile(b"ranges", self._read_ranges),
            ControlFile(b"passthrough", self._read_passthrough),
            ControlFile(b"scrub", lambda: f"{self._scrubs}\n", self._parse_scrub),
            ControlFile(b"status", lambda: json.dumps(self._document(), indent=2) + "\n"),
            ControlFile(b"metrics", self._read_metrics),
        ]

    def note_refusal(self, refused: str) -> None:
        """See `ControlFiles`."""
        self._refused = refused

    def stop(self) -> None:
        """See `ControlFiles`: nothing runs."""

    def _count(self, event: Event) -> None:
        assert isinstance(event, InFile)
        self._counts.count(event.event)

    def _read_faults(self) -> str:
        return format_plan(self._model.plan())

    def _parse_fault(self, line: str) -> Action:
        content = line.split("#", 1)[0].strip()
        if not content:
            return _do_nothing
        if content.startswith("-") and not content.startswith("- "):
            return self._parse_removal(content)
        return self._model.plan_fault(parse_fault(content))

    def _parse_removal(self, content: str) -> Action:
        words = content[1:].rsplit(maxsplit=2)
        if len(words) != 3:
            raise UsageError(f"'{content}' is not '-PATTERN OFFSET LENGTH'")
        extent = Extent(parse_size(words[1]), parse_size(words[2])).intersection(_WHOLE)
        return self._model.plan_removal(words[0], extent)

    def _owner(self, node: ShadowNode) -> str:
        return format_file(self._model.path(node) or b"", node.key[1])

    def _ranges(self) -> Iterator[tuple[Extent, str, ShadowNode]]:
        for node, faults in self._model.iter_bad():
            for fault in sorted(faults.faults("")):
                is_recorded = fault.kind is FaultKind.UNTIL_WRITTEN
                yield fault.extent, "recorded" if is_recorded else "poison", node

    def _read_ranges(self) -> str:
        return "".join(
            f"{extent.offset} {extent.length} {kind} {self._owner(node)}\n"
            for extent, kind, node in self._ranges()
        )

    def _read_passthrough(self) -> str:
        return "".join(
            f"{node.backing_opens} {self._owner(node)}\n" for node in self._model.iter_passing()
        )

    def _parse_scrub(self, line: str) -> Action:
        if line != "1":
            raise UsageError(f"'{line}' is not 1: a shadow mount is scrubbed as a whole")
        return self._scrub

    def _scrub(self) -> None:
        for node, faults in self._model.iter_bad():
            faults.scrub(os.fstat(node.fd).st_size)
        self._scrubs += 1

    def _sums(self) -> dict[str, int]:
        """Bytes."""
        sums = {"recorded": 0, "poison": 0}
        for extent, kind, _ in self._ranges():
            sums[kind] += extent.length
        return sums

    def _document(self) -> dict[str, object]:
        events, healed = self._counts.read()
        return {
            "source": self._source + ("" if self._model.is_there() else " (gone)"),
            "content": "shadow",
            **self._sums(),
            "files": sum(1 for _ in self._model.iter_bad()),
            "healed": healed,
            "passthrough": self._model.passes_through,
            "armed": list(self._model.armed),
            "known": self._model.known(),
            "pid": os.getpid(),
            "mounted_ns": self._started_ns,
            "events": events,
            "refused": self._refused,
        }

    def _read_metrics(self) -> str:
        sums = self._sums()
        events, healed = self._counts.read()
        gauges = {
            "daxmend_recorded_bytes": sums["recorded"],
            "daxmend_latent_bytes": sums["poison"],
            "daxmend_known_inodes": self._model.known(),
        }
        return format_metrics(gauges, healed, events)


def _do_nothing() -> None:
    pass
