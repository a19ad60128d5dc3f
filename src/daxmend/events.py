"""What happened, as facts in the past tense with typed fields (R48), and the hub that spreads them.

Offsets and lengths are bytes from the start of the device (R47). `docs/events.md` lists the fields.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import ClassVar

from daxmend.extent import Extent


@dataclass(frozen=True, slots=True)
class Event:
    """The root; the name on the wire is the class's name in snake case."""

    name: ClassVar[str] = "event"

    def __init_subclass__(cls) -> None:
        cls.name = re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).lower()

    def as_dict(self) -> dict[str, object]:
        """The event as JSON types: `event`, then its fields; an extent is `offset`, `length`."""
        record: dict[str, object] = {"event": self.name}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Extent):
                record.update(offset=value.offset, length=value.length)
            else:
                record[field.name] = value
        return record


@dataclass(frozen=True, slots=True)
class FaultInjected(Event):
    """Somebody made these bytes bad (R2); `kind` is a fault plan's: until-written, once, latent."""

    extent: Extent
    kind: str


@dataclass(frozen=True, slots=True)
class FaultRemoved(Event):
    """Poison was un-injected; the record keeps its sectors (R2)."""

    extent: Extent


@dataclass(frozen=True, slots=True)
class PoisonConsumed(Event):
    """An access met latent poison; `extent` entered the record (R3)."""

    extent: Extent


@dataclass(frozen=True, slots=True)
class PoisonFound(Event):
    """A scrub found latent poison; `extent` entered the record (R4)."""

    extent: Extent


@dataclass(frozen=True, slots=True)
class ScrubDone(Event):
    """A scrub of the range has ended; `found` bytes were new to the record (R4)."""

    extent: Extent
    found: int


@dataclass(frozen=True, slots=True)
class ZeroinitDone(Event):
    """The range was set to zeros in place, and what was bad in it is healed (R29)."""

    extent: Extent


@dataclass(frozen=True, slots=True)
class RecoveryDone(Event):
    """A write healed these bytes: cleared, written, read back, dropped from the record (R14)."""

    extent: Extent


@dataclass(frozen=True, slots=True)
class RecoveryRefused(Event):
    """A write could not heal; `extent` is the aligned range that a write must cover (R16, R21)."""

    extent: Extent
    reason: str


@dataclass(frozen=True, slots=True)
class IntentReplayed(Event):
    """An interrupted recovery was judged at attach; `outcome`: complete, bad or lost (R18)."""

    extent: Extent
    outcome: str


@dataclass(frozen=True, slots=True)
class CopyHealed(Event):
    """One of two copies of a structure was damaged or behind, and was rewritten from the other."""

    structure: str
    copy: int
    reason: str


@dataclass(frozen=True, slots=True)
class MetadataHealed(Event):
    """Metadata of the file system stood on these bad bytes; it was written again (R43)."""

    extent: Extent


@dataclass(frozen=True, slots=True)
class SpaceCleared(Event):
    """Bad free space was cleared in the background, and can be used again (R31)."""

    extent: Extent


@dataclass(frozen=True, slots=True)
class DirtyLost(Event):
    """A write cache lost what its origin did not have yet; reads fail until a write (R38)."""

    extent: Extent
    reason: str


@dataclass(frozen=True, slots=True)
class FileDamaged(Event):
    """Bytes of a file went bad (R42): where in the file, and where on the device.

    `path` is absolute in the file system, empty for a file without a name.
    """

    extent: Extent
    path: str
    ino: int
    file_offset: int
    file_length: int


Subscriber = Callable[[Event], None]


class EventHub:
    """Spreads events to subscribers, in the publisher's thread and in the order of subscription."""

    def __init__(self) -> None:
        self._subscribers: list[Subscriber] = []

    def subscribe(self, subscriber: Subscriber) -> Callable[[], None]:
        """Call `subscriber` with every later event; returns what ends it."""
        self._subscribers.append(subscriber)
        return lambda: self._subscribers.remove(subscriber)

    def publish(self, event: Event) -> None:
        """Tell everybody."""
        for subscriber in tuple(self._subscribers):
            subscriber(event)
