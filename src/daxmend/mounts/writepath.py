"""What every write of a mount goes through, whatever it is that programs have open.

A plain write heals what it covers (R14), its halves are joined (R50), and it is read back where
that was asked for (R45). What a mapping writes back never heals (R27).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from daxmend.dax.api import Recovery
from daxmend.errors import MediaError
from daxmend.events import RecoveryRefused
from daxmend.extent import Extent
from daxmend.mounts.cutwrite import CutWrites
from daxmend.mounts.loststore import LostStores
from daxmend.units import PAGE

if TYPE_CHECKING:
    from collections.abc import Callable

    from daxmend.mounts.content import Content
    from daxmend.mounts.cutwrite import Holder
    from daxmend.mounts.option import MountOptions

_LOST_STORE = "a store through a mapping, made before it went bad, is lost"


class WritePath:
    """The writes to all that one mount has open. Used on the request thread.

    `invalidate` takes a content's nodeid and a range of it that the kernel must ask for again.
    """

    def __init__(
        self,
        device: Holder,
        options: MountOptions,
        invalidate: Callable[[int, Extent], None],
    ) -> None:
        self._device = device
        self._options = options
        self._invalidate = invalidate
        self._cut_writes = CutWrites(device)
        self._lost_stores = LostStores()

    def open(self, nodeid: int, fh: int) -> None:
        """A new open that can be written to."""
        self._lost_stores.open(nodeid, fh)

    def write(self, fh: int, content: Content, offset: int, data: memoryview) -> int:
        """write(2): the count written, fewer than asked before what cannot be written (R17).

        Raises `OSError` if that is none.
        """
        count = 0
        try:
            count = self._cut_writes.write(fh, content, offset, data, self._options.recovery)
            if self._options.verify_writes:
                held = self._cut_writes.held_offset(fh)  # still bad, and said to be (R50)
                end = offset + count if held is None else held
                self._verify(content, Extent.between(offset, end), data)
        finally:
            if count < len(data):  # the page cache may hold what was refused
                self._invalidate(content.nodeid, Extent(offset + count, len(data) - count))
        return count

    def _verify(self, content: Content, extent: Extent, data: memoryview) -> None:
        """Read back what was written: latent poison under it shows itself now (R5, R45)."""
        if extent.length and content.read(extent) != data[: extent.length]:
            raise MediaError(content.name, extent.offset, extent.length)

    def write_back(self, content: Content, offset: int, data: memoryview) -> None:
        """Store what mappings dirtied; a store to a page that is bad by now is lost (R27).

        Answered EIO, the kernel would report it to whoever writes next, who perhaps is about to
        heal the page; answered short, it would drop the rest and say nothing. Raises other errors
        (ENOSPC), which the kernel reports at fsync.
        """
        done = 0
        while done < len(data):
            try:
                done += content.write(offset + done, data[done:], Recovery.NEVER)
            except (MediaError, PermissionError):
                page = Extent(offset + done, 1).widened(PAGE)
                self._lose_store(content, page)
                done = page.end - offset
            except OSError:
                self._invalidate(content.nodeid, Extent(offset + done, len(data) - done))
                raise

    def _lose_store(self, content: Content, page: Extent) -> None:
        self._lost_stores.lose(content.nodeid)
        place = content.place(page)
        if place is not None:
            self._device.events.publish(RecoveryRefused(place, _LOST_STORE))
        self._invalidate(content.nodeid, page)

    def discard(self, nodeid: int, extent: Extent) -> None:
        """Somebody freed the range: no half of it may come back (R50)."""
        self._cut_writes.discard(nodeid, extent)

    def flush(self, fh: int) -> None:
        """A close promises nothing that fsync does not, but tells of bytes that were dropped."""
        self._cut_writes.flush(fh)
        self._lost_stores.report(fh)

    def sync(self, fh: int) -> None:
        """The end of an fsync: EIO if bytes that this open was promised are not there."""
        try:
            self._cut_writes.sync(fh)
        finally:
            self._lost_stores.sync(fh)

    def release(self, nodeid: int, fh: int) -> None:
        """The open has gone."""
        self._lost_stores.release(nodeid, fh)
        self._cut_writes.release(fh)

    def nodeids(self) -> list[int]:
        """What may have dirty pages. From any thread."""
        return self._lost_stores.nodeids()
