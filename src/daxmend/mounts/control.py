"""The control directory of a mount: plain files in the kernel's spirit (design, "The mount").

    badblocks   read: the record, `SECTOR COUNT` a line (R9); write the same to add; poll for change
    poison      read: `OFFSET LENGTH` a line, in bytes; write the same to make latent poison,
                `-OFFSET LENGTH` to take it away (R2)
    ranges      read: `OFFSET LENGTH poison|recorded|lost OWNER` a line
    events      read: one JSON object a line; blocks until there is one

A write is all or nothing: a malformed line is EINVAL and changes nothing. A write that made bytes
bad is answered when no mapping shows their old content any more (R27).
"""

from __future__ import annotations

import errno
import os
import select
import stat
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from daxmend.dax.api import DaxDevice, FaultInjection, SectorState
from daxmend.errors import UsageError
from daxmend.events import Event
from daxmend.extent import Extent, check_bounds, format_badblocks, parse_badblocks_line
from daxmend.fuse import PENDING, Opened, Pending, Session, pack_write_out
from daxmend.fuse.protocol import FOPEN_DIRECT_IO, FOPEN_NONSEEKABLE
from daxmend.mounts.eventlog import EventLog

if TYPE_CHECKING:
    from daxmend.fuse import Buffer

CONTROL_NAME = b".daxmend"
CONTROL_NODEID = 16
_FIRST_FILE_NODEID = CONTROL_NODEID + 1

_ACCESS = os.O_ACCMODE


class ControlFile(NamedTuple):
    """A file of text: what reading it says, and what a line written to it does.

    `parse` turns a line into an action, raising `UsageError`; actions run when every line parsed.
    An action returns the device bytes whose content it changed.
    """

    name: bytes
    read: Callable[[], str]
    parse: Callable[[str], Callable[[], Extent]] | None = None

    @property
    def mode(self) -> int:
        """Type and permissions: the mount's owner (and root) only."""
        return stat.S_IFREG | (0o600 if self.parse else 0o400)


class _OpenFile:
    """One open of a control file: its own snapshot, or its own place among the events."""

    def __init__(self, nodeid: int, sequence: int) -> None:
        self.nodeid = nodeid
        self.text = b""
        self.sequence = sequence
        self.parked: tuple[int, int] | None = None  # unique and size of a read that waits
        self.poll_handle: int | None = None


