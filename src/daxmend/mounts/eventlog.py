"""The events that a mount's readers have not read yet, numbered (docs/events.md)."""

import json
import sys
import time
from collections import deque
from collections.abc import Iterable

from daxmend.events import Event

BACKLOG_EVENTS = 4096  # older ones are dropped, and a reader that missed some is told how many


class EventLog:
    """The last events as JSON lines. `next_sequence` is what the next one will be called.

    Those before `told` may be read: the invalidations that belong to the others may be under way
    (R27). `preface` has those of attaching the device, with which every reader begins. Not locked;
    the owner's lock holds.
    """

    def __init__(self, attached: Iterable[Event] = ()) -> None:
        self.next_sequence = 1
        self._lines: deque[str] = deque(maxlen=BACKLOG_EVENTS)
        self.preface = "".join(map(self._numbered, attached)).encode()
        self._first_sequence = self.told = self.next_sequence

    def append(self, event: Event) -> None:
        """Number the event, stamp it, keep it."""
        self._lines.append(self._numbered(event))

    def _numbered(self, event: Event) -> str:
        record = {"sequence": self.next_sequence, "time_ns": time.time_ns(), **event.as_dict()}
        self.next_sequence += 1
        return json.dumps(record) + "\n"

    def history(self) -> str:
        """What is kept of all that happened: attaching, a `lost_events` line, the last events."""
        text, _ = self._read(self._first_sequence, sys.maxsize, self.next_sequence)
        return (self.preface + text).decode()

    def read(self, sequence: int, size: int) -> tuple[bytes, int]:
        """Whole lines from event `sequence` on, at most `size` bytes, and the sequence after them.

        None that is not told. A reader that fell behind the backlog first gets a `lost_events` line
        with the `count`.
        """
        return self._read(sequence, size, self.told)

    def _read(self, sequence: int, size: int, end: int) -> tuple[bytes, int]:
        oldest = self.next_sequence - len(self._lines)
        parts: list[str] = []
        if sequence < oldest:
            lost = json.dumps({"event": "lost_events", "count": oldest - sequence}) + "\n"
            if len(lost) > size:
                return b"", sequence
            parts.append(lost)
            sequence = oldest
        room = size - sum(map(len, parts))
        while sequence < end:
            line = self._lines[sequence - oldest]
            if len(line) > room:
                break
            parts.append(line)
            room -= len(line)
            sequence += 1
        return "".join(parts).encode(), sequence
