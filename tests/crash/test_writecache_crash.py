"""A write cache stopped at every persist point of writes, fences, write-back, recovery and start.

Cache and origin are two parts of one pool, so that one stop stops both. What was fenced is there;
of what was not, each cacheline is old or new, as on a bare device; a page that was to heal is bad
or new (R18); nothing is bad that was not.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from daxmend.dax import io
from daxmend.dm import MappedDevice
from daxmend.dm.cacheoption import Options
from daxmend.dm.writecache import Writecache
from daxmend.errors import MediaError
from daxmend.extent import Extent
from daxmend.media.backing import Backing, Durability
from daxmend.media.pool import create_pool, open_pool
from daxmend.pmem.device import PmemDevice
from daxmend.testing import CrashExplorer
from daxmend.testing.crash import CrashBacking, PowerLoss, Survival
from daxmend.units import CACHELINE, PAGE

SEED = 20260119
BLOCKS = 8
SIZE = BLOCKS * PAGE
OLD = (bytes(range(1, 252)) * (SIZE // 251 + 1))[:SIZE]

Step = Callable[["Rehearsal", MappedDevice], None]


def open_cache(device: PmemDevice, high_watermark: int) -> MappedDevice:
    """Origin in the first pages, cache behind it."""
    options = Options(start=SIZE, high_watermark=high_watermark, low_watermark=0)
    return MappedDevice("cache", [Writecache(SIZE, device, device, options)])


class Rehearsal:
    """A pool with a cache of a few slots in use; steps on it; and what is allowed afterwards."""

    def __init__(self, directory: Path, slots: int = 6, high_watermark: int = 100) -> None:
        self.directory = directory
        self.image = directory / "image.pool"
        self.high_watermark = high_watermark
        create_pool(self.image, SIZE + (slots + 7) * PAGE, durability=Durability.PROCESS)
        self.device = PmemDevice(open_pool(self.image))
        io.write(self.device, 0, OLD)
        cache = open_cache(self.device, 100)
        self.start = bytearray(OLD)
        self.model = bytearray(OLD)
        self.contents: list[bytes] = []
        self.write(cache, PAGE, b"1" * PAGE)
        self.write(cache, 2 * PAGE + 70, b"2" * 300)
        cache.fence()
        cache.close()
        self.start[:] = self.model
        self.bad: list[Extent] = []

    def write(self, cache: MappedDevice, offset: int, data: bytes) -> None:
        self.model[offset : offset + len(data)] = data
        self.contents.append(bytes(self.model))
        assert io.write(cache, offset, data) == len(data)

    def begin(self) -> None:
        self.model = bytearray(self.start)
        self.contents = [bytes(self.start)]
        self.fenced = 0
        self.durable: dict[Extent, bytes] = {}  # what a recovery acknowledged

    def explore(self, *steps: Step, samples: int = 1) -> int:
        self.device.close()
        self.begin()
        print(f"seed {SEED}")

        def operate(device: PmemDevice) -> None:
            self.begin()
            cache = open_cache(device, self.high_watermark)
            for step in steps:
                step(self, cache)

        def look(device: PmemDevice) -> None:
            try:
                self.check(device)
            finally:
                self.begin()

        return CrashExplorer(self.image, self.directory, SEED).explore(operate, look, samples)

    def check(self, device: PmemDevice) -> None:
        cache = open_cache(device, 100)
        self.check_content(cache)
        target = cache.targets[0]
        assert isinstance(target, Writecache)
        if not self.bad:
            assert target.notices == []
            assert list(cache.badblocks(Extent(0, SIZE))) == []
            cache.message(0, ["flush"])
            assert io.read(device, Extent(0, SIZE)) == io.read(cache, Extent(0, SIZE))
        cache.close()
        again = open_cache(device, 100)
        assert isinstance(again.targets[0], Writecache)
        assert again.targets[0].blocks.table.damage == [], "all copies are whole"
        self.check_content(again)
        io.write(again, 0, b"on" * PAGE)
        again.fence()
        assert io.read(again, Extent(0, 2 * PAGE)) == b"on" * PAGE

    def check_content(self, cache: MappedDevice) -> None:
        allowed = self.contents[self.fenced :]
        for block in range(BLOCKS):
            page = Extent(block * PAGE, PAGE)
            try:
                data = io.read(cache, page)
                assert len(data) == PAGE
            except (MediaError, AssertionError):
                assert any(page.overlaps(bad) for bad in self.bad), f"{page} is bad"
                assert page not in self.durable
                continue
            if any(page.overlaps(bad) for bad in self.bad):
                assert data in [content[page.offset : page.end] for content in allowed[1:]]
            for at in range(0, PAGE, CACHELINE):
                line = data[at : at + CACHELINE]
                start = page.offset + at
                assert line in [content[start : start + CACHELINE] for content in allowed], (
                    f"block {block}, line {at // CACHELINE}: {line!r}"
                )


def write(offset: int, data: bytes) -> Step:
    return lambda rehearsal, cache: rehearsal.write(cache, offset, data)


def fence(rehearsal: Rehearsal, cache: MappedDevice) -> None:
    cache.fence()
    rehearsal.fenced = len(rehearsal.contents) - 1


def flush(rehearsal: Rehearsal, cache: MappedDevice) -> None:
    cache.message(0, ["flush"])


def recover(offset: int, data: bytes) -> Step:
    def step(rehearsal: Rehearsal, cache: MappedDevice) -> None:
        rehearsal.model[offset : offset + len(data)] = data
        rehearsal.contents.append(bytes(rehearsal.model))
        assert cache.recovery_write(offset, data) == len(data)
        rehearsal.durable[Extent(offset, len(data))] = data

    return step


def test_fenced_writes_are_there_and_others_are_old_or_new(shm: Path) -> None:
    Rehearsal(shm).explore(
        write(100, b"a" * 200),
        fence,
        write(PAGE + 50, b"b" * 500),
        write(4 * PAGE, b"c" * PAGE),
        fence,
        write(4 * PAGE + 64, b"d" * 64),
    )


def test_write_back_and_reuse_of_slots(shm: Path) -> None:
    """With two slots every write puts another block out."""
    Rehearsal(shm, slots=2).explore(
        write(3 * PAGE, b"a" * PAGE),
        fence,
        write(4 * PAGE + 5, b"b" * 100),
        write(5 * PAGE, b"c" * 100),
        fence,
    )


def test_the_background_writes_back_at_fences(shm: Path) -> None:
    Rehearsal(shm, high_watermark=30).explore(
        write(3 * PAGE, b"a" * PAGE),
        fence,
        write(PAGE, b"b" * 10),
        fence,
    )


def test_a_flush_and_what_is_written_to_clean_blocks_after_it(shm: Path) -> None:
    Rehearsal(shm).explore(
        flush,
        write(PAGE + 64, b"a" * 64),
        fence,
        write(2 * PAGE, b"b" * 64),
        flush,
    )


@pytest.mark.parametrize("where", ["dirty", "origin"])
def test_a_bad_page_heals_or_stays_bad(shm: Path, where: str) -> None:
    """R18, R49: in the cache where it is dirty, else in the origin."""
    rehearsal = Rehearsal(shm)
    page = 1 if where == "dirty" else 5
    rehearsal.bad = [Extent(page * PAGE + 512, 512)]
    cache = open_cache(rehearsal.device, 100)
    cache.inject(rehearsal.bad[0])
    cache.close()
    rehearsal.explore(recover(page * PAGE, b"h" * PAGE), flush)


def test_write_back_over_a_bad_origin(shm: Path) -> None:
    """R14: it heals, and no stop in it shows anything but the cached block."""
    rehearsal = Rehearsal(shm)
    rehearsal.device.inject(Extent(PAGE, 2 * PAGE))
    rehearsal.explore(flush, write(PAGE, b"a" * 64), fence)


@pytest.mark.parametrize("structure", ["superblock", "entries", "map"])
@pytest.mark.parametrize("copy", [0, 1])
def test_a_start_heals_metadata_and_can_be_stopped_anywhere(
    shm: Path, structure: str, copy: int
) -> None:
    rehearsal = Rehearsal(shm)
    cache = open_cache(rehearsal.device, 100)
    target = cache.targets[0]
    assert isinstance(target, Writecache)
    rehearsal.device.inject(getattr(target.blocks.table.layout, structure)[copy])
    rehearsal.check = lambda device: checked(rehearsal, device)  # type: ignore[method-assign]
    rehearsal.explore(write(PAGE, b"a" * 64), fence)


def checked(rehearsal: Rehearsal, device: PmemDevice) -> None:
    """As `Rehearsal.check`, where the first start may have to heal."""
    cache = open_cache(device, 100)
    rehearsal.check_content(cache)
    cache.close()
    again = open_cache(device, 100)
    assert isinstance(again.targets[0], Writecache)
    assert again.targets[0].blocks.table.damage == []
    rehearsal.check_content(again)


# -- cache and origin in two pools, which stop at the same instant -----------------------------


class Machine:
    """What two pools have in common: the points until the stop."""

    def __init__(self, stop_at: int, survival: Survival) -> None:
        self.stop_at = stop_at
        self.survival = survival
        self.points = 0
        self.is_counting = False  # not while the pools are attached
        self.backings: list[MachineBacking] = []

    def make_backing(
        self, fd: int, name: str, durability: Durability, *, writable: bool = True
    ) -> Backing:
        backing = MachineBacking(fd, name, durability, survival=self.survival, seed=SEED)
        backing.machine = self
        self.backings.append(backing)
        return backing


class MachineBacking(CrashBacking):
    """One of the pools."""

    machine: Machine

    def _reach_point(self) -> None:
        if self.is_down:
            raise PowerLoss
        if not self.machine.is_counting:
            return
        if self.machine.points == self.machine.stop_at:
            for backing in self.machine.backings:
                backing.lose_power()
            raise PowerLoss
        self.machine.points += 1


class Pair(Rehearsal):
    """As `Rehearsal`; a fence of the one says nothing of the other."""

    def __init__(self, directory: Path, slots: int) -> None:
        self.directory = directory
        self.high_watermark = 100
        self.bad = []
        for name, size in (("cache", (slots + 7) * PAGE), ("origin", SIZE)):
            create_pool(directory / name, size, durability=Durability.PROCESS)
        self.start, self.contents = bytearray(OLD), [OLD]
        self.model = bytearray(OLD)
        origin = PmemDevice(open_pool(directory / "origin"))
        io.write(origin, 0, OLD)
        origin.close()

    def explore_pair(self, *steps: Step) -> None:
        for survival in Survival:
            stop_at = 0
            while self._is_stopped(steps, stop_at, survival):
                self._check_pair(f"stopped at persist point {stop_at}, {survival}")
                stop_at += 1
            self._check_pair("not stopped")

    def _is_stopped(self, steps: Iterable[Step], stop_at: int, survival: Survival) -> bool:
        machine = Machine(stop_at, survival)
        for name in ("cache", "origin"):
            shutil.copy(self.directory / name, self.directory / f"{name}.run")
        devices = [
            PmemDevice(open_pool(self.directory / f"{name}.run", make_backing=machine.make_backing))
            for name in ("cache", "origin")
        ]
        self.begin()
        machine.is_counting = True
        try:
            cache = MappedDevice("pair", [Writecache(SIZE, devices[0], devices[1])])
            for step in steps:
                step(self, cache)
        except PowerLoss:
            return True
        finally:
            for backing, device in zip(machine.backings, devices, strict=True):
                if not backing.is_down:
                    backing.lose_power()
                device.pool.close()
        return False

    def _check_pair(self, where: str) -> None:
        print(where)
        devices = [
            PmemDevice(open_pool(self.directory / f"{name}.run")) for name in ("cache", "origin")
        ]
        for _ in range(2):
            cache = MappedDevice("pair", [Writecache(SIZE, devices[0], devices[1])])
            self.check_content(cache)
            cache.message(0, ["flush"])
        for device in devices:
            device.close()


def test_two_pools_that_stop_together(shm: Path) -> None:
    """W3: an entry becomes free only when the origin's own fence has returned."""
    Pair(shm, slots=2).explore_pair(
        write(0, b"a" * PAGE),
        write(PAGE + 9, b"b" * 100),
        fence,
        write(2 * PAGE, b"c" * PAGE),
        fence,
        flush,
        write(PAGE + 200, b"d" * 64),
        fence,
    )


def test_the_first_start_makes_a_cache_or_none(shm: Path) -> None:
    """A device that a stop left half made is made again."""
    image = shm / "fresh.pool"
    create_pool(image, SIZE + 12 * PAGE, durability=Durability.PROCESS)
    device = PmemDevice(open_pool(image))
    io.write(device, 0, OLD)
    device.close()

    def look(device: PmemDevice) -> None:
        cache = open_cache(device, 100)
        assert io.read(cache, Extent(0, SIZE)) == OLD
        assert list(cache.badblocks(Extent(0, SIZE))) == []

    stops = CrashExplorer(image, shm, SEED).explore(lambda d: open_cache(d, 100), look, samples=2)
    assert stops > 10
