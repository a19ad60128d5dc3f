"""What programs have open on a mount, as something to read and write: a device, or a file."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Protocol

from daxmend.dax import io
from daxmend.dax.api import DaxDevice, Recovery
from daxmend.errors import BadBlockError
from daxmend.events import RecoveryRefused, ZeroinitDone
from daxmend.extent import Extent
from daxmend.units import MIB, SECTOR

if TYPE_CHECKING:
    from collections.abc import Callable

    from daxmend.fuse import Buffer

_ZEROS = memoryview(bytes(4 * MIB))


class Content(Protocol):
    """Bytes with a nodeid. `unit` is what heals as a whole; offsets are the content's own."""

    @property
    def nodeid(self) -> int: ...
    @property
    def name(self) -> str: ...
    @property
    def unit(self) -> int: ...

    def read(self, extent: Extent) -> Buffer:
        """The bytes up to the first bad sector (R11) or the end; `MediaError` if that is none."""

    def write(self, offset: int, data: memoryview, recovery: Recovery) -> int:
        """Write, healing what is covered (R14); the count written (R17), an error if none."""

    def place(self, extent: Extent) -> Extent | None:
        """Where a range inside one unit lies on the device; None if nothing was written there."""

    def is_bad(self, extent: Extent) -> bool:
        """Whether the unit that a range lies in has a sector in the record."""

    def needs_rest(self, start: Extent) -> bool:
        """Whether the unit that begins with `start` is bad, and `start` alone cannot heal it."""


class DeviceContent:
    """A whole device: its sectors heal one by one (R33; implements `Content`).

    `allowed` says how much of a range, from its start on, may be written.
    """

    unit = SECTOR

    def __init__(self, device: DaxDevice, nodeid: int, allowed: Callable[[Extent], int]) -> None:
        self._device = device
        self.nodeid = nodeid
        self.name = device.name
        self._allowed = allowed

    def read(self, extent: Extent) -> Buffer:
        """See `Content`."""
        return io.read(self._device, extent)

    def write(self, offset: int, data: memoryview, recovery: Recovery) -> int:
        """See `Content`. EPERM where nothing may be written."""
        count = self._allowed(Extent(offset, len(data)))
        if count == 0:
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
        return io.write_raw(self._device, offset, data[:count], recovery)

    def place(self, extent: Extent) -> Extent:
        """See `Content`."""
        return extent

    def is_bad(self, extent: Extent) -> bool:
        """See `Content`."""
        return next(iter(self._device.badblocks(extent.widened(SECTOR))), None) is not None

    def needs_rest(self, start: Extent) -> bool:
        """See `Content`."""
        return self.is_bad(start)

    def zero(self, extent: Extent) -> None:
        """Write-zeroes and discard: zeros in place, latent poison goes too (R33).

        EPERM where nothing may be written. A part of a bad sector is EIO before anything has
        changed.
        """
        if self._allowed(extent) < extent.length:
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
        bad = [run for run, _ in self._device.badblocks(extent.widened(SECTOR))]
        can_heal = self._device.allows_recovery
        for run in bad:
            if not (can_heal and extent.covers(run)):
                reason = "the zeroing does not cover it" if can_heal else "recovery is switched off"
                self._device.events.publish(RecoveryRefused(run, reason))
                raise BadBlockError(self.name, run.offset, run.length, hint=reason)
        done = extent.offset
        try:
            while done < extent.end:
                done += self._zero_some(Extent.between(done, extent.end))
        finally:
            if done > extent.offset:
                self._device.events.publish(ZeroinitDone(Extent.between(extent.offset, done)))

    def _zero_some(self, extent: Extent) -> int:
        zeros = _ZEROS[: extent.length]
        whole = extent.narrowed(SECTOR)
        if self._device.allows_recovery and whole.length:
            if whole.offset == extent.offset:
                return self._device.write_sectors(whole.offset // SECTOR, zeros[: whole.length])
            zeros = zeros[: whole.offset - extent.offset]
        return io.write_raw(self._device, extent.offset, zeros)
