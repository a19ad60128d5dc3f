"""The blocks of a write cache: where each one's newest content is, and the ways it moves.

A block is *dirty* (a slot has the newest content, and the medium says so after a commit), *clean*
(a slot has what the origin has, and only memory knows), *lost* (what the newest content was is
gone), or the origin's alone. The cache is used through windows only (R49).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from daxmend.dax import io
from daxmend.dax.api import AccessMode, DaxDevice, Window
from daxmend.dm.cachetable import CacheTable
from daxmend.errors import MediaError
from daxmend.extent import Extent, ExtentSet
from daxmend.units import PAGE

if TYPE_CHECKING:
    from typing_extensions import Buffer

_RECOVERY = AccessMode.RECOVERY
SLICE = 64  # blocks that are written back at once, before others have a turn


class CacheBlocks:
    """`size` bytes of `origin` behind a cache in `area` of `cache`. Not locked."""

    def __init__(self, size: int, cache: DaxDevice, area: Extent, origin: DaxDevice) -> None:
        self.table = CacheTable(cache, area, size // PAGE)
        self.cache = cache
        self.origin = origin
        self.errors = 0  # writebacks that failed
        self.cached = ExtentSet(PAGE)  # of the origin
        self.pinned: Counter[int] = Counter()  # blocks that must not be cached
        self._clean: dict[int, int] = {}  # block → slot, the oldest first
        self._owner: dict[int, int] = {}  # slot → block
        self._leaving: list[tuple[int, int]] = []  # written back; the next commit makes them clean
        self._stuck: set[int] = set()  # dirty blocks that could not be written back

    def start(self, *, writable: bool = True) -> None:
        """Take over what the cache holds. Raises as `CacheTable.start`."""
        self.table.start(writable=writable)
        for block, slot in self.table.dirty.items():
            self._owner[slot] = block
            self.cached.add(Extent(block * PAGE, PAGE))

    # -- where things are --------------------------------------------------------------------

    @property
    def slot_count(self) -> int:
        """How many blocks the cache can hold."""
        return self.table.layout.slot_count

    @property
    def dirty_count(self) -> int:
        """Blocks that the origin does not have."""
        return len(self.table.dirty)

    @property
    def clean_count(self) -> int:
        """Blocks that both have."""
        return len(self._clean)

    def place(self, block: int) -> Extent | None:
        """Where a cached block lies in the cache."""
        slot = self.table.dirty.get(block, self._clean.get(block))
        return None if slot is None else self.table.layout.slot(slot)

    def is_dirty(self, block: int) -> bool:
        """Whether the origin does not have it."""
        return block in self.table.dirty

    def owners(self, extent: Extent) -> list[tuple[Extent, Extent]]:
        """The cached parts of the origin in a range of the cache, and where there; ascending."""
        found = []
        for slot in self.table.layout.slots_in(extent):
            block = self._owner.get(slot)
            if block is not None:
                place = self.table.layout.slot(slot)
                part = extent.intersection(place)
                found.append((part.shifted(block * PAGE - place.offset), part))
        return sorted(found)

    def pieces(self, extent: Extent) -> Iterator[tuple[Extent, DaxDevice, Extent]]:
        """The range, cut where it lies in another place: which device, and where there."""
        position = extent.offset
        for run in list(self.cached.extents(extent.widened(PAGE))):
            if run.offset > position:
                gap = Extent.between(position, run.offset)
                yield gap, self.origin, gap
            for at in range(run.offset, run.end, PAGE):
                place = self.place(at // PAGE)
                assert place is not None
                part = Extent(at, PAGE).intersection(extent)
                yield part, self.cache, part.shifted(place.offset - at)
            position = run.end
        if position < extent.end:
            rest = Extent.between(position, extent.end)
            yield rest, self.origin, rest

    def losses(self) -> list[Extent]:
        """What of the origin's range has no newest content any more, by sectors; ascending."""
        found = ExtentSet(1, self.table.lost)
        slots = self.table.layout.slots
        for run, _ in self.cache.badblocks(slots):
            for part, _ in self.owners(run):
                if self.is_dirty(part.offset // PAGE):
                    found.add(part)
        return list(found)

    # -- windows -------------------------------------------------------------------------------

    def window(self, device: DaxDevice, place: Extent) -> Window:
        """A window that also shows bad pages: what was recorded was asked for before."""
        return device.direct_access(place, _RECOVERY)

    def store(self, offset: int, data: Buffer) -> None:
        """A client's store inside one block, which becomes dirty; durable after a fence.

        Where no slot can be had, or the block is not readable as a whole, it goes to the origin:
        an ordinary store heals nothing (R5).
        """
        block = offset // PAGE
        place = self._place_for_store(block, offset, data)
        if place is None:
            device, at = self.origin, offset
        else:
            device, at = self.cache, place.offset + offset % PAGE
        self.window(device, Extent(at, memoryview(data).nbytes)).store(0, data)
        if place is not None and block in self._clean:
            self._set_dirty(block)

    def store_line(self, offset: int, line: Buffer) -> None:
        """As `store`, for a direct store of a line (R6); of uncached blocks it is the origin's."""
        place = self.place(offset // PAGE)
        device = self.origin if place is None else self.cache
        at = offset if place is None else place.offset + offset % PAGE
        self.window(device, Extent(at, memoryview(line).nbytes)).store_line(0, line)
        if offset // PAGE in self._clean:
            self._set_dirty(offset // PAGE)

    def _place_for_store(self, block: int, offset: int, data: Buffer) -> Extent | None:
        """The slot of a block, filled if it had none; a new one is clean at first."""
        if block in self.table.dirty:
            return self.place(block)
        if block in self._clean and self._is_readable(block):
            return self.place(block)
        self.drop(block)
        page = Extent(block * PAGE, PAGE)
        if block in self.pinned or self.table.lost.overlaps(page):
            return None
        if Extent(offset, memoryview(data).nbytes) == page:
            content = bytes(data)
        else:
            try:
                content = self.window(self.origin, page).load(0, PAGE)
            except MediaError:
                return None
        slot = self._filled_slot(content)
        if slot is None:
            return None
        self._set_clean(block, slot)
        return self.place(block)

    def _is_readable(self, block: int) -> bool:
        """Whether a clean slot is good: a store over latent poison would be lost."""
        place = self.place(block)
        assert place is not None
        try:
            self.table.medium.load(place)
        except MediaError:
            return False
        return True

    def _filled_slot(self, content: bytes) -> int | None:
        """A free slot that holds the content; what is bad in it heals (R49)."""
        while (slot := self._allocate()) is not None:
            try:
                self.table.medium.put_page(self.table.layout.slot(slot).offset, content)
            except MediaError:
                self.table.unusable.add(slot)
                continue
            return slot
        return None

    def _allocate(self) -> int | None:
        if not (self.table.free or self._clean):
            try:
                self.write_back(self.dirty_blocks(SLICE))
            except MediaError:
                return None
        if not self.table.free and self._clean:
            self.drop(next(iter(self._clean)))
        return self.table.free.pop() if self.table.free else None

    # -- states ----------------------------------------------------------------------------------

    def _set_clean(self, block: int, slot: int) -> None:
        self._clean[block] = slot
        self._owner[slot] = block
        self.cached.add(Extent(block * PAGE, PAGE))

    def _set_dirty(self, block: int) -> None:
        self.table.set_dirty(block, self._clean.pop(block))

    def drop(self, block: int) -> None:
        """Forget the slot of a clean block: the origin has it too."""
        slot = self._clean.pop(block, None)
        if slot is not None:
            del self._owner[slot]
            self.cached.discard(Extent(block * PAGE, PAGE))
            self.table.free.append(slot)

    def drop_clean(self, extent: Extent) -> None:
        """`drop` for all clean blocks that a range touches."""
        for run in list(self.cached.extents(extent.widened(PAGE))):
            for at in range(run.offset, run.end, PAGE):
                self.drop(at // PAGE)

    def keep_only_copy(self, block: int) -> None:
        """The origin's block went bad: the slot of a clean one is what there is of it (R38)."""
        if block in self._clean:
            self._set_dirty(block)

    def set_written(self, block: int) -> None:
        """The slot of a cached block was written, durably; then so is that it is dirty."""
        self._stuck.discard(block)
        if block in self._clean:
            self._set_dirty(block)

    def set_found(self, extent: Extent) -> None:
        """Lost blocks were written to the origin, durably."""
        for at in range(extent.offset, extent.end, PAGE):
            self.table.set_found(at // PAGE)

    # -- the medium --------------------------------------------------------------------------------

    def commit(self) -> None:
        """Make slots and what is known of them durable. A block whose entry cannot be written goes
        to the origin at once; `MediaError` if that does not take it."""
        homeless = self.table.commit()
        leaving, self._leaving = self._leaving, []
        for block, slot in leaving:
            self._settle_slot(block, slot)
        for block in homeless:
            place = self.place(block)
            assert place is not None
            self.put_origin(block * PAGE, self.table.medium.load(place))
            self.origin.fence()
            del self._owner[self.table.forget(block)]
            self.cached.discard(Extent(block * PAGE, PAGE))

    def _settle_slot(self, block: int, slot: int) -> None:
        """What becomes of the slot of a block that was written back."""
        if self.table.dirty.get(block) == slot:  # the medium does not forget it
            self._owner[slot] = block
            self.cached.add(Extent(block * PAGE, PAGE))
            self._stuck.add(block)
            self.errors += 1
        elif slot in self.table.unusable:
            return
        elif block in self.pinned or self.cached.overlaps(Extent(block * PAGE, PAGE)):
            self.table.free.append(slot)
        else:
            self._set_clean(block, slot)

    def dirty_blocks(self, limit: int | None = None) -> list[int]:
        """Blocks that can be written back, the oldest first."""
        blocks = (block for block in self.table.dirty if block not in self._stuck)
        return [block for block, _ in zip(blocks, range(limit or self.slot_count), strict=False)]

    def retry(self) -> None:
        """Try those again that could not be written back."""
        self._stuck.clear()

    def write_back(self, blocks: Iterable[int]) -> int:
        """Bring dirty blocks to the origin, durably; they are clean then. Returns how many.

        One that cannot be read, or that the origin does not take, stays dirty.
        """
        done = [block for block in sorted(blocks) if self._write_back_one(block)]
        if not done:
            return 0
        self.origin.fence()
        for block in done:
            slot = self.table.dirty[block]
            self.table.set_clean(block)
            del self._owner[slot]
            self.cached.discard(Extent(block * PAGE, PAGE))
            self._leaving.append((block, slot))
        self.commit()
        return len(done)

    def _write_back_one(self, block: int) -> bool:
        place = self.place(block)
        assert place is not None
        try:
            content = self.table.medium.load(place)
        except MediaError:
            self._stuck.add(block)
            return False
        try:
            self.put_origin(block * PAGE, content)
        except MediaError:
            self.errors += 1
            self._stuck.add(block)
            return False
        return True

    def put_origin(self, offset: int, content: bytes) -> None:
        """Write whole blocks, heal what is bad under them, and read them back (R45)."""
        extent = Extent(offset, len(content))
        if io.write(self.origin, offset, content) < len(content):
            raise MediaError(self.origin.name, *extent)
        try:
            found = io.read(self.origin, extent)
        except MediaError:
            found = b""
        if found != content:  # over latent poison a store succeeds (R5)
            self.origin.recovery_write(offset, content)
            found = io.read(self.origin, extent)
        if found != content:
            raise MediaError(self.origin.name, *extent, hint="it holds something else")
