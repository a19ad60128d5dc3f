"""Mapped devices in-process: what a layer costs over what is below it; long tables."""

import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.harness import Measure, Result, Row, seconds_each, versus
from daxmend.dax import io
from daxmend.dax.api import AccessMode, DaxDevice
from daxmend.dm import MappedDevice
from daxmend.dm.linear import Linear
from daxmend.dm.striped import Striped
from daxmend.extent import Extent
from daxmend.pmem.device import PmemDevice
from daxmend.stack.device import open_device
from daxmend.stack.pool import create
from daxmend.units import KIB, MIB, PAGE

_REGION = 64 * MIB
_CHUNK = 64 * KIB
_READS = 2_000
_ROUNDS = 30  # short ones, so that some of them have the processor for themselves
_LINES = (1, 1_000, 100_000)
_NORMAL = AccessMode.NORMAL


def results(directory: Path) -> Iterator[Result]:
    """`directory` is on tmpfs."""
    bare = _pool(directory / "bare.pool", _REGION)
    below = _pool(directory / "below.pool", _REGION + PAGE)
    linear = MappedDevice("linear", [Linear(_REGION, below, PAGE)])
    yield from _versus("one linear layer", linear, "bare device", bare, 1 / 1.3, 1 / 1.05)
    for count in (2, 4, 8):
        striped = _striped(directory, count)
        yield from _versus(f"striped over {count}", striped, "bare device", bare, None, None)
    deep = _deep(directory)
    yield from _versus("three layers", deep, "bare device", bare, None, None)
    yield _recovery(deep, bare)
    yield from _long_tables()


def _pool(path: Path, size: int) -> PmemDevice:
    create(path, size)
    device = open_device(str(path))
    assert isinstance(device, PmemDevice)
    io.write(device, 0, bytes(size))
    return device


def _striped(directory: Path, count: int) -> MappedDevice:
    members = [_pool(directory / f"s{count}.{n}.pool", _REGION // count) for n in range(count)]
    return MappedDevice(f"s{count}", [Striped(_REGION, _CHUNK, [(m, 0) for m in members])])


def _deep(directory: Path) -> MappedDevice:
    """linear over striped over linear."""
    halves = []
    for name in ("left", "right"):
        pool = _pool(directory / f"{name}.pool", _REGION // 2 + PAGE)
        halves.append(MappedDevice(name, [Linear(_REGION // 2, pool, PAGE)]))
    striped = MappedDevice("striped", [Striped(_REGION, _CHUNK, [(half, 0) for half in halves])])
    return MappedDevice("deep", [Linear(_REGION, striped, 0)])


def _versus(
    name: str,
    ours: DaxDevice,
    peer_name: str,
    peer: DaxDevice,
    small_goal: float | None,
    large_goal: float | None,
) -> Iterator[Row]:
    pages = random.Random(1).choices(range(_REGION // PAGE), k=_READS)
    small = [Extent(page * PAGE, PAGE) for page in pages]
    large = [Extent(at, MIB) for at in range(0, _REGION, MIB)]
    small_data, large_data = os.urandom(PAGE), os.urandom(MIB)
    for what, extents, goal, data in (
        ("4 KiB", small, small_goal, small_data),
        ("1 MiB", large, large_goal, large_data),
    ):
        yield versus(
            f"{name}: read {what}",
            _reads(ours, extents),
            peer_name,
            _reads(peer, extents),
            goal,
            _ROUNDS,
        )
        yield versus(
            f"{name}: write {what}",
            _writes(ours, extents, data),
            peer_name,
            _writes(peer, extents, data),
            goal,
            _ROUNDS,
        )


def _reads(device: DaxDevice, extents: list[Extent]) -> Callable[[], float]:
    return lambda: seconds_each(lambda extent: io.read(device, extent), extents)


def _writes(device: DaxDevice, extents: list[Extent], data: bytes) -> Callable[[], float]:
    return lambda: seconds_each(lambda extent: io.write(device, extent.offset, data), extents)


def _recovery(deep: MappedDevice, bare: PmemDevice) -> Row:
    """Bad from end to end: each chunk is a recovery of its own on one of two members, and so is
    each write of the same size to the bare device."""
    data = os.urandom(_CHUNK)

    def heal(device: MappedDevice | PmemDevice) -> float:
        device.inject(Extent(0, _REGION))
        writes = range(0, _REGION, _CHUNK)
        return seconds_each(lambda at: io.write(device, at, data), writes)

    return versus(
        "three layers: recovering write, 64 KiB",
        lambda: heal(deep),
        "bare device",
        lambda: heal(bare),
        None,
    )


def _long_tables() -> Iterator[Measure]:
    """Finding the line of an address: O(log n); at 100,000 of them, caches that miss."""
    member = open_device(f"ram:{2 * max(_LINES) * PAGE}")
    for count in _LINES:
        places = range(0, 2 * count, 2)  # with gaps: nothing can be merged
        device = MappedDevice("lines", [Linear(PAGE, member, place * PAGE) for place in places])
        lines = random.Random(1).choices(range(count), k=_READS)
        extents = [Extent(line * PAGE, 1) for line in lines]
        best = min(
            seconds_each(lambda extent, of=device: of.direct_access(extent, _NORMAL), extents)
            for _ in range(_ROUNDS)
        )
        yield Measure(f"direct access, table of {count:,} lines", best * 1e6, "µs", 10)