class ControlDirectory:
    """The nodes from `CONTROL_NODEID` on of a mount over `device`. Used on the request thread.

    `invalidate` is called with device extents whose content changed; what it queues on the
    session's notifier is done before the write that caused it is answered.
    """

    def __init__(self, device: DaxDevice, invalidate: Callable[[Extent], None]) -> None:
        self.session: Session | None = None
        self._device = device
        self._invalidate = invalidate
        self._log = EventLog()
        self._opens: dict[int, _OpenFile] = {}
        self._next_fh = 1
        self._files = [
            ControlFile(b"badblocks", self._read_badblocks, self._parse_badblock),
            ControlFile(b"poison", self._read_poison, self._parse_poison),
            ControlFile(b"ranges", self._read_ranges),
            ControlFile(b"events", str),
        ]
        self._badblocks_nodeid = _FIRST_FILE_NODEID
        self._events_nodeid = _FIRST_FILE_NODEID + 3
        device.events.subscribe(self._on_event)

    # -- nodes -----------------------------------------------------------------------------

    def names(self) -> Iterator[tuple[int, bytes]]:
        """`(nodeid, name)` of each file."""
        return ((_FIRST_FILE_NODEID + at, file.name) for at, file in enumerate(self._files))

    def find(self, name: bytes) -> int:
        """The nodeid of a file; ENOENT."""
        for nodeid, known in self.names():
            if known == name:
                return nodeid
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))

    def mode(self, nodeid: int) -> int:
        """Type and permissions of the directory or one of its files."""
        if nodeid == CONTROL_NODEID:
            return stat.S_IFDIR | 0o700
        return self._files[nodeid - _FIRST_FILE_NODEID].mode

    # -- open files ------------------------------------------------------------------------

    def open(self, nodeid: int) -> Opened:
        """Open a file; its content is taken when it is read from the start."""
        fh = self._next_fh
        self._next_fh += 1
        self._opens[fh] = _OpenFile(nodeid, self._log.next_sequence)
        flags = FOPEN_DIRECT_IO
        if nodeid == self._events_nodeid:
            flags |= FOPEN_NONSEEKABLE
        return Opened(fh, flags)

    def release(self, fh: int) -> None:
        """The last user of an open has gone."""
        self._opens.pop(fh, None)

    def read(self, fh: int, offset: int, size: int, open_flags: int) -> Buffer | Pending:
        """Read from an open; the events file waits for the next event unless O_NONBLOCK."""
        opened = self._opens[fh]
        if opened.nodeid == self._events_nodeid:
            return self._read_events(opened, size, open_flags)
        if offset == 0:
            opened.text = self._files[opened.nodeid - _FIRST_FILE_NODEID].read().encode()
            opened.sequence = self._log.next_sequence
        return opened.text[offset : offset + size]

    def write(self, fh: int, data: memoryview) -> int | Pending:
        """Do what the lines say, all of them or, with an error, none."""
        file = self._files[self._opens[fh].nodeid - _FIRST_FILE_NODEID]
        if file.parse is None:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        lines = bytes(data).decode("ascii", errors="replace").splitlines()
        actions = [file.parse(line) for line in lines if line.strip()]
        for action in actions:
            self._invalidate(action())
        return self._reply_after_invalidation(pack_write_out(len(data)))

    def poll(self, fh: int, kh: int, schedule: bool) -> int:
        """What is ready: events to read, or a record that changed since it was last read."""
        opened = self._opens[fh]
        if schedule:
            opened.poll_handle = kh
        has_news = opened.sequence < self._log.next_sequence
        if opened.nodeid == self._events_nodeid:
            return select.POLLIN if has_news else 0
        always = select.POLLIN | select.POLLOUT
        if opened.nodeid == self._badblocks_nodeid and has_news:
            return always | select.POLLPRI | select.POLLERR  # as sysfs files do
        return always

    def _reply_after_invalidation(self, payload: bytes) -> Pending:
        session = self._must_session()
        unique = session.unique
        session.notifier.then(lambda: session.reply(unique, payload))
        return PENDING

    def _must_session(self) -> Session:
        assert self.session is not None, "requests come through a session"
        return self.session

    # -- events ----------------------------------------------------------------------------

    def _read_events(self, opened: _OpenFile, size: int, open_flags: int) -> Buffer | Pending:
        text, opened.sequence = self._log.read(opened.sequence, size)
        if text:
            return text
        if opened.sequence < self._log.next_sequence:
            raise OSError(errno.EINVAL, f"an event does not fit into a read of {size} bytes")
        if open_flags & os.O_NONBLOCK:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        if opened.parked is not None:  # two readers of one open: the first has waited longer
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        opened.parked = (self._must_session().unique, size)
        return PENDING

    def forget_parked(self, unique: int) -> None:
        """A signal ended the read that waited as request `unique`."""
        for opened in self._opens.values():
            if opened.parked is not None and opened.parked[0] == unique:
                opened.parked = None

    def _on_event(self, event: Event) -> None:
        self._log.append(event)
        if self.session is not None:
            self.session.notifier.then(self._wake_readers)

    def _wake_readers(self) -> None:
        """On the notifier's thread: after the invalidations that the events belong to."""
        session = self._must_session()
        for opened in list(self._opens.values()):
            self._answer_parked(session, opened)
            kh, opened.poll_handle = opened.poll_handle, None
            if kh is not None:
                session.notifier.poll_wakeup(kh)

    def _answer_parked(self, session: Session, opened: _OpenFile) -> None:
        if opened.parked is None:
            return
        unique, size = opened.parked
        text, sequence = self._log.read(opened.sequence, size)
        if text:  # an earlier wakeup may have taken it all; an empty answer would mean end of file
            opened.parked = None
            if session.reply(unique, text):
                opened.sequence = sequence

    # -- the files -------------------------------------------------------------------------

    def _whole(self) -> Extent:
        return Extent(0, self._device.size)

    def _injectable(self) -> FaultInjection:
        if not isinstance(self._device, FaultInjection):
            raise OSError(errno.EOPNOTSUPP, f"{self._device.name} takes no injected faults")
        return self._device

    def _read_badblocks(self) -> str:
        merged: list[Extent] = []
        for run, _ in self._device.badblocks(self._whole()):
            if merged and merged[-1].end == run.offset:
                merged[-1] = Extent.between(merged[-1].offset, run.end)
            else:
                merged.append(run)
        return format_badblocks(merged)

    def _parse_badblock(self, line: str) -> Callable[[], Extent]:
        extent = parse_badblocks_line(line)
        check_bounds(extent, self._device.size, "badblocks")
        return self._injection(extent, latent=False)

    def _read_poison(self) -> str:
        poison = self._injectable().poison(self._whole())
        return "".join(f"{run.offset} {run.length}\n" for run in poison)

    def _parse_poison(self, line: str) -> Callable[[], Extent]:
        text = line.strip()
        extent = _parse_range(text.removeprefix("-"))
        check_bounds(extent, self._device.size, "poison")
        if text.startswith("-"):
            return self._removal(extent)
        return self._injection(extent, latent=True)

    def _injection(self, extent: Extent, *, latent: bool) -> Callable[[], Extent]:
        device = self._injectable()

        def inject() -> Extent:
            device.inject(extent, latent=latent)
            return extent

        return inject

    def _removal(self, extent: Extent) -> Callable[[], Extent]:
        device = self._injectable()

        def uninject() -> Extent:
            device.uninject(extent)
            return extent

        return uninject

    def _read_ranges(self) -> str:
        ranges = [
            (run, "lost" if state is SectorState.LOST else "recorded")
            for run, state in self._device.badblocks(self._whole())
        ]
        if isinstance(self._device, FaultInjection):
            ranges += [(run, "poison") for run in self._device.poison(self._whole())]
        return "".join(f"{run.offset} {run.length} {kind} -\n" for run, kind in sorted(ranges))


def _parse_range(text: str) -> Extent:
    words = text.split()
    if len(words) != 2 or not all(word.isascii() and word.isdigit() for word in words):
        raise UsageError(f"'{text}' is not an 'OFFSET LENGTH' line of two whole numbers")
    extent = Extent(int(words[0]), int(words[1]))
    if extent.length == 0:
        raise UsageError(f"'{text}': a length of 0 names nothing")
    return extent
