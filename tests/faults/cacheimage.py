"""A write cache with clean, dirty and uncached blocks, to be damaged (R38)."""

from typing import Any, NoReturn

from daxmend.dax import io
from daxmend.dm import MappedDevice
from daxmend.dm.cacheformat import Layout
from daxmend.dm.cacheoption import Options
from daxmend.dm.writecache import Writecache
from daxmend.events import Event, EventHub
from daxmend.extent import Extent
from daxmend.media.pool import MediumKind, create_memory_pool
from daxmend.pmem.device import PmemDevice
from daxmend.units import PAGE

BLOCKS = 16
SIZE = BLOCKS * PAGE
CLEAN = range(4)
DIRTY = range(4, 8)
OLD = b"".join(bytes([1 + block]) * PAGE for block in range(BLOCKS))
NEW = b"".join(bytes([101 + block]) * PAGE for block in range(BLOCKS))


def page(block: int) -> Extent:
    return Extent(block * PAGE, PAGE)


def part(content: bytes, extent: Extent) -> bytes:
    return content[extent.offset : extent.end]


class Image:
    """Blocks of `CLEAN` were written and flushed, those of `DIRTY` written and fenced."""

    def __init__(self, medium: MediumKind = MediumKind.PLAIN, slots: int = 30) -> None:
        self.cache = PmemDevice(create_memory_pool((slots + 7) * PAGE, medium))
        self.cache.name = "cache"
        self.origin = PmemDevice(create_memory_pool(SIZE))
        self.origin.name = "origin"
        io.write(self.origin, 0, OLD)
        self.events: list[Event] = []
        self.open()
        io.write(self.device, 0, part(NEW, Extent(0, CLEAN.stop * PAGE)))
        self.device.message(0, ["flush"])
        io.write(self.device, DIRTY.start * PAGE, part(NEW, Extent(DIRTY.start * PAGE, 4 * PAGE)))
        self.device.fence()
        self.model = bytearray(NEW[: DIRTY.stop * PAGE] + OLD[DIRTY.stop * PAGE :])

    def open(self) -> Writecache:
        """Start it, as after a stop. From now on the cache must be used through windows alone."""
        self.events.clear()
        hub = EventHub()
        hub.subscribe(self.events.append)
        self._forbid()
        self.target = Writecache(SIZE, self.cache, self.origin, Options(0, 100, 0))
        self.device = MappedDevice("top", [self.target], hub)
        return self.target

    def _forbid(self) -> None:
        def refuse(*arguments: Any, **named: Any) -> NoReturn:
            raise AssertionError("a window-only client never calls this (R49)")

        device: Any = self.cache
        for name in ("read_sectors", "write_sectors", "recovery_read", "zeroinit", "hold"):
            setattr(device, name, refuse)

    def allow(self) -> None:
        """What a client calls is passed on, and may be more than windows."""
        device: Any = self.cache
        for name in ("read_sectors", "write_sectors", "recovery_read", "zeroinit", "hold"):
            delattr(device, name)

    @property
    def layout(self) -> Layout:
        return self.target.blocks.table.layout

    def slot(self, block: int) -> Extent:
        """Where a cached block lies in the cache."""
        place = self.target.blocks.place(block)
        assert place is not None
        return place

    def counts(self) -> dict[str, int]:
        words = self.target.status().split()
        return {name: int(value) for name, value in zip(words[::2], words[1::2], strict=True)}

    def assert_content(self, *lost: Extent) -> None:
        """Everything is what it should be, but `lost`, which is recorded and cannot be read."""
        bad = [run for run, _ in self.device.badblocks(Extent(0, SIZE))]
        assert bad == list(lost)
        for at in range(0, SIZE, 512):
            sector = Extent(at, 512)
            if any(sector.overlaps(each) for each in lost):
                continue
            assert io.read(self.device, sector) == part(self.model, sector), sector
