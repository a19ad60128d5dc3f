"""writecache: writes go to a cache, and from there to their origin; both can have bad blocks (R38).

`writecache p ORIGIN CACHE 4096 COUNT [OPTIONS…]` as dmsetup has it, or, in sectors and without the
count, `writecache CACHE ORIGIN 8 [OPTIONS…]`. Blocks are pages. What a piece of the line is depends
on where the block is by now (`cacheblocks.py`); operations that the base class forwards go there.
Format and invariants: docs/dm.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Self

from daxmend.dax.api import AccessMode, DaxDevice, ExposedMemory, Salvage, SectorState, Window
from daxmend.dm.cacheblocks import SLICE, CacheBlocks
from daxmend.dm.cachememory import CacheMemory, PinnedMemory
from daxmend.dm.cacheoption import Options, parse_arguments
from daxmend.dm.line import Line
from daxmend.dm.target import Context, Piece, Target, Use
from daxmend.errors import BadBlockError, MediaError, UnsupportedError, UsageError
from daxmend.events import CopyHealed, DirtyLost, Event
from daxmend.extent import Extent, ExtentSet
from daxmend.units import PAGE, is_aligned

if TYPE_CHECKING:
    from threading import RLock

    from typing_extensions import Buffer

_CACHE, _ORIGIN = 0, 1  # of `uses`
_UNKNOWN = "what was cached of it is lost"
_DEFAULTS = Options()


class Writecache(Target):
    """`size` bytes of `origin` behind `cache`.

    A store is in the cache, and durable with the next fence. Beyond `options.high_watermark` per
    cent of dirty blocks, fences write back slices of them until `low_watermark` is reached.
    """

    name = "writecache"
    usage = ("p", "ORIGIN", "CACHE", "4096", "COUNT", "[OPTIONS…]")
    has_state = True

    def __init__(
        self, size: int, cache: DaxDevice, origin: DaxDevice, options: Options = _DEFAULTS
    ) -> None:
        area = Extent.between(options.start, cache.size)
        super().__init__(size, [Use(cache, area), Use(origin, Extent(0, size))])
        self.blocks = CacheBlocks(size, cache, area, origin)
        self.options = options
        self._memory = CacheMemory(self)

    @classmethod
    def parse(cls, line: Line, context: Context) -> Self:
        """See `Target`; both forms of the arguments."""
        cache, origin, options = parse_arguments(line)
        return cls(
            line.extent.length, context.open_member(cache), context.open_member(origin), options
        )

    @property
    def lock(self) -> RLock:
        """The stack's."""
        return self.blocks.cache.lock

    def start(self) -> None:
        """See `Target`: what the cache holds is taken over, and what of it is bad is told (R38)."""
        self.blocks.start(writable=self.is_writable)
        table = self.blocks.table
        cache = table.medium.name
        for structure, copy in table.damage:
            done = "rewritten" if table.is_healed else "not rewritten; the next mount tries it"
            self.notices.append(f"{cache}: {structure}, copy {copy}: damaged; {done}")
            if table.is_healed:
                self.tell(CopyHealed(f"{cache}: {structure}", copy, f"damaged; {done}"))
        if table.unknown:
            self.notices.append(f"{cache}: what {len(table.unknown)} slots held is unknown")
        for run in self.blocks.losses():
            self.notices.append(
                f"{self.blocks.origin.name}: {run}: what was written last is lost, for it was "
                f"dirty in the cache {cache}; write it again"
            )
            is_named = not table.lost.overlaps(run)
            self.tell(DirtyLost(run, "its data is bad" if is_named else "its entry is bad"))
            self.notify(run)

    # -- how it maps -----------------------------------------------------------------------

    def piece_at(self, offset: int) -> Piece:
        """See `Target`: a cached block, or what lies between two of them, lost or not."""
        start = offset - offset % PAGE
        place = self.blocks.place(start // PAGE)
        if place is not None:
            return Piece(Extent(start, PAGE), _CACHE, place.offset)
        lost = self.blocks.table.lost
        if lost.overlaps(Extent(start, PAGE)):
            return Piece(Extent(start, PAGE), None)
        ends = (each.next_offset(start) for each in (self.blocks.cached, lost))
        end = min((each for each in ends if each is not None), default=self.size)
        return Piece(Extent.between(start, end), _ORIGIN, start)

    def _places(self, extent: Extent) -> Iterator[tuple[int, DaxDevice, Extent]]:
        for _, device, place in list(self.blocks.pieces(extent)):
            is_cached = self.uses[_CACHE].extent.covers(place) and device is self.blocks.cache
            yield (_CACHE if is_cached else _ORIGIN), device, place

    def unmap(self, index: int, extent: Extent) -> Iterator[Extent]:
        """See `Target`: the blocks whose newest content is there."""
        if index == _CACHE:
            return (part for part, _ in self.blocks.owners(extent))
        return self.blocks.cached.gaps(extent)

    def _is_lost(self, extent: Extent) -> bool:
        return self.blocks.table.lost.overlaps(extent)

    def _refuse_lost(self, extent: Extent) -> None:
        if self._is_lost(extent):
            page = Extent(extent.offset, 1).widened(PAGE)
            raise BadBlockError(self.name, *page, hint=f"{_UNKNOWN}; write all of this range")

    # -- access ----------------------------------------------------------------------------

    def direct_access(self, extent: Extent, mode: AccessMode) -> Window:
        """See `Target`; a window looks for the block anew at each access."""
        with self.lock:
            # Pieces move: the one that the mapped device remembers may be another by now.
            extent = extent.intersection(self.piece_at(extent.offset).extent)
            if mode is AccessMode.NORMAL:
                self._refuse_lost(extent)
                extent = Extent(extent.offset, self._good_length(extent))
            return Window(self._memory, extent.offset, extent.length)

    def _good_length(self, extent: Extent) -> int:
        """How much of a piece can be had before its first bad page."""
        try:
            with self._below(extent) as (device, place):
                return min(device.direct_access(place, AccessMode.NORMAL).length, extent.length)
        except BadBlockError as error:
            piece = self.piece_at(extent.offset).extent  # the next slot is another block's
            bad = Extent(error.offset, error.length).intersection(piece)
            raise BadBlockError(self.name, *bad, hint=error.hint) from error

    def expose(self, extent: Extent, *, writable: bool) -> ExposedMemory:
        """The origin's memory: what is cached of the range is written back, and no more is cached
        of it until the memory is closed. Raises `MediaError` if something of it is lost, and
        `UnsupportedError` if the origin has it in several pieces."""
        pages = range(extent.offset // PAGE, -(-extent.end // PAGE))
        self.blocks.write_back(block for block in pages if self.blocks.is_dirty(block))
        for block in pages:
            if self.blocks.is_dirty(block):
                raise BadBlockError(
                    self.name, block * PAGE, PAGE, hint="it is dirty, and cannot be written back"
                )
        self._refuse_lost(extent)
        self.blocks.drop_clean(extent)
        window = self.blocks.window(self.blocks.origin, extent)
        if window.length < extent.length:
            raise UnsupportedError(f"{self.name}: {extent}: the origin has it in several pieces")
        exposed = window.expose(writable=writable)
        self.blocks.pinned.update(pages)

        def unpin() -> None:
            with self.lock:
                self.blocks.pinned -= type(self.blocks.pinned)(pages)

        return PinnedMemory(exposed, unpin)

    # -- recovery --------------------------------------------------------------------------

    def recovery_read(self, extent: Extent) -> Salvage:
        """See `Target`. Of lost blocks there is nothing: the origin's is older."""
        if self._is_lost(extent):
            return Salvage(bytearray(extent.length), [extent])
        return super().recovery_read(extent)

    def recovery_write(self, offset: int, data: Buffer, keep: Iterable[Extent] = ()) -> int:
        """See `Target`: where the block is; a lost one is the origin's again then."""
        extent = Extent(offset, memoryview(data).nbytes)
        if self._is_lost(extent):
            return self._find_lost(extent, memoryview(data).cast("B"))
        done = super().recovery_write(offset, data, keep)
        self._set_written(Extent(offset, done))
        return done

    def _find_lost(self, extent: Extent, data: memoryview) -> int:
        """Write lost blocks to the origin; until that is durable they stay lost (R18)."""
        self._check_recovery(extent)
        self.blocks.put_origin(extent.offset, bytes(data))
        self.blocks.origin.fence()
        self.blocks.set_found(extent)
        self._commit(extent)
        self.sequence += 1
        return extent.length

    def _check_recovery(self, extent: Extent) -> None:
        if not self.allows_recovery:
            raise BadBlockError(self.name, *extent, hint="recovery is switched off")

    def _set_written(self, extent: Extent) -> None:
        """A piece was written where it is, durably; if that is the cache, so must its entry be."""
        if extent.length and self.blocks.place(extent.offset // PAGE) is not None:
            self.blocks.set_written(extent.offset // PAGE)
            self._commit(extent)

    def _commit(self, extent: Extent) -> None:
        try:
            self.blocks.commit()
        except MediaError as error:
            raise MediaError(
                self.name, *extent, hint=f"it cannot be made durable: {error}"
            ) from error

    def zeroinit(self, extent: Extent) -> int:
        """See `Target`; in the cache it is a recovery write of zeros (R49)."""
        if self.piece_at(extent.offset).use == _ORIGIN:
            return super().zeroinit(extent)
        return self.recovery_write(extent.offset, bytes(extent.length))

    def hold(self, offset: int, data: bytes, unit: int) -> None:
        """See `Target`; a lost block takes none: only all of it heals it."""
        self._refuse_lost(Extent(offset, len(data)))
        super().hold(offset, data, unit)

    def drop_hold(self, extent: Extent) -> None:
        """See `Target`."""
        if not self._is_lost(extent):
            super().drop_hold(extent)

    def keep_zeros(self, extent: Extent) -> None:
        """See `Target`; of a lost block nothing is kept."""
        if not self._is_lost(extent):
            super().keep_zeros(extent)

    def read_sectors(self, extent: Extent) -> bytes:
        """See `Target`."""
        self._refuse_lost(extent)
        return super().read_sectors(extent)

    def write_sectors(self, offset: int, data: Buffer) -> int:
        """See `Target`; a lost block heals as a whole."""
        extent = Extent(offset, memoryview(data).nbytes)
        if self._is_lost(extent):
            if not (is_aligned(extent.offset, PAGE) and is_aligned(extent.length, PAGE)):
                self._refuse_lost(extent)
            return self.recovery_write(offset, data)
        done = super().write_sectors(offset, data)
        self._set_written(Extent(offset, done))
        return done

    # -- what is known of it -------------------------------------------------------------------

    def badblocks(self, extent: Extent) -> list[tuple[Extent, SectorState]]:
        """See `Target`: the members' records, and what is lost."""
        lost = self.blocks.table.lost
        found = [(run, SectorState.LOST) for run in lost.extents(extent)]
        for run, state in super().badblocks(extent):
            found += [(part, state) for part in lost.gaps(run)]
        return sorted(found, key=lambda each: each[0])

    def scrub(self, extent: Extent) -> None:
        """See `Target`; with the first piece, also what the cache keeps for itself."""
        super().scrub(extent)
        if extent.offset == 0:
            for area in self.blocks.table.metadata():
                for _ in self.blocks.cache.scrub(area):
                    pass

    def inject(self, extent: Extent, *, latent: bool = False) -> None:
        """See `Target`: where the only copy of the bytes is."""
        self.blocks.drop_clean(extent)
        super().inject(extent, latent=latent)

    def inject_once(self, extent: Extent) -> None:
        """See `Target`."""
        self.blocks.drop_clean(extent)
        super().inject_once(extent)

    # -- what members tell (R42) -----------------------------------------------------------------

    def on_member_failure(self, index: int, extent: Extent) -> None:
        """See `Target`: told upwards is what has no other copy; the rest is put right."""
        self.sequence += 1
        if index == _ORIGIN:
            for at in range(extent.offset - extent.offset % PAGE, extent.end, PAGE):
                self.blocks.keep_only_copy(at // PAGE)
            super().on_member_failure(index, extent)
            return
        self.blocks.table.note_failure(extent)
        for part, _ in self.blocks.owners(extent):
            if self.blocks.is_dirty(part.offset // PAGE):
                self.notify(part)
            else:
                self.blocks.drop(part.offset // PAGE)

    def on_member_event(self, index: int, event: Event, extent: Extent) -> None:
        """See `Target`: nothing is said of slots whose block the origin has too."""
        if index == _ORIGIN:
            super().on_member_event(index, event, extent)
            return
        for part, place in self.blocks.owners(extent):
            if self.blocks.is_dirty(part.offset // PAGE):
                super().on_member_event(index, event, place)

    # -- durability ------------------------------------------------------------------------------

    def before_fence(self) -> None:
        """See `Target`: slots, then what says whose they are (docs/dm.md)."""
        self.blocks.commit()

    def after_fence(self) -> None:
        """See `Target`: a slice of what is to be written back in the background."""
        if not self.is_writable:
            return
        count, slots = self.blocks.dirty_count, self.blocks.slot_count
        if count * 100 > self.options.high_watermark * slots:
            excess = count - self.options.low_watermark * slots // 100
            self.blocks.write_back(self.blocks.dirty_blocks(min(excess, SLICE)))

    def close(self) -> None:
        """See `Target`. What is dirty stays in the cache."""
        self.blocks.commit()
        self.blocks.origin.fence()

    # -- dmsetup's verbs ---------------------------------------------------------------------

    def flush_cache(self) -> None:
        """Write everything back, durably. Raises `MediaError` for the first block that stays."""
        self.blocks.retry()
        while blocks := self.blocks.dirty_blocks(SLICE):
            self.blocks.write_back(blocks)
        for block in sorted(self.blocks.table.dirty):
            raise MediaError(
                self.name, block * PAGE, PAGE, hint="it stays in the cache; write it again"
            )

    def losses(self) -> list[Extent]:
        """What of the line was dirty, and is lost: reads fail until it is written again."""
        return self.blocks.losses()

    def message(self, words: Sequence[str]) -> str:
        """See `Target`: `flush`; `losses`, answered with a line `OFFSET LENGTH` for each;
        `clear_stats`."""
        match [word.lower() for word in words]:
            case ["flush"]:
                self.flush_cache()
            case ["losses"]:
                return "".join(f"{run.offset} {run.length}\n" for run in self.losses())
            case ["clear_stats"]:
                self.blocks.errors = 0
            case _:
                raise UsageError(f"{self.name} takes the messages flush, losses and clear_stats")
        return ""

    def status(self) -> str:
        """See `Target`: blocks of the cache; how many are cached, dirty, lost, unknown; errors."""
        blocks = self.blocks
        lost = ExtentSet(PAGE, (run.widened(PAGE) for run in self.losses()))
        return (
            f"blocks {blocks.slot_count} cached {blocks.clean_count + blocks.dirty_count} "
            f"dirty {blocks.dirty_count} lost {sum(run.length for run in lost) // PAGE} "
            f"unknown {len(blocks.table.unknown)} errors {blocks.errors}"
        )
