"""The control directory of a mount: plain files in the kernel's spirit.

`controlfile.py` has the files of text. `events` gives one JSON object a line and blocks until there
is one; `history` gives those that are kept, and never waits. A write is all or nothing: a malformed
line is EINVAL and changes nothing. Why a write was refused, of which the kernel passes on no more
than the errno, stands in `status`. A write that made bytes bad is answered when no mapping shows
their old content any more (R27).
"""

from __future__ import annotations

import errno
import os
import select
import stat
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from threading import Lock
from typing import TYPE_CHECKING, NamedTuple

from daxmend.errors import DaxmendError, UsageError
from daxmend.events import Event, EventHub
from daxmend.extent import Extent
from daxmend.fuse import PENDING, Opened, Pending, Session, pack_write_out
from daxmend.fuse.protocol import FOPEN_DIRECT_IO
from daxmend.mounts.controlfile import Action, ControlFile, ControlFiles
from daxmend.mounts.eventlog import EventLog

if TYPE_CHECKING:
    from daxmend.fuse import Buffer

CONTROL_NAME = b".daxmend"
CONTROL_NODEID = 16
_FIRST_FILE_NODEID = CONTROL_NODEID + 1
_REFUSAL_LENGTH = 300  # characters; a line that is refused can be a request long


class _Parked(NamedTuple):
    """A read that waits until all events before number `until` are told."""

    unique: int
    offset: int
    size: int
    until: int


class _OpenFile:
    """One open of a control file: its own snapshot, or its own place among the events.

    `preface` has the events of attaching that this open has not read yet; `seen` the number of the
    last change of a file of text that its snapshot shows.
    """

    def __init__(self, nodeid: int, sequence: int, preface: bytes, seen: int) -> None:
        self.nodeid = nodeid
        self.text: bytes | None = None  # what the file says, or the last events that were read
        self.text_offset = 0
        self.sequence = sequence
        self.preface = preface
        self.seen = seen
        self.parked: deque[_Parked] = deque()
        self.poll_handle: int | None = None


