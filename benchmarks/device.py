"""The device in-process: reads, writes, recovery, against memcpy, pread and clean pages."""

import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.harness import Result, Row, seconds_each, versus, versus_briefly
from benchmarks.memory import Memory
from daxmend.dax import io
from daxmend.extent import Extent
from daxmend.pmem.device import PmemDevice
from daxmend.stack.device import open_device
from daxmend.stack.pool import create
from daxmend.units import GIB, MIB, PAGE, SECTOR

_REGION = 128 * MIB
_READS = 20_000
_MILLION = 1_000_000


def results(directory: Path) -> Iterator[Result]:
    """`directory` is on tmpfs."""
    device = _make(directory / "device.pool", GIB)
    io.write(device, 0, os.urandom(_REGION))
    yield from _against_memory(device)
    yield _small_reads(device)
    yield _recovery(device)
    device.close()
    yield from _record_elsewhere(directory)


def _make(path: Path, size: int) -> PmemDevice:
    create(path, size)
    device = open_device(str(path))
    assert isinstance(device, PmemDevice)
    return device


def _against_memory(device: PmemDevice) -> Iterator[Row]:
    base = device.pool.header.layout.data.offset
    source = bytes(MIB)
    memory = Memory(device.pool.backing.memory, source)
    offsets = range(0, _REGION, MIB)
    yield versus(
        "read 1 MiB, in-process",
        lambda: seconds_each(lambda at: io.read(device, Extent(at, MIB)), offsets),
        memory.NAME,
        lambda: seconds_each(lambda at: memory.copy_out(base + at), offsets),
        0.9,
    )
    yield versus(
        "write 1 MiB, in-process",
        lambda: seconds_each(lambda at: io.write(device, at, source), offsets),
        memory.NAME,
        lambda: seconds_each(lambda at: memory.copy_in(base + at), offsets),
        0.9,
    )


def _random_pages() -> list[Extent]:
    pages = random.Random(1).choices(range(_REGION // PAGE), k=_READS)
    return [Extent(page * PAGE, PAGE) for page in pages]


def _small_reads(device: PmemDevice) -> Row:
    base = device.pool.header.layout.data.offset
    fd = device.pool.backing.fd
    return versus_briefly(
        "read 4 KiB, in-process",
        lambda extent: io.read(device, extent),
        "os.pread on tmpfs",
        lambda extent: os.pread(fd, PAGE, base + extent[0]),
        _random_pages(),
        1.0,
    )


def _recovery(device: PmemDevice) -> Row:
    data, other = os.urandom(64 * MIB), os.urandom(64 * MIB)

    def write() -> float:
        other.count(0)  # both begin with caches full of this, not of what the injection wrote
        start = time.perf_counter()
        io.write(device, 0, data)
        device.fence()
        return time.perf_counter() - start

    def heal() -> float:
        device.inject(Extent(0, len(data)))
        return write()

    return versus("recovering write, 64 MiB all bad", heal, "over clean pages", write, 0.7)


def _record_elsewhere(directory: Path) -> Iterator[Row]:
    empty = _make(directory / "empty.pool", 4 * GIB)
    full = _make(directory / "full.pool", 4 * GIB)
    for device in (empty, full):
        io.write(device, 0, bytes(_REGION))
    bad = (Extent(_REGION + at * 6 * SECTOR, SECTOR) for at in range(_MILLION))
    full._record.set(bad)  # without poison: only the record's cost is measured
    yield versus_briefly(
        "read 4 KiB, 1,000,000 bad sectors elsewhere",
        lambda extent: io.read(full, extent),
        "empty record",
        lambda extent: io.read(empty, extent),
        _random_pages(),
        0.95,
    )

    def big(device: PmemDevice) -> float:
        return seconds_each(lambda at: io.read(device, Extent(at, MIB)), range(0, _REGION, MIB))

    yield versus(
        "read 1 MiB, 1,000,000 bad sectors elsewhere",
        lambda: big(full),
        "empty record",
        lambda: big(empty),
        0.95,
    )
    full.close()
    empty.close()
