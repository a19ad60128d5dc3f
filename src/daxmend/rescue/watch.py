"""`watch`: what goes bad, and what is healed, as it happens, with the file that is hit.

Every look at a target opens it anew and compares with the look before; what wakes us only says that
it is time to look. So nothing is lost between start and first wait (first all is armed, then
comes the first look), none comes twice, and a file that moved is found where it is now. Wakers:
sysfs `badblocks` files (POLLPRI), uevents, our mounts' `badblocks` and `events`, and the clock: a
write to a sysfs file wakes nobody.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from daxmend.errors import DaxmendError, UnknownStateError, UsageError
from daxmend.extent import ExtentSet
from daxmend.host.uevent import UeventSocket, open_uevents
from daxmend.host.unknown import Unknown
from daxmend.rescue.hosttarget import HostTarget
from daxmend.rescue.opening import find_own_mount, open_target
from daxmend.rescue.target import CONTROL_DIRECTORY, Range, Target, locate
from daxmend.units import SECTOR

_READ: Final = 1 << 20
_SUBSYSTEMS: Final = frozenset({"block", "dax", "nd"})


class WatchEvent(NamedTuple):
    """`event` by name, of the target called so; `range` where it is of one; else `fields`.

    `watch_started` (`recorded` bytes, `unknown` reasons), `bad_found` (`at_start`), `bad_gone`,
    `unknown_changed` (`unknown`), `device_changed` (`action`, `device`), `target_gone` (`why`), and
    what the `events` file of a mount says, as it is (docs/events.md).
    """

    time_ns: int
    event: str
    target: str
    range: Range | None
    fields: dict[str, object]


class Watch:
    """Several targets, each by name. Raises as `open_target`; a pool has to be mounted."""

    def __init__(self, names: Iterable[str], interval_s: float) -> None:
        self.notices: list[str] = []
        self._interval_s = interval_s
        self._poll = select.poll()
        self._watched: list[_Watched] = []
        self._uevents: UeventSocket | None = None
        try:
            uevents = open_uevents()
            if isinstance(uevents, Unknown):
                self.notices.append(f"{uevents.why}; devices are looked at by the clock alone")
            else:
                self._uevents = uevents
                self._poll.register(uevents, select.POLLIN)
            for name in names:
                self._watched.append(_Watched(name, self._poll))
        except BaseException:
            self.close()
            raise

    def events(self) -> Iterator[WatchEvent]:
        """What is bad already, then what happens, until every target has gone."""
        for each in self._watched:
            yield from each.start()
        while any(not each.is_gone for each in self._watched):
            ready = dict(self._poll.poll(self._interval_s * 1000))
            if self._uevents is not None and ready.pop(self._uevents.fileno(), 0):
                yield from self._hear(self._uevents)
            for each in self._watched:
                yield from each.wake(ready)

    def _hear(self, uevents: UeventSocket) -> Iterator[WatchEvent]:
        try:
            heard = list(uevents.read())
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
            heard = []  # some were lost: everything is looked at all the same
        for uevent in heard:
            if uevent.fields.get("SUBSYSTEM") not in _SUBSYSTEMS:
                continue
            for each in self._watched:
                if uevent.device is not None and uevent.device in each.devices:
                    name = uevent.fields.get("DEVNAME", uevent.path)
                    fields: dict[str, object] = {"action": uevent.action, "device": name}
                    yield each.event("device_changed", fields)
        for each in self._watched:
            yield from each.look()

    def close(self) -> None:
        """Let go of everything."""
        for each in self._watched:
            each.close()
        if self._uevents is not None:
            self._uevents.close()


class _Watched:
    """One target: what wakes us for it, and what the last look saw."""

    def __init__(self, name: str, poll: select.poll) -> None:
        self.name = name
        self.devices: frozenset[int] = frozenset()
        self.is_gone = False
        self._poll = poll
        self._wakers: dict[Path, int] = {}  # open files by path
        self._events: int | None = None  # of a mount
        self._bad = ExtentSet(SECTOR)
        self._located: list[Range] = []
        self._unknown: list[str] = []
        self._texts: dict[Path, bytes] = {}
        with contextlib.closing(open_target(name)) as target:
            if not isinstance(target, HostTarget) and target.status()["mounted"] is None:
                raise UsageError(f"{name} is not mounted: mount it, then it can be watched")
            self._arm(target)

    def event(self, name: str, fields: dict[str, object], found: Range | None = None) -> WatchEvent:
        """An event of now."""
        return WatchEvent(time.time_ns(), name, self.name, found, fields)

    # -- what wakes --------------------------------------------------------------------------

    def _arm(self, target: Target) -> None:
        """Open and read, so that every later change wakes, what the target's record lies in."""
        if isinstance(target, HostTarget):
            with contextlib.suppress(DaxmendError):
                target.badblocks()  # which finds where the records are
            paths = set(target.records.record_files.values())
            paths |= {_control(path) / "badblocks" for path in target.records.own_paths}
            self.devices = target.records.devices
        else:
            mounted = target.status()["mounted"]
            if mounted is None:
                raise UnknownStateError(f"{self.name} is not mounted any more")
            control = _control(str(mounted))
            paths = {control / "badblocks"}
            if self._events is None:
                self._events = os.open(
                    control / "events", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
                )
                self._poll.register(self._events, select.POLLIN)
        for path in paths - set(self._wakers):
            with contextlib.suppress(OSError):  # then the look says what is wrong
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                self._wakers[path] = fd
                self._poll.register(fd, select.POLLPRI | select.POLLERR)
                self._texts[path] = os.pread(fd, _READ, 0)
        for path in set(self._wakers) - paths:
            self._drop(path)

    def _drop(self, path: Path) -> None:
        fd = self._wakers.pop(path)
        self._texts.pop(path, None)
        self._forget(fd)

    def wake(self, ready: dict[int, int]) -> Iterator[WatchEvent]:
        """After a wait: pass on the mount's events, and look if anything may have changed."""
        if self.is_gone:
            return
        if self._events is not None and self._events in ready:
            yield from self._pass_on(self._events)
        if self._has_changed(ready):
            yield from self.look()

    def _has_changed(self, ready: dict[int, int]) -> bool:
        """Whether a record woke us or says something else; reading it arms it again."""
        has_changed = bool(self._unknown)  # nothing tells when that ends
        for path, fd in list(self._wakers.items()):
            has_changed = has_changed or fd in ready
            try:
                text = os.pread(fd, _READ, 0)
            except OSError:  # it has gone, and would wake us for ever
                self._drop(path)
                has_changed = True
                continue
            has_changed = has_changed or text != self._texts.get(path)
            self._texts[path] = text
        return has_changed

    def _pass_on(self, fd: int) -> Iterator[WatchEvent]:
        """The lines of a mount's events file."""
        try:
            text = os.read(fd, _READ)
        except BlockingIOError:
            return
        except OSError as error:
            yield from self._leave(error.strerror or str(error))
            return
        for line in text.splitlines():
            fields = json.loads(line)
            name = str(fields.pop("event"))
            stamp = fields.pop("time_ns", time.time_ns())
            yield WatchEvent(int(stamp), name, self.name, None, fields)

    # -- looking -----------------------------------------------------------------------------

    def start(self) -> Iterator[WatchEvent]:
        """The first look: everything bad is there already."""
        located, unknown = self._ask(ExtentSet(SECTOR))
        length = sum(each.extent.length for each in located)
        self._unknown = unknown
        yield self.event("watch_started", {"recorded": length, "unknown": unknown})
        yield from self._compare(located, at_start=True)

    def look(self) -> Iterator[WatchEvent]:
        """What is different from the last look."""
        if self.is_gone:
            return
        try:
            located, unknown = self._ask(self._bad)
        except (UnknownStateError, OSError) as error:
            said = error.strerror if isinstance(error, OSError) else str(error)
            yield from self._lost(said or str(error))
            return
        except UsageError as error:
            yield from self._leave(str(error))
            return
        if unknown != self._unknown:
            self._unknown = unknown
            yield self.event("unknown_changed", {"unknown": unknown})
        yield from self._compare(located, at_start=False)

    def _ask(self, known: ExtentSet) -> tuple[list[Range], list[str]]:
        """All bad ranges, and why there may be more; owners of known ones are not looked for."""
        with contextlib.closing(open_target(self.name)) as target:
            self._arm(target)
            if not isinstance(target, HostTarget):
                return locate(target), []
            ranges = target.ranges()
            unknown = list(target.unknown)
            if any(not known.covers(each.extent) for each in ranges):
                ranges = target.locate(lambda done, total: None)
            return ranges, unknown

    def _compare(self, located: list[Range], *, at_start: bool) -> Iterator[WatchEvent]:
        now = ExtentSet(SECTOR)
        now.update(each.extent.widened(SECTOR) for each in located)
        gone, new = self._bad.without(now), now.without(self._bad)
        before = self._located
        if self._unknown and gone:  # what cannot be asked has not healed
            located = [*located, *_parts(before, gone)]
            now.update(gone)
            gone = ExtentSet(SECTOR)
        self._bad = now
        self._located = located if new else list(_parts(before, now))
        for each in _parts(before, gone):
            yield self.event("bad_gone", {}, each)
        for each in _parts(located, new):
            yield self.event("bad_found", {"at_start": at_start}, each)

    def _lost(self, why: str) -> Iterator[WatchEvent]:
        """It cannot be asked now; that may end."""
        if not os.path.lexists(self.name):
            yield from self._leave(why)
        elif self._unknown != [why]:
            self._unknown = [why]
            yield self.event("unknown_changed", {"unknown": [why]})

    def _leave(self, why: str) -> Iterator[WatchEvent]:
        """It has gone for good."""
        self.close()
        self.is_gone = True
        yield self.event("target_gone", {"why": why})

    def close(self) -> None:
        """Wake for it no more."""
        for path in list(self._wakers):
            self._drop(path)
        if self._events is not None:
            self._forget(self._events)
            self._events = None

    def _forget(self, fd: int) -> None:
        self._poll.unregister(fd)
        with contextlib.suppress(OSError):  # a mount that has died says so; it is closed
            os.close(fd)


def _control(path: str) -> Path:
    """The control directory of the daxmend mount that holds the path."""
    mount = find_own_mount(path)
    if mount is None:
        raise UnknownStateError(f"{path} lies on no daxmend mount any more")
    return Path(mount.mount_point) / CONTROL_DIRECTORY


def _parts(ranges: list[Range], extents: ExtentSet) -> Iterator[Range]:
    """What of the ranges lies in the extents."""
    for each in ranges:
        for extent in extents.extents(each.extent.widened(SECTOR)):
            part = each.part(extent)
            if part.extent.length:
                yield part
