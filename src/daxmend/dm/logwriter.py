"""Appends to a log of log-writes, durably and in order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from daxmend.dax import io
from daxmend.dm.logformat import Entry, Super, iter_entries, read_super
from daxmend.errors import DaxmendError, MediaError, UnsupportedError
from daxmend.extent import Extent
from daxmend.units import SECTOR

if TYPE_CHECKING:
    from daxmend.dax.api import DaxDevice


class Write(NamedTuple):
    """An entry, and the data that it has in the log."""

    entry: Entry
    data: bytes = b""


class LogWriter:
    """The log on `device`. After `start`, `append` makes it longer until that fails once."""

    def __init__(self, device: DaxDevice) -> None:
        self.name = device.name
        self.reason = ""  # why it ended
        self.logged_entries = 0
        self.next_offset = SECTOR
        self.last_mark = ""
        self._device = device
        self._is_writable = True

    @property
    def is_enabled(self) -> bool:
        """Whether what is appended is logged."""
        return not self.reason

    def start(self, *, writable: bool = True) -> None:
        """Find the end of the log that is there, or begin one; without `writable` it stays as it
        is. Raises as `iter_entries`, and `UnsupportedError` for a log with other sectors than
        ours."""
        self._is_writable = writable
        found = read_super(self._device)
        if found is None:
            if writable:
                self._write_super()
            return
        if found.sectorsize != SECTOR:
            raise UnsupportedError(
                f"{self.name} holds a log with sectors of {found.sectorsize} bytes; replay it, and "
                "zero its first sector to begin a new one"
            )
        for placed in iter_entries(self._device):
            self.next_offset = placed.data.end
            self.logged_entries += 1
            self.last_mark = placed.entry.mark

    def append(self, writes: Sequence[Write]) -> None:
        """Log these, all or none; durable on return. Ends logging where that cannot be."""
        if not (writes and self.is_enabled and self._is_writable):
            return
        packed = b"".join(each.entry.pack() + each.data for each in writes)
        if self.next_offset + len(packed) > self._device.size:
            self.reason = "the log is full"
            return
        try:
            self._put(self.next_offset, packed)
            self._device.fence()
            self.next_offset += len(packed)
            self.logged_entries += len(writes)
            self.last_mark = writes[-1].entry.mark
            self._write_super()
        except (DaxmendError, OSError) as error:
            self.reason = f"{error}"

    def _write_super(self) -> None:
        """Last, so that the log never counts an entry that is not there."""
        self._put(0, Super(self.logged_entries).pack())
        self._device.fence()

    def _put(self, offset: int, data: bytes) -> None:
        """Write sectors; what is bad under them heals, also what nobody knew of."""
        extent = Extent(offset, len(data))
        for _ in self._device.scrub(extent):
            pass
        done = io.write_raw(self._device, offset, data)
        if done < len(data):
            raise MediaError(self.name, offset + done, len(data) - done)
