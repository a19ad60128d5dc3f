"""The memory behind windows of a write cache: each access finds the block where it is by then."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from daxmend.dax.api import DaxDevice, ExposedMemory
from daxmend.errors import FaultError, PoisonError
from daxmend.extent import Extent
from daxmend.units import PAGE

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from daxmend.dm.writecache import Writecache


class CacheMemory:
    """All of the line (implements `WindowMemory`). Offsets count from the target's start."""

    settle: Callable[[Extent], None] | None = None  # the members' windows do

    def __init__(self, target: Writecache) -> None:
        self._target = target
        self._blocks = target.blocks

    def load(self, offset: int, length: int) -> bytes:
        """A copy of the bytes, wherever each block is. Raises `PoisonError` as a window does."""
        with self._target.lock:
            parts = [
                self._load(part, device, place)
                for part, device, place in self._pieces(Extent(offset, length))
            ]
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def view(self, offset: int, length: int) -> memoryview:
        """The bytes themselves where they lie in one place, else a copy."""
        with self._target.lock:
            pieces = self._pieces(Extent(offset, length))
            if len(pieces) == 1:
                part, device, place = pieces[0]
                self._check_known(part)
                try:
                    return self._blocks.window(device, place).view(0, length)
                except FaultError:
                    pass
        return memoryview(self.load(offset, length))

    def store(self, offset: int, data: Buffer) -> None:
        """Block by block: what is stored to becomes dirty."""
        view = memoryview(data).cast("B")
        with self._target.lock:
            at = 0
            while at < len(view):
                end = min(at + PAGE - (offset + at) % PAGE, len(view))
                self._blocks.store(offset + at, view[at:end])
                at = end

    def store_line(self, offset: int, line: Buffer) -> None:
        """See `CacheBlocks.store_line`."""
        with self._target.lock:
            self._blocks.store_line(offset, line)

    def flush(self, offset: int, length: int) -> None:
        """The members' windows have."""

    def expose(self, extent: Extent, *, writable: bool = True) -> ExposedMemory:
        """See `Writecache.expose`."""
        with self._target.lock:
            return self._target.expose(extent, writable=writable)

    def _pieces(self, extent: Extent) -> list[tuple[Extent, DaxDevice, Extent]]:
        return list(self._blocks.pieces(extent))

    def _check_known(self, extent: Extent) -> None:
        """Raise for what is lost: the origin only has what was there before."""
        lost = self._blocks.table.lost
        first = lost.next_offset(extent.offset)
        if first is not None and first < extent.end:
            run = next(lost.extents(Extent.between(first, extent.end)))
            raise PoisonError(self._target.name, *run, hint="its newest content is lost")

    def _load(self, part: Extent, device: DaxDevice, place: Extent) -> bytes:
        self._check_known(part)
        data = bytearray()
        try:
            while len(data) < part.length:
                rest = Extent.between(place.offset + len(data), place.end)
                window = self._blocks.window(device, rest)
                data += window.load(0, min(window.length, rest.length))
        except FaultError as error:
            is_cached = device is not self._blocks.origin or place != part
            if is_cached and not self._blocks.is_dirty(part.offset // PAGE):
                # A clean block: the origin has it (R38). What failed was dropped when it was told.
                self._blocks.drop(part.offset // PAGE)
                return self._load(part, self._blocks.origin, part)
            offset = error.offset - place.offset + part.offset
            bad = Extent(offset, error.length).intersection(part)
            raise type(error)(self._target.name, *bad, error.code, error.hint) from error
        return bytes(data)


class PinnedMemory:
    """Memory of the origin that was handed out; its blocks are not cached before it is closed."""

    def __init__(self, exposed: ExposedMemory, unpin: Callable[[], None]) -> None:
        self._exposed = exposed
        self._unpin: Callable[[], None] | None = unpin

    @property
    def address(self) -> int:
        """See `ExposedMemory`."""
        return self._exposed.address

    @property
    def memory(self) -> memoryview:
        """See `ExposedMemory`."""
        return self._exposed.memory

    def __getattr__(self, name: str) -> Any:
        return getattr(self._exposed, name)

    def close(self) -> None:
        """See `ExposedMemory`."""
        self._exposed.close()
        if self._unpin is not None:
            self._unpin()
            self._unpin = None