class ControlDirectory:
    """The nodes from `CONTROL_NODEID` on of a mount. Used on the request thread.

    `make_files` makes the files of text, given what wakes those who wait for a change of one; it
    takes the name of that file.
    `events` are told by `events`, the file; `attached` are those of attaching the device, which
    came before anybody could subscribe.

    `invalidate` is called with device extents whose content changed; what it queues on the
    session's notifier is done before the write that caused it is answered.
    """

    def __init__(
        self,
        events: EventHub,
        make_files: Callable[[Callable[[bytes], object]], ControlFiles],
        invalidate: Callable[[Extent], None],
        attached: Sequence[Event] = (),
    ) -> None:
        self.session: Session | None = None
        self._invalidate = invalidate
        # Guards the log and the changes, each open's place in it and parked reads. The notifier
        # holds it no longer than an answer takes, which waits for nobody.
        self._lock = Lock()
        self._log = EventLog(attached)
        self._changes = 0  # of all files of text so far
        self._changed: dict[int, int] = {}  # nodeid → the number of the file's last change
        self._opens: dict[int, _OpenFile] = {}
        self._next_fh = 1
        self._made = make_files(self._on_change)
        history = ControlFile(b"history", self._read_history)
        self._files = [*self._made.files(), history, ControlFile(b"events", str)]
        self._events_nodeid = _FIRST_FILE_NODEID + len(self._files) - 1
        events.subscribe(self._on_event)

    def stop(self) -> None:
        """End what runs in the background."""
        self._made.stop()

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

    def has(self, nodeid: int) -> bool:
        """Whether the node is one of the files."""
        return 0 <= nodeid - _FIRST_FILE_NODEID < len(self._files)

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
        sequence, preface = self._log.next_sequence, self._log.preface
        self._opens[fh] = _OpenFile(nodeid, sequence, preface, self._changes)
        # Seekable, the events too: head(1) gives back what it has read beyond its last line.
        return Opened(fh, FOPEN_DIRECT_IO)

    def release(self, fh: int) -> None:
        """The last user of an open has gone."""
        self._opens.pop(fh, None)

    def read(self, fh: int, offset: int, size: int, open_flags: int) -> Buffer | Pending:
        """Read from an open; the events file waits for the next event unless O_NONBLOCK."""
        opened = self._opens[fh]
        if opened.nodeid == self._events_nodeid:
            return self._read_events(opened, offset, size, open_flags)
        if offset == 0 or opened.text is None:
            opened.seen = self._changes  # before: what changes meanwhile may not be in the text
            opened.text = self._files[opened.nodeid - _FIRST_FILE_NODEID].read().encode()
        return opened.text[offset : offset + size]

    def write(self, fh: int, data: memoryview) -> int | Pending:
        """Do what the lines say, all of them or, with an error, none."""
        file = self._files[self._opens[fh].nodeid - _FIRST_FILE_NODEID]
        if file.parse is None:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        try:
            self._obey(file.parse, data)
        except (DaxmendError, OSError) as error:
            refused = _on_one_line(f"{file.name.decode()}: {error}")
            self._made.note_refusal(refused)
            raise
        return self._reply_after_invalidation(pack_write_out(len(data)))

    def _obey(self, parse: Callable[[str], Action], data: memoryview) -> None:
        lines = bytes(data).decode("ascii", errors="replace").split("\n")
        if len(lines) > 1 and lines[-1].strip():
            raise UsageError(f"'{lines[-1]}' has no end: several lines must end in a newline each")
        actions = []
        for number, line in enumerate(lines, 1):
            if line.strip():
                try:
                    actions.append(parse(line.strip()))
                except UsageError as error:
                    raise (UsageError(f"line {number}: {error}") if lines[1:] else error) from None
        for action in actions:
            changed = action()
            if changed is not None:
                self._invalidate(changed)

    def poll(self, fh: int, kh: int, schedule: bool) -> int:
        """What is ready: events to read, or something that happened since the file was read."""
        opened = self._opens[fh]
        if schedule:
            opened.poll_handle = kh
        if opened.nodeid == self._events_nodeid:
            return select.POLLIN if self._has_events(opened) else 0
        always = select.POLLIN | select.POLLOUT
        if opened.seen < self._changed.get(opened.nodeid, 0):
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

    def _has_events(self, opened: _OpenFile) -> bool:
        return bool(opened.preface) or opened.sequence < self._log.told

    def _read_events(
        self, opened: _OpenFile, offset: int, size: int, open_flags: int
    ) -> Buffer | Pending:
        with self._lock:
            again = offset - opened.text_offset  # whoever seeks back finds the last answer there
            if opened.text is not None and 0 <= again < len(opened.text):
                return opened.text[again : again + size]
            happened = self._log.next_sequence
            if opened.preface or self._log.told == happened:
                if text := self._next_events(opened, size):
                    opened.text, opened.text_offset = text, offset
                    return text
                if self._has_events(opened):
                    said = f"an event does not fit into a read of {size} bytes"
                    raise OSError(errno.EINVAL, said)
            if open_flags & os.O_NONBLOCK and opened.sequence == happened:
                raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
            until = max(happened, opened.sequence + 1)
            opened.parked.append(_Parked(self._must_session().unique, offset, size, until))
            return PENDING

    def _next_events(self, opened: _OpenFile, size: int) -> bytes:
        """Whole lines, those of attaching first; the open's place is behind them then."""
        if opened.preface:
            end = opened.preface.rfind(b"\n", 0, size) + 1
            text, opened.preface = opened.preface[:end], opened.preface[end:]
        else:
            text, opened.sequence = self._log.read(opened.sequence, size)
        return text

    def _read_history(self) -> str:
        with self._lock:
            return self._log.history()

    def forget_parked(self, unique: int) -> None:
        """A signal ended the read that waited as request `unique`."""
        with self._lock:
            for opened in self._opens.values():
                opened.parked = deque(read for read in opened.parked if read.unique != unique)

    def _on_event(self, event: Event) -> None:
        with self._lock:
            self._log.append(event)
            for nodeid, file in enumerate(self._files, _FIRST_FILE_NODEID):
                if file.is_changed_by(event):
                    self._note_change(nodeid)
            happened = self._log.next_sequence
            if self.session is None:
                self._log.told = happened
        self._wake_later(happened)

    def _on_change(self, name: bytes) -> None:
        """What a file says has changed, and no event tells of it. From any thread."""
        with self._lock:
            self._note_change(self.find(name))
            happened = self._log.told
        self._wake_later(happened)

    def _note_change(self, nodeid: int) -> None:
        self._changes += 1
        self._changed[nodeid] = self._changes

    def _wake_later(self, happened: int) -> None:
        if self.session is not None:
            self.session.notifier.then(lambda: self._wake_readers(happened))

    def _wake_readers(self, happened: int) -> None:
        """On the notifier's thread: after the invalidations that the events before it belong to."""
        session = self._must_session()
        with self._lock:
            self._log.told = max(self._log.told, happened)
        for opened in list(self._opens.values()):
            with self._lock:
                self._answer_parked(session, opened)
            kh, opened.poll_handle = opened.poll_handle, None
            if kh is not None:
                session.notifier.poll_wakeup(kh)

    def _answer_parked(self, session: Session, opened: _OpenFile) -> None:
        """Answer the reads that wait, oldest first, as long as there is what they wait for."""
        while opened.parked and self._log.told >= max(opened.parked[0].until, opened.sequence + 1):
            unique, offset, size, _ = opened.parked.popleft()
            text, sequence = self._log.read(opened.sequence, size)
            if not text:
                session.reply_error(unique, errno.EINVAL)  # too small for one event
            elif session.reply(unique, text):
                opened.sequence = sequence
                opened.text, opened.text_offset = text, offset


def _on_one_line(text: str) -> str:
    """A complaint that quotes what somebody wrote, on one line."""
    printable = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    if len(printable) <= _REFUSAL_LENGTH:
        return printable
    half = _REFUSAL_LENGTH // 2
    return f"{printable[:half]}…{printable[-half:]}"
