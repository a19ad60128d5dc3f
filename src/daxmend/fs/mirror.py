"""Two copies of the same pages on a device (R43): read from the good one, healed from it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from daxmend.dax import io
from daxmend.errors import MediaError
from daxmend.extent import Extent, ExtentSet
from daxmend.units import MIB, PAGE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from daxmend.dax.api import DaxDevice

COPIES = (0, 1)


class Mirror:
    """A run of pages, numbered from 0, kept twice; each copy lies in one or more device extents."""

    def __init__(
        self, device: DaxDevice, copies: tuple[Sequence[Extent], Sequence[Extent]]
    ) -> None:
        self._device = device
        self.copies = (tuple(copies[0]), tuple(copies[1]))
        self.length = min(sum(extent.length for extent in copy) for copy in self.copies)

    def extents(self) -> Iterator[Extent]:
        """All of both copies, on the device."""
        for copy in self.copies:
            yield from copy

    def overlaps(self, extent: Extent) -> bool:
        """True if a byte of the device's extent belongs to a copy."""
        return any(each.overlaps(extent) for each in self.extents())

    def parts(self, pages: ExtentSet) -> Iterator[Extent]:
        """The parts of both copies that are among the device's `pages`."""
        for extent in self.extents():
            yield from pages.extents(extent)

    def device_extents(self, copy: int, within: Extent) -> Iterator[Extent]:
        """Where a range of the pages lies in one copy; bytes."""
        start = 0
        for extent in self.copies[copy]:
            part = within.intersection(Extent(start, extent.length))
            if part.length:
                yield part.shifted(extent.offset - start)
            start += extent.length

    def read(self, copy: int, within: Extent) -> bytearray:
        """The bytes of whole pages in one copy; pages that cannot be read are zeros."""
        result = bytearray()
        for extent in self.device_extents(copy, within):
            for offset in range(extent.offset, extent.end, MIB):
                piece = Extent(offset, min(MIB, extent.end - offset))
                result += read_pages(self._device, piece)
        return result

    def write(self, copy: int, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Write whole pages of one copy, which heals what is bad there; durable after a fence.

        Raises `MediaError` if the medium takes no more writes there.
        """
        rest = memoryview(data)
        for extent in self.device_extents(copy, Extent(offset, len(data))):
            done = io.write(self._device, extent.offset, rest[: extent.length])
            if done < extent.length:
                raise MediaError(self._device.name, extent.offset + done, extent.length - done)
            rest = rest[extent.length :]


def read_pages(device: DaxDevice, extent: Extent) -> bytes:
    """The bytes of whole pages of the device; pages that cannot be read are zeros."""
    try:
        data = io.read(device, extent)
        if len(data) == extent.length:
            return data
    except MediaError:
        pass  # page by page, below
    if extent.length == PAGE:
        return bytes(PAGE)
    return b"".join(
        read_pages(device, Extent(offset, PAGE))
        for offset in range(extent.offset, extent.end, PAGE)
    )
