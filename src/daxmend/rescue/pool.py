"""A pool that nobody has open for writing, as a target."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from daxmend.errors import CorruptionError, UnsupportedError, UsageError
from daxmend.events import Event, EventHub
from daxmend.extent import Extent, check_bounds, merged
from daxmend.faults import Fault, FaultKind
from daxmend.fs import FileSystem, Finding, OwnerKind, Plan, apply_repair, check, plan_repair
from daxmend.fs.loading import load
from daxmend.rescue.target import FileExtent, FilePlaces, Range, inner_path, is_no_file
from daxmend.stack.device import open_device, send_message, validate_length
from daxmend.stack.filesystem import has_filesystem
from daxmend.stack.member import TableDevice
from daxmend.stack.summary import summarize
from daxmend.units import CACHELINE

if TYPE_CHECKING:
    from daxmend.fs import Owner


class PoolTarget:
    """Implements `DeviceTarget`."""

    def __init__(self, path: Path, *, writable: bool) -> None:
        self.name = str(path)
        self._path = path.absolute()
        hub = EventHub()
        self._attached: list[Event] = []
        end = hub.subscribe(self._attached.append)
        self._device = open_device(path, writable=writable, events=hub)
        end()
        self._whole = Extent(0, self._device.size)
        self._fs: FileSystem | None = None
        self.notices = list(self._device.notices)
        self.unknown: list[str] = []
        self.content = "fs" if has_filesystem(self._device) else "raw"

    def badblocks(self) -> list[Extent]:
        """See `Target`."""
        return merged(run for run, _ in self._device.badblocks(self._whole))

    def ranges(self) -> list[Range]:
        """See `Target`."""
        recorded = [
            (run, "lost" if state.value == "lost" else "recorded")
            for run, state in self._device.badblocks(self._whole)
        ]
        found = sorted(recorded + [(run, "poison") for run in self._device.poison(self._whole)])
        if found and self.content == "fs":
            try:
                return list(self._owned(found))
            except (CorruptionError, UnsupportedError) as error:
                self.notices.append(
                    f"{self.name}: who owns a range cannot be told: {error}; "
                    f"look at: daxmend check {self.name}"
                )
        return [Range(run, kind, run.offset) for run, kind in found]

    def _owned(self, found: list[tuple[Extent, str]]) -> Iterator[Range]:
        """The ranges, split by who owns them (R42)."""
        fs = self._filesystem()
        for run, kind in found:
            for owner in fs.owners(run):
                yield _owned_range(owner, kind)

    def _filesystem(self) -> FileSystem:
        """The file system, read-only; what it has lost is said."""
        if self.content != "fs":
            raise UsageError(f"{self.name} holds a raw device, without a file system")
        if self._fs is None:
            loaded = load(self._device)
            self.notices += [
                f"{self.name}: {loss}; look at: daxmend check {self.name}" for loss in loaded.losses
            ]
            self._fs = FileSystem(self._device, commits_each=False, writable=False, loaded=loaded)
        return self._fs

    def find_file(self, path: bytes) -> FilePlaces:
        """See `DeviceTarget`."""
        fs = self._filesystem()
        name = f"{self.name}:{os.fsdecode(path)}"
        try:
            ino = fs.root
            for part in inner_path(path):
                ino = fs.lookup(ino, part)
        except OSError as error:
            raise OSError(error.errno, error.strerror, name) from None
        found = fs.stat(ino)
        if not stat.S_ISREG(found.mode):
            raise is_no_file(name, found.mode, self.name)
        return FilePlaces(found.size, [FileExtent(*each) for each in fs.extents(ino)])

    def inject(self, faults: Iterable[Fault]) -> None:
        """See `Target`."""
        plan = list(faults)
        for fault in plan:
            check_bounds(fault.extent, self._device.size, self.name)
        for fault in plan:
            if fault.kind is FaultKind.ONCE:
                self._device.inject_once(fault.extent)
            else:
                self._device.inject(fault.extent, latent=fault.kind is FaultKind.LATENT)

    def uninject(self, extent: Extent) -> Extent:
        """See `Target`."""
        self._device.uninject(extent)
        return extent.widened(CACHELINE)

    def scrub(self, extent: Extent | None) -> Iterator[Extent]:
        """See `Target`."""
        for scrubbed in self._device.scrub(self._whole if extent is None else extent):
            validate_length(self._device)
            yield scrubbed

    def status(self) -> dict[str, object]:
        """See `Target`."""
        return {"mounted": None, **summarize(self._device), "device": str(self._path)}

    def events(self) -> list[dict[str, object]] | None:
        """See `Target`."""
        return [event.as_dict() for event in self._attached]

    def check(self) -> list[Finding]:
        """See `DeviceTarget`."""
        self._must_have_files()
        return list(check(self._device))

    def plan_repair(self) -> Plan:
        """See `DeviceTarget`."""
        self._must_have_files()
        return plan_repair(self._device)

    def apply_repair(self, plan: Plan) -> None:
        """See `DeviceTarget`."""
        apply_repair(self._device, plan)

    def send_message(self, text: str) -> str:
        """See `DeviceTarget`."""
        return send_message(self._device, text)

    def _must_have_files(self) -> None:
        if isinstance(self._device, TableDevice) and self._device.is_volatile:
            raise UsageError(
                f"{self.name}: its table has RAM members, which begin empty: there is a file "
                "system to check only while it is mounted"
            )
        if self.content != "fs":
            raise UsageError(f"{self.name} holds a raw device: there is no file system to check")

    def close(self) -> None:
        """See `Target`."""
        if self._fs is not None:
            self._fs.close()
        self._device.close()


def _owned_range(owner: Owner, kind: str) -> Range:
    if owner.kind is OwnerKind.FILE:
        place = owner.extent.offset
        return Range(owner.extent, kind, place, owner.kind.value, owner.path, owner.offset)
    # What is recorded and nobody's waits to be cleared (R31), as `ranges` of a mount says it.
    is_secluded = owner.kind is OwnerKind.FREE and kind != "poison"
    state = "quarantined" if is_secluded else kind
    return Range(owner.extent, state, owner.extent.offset, owner.kind.value)
