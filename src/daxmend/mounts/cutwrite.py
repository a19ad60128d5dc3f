"""The halves of one pwrite(2) that the kernel cut in the middle of a unit (R50).

A request that ends inside a bad unit, and began at or before its first byte, may be the first half
of a write that covers it: its tail is held, durably, and acknowledged. The adjoining write of the
same open completes it. If anything else comes next, the hold is dropped, a warning names the unit,
and the open reports EIO from then on. A unit that somebody else heals meanwhile holds newer data:
the half is then as good as written, and overwritten.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, NamedTuple, Protocol

from daxmend.dax.api import Recovery
from daxmend.errors import MediaError
from daxmend.events import Event, EventHub, RecoveryDone, RecoveryRefused, ZeroinitDone
from daxmend.extent import Extent, ExtentSet
from daxmend.units import align_down

if TYPE_CHECKING:
    from daxmend.mounts.content import Content


class Holder(Protocol):
    """What goes bad and keeps halves of writes meanwhile: a `DaxDevice`, or a file with faults."""

    events: EventHub

    @property
    def allows_recovery(self) -> bool: ...

    def hold(self, offset: int, data: bytes, unit: int) -> None:
        """Keep the first bytes of a bad unit, as durably as its content would be."""

    def drop_hold(self, extent: Extent) -> None:
        """Forget them."""


class _Held(NamedTuple):
    """Acknowledged bytes from a bad unit's first byte on; `place` is theirs on the device."""

    content: Content
    offset: int
    data: bytes
    place: Extent

    @property
    def extent(self) -> Extent:
        return Extent(self.offset, len(self.data))


class CutWrites:
    """Joins the writes of each open of one mount. Used on the request thread.

    A unit is a page of a file, or a sector of a raw device: the `Content` says so, and its `write`
    is the loop that heals.
    """

    def __init__(self, device: Holder) -> None:
        self._device = device
        self._held: dict[int, _Held] = {}
        self._broken: set[int] = set()  # opens whose half cannot be completed any more
        self._failed: set[int] = set()
        device.events.subscribe(self._on_event)

    def _on_event(self, event: Event) -> None:
        """Somebody wrote to a unit: an earlier half must not come back over that.

        Whoever healed all of it made the half as good as written; whoever healed a part of it, a
        sector of a file's page, took it away. Events come from any thread.
        """
        if isinstance(event, (RecoveryDone, ZeroinitDone)):
            for fh, held in list(self._held.items()):
                if event.extent.covers(held.place.widened(held.content.unit)):
                    self._held.pop(fh, None)
                elif held.place.overlaps(event.extent):
                    self._broken.add(fh)

    def write(
        self, fh: int, content: Content, offset: int, data: memoryview, recovery: Recovery
    ) -> int:
        """Write, completing what the open holds; returns how much of `data` was taken.

        Raises `OSError` if that is nothing.
        """
        held = self._held.pop(fh, None)
        if held is not None and not content.is_bad(held.extent):
            held = None  # it healed meanwhile, by a store perhaps (R6): that is newer
        if held is not None and (held.extent.end != offset or fh in self._broken):
            self._drop(fh, held)
            held = None
        if held is None:
            return self._write_from(fh, content, offset, data, recovery)
        return self._complete(fh, held, data, recovery)

    def _write_from(
        self, fh: int, content: Content, offset: int, data: memoryview, recovery: Recovery
    ) -> int:
        """Write, and hold what may be the first half of a bad unit."""
        tail = _first_half(content.unit, Extent(offset, len(data)))
        if not self._device.allows_recovery:
            recovery = Recovery.AUTO  # the device refuses, and says so (R48)
        may_heal = recovery is not Recovery.NEVER and self._device.allows_recovery
        if not (may_heal and tail.length and content.needs_rest(tail)):
            return content.write(offset, data, recovery)
        head = data[: tail.offset - offset]
        count = content.write(offset, head, recovery) if head else 0
        if count < len(head):
            return count
        if not content.needs_rest(tail):  # any more: the head's fence told of lines that had healed
            return content.write(offset, data, recovery)
        self._hold(fh, content, tail.offset, data[count:])
        return len(data)

    def _complete(self, fh: int, held: _Held, data: memoryview, recovery: Recovery) -> int:
        """Write the held bytes and `data` as one."""
        joined = memoryview(held.data + bytes(data))
        try:
            count = self._write_from(fh, held.content, held.offset, joined, recovery)
        except OSError:
            self._drop(fh, held)
            raise
        if count <= len(held.data):
            self._drop(fh, held)
            raise MediaError(held.content.name, held.offset, len(joined))
        return count - len(held.data)

    def _hold(self, fh: int, content: Content, offset: int, tail: memoryview) -> None:
        place = content.place(Extent(offset, len(tail)))
        assert place is not None, "what is bad is somewhere"
        held = _Held(content, offset, bytes(tail), place)
        self._device.hold(place.offset, held.data, content.unit)
        self._broken.discard(fh)
        self._held[fh] = held

    def _drop(self, fh: int, held: _Held) -> None:
        self._failed.add(fh)
        self._release_hold(held)
        self._device.events.publish(
            RecoveryRefused(
                held.place.widened(held.content.unit),
                "the other half of a cut write did not follow",
            )
        )

    def _release_hold(self, held: _Held) -> None:
        """The device forgets what it holds for nobody else: opens may hold halves of one unit.

        It keeps one half of each byte, the last that came; the others' come back before it forgets.
        """
        rest = ExtentSet(1, [held.place])
        for other in list(self._held.values()):
            if other.place.overlaps(held.place):
                self._device.hold(other.place.offset, other.data, other.content.unit)
                rest.discard(other.place)
        for run in rest:
            self._device.drop_hold(run)

    def discard(self, nodeid: int, extent: Extent) -> None:
        """The range of a file was truncated or punched away: no half of it may come back.

        A half that was given up as a whole is nobody's loss; of others the open hears.
        """
        for fh, held in list(self._held.items()):
            if held.content.nodeid == nodeid and held.extent.overlaps(extent):
                del self._held[fh]
                if extent.covers(held.extent):
                    self._release_hold(held)
                else:
                    self._drop(fh, held)

    def held_offset(self, fh: int) -> int | None:
        """Where the bytes begin that the open holds, or None."""
        held = self._held.get(fh)
        return None if held is None else held.offset

    def flush(self, fh: int) -> None:
        """A close of one descriptor of the open: EIO if bytes of it are held or were dropped.

        Drops nothing: a descriptor may have been duplicated, and another thread be in the middle
        of a write through it.
        """
        if fh in self._held or fh in self._failed:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    def sync(self, fh: int) -> None:
        """fsync of an open: no write is in the middle; drops what is held, then as `flush`."""
        held = self._held.pop(fh, None)
        if held is not None:
            self._drop(fh, held)
        self.flush(fh)

    def release(self, fh: int) -> None:
        """The open has gone."""
        held = self._held.pop(fh, None)
        if held is not None:
            self._drop(fh, held)
        self._failed.discard(fh)
        self._broken.discard(fh)


def _first_half(unit: int, extent: Extent) -> Extent:
    """The end of the extent, if it is a part of a unit from that one's first byte on."""
    tail = Extent.between(align_down(extent.end, unit), extent.end)
    return tail if tail.offset >= extent.offset else Extent(extent.end, 0)
