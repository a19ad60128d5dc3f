"""The control directory's files of text: what reading one says, what a line written to it does.

badblocks   the record, `SECTOR COUNT` a line (R9); write the same to add; poll for change
poison      `OFFSET LENGTH` a line, in bytes; write the same to make latent poison, with `once`
            behind it to let one access fail, `-OFFSET LENGTH` to take poison away (R2)
ranges      `OFFSET LENGTH poison|recorded|lost|quarantined OWNER` a line; owners: `deviceuse.py`
owners      the same with one more field: where in its file the range begins, `-` outside of files
check       what is wrong with the file system, one JSON object a line; nothing if it is whole
scrub       `N` idle, `N+` running; write `1` or `OFFSET LENGTH` to start one; poll for its end
message     write `SECTOR WORDS…` for the target of a table's line there; read the last answer, or
            why the last one failed
status      JSON
metrics     Prometheus text
"""

from __future__ import annotations

import errno
import json
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, Protocol

from daxmend.dax.api import DaxDevice, FaultInjection, SectorState
from daxmend.errors import DaxmendError, UsageError
from daxmend.events import (
    Event,
    FaultInjected,
    PoisonConsumed,
    PoisonFound,
    RecoveryDone,
    RecoveryRefused,
)
from daxmend.extent import Extent, check_bounds, format_badblocks, merged, parse_badblocks_line
from daxmend.faults import FaultKind
from daxmend.mounts.deviceuse import FREE, DeviceUse, OwnedRange
from daxmend.mounts.scrub import Scrubber
from daxmend.mounts.status import Status
from daxmend.stack.device import send_message

if TYPE_CHECKING:
    from daxmend.fs import Finding

_RANGE = re.compile(r"([0-9]{1,19})\s+([0-9]{1,19})")  # as many digits as an offset can have

_SCRUB = b"scrub"

Action = Callable[[], Extent | None]


class ControlFile(NamedTuple):
    """A file of text. `parse` turns a line into an action, raising `UsageError`.

    An action returns the device bytes whose content it changed, if any. `is_changed_by` says which
    events those who poll the file wait for.
    """

    name: bytes
    read: Callable[[], str]
    parse: Callable[[str], Action] | None = None
    is_changed_by: Callable[[Event], bool] = lambda event: False

    @property
    def mode(self) -> int:
        """Type and permissions: the mount's owner (and root) only."""
        return stat.S_IFREG | (0o600 if self.parse else 0o400)


class ControlFiles(Protocol):
    """The files of text of one mount."""

    def files(self) -> list[ControlFile]:
        """All of them."""

    def note_refusal(self, refused: str) -> None:
        """Why a write to one of the files failed: `status` says so until another one does."""

    def stop(self) -> None:
        """End what runs in the background."""


