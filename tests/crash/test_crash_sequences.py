"""Seeded histories of every operation there is, stopped at every persist point of the last three.

The model (`devicemodel`) says what was true before the operation that was stopped and what is true
after it. Pages that it does not touch have exactly the record and the poison of before. In those
that it does, every readable line holds something that was once there to be read, the record forgets
nothing, and a bad sector that became good holds the new data (R8, R18).
"""

import contextlib
import copy
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from daxmend.dax import io
from daxmend.dax.api import Recovery
from daxmend.errors import MediaError
from daxmend.extent import Extent, ExtentSet
from daxmend.media import journal
from daxmend.media.backing import Durability
from daxmend.media.pool import create_pool, open_pool
from daxmend.pmem.device import PmemDevice
from daxmend.testing import CrashExplorer
from daxmend.units import CACHELINE, PAGE, SECTOR
from devicemodel import DeviceModel, EioError, merged, units

PAGES = 5
SIZE = PAGES * PAGE
ALL = Extent(0, SIZE)
HISTORY = 8  # operations before
HISTORIES = 4  # for each test
TAIL = 3  # those that are stopped somewhere

Step = Callable[[PmemDevice | DeviceModel], object]


class Act:
    """One operation, to be done to a device and to a model alike."""

    def __init__(self, name: str, extent: Extent, step: Step) -> None:
        self.name = name
        self.touched = extent.widened(PAGE)
        self.step = step

    def __call__(self, device: PmemDevice | DeviceModel) -> None:
        with contextlib.suppress(MediaError, EioError):
            self.step(device)

    def __str__(self) -> str:
        return f"{self.name} {self.touched}"


