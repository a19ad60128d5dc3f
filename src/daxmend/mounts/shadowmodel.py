"""The faults of a shadow mount: which files, which bytes; plans applied to it and read from it."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING

from daxmend.dax.api import Recovery
from daxmend.errors import UsageError
from daxmend.events import (
    Event,
    EventHub,
    FaultInjected,
    FaultRemoved,
    PoisonConsumed,
    RecoveryDone,
    ZeroinitDone,
)
from daxmend.extent import Extent, check_bounds
from daxmend.faults import NO_FILES, Fault, Pattern, format_pattern, literal_path, parse_numbered
from daxmend.mounts.shadowfaults import FileFaults, InFile
from daxmend.mounts.shadownode import key_of
from daxmend.mounts.writepath import WritePath
from daxmend.units import SECTOR, align_up

if TYPE_CHECKING:
    from daxmend.mounts.option import ShadowOptions
    from daxmend.mounts.shadownode import ShadowNode, ShadowNodes

_CHANGES_CONTENT = (FaultInjected, FaultRemoved, PoisonConsumed, RecoveryDone, ZeroinitDone)

Change = Callable[[], None]


class ShadowModel:
    """Used on the request thread. `events` tells of all files, with their paths.

    `invalidate` takes a nodeid and a range that the kernel must ask for again; `writers` are the
    handles of a file's opens that can be written to.
    """

    def __init__(
        self,
        nodes: ShadowNodes,
        options: ShadowOptions,
        invalidate: Callable[[int, Extent], None],
        writers: Callable[[ShadowNode], list[int]],
    ) -> None:
        self.events = EventHub()
        self.armed = options.armed
        self.passes_through = False
        self._nodes = nodes
        self._options = options
        self._armed = [Pattern(word) for word in options.armed]
        self._invalidate = invalidate
        self._writers = writers

    # -- what there is ---------------------------------------------------------------------

    def iter_bad(self) -> Iterator[tuple[ShadowNode, FileFaults]]:
        """The files with faults; what has no name any more, and no user, is let go of."""
        for node in self._nodes:
            if not self._nodes.drop(node) and node.faults:
                yield node, node.faults

    def iter_passing(self) -> Iterator[ShadowNode]:
        """The files that somebody has open in passthrough."""
        return (node for node in self._nodes if node.backing_opens)

    def path(self, node: ShadowNode) -> bytes | None:
        """Absolute in the mount; None for a file without a name."""
        return self._nodes.path(node)

    def is_there(self) -> bool:
        """Whether the directory below still has a name."""
        return os.fstat(self._nodes.root.fd).st_nlink > 0

    def known(self) -> int:
        """How many inodes the kernel knows, or have faults."""
        return len(self._nodes)

    def is_armed(self, node: ShadowNode) -> bool:
        """Whether a pattern of `--arm` matches the file."""
        if not self._armed:
            return False
        path = os.fsdecode(self._nodes.path(node) or b"").lstrip("/")
        return any(pattern.matches(path) for pattern in self._armed)

    # -- changes ---------------------------------------------------------------------------

    def plan_fault(self, fault: Fault) -> Change:
        """What a line of a plan comes to; `UsageError` if it fits no file. Changes nothing yet."""
        literal = literal_path(fault.pattern)
        if literal is not None:
            found = [self._open(literal)]
            size = os.fstat(found[0].fd).st_size
            if fault.extent.end > align_up(size, SECTOR):
                check_bounds(fault.extent, size, f"/{literal}")
        else:
            paths = {
                key_of(status): path
                for path, status in self._matching(fault.pattern)
                if fault.extent.end <= align_up(status.st_size, SECTOR)
            }
            found = [self._open(path) for path in paths.values()]
        if not found:
            raise UsageError(f"{fault.pattern} matches no file that reaches to {fault.extent.end}")
        return partial(self._change, found, fault)

    def plan_removal(self, word: str, extent: Extent) -> Change:
        """Take faults away from the files that match, those of the lines before among them."""
        literal = literal_path(word)
        if literal is not None:
            return partial(self._remove, [self._open(literal)], extent)
        known = (self._nodes.find(status) for _, status in self._matching(word))
        return partial(self._remove, {node for node in known if node is not None}, extent)

    def _matching(self, word: str) -> Iterator[tuple[str, os.stat_result]]:
        """The regular files that a PATTERN matches, by each of their names that it does."""
        if word == NO_FILES:
            raise UsageError("- stands for no file; here each line must say which")
        pattern = Pattern(word)
        return (each for each in self._nodes.walk_files() if pattern.matches(each[0]))

    def _open(self, path: str) -> ShadowNode:
        """The node of a regular file. Nobody drops it before the whole plan is done: `iter_bad`."""
        try:
            node = self._nodes.open_path(path)
        except OSError as error:
            raise UsageError(f"/{path}: {error.strerror}") from None
        if not stat.S_ISREG(os.fstat(node.fd).st_mode):
            raise UsageError(f"/{path} is no regular file")
        return node

    def _change(self, nodes: Iterable[ShadowNode], fault: Fault) -> None:
        for node in nodes:
            self._faults_of(node).add(fault)

    def _remove(self, nodes: Iterable[ShadowNode], extent: Extent) -> None:
        for node in nodes:
            if node.faults is not None:
                node.faults.remove(extent)

    def _faults_of(self, node: ShadowNode) -> FileFaults:
        if node.faults is None:
            allows = self._options.mount.recovery is not Recovery.NEVER
            node.faults = FileFaults(allows_recovery=allows)
            node.faults.events.subscribe(partial(self._on_event, node))
            node.writes = WritePath(node.faults, self._options.mount, self._invalidate)
            for fh in self._writers(node):
                node.writes.open(node.nodeid, fh)
        return node.faults

    def _on_event(self, node: ShadowNode, event: Event) -> None:
        """Mappings must see what the event changed (R27): no cached page of it may stay."""
        if isinstance(event, _CHANGES_CONTENT) and node.lookups:
            self._invalidate(node.nodeid, event.extent)
        path = os.fsdecode(self._nodes.path(node) or b"")
        self.events.publish(InFile(event, path, node.key[1]))

    # -- plans -----------------------------------------------------------------------------

    def apply_plan(self, text: str) -> None:
        """Make bad what the plan says, all of it, or with a `UsageError` of its line nothing."""
        changes = []
        for number, fault in parse_numbered(text):
            try:
                changes.append(self.plan_fault(fault))
            except UsageError as error:
                raise UsageError(f"fault plan, line {number}: {error}") from None
        for change in changes:
            change()

    def plan(self) -> Iterator[Fault]:
        """All faults of files with a name, to be applied again."""
        for node, faults in self.iter_bad():
            path = self._nodes.path(node)
            if path is not None:
                yield from faults.faults(format_pattern(path))