class DeviceFiles:
    """The files over one device (implements `ControlFiles`).

    `on_change` takes the name of a file that has changed without an event; it is called on the
    scrub's thread. `attached` are the events of attaching the device.
    """

    def __init__(
        self,
        device: DaxDevice,
        use: DeviceUse,
        scrubber: Scrubber,
        on_change: Callable[[bytes], object],
        attached: Iterable[Event] = (),
    ) -> None:
        self._device = device
        self._use = use
        self._whole = Extent(0, device.size)
        self._scrubber = scrubber
        self._status = Status(device, use, scrubber, attached)
        self._on_change = on_change
        self._answer = ""  # to the last message

    def files(self) -> list[ControlFile]:
        """See `ControlFiles`."""
        return [
            ControlFile(b"badblocks", self._read_badblocks, self._parse_badblock, _changes_record),
            ControlFile(b"poison", self._read_poison, self._parse_poison),
            ControlFile(b"ranges", self._read_ranges),
            ControlFile(b"owners", self._read_owners),
            ControlFile(b"check", self._read_check),
            ControlFile(_SCRUB, lambda: f"{self._scrubber.state}\n", self._parse_scrub),
            ControlFile(b"message", lambda: self._answer, self._parse_message),
            ControlFile(b"status", self._read_status),
            ControlFile(b"metrics", self._status.metrics),
        ]

    def note_refusal(self, refused: str) -> None:
        """See `ControlFiles`."""
        self._status.refused = refused

    def stop(self) -> None:
        """See `ControlFiles`."""
        self._scrubber.stop()

    def _injectable(self) -> FaultInjection:
        if not isinstance(self._device, FaultInjection):
            raise OSError(errno.EOPNOTSUPP, f"{self._device.name} takes no injected faults")
        return self._device

    def _read_badblocks(self) -> str:
        return format_badblocks(merged(run for run, _ in self._device.badblocks(self._whole)))

    def _parse_badblock(self, line: str) -> Action:
        extent = parse_badblocks_line(line)
        check_bounds(extent, self._device.size, "badblocks")
        return partial(_and_return, extent, partial(self._injectable().inject, extent))

    def _read_poison(self) -> str:
        poison = self._injectable().poison(self._whole)
        return "".join(f"{run.offset} {run.length}\n" for run in poison)

    def _parse_poison(self, line: str) -> Action:
        device = self._injectable()
        if line.startswith("-"):
            extent = self._parse_range(line.removeprefix("-"), "poison")
            return partial(_and_return, extent, partial(device.uninject, extent))
        extent = self._parse_range(line.removesuffix(" once"), "poison")
        if line.endswith(" once"):
            return partial(_and_return, extent, partial(device.inject_once, extent))
        return partial(_and_return, extent, partial(device.inject, extent, latent=True))

    def _read_ranges(self) -> str:
        return "".join(
            f"{extent.offset} {extent.length} {kind} {owner}\n"
            for (extent, owner, _), kind in self._owned_ranges()
        )

    def _read_owners(self) -> str:
        return "".join(
            f"{extent.offset} {extent.length} {kind} {owner} {'-' if at is None else at}\n"
            for (extent, owner, at), kind in self._owned_ranges()
        )

    def _owned_ranges(self) -> Iterator[tuple[OwnedRange, str]]:
        """One for each owner; what is recorded and nobody's is in quarantine (R31)."""
        ranges = [
            (run, "lost" if state is SectorState.LOST else "recorded")
            for run, state in self._device.badblocks(self._whole)
        ]
        if isinstance(self._device, FaultInjection):
            ranges += [(run, "poison") for run in self._device.poison(self._whole)]
        for run, kind in sorted(ranges):
            for owned in self._use.iter_owned(run):
                is_secluded = owned.owner == FREE and kind != "poison"
                yield owned, "quarantined" if is_secluded else kind

    def _read_check(self) -> str:
        return "".join(f"{json.dumps(_describe(found))}\n" for found in self._use.check())

    def _parse_scrub(self, line: str) -> Action:
        extent = self._whole if line == "1" else self._parse_range(line, "scrub")

        def start() -> None:
            self._scrubber.start(extent, partial(self._on_change, _SCRUB))

        return start

    def _parse_message(self, line: str) -> Action:
        return partial(self._send_message, line)

    def _send_message(self, line: str) -> None:
        try:
            self._answer = send_message(self._device, line)
        except (DaxmendError, OSError) as error:
            self._answer = f"{error}\n"
            raise

    def _read_status(self) -> str:
        return json.dumps(self._status.document(), indent=2) + "\n"

    def _parse_range(self, text: str, name: str) -> Extent:
        match = _RANGE.fullmatch(text.strip())
        if match is None:
            raise UsageError(f"'{text}' is not an 'OFFSET LENGTH' line of two whole numbers")
        extent = Extent(int(match[1]), int(match[2]))
        if extent.length == 0:
            raise UsageError(f"'{text}': a length of 0 names nothing")
        check_bounds(extent, self._device.size, name)
        return extent


def _describe(finding: Finding) -> dict[str, object]:
    """A line of `check`; bytes of the path that are not UTF-8 are lone surrogates."""
    return {
        "invariant": finding.invariant.value,
        "text": finding.text,
        "path": os.fsdecode(finding.path) or None,
        "is_healed": finding.is_healed,
    }


def _changes_record(event: Event) -> bool:
    if isinstance(event, FaultInjected):
        return event.kind == FaultKind.UNTIL_WRITTEN
    return isinstance(event, PoisonConsumed | PoisonFound | RecoveryDone | RecoveryRefused)


def _and_return(extent: Extent, work: Callable[[], object]) -> Extent:
    work()
    return extent
