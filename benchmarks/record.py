"""The bad-block record at a million ranges, and attaching a large pool with a long record."""

import random
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.harness import Measure, Result, seconds_each
from daxmend.extent import Extent
from daxmend.pmem.badblocks import BadBlocks
from daxmend.stack.device import open_device
from daxmend.stack.pool import create
from daxmend.units import GIB, PAGE, SECTOR

_RANGES = 1_000_000
_POOL = 64 * GIB
_BAD = 100_000


def results(directory: Path) -> Iterator[Result]:
    """`directory` is on tmpfs."""
    yield from _in_memory()
    yield from _attach(directory / "large.pool")


def _in_memory() -> Iterator[Measure]:
    sectors = random.Random(1).sample(range(0, 1 << 31, 2), _RANGES)
    extents = [Extent(sector * SECTOR, SECTOR) for sector in sectors]
    pages = [extent.widened(PAGE) for extent in extents]
    badblocks = BadBlocks()
    before = _resident_bytes()
    set_s = seconds_each(badblocks.set, extents)
    memory = _resident_bytes() - before
    yield Measure("record, 1,000,000 ranges: set", set_s * 1e6, "µs", 2)
    yield Measure("record: check", seconds_each(badblocks.check, pages) * 1e6, "µs", 2)
    yield Measure("record: clear", seconds_each(badblocks.clear, extents) * 1e6, "µs", 2)
    yield Measure("record: memory a range", memory / _RANGES, "B", 32)


def _attach(pool: Path) -> Iterator[Measure]:
    create(pool, _POOL)
    device = open_device(str(pool))
    places = random.Random(2).sample(range(_POOL // SECTOR), _BAD)
    for place in places:
        device.inject(Extent(place * SECTOR, SECTOR))
    device.close()
    program = f"from benchmarks.record import attach; attach({str(pool)!r})"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    attach_s, memory = done.stdout.split()
    yield Measure("attach 64 GiB with 100,000 bad sectors", float(attach_s), "s", 1)
    yield Measure("its memory", int(memory) / (1 << 20), "MiB", 256)
    pool.unlink()


def attach(pool: str) -> None:
    """In a process of its own: print the seconds of an attach, and the memory that it keeps."""
    before = _resident_bytes()
    start = time.perf_counter()
    device = open_device(pool)
    elapsed = time.perf_counter() - start
    print(elapsed, _resident_bytes() - before)
    device.close()


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()
