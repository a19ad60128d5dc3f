"""A device as a window-only client uses it (R49): windows, and `recovery_write` for what is bad.

Nothing here calls read or write: what the write cache keeps for itself passes through these few
functions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from daxmend.dax.api import AccessMode, DaxDevice
from daxmend.errors import BadBlockError, MediaError
from daxmend.extent import Extent
from daxmend.units import CACHELINE, PAGE

if TYPE_CHECKING:
    from collections.abc import Callable


class PageRead(NamedTuple):
    """A page as far as it can be had: bad lines are zeros in `data`."""

    data: bytes
    bad_lines: frozenset[int]  # their numbers in the page
    is_recorded: bool  # a sector of it stands in the record: what reads as zeros may be lost


class CacheMedium:
    """The windows of one device."""

    def __init__(self, device: DaxDevice) -> None:
        self.device = device
        self.name = device.name

    def read_page(self, offset: int) -> PageRead:
        """A page, line by line where it is bad; never raises for poison."""
        page = Extent(offset, PAGE)
        is_recorded = False
        try:
            return PageRead(self._load(page, AccessMode.NORMAL), frozenset(), False)
        except BadBlockError:
            is_recorded = True
        except MediaError:
            pass
        lines: list[bytes] = []
        bad: set[int] = set()
        for at in range(PAGE // CACHELINE):
            line = Extent(offset + at * CACHELINE, CACHELINE)
            try:
                lines.append(self._load(line, AccessMode.RECOVERY))
            except MediaError:
                lines.append(bytes(CACHELINE))
                bad.add(at)
        return PageRead(b"".join(lines), frozenset(bad), is_recorded or bool(bad))

    def _load(self, extent: Extent, mode: AccessMode) -> bytes:
        return self.device.direct_access(extent, mode).load(0, extent.length)

    def load(self, extent: Extent) -> bytes:
        """Bytes of one page. Raises `MediaError` unless all of the page is good."""
        return self._load(extent, AccessMode.NORMAL)

    def put(self, offset: int, data: bytes, whole_page: Callable[[], bytes]) -> None:
        """Store inside a page; where it is bad, heal it with all that it is to hold.

        Durable after a fence. Raises `MediaError` where it cannot heal.
        """
        try:
            self.device.direct_access(Extent(offset, len(data)), AccessMode.NORMAL).store(0, data)
        except MediaError:
            self.recover(offset - offset % PAGE, whole_page())

    def put_page(self, offset: int, data: bytes) -> None:
        """Store a whole page, which can be read afterwards; else as `put`."""
        try:
            window = self.device.direct_access(Extent(offset, PAGE), AccessMode.NORMAL)
            window.load(0, PAGE)  # an ordinary store over latent poison would be lost (R5)
            window.store(0, data)
        except MediaError:
            self.recover(offset, data)

    def recover(self, offset: int, data: bytes) -> None:
        """Heal whole pages; durable on return. Raises `MediaError` unless all of them healed."""
        done = self.device.recovery_write(offset, data)
        if done < len(data):
            raise MediaError(self.name, offset + done, len(data) - done)

    def fence(self) -> None:
        """What was stored is durable on return."""
        self.device.fence()
