"""An open file of a shadow mount as something to write to: the page heals as a whole (R14, R16)."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from daxmend.dax.api import Recovery
from daxmend.errors import BadBlockError, MediaError
from daxmend.events import RecoveryRefused
from daxmend.extent import Extent
from daxmend.units import PAGE, align_down

if TYPE_CHECKING:
    from daxmend.fuse import Buffer
    from daxmend.mounts.shadowfaults import FileFaults

_HINT = "write the whole page to heal it"
_OFF = "recovery is switched off"


class ShadowContent:
    """The bytes of a file with faults, through the descriptor of one open (implements `Content`).

    `writer` is for what is written, `reader` can be read from.
    """

    unit = PAGE

    def __init__(
        self, nodeid: int, name: str, faults: FileFaults, *, writer: int, reader: int
    ) -> None:
        self.nodeid = nodeid
        self.name = name
        self._faults = faults
        self._writer = writer
        self._reader = reader

    def read(self, extent: Extent) -> Buffer:
        """See `Content`."""
        bad = self._faults.first_bad(extent)
        if bad is None:
            return os.pread(self._reader, extent.length, extent.offset)
        if bad > extent.offset:
            self._faults.notice(bad)
            return os.pread(self._reader, bad - extent.offset, extent.offset)
        self._faults.meet(bad)
        raise MediaError(self.name, bad, 1)

    def write(self, offset: int, data: memoryview, recovery: Recovery) -> int:
        """See `Content`. What is refused changes nothing below."""
        wanted = Extent(offset, len(data))
        may_heal = recovery is not Recovery.NEVER and self._faults.allows_recovery
        refused = self._faults.first_refused(wanted, self._size(), may_heal=may_heal)
        end = wanted.end if refused is None else max(refused.offset, offset)
        if refused is not None and end == offset:
            hint = _HINT if may_heal else _OFF
            if recovery is not Recovery.NEVER:
                self._faults.events.publish(RecoveryRefused(refused, hint))
            raise BadBlockError(self.name, *refused, hint=hint)
        count = os.pwrite(self._writer, data[: end - offset], offset)
        done = offset + count  # a page that was cut short is still what it was
        healed = done if done == end else max(align_down(done, PAGE), offset)
        if may_heal:
            self._faults.heal(Extent.between(offset, healed))
        return count

    def place(self, extent: Extent) -> Extent:
        """See `Content`: a file has no device here, its own offsets say it."""
        return extent

    def is_bad(self, extent: Extent) -> bool:
        """See `Content`."""
        return next(self._faults.recorded(extent.widened(PAGE)), None) is not None

    def needs_rest(self, start: Extent) -> bool:
        """See `Content`. What lies beyond the end of the file counts as written (R16)."""
        return self._faults.first_refused(start, self._size(), may_heal=True) is not None

    def _size(self) -> int:
        return os.fstat(self._writer).st_size