def make_act(rng: random.Random, names: Sequence[str] = (), page: int | None = None) -> Act:
    """An operation, of these or any, on a range with ends of any alignment: mostly in a page."""
    unit = rng.choice([CACHELINE, SECTOR, SECTOR, PAGE, 1])
    first, last = (0, SIZE) if page is None else (page * PAGE, (page + 1) * PAGE)
    start, end = sorted(rng.sample(range(first // unit, last // unit + 1), 2))
    extent = Extent.between(start * unit, end * unit)
    spot = Extent(extent.offset, min(extent.length, 2 * SECTOR))
    pages, sectors = extent.widened(PAGE), extent.widened(SECTOR)
    data = rng.randbytes(SIZE)
    recovery = rng.choice(list(Recovery))
    acts = {
        "inject": (spot, lambda d: d.inject(spot, latent=False)),
        "inject latent": (spot, lambda d: d.inject(spot, latent=True)),
        "uninject": (spot, lambda d: d.uninject(spot)),
        "read": (extent, lambda d: of(d, io.read)(extent)),
        "salvage": (
            extent,
            lambda d: d.salvage(extent) if is_model(d) else d.recovery_read(extent),
        ),
        "scrub": (extent, lambda d: list(d.scrub(extent) or ())),
        "write": (extent, lambda d: of(d, io.write)(extent.offset, data[: extent.length])),
        "write somehow": (
            extent,
            lambda d: of(d, io.write)(extent.offset, data[: extent.length], recovery),
        ),
        "write raw": (extent, lambda d: of(d, io.write_raw)(extent.offset, data[: extent.length])),
        "recovery write": (pages, lambda d: d.recovery_write(pages.offset, data[: pages.length])),
        "write sectors": (
            sectors,
            lambda d: d.write_sectors(
                sectors.offset // (1 if is_model(d) else SECTOR), data[: sectors.length]
            ),
        ),
    }
    name = rng.choice(names or list(acts))
    return Act(name, *acts[name])


def is_model(device: PmemDevice | DeviceModel) -> bool:
    return isinstance(device, DeviceModel)


def of(device: PmemDevice | DeviceModel, function: Callable[..., object]) -> Callable[..., object]:
    """The model's method of that name, or the function on the device."""
    if is_model(device):
        return getattr(device, function.__name__)
    return lambda *args: function(device, *args)


def make_tail(rng: random.Random) -> list[Act]:
    """Something goes bad in a page that is written twice; or anything at all."""
    if rng.random() < 0.2:
        return [make_act(rng) for _ in range(TAIL)]
    page = rng.randrange(PAGES)
    write = ["write", "recovery write", "write raw", "write sectors", "write somehow"]
    return [make_act(rng, names, page) for names in (["inject"], write, write)]


class History:
    """A pool that lived through some acts, and the model of it at each moment."""

    def __init__(self, directory: Path, seed: int) -> None:
        self.directory = directory
        self.image = directory / "image.pool"
        rng = random.Random(seed)
        self.acts = [make_act(rng) for _ in range(HISTORY)]
        self.tail = make_tail(rng)
        self.done: list[Act] = []  # of the tail, before the stop
        create_pool(self.image, SIZE, durability=Durability.PROCESS)
        device = PmemDevice(open_pool(self.image))
        model = DeviceModel(SIZE)
        self.moments: list[DeviceModel] = []  # after the filling, and after each act
        for act in (Act("fill", ALL, make_fill(rng)), *self.acts, *self.tail):
            if act not in self.tail:
                act(device)
            act(model)
            self.moments.append(copy.deepcopy(model))
        device.close()

    def explore(self) -> int:
        return CrashExplorer(self.image, self.directory).explore(
            self.operate, self.check_and_forget, samples=2
        )

    def operate(self, device: PmemDevice) -> None:
        self.done.clear()
        for act in self.tail:
            act(device)
            self.done.append(act)

    def check_and_forget(self, device: PmemDevice) -> None:
        self.check(device)
        self.done.clear()

    # -- what must hold --------------------------------------------------------------------

    def check(self, device: PmemDevice) -> None:
        reached = len(self.moments) - 1 - TAIL + len(self.done)
        self.before = self.moments[reached]
        self.after = self.moments[min(reached + 1, len(self.moments) - 1)]
        stopped = self.tail[len(self.done) : len(self.done) + 1]
        record = ExtentSet(SECTOR, (run for run, _ in device.badblocks(ALL)))
        poison = ExtentSet(CACHELINE, device.poison(ALL))
        for number in range(PAGES):
            page = Extent(number * PAGE, PAGE)
            if any(act.touched.overlaps(page) for act in stopped):
                self.check_touched(device, page, record)
            else:
                self.check_untouched(device, page, record, poison)
        assert device._record.intents == {}

    def check_untouched(
        self, device: PmemDevice, page: Extent, record: ExtentSet, poison: ExtentSet
    ) -> None:
        wanted = ExtentSet(SECTOR, merged(self.before.recorded, SECTOR))
        assert list(record.extents(page)) == list(wanted.extents(page)), page
        wanted = ExtentSet(CACHELINE, merged(self.before.poison, CACHELINE))
        assert list(poison.extents(page)) == list(wanted.extents(page)), page
        if any(act.touched.overlaps(page) for act in self.done):
            self.check_lines(device, page)
            return
        pool = device.pool
        start = pool.header.layout.data.offset + page.offset
        assert pool.backing.load(start, PAGE) == self.before.content[page.offset : page.end]

    def check_touched(self, device: PmemDevice, page: Extent, record: ExtentSet) -> None:
        for sector in units(page, SECTOR):
            extent = Extent(sector * SECTOR, SECTOR)
            if sector in self.before.recorded & self.after.recorded:
                assert record.overlaps(extent), f"{extent} was forgotten"
            elif sector in self.before.recorded and not record.overlaps(extent):
                assert io.read(device, extent) == self.after.content[extent.offset : extent.end]
        self.check_lines(device, page)

    def check_lines(self, device: PmemDevice, page: Extent) -> None:
        """R12: what can be read or salvaged was there to be read at some moment."""
        salvage = device.recovery_read(page)
        missing = ExtentSet(1, salvage.lost)
        for line in units(page, CACHELINE):
            extent = Extent(line * CACHELINE, CACHELINE)
            found = salvage.data[extent.offset - page.offset : extent.end - page.offset]
            if missing.overlaps(extent):
                continue
            readable = [
                bytes(moment.content[extent.offset : extent.end])
                for moment in self.moments
                if line not in moment.poison
            ]
            assert bytes(found) in readable or self.is_torn(extent, bytes(found)), extent

    def is_torn(self, extent: Extent, found: bytes) -> bool:
        """A write whose end lies in this line, on a line that was poisoned until then."""
        return all(
            any(byte == moment.content[extent.offset + at] for moment in self.moments)
            for at, byte in enumerate(found)
        )


def make_fill(rng: random.Random) -> Step:
    data = rng.randbytes(SIZE)
    return lambda d: d.recovery_write(0, data)


@pytest.mark.parametrize("compacts", [False, True], ids=["appends", "compactions"])
@pytest.mark.parametrize("first_seed", [0, 1000])
def test_a_stop_in_any_history_leaves_only_what_was_true_before_or_after(
    shm: Path, first_seed: int, compacts: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if compacts:
        monkeypatch.setattr(journal, "_COMPACT_ABOVE", 0)
    for seed in range(first_seed, first_seed + HISTORIES):
        directory = shm / str(seed)
        directory.mkdir()
        history = History(directory, seed)
        print(f"seed {seed}:", *history.acts, "tail:", *history.tail, sep="\n  ")
        history.explore()
