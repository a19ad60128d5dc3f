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
from typing import NamedTuple

from daxmend.dax.api import DaxDevice, Recovery
from daxmend.dax.io import Write
from daxmend.errors import MediaError
from daxmend.events import Event, RecoveryDone, RecoveryRefused, ZeroinitDone
from daxmend.extent import Extent
from daxmend.units import align_down


class _Held(NamedTuple):
    """Acknowledged bytes from a bad unit's first byte on."""

    offset: int
    data: bytes

    @property
    def extent(self) -> Extent:
        return Extent(self.offset, len(self.data))


class CutWrites:
    """Joins the writes of each open of one mount; `unit` is a page, or a raw device's sector.

    `write` is the loop that heals (`dax.io.write` or `write_raw`). Used on the request thread.
    """

    def __init__(self, device: DaxDevice, unit: int, write: Write) -> None:
        self._device = device
        self._unit = unit
        self._write = write
        self._held: dict[int, _Held] = {}
        self._failed: set[int] = set()
        device.events.subscribe(self._on_event)

    def _on_event(self, event: Event) -> None:
        """Whoever healed a unit wrote all of it: an earlier half must not come back over that."""
        if isinstance(event, (RecoveryDone, ZeroinitDone)):
            for fh, held in list(self._held.items()):
                if held.extent.overlaps(event.extent):
                    del self._held[fh]

    def write(self, fh: int, offset: int, data: memoryview, recovery: Recovery) -> int:
        """Write, completing what the open holds; returns how much of `data` was taken.

        Raises `MediaError` if that is nothing.
        """
        held = self._held.pop(fh, None)
        if held is not None and held.extent.end != offset:
            self._drop(fh, held)
            held = None
        if held is None:
            return self._write_from(fh, offset, data, recovery)
        return self._complete(fh, held, data, recovery)

    def _write_from(self, fh: int, offset: int, data: memoryview, recovery: Recovery) -> int:
        """Write, and hold what may be the first half of a bad unit."""
        tail = self._first_half(Extent(offset, len(data)))
        if recovery is Recovery.NEVER or not tail.length:
            return self._write(self._device, offset, data, recovery)
        head = data[: tail.offset - offset]
        count = self._write(self._device, offset, head, recovery) if head else 0
        if count < len(head):
            return count
        self._hold(fh, tail.offset, data[count:])
        return len(data)

    def _first_half(self, extent: Extent) -> Extent:
        """The end of the extent, if it is a part of a bad unit from that one's first byte on."""
        tail = Extent.between(align_down(extent.end, self._unit), extent.end)
        if not tail.length or tail.offset < extent.offset:
            return Extent(extent.end, 0)
        bad = next(iter(self._device.badblocks(tail.widened(self._unit))), None)
        return tail if bad is not None else Extent(extent.end, 0)

    def _complete(self, fh: int, held: _Held, data: memoryview, recovery: Recovery) -> int:
        """Write the held bytes and `data` as one."""
        joined = memoryview(held.data + bytes(data))
        try:
            count = self._write_from(fh, held.offset, joined, recovery) - len(held.data)
        except MediaError:
            self._drop(fh, held)
            raise
        if count <= 0:
            self._drop(fh, held)
            raise MediaError(self._device.name, held.offset, len(joined))
        return count

    def _hold(self, fh: int, offset: int, tail: memoryview) -> None:
        held = _Held(offset, bytes(tail))
        self._device.hold(held.offset, held.data)
        self._held[fh] = held

    def _drop(self, fh: int, held: _Held) -> None:
        self._failed.add(fh)
        self._device.drop_hold(held.extent)
        self._device.events.publish(
            RecoveryRefused(
                held.extent.widened(self._unit), "the other half of a cut write did not follow"
            )
        )

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
