"""The device in-process: reads, writes, recovery, against memcpy, pread and clean pages."""

import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.harness import Row, seconds, seconds_each, versus
from daxmend.dax import io
from daxmend.extent import Extent
from daxmend.pmem.device import PmemDevice
from daxmend.stack.device import open_device
from daxmend.stack.pool import create
from daxmend.units import GIB, MIB, PAGE, SECTOR

_REGION = 128 * MIB
_READS = 20_000
_MILLION = 1_000_000


def rows(directory: Path) -> Iterator[Row]:
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
    return open_device(str(path))


def _against_memory(device: PmemDevice) -> Iterator[Row]:
    base = device.pool.header.layout.data.offset
    memory = memoryview(device.pool.backing.memory)
    source, target = bytes(MIB), bytearray(MIB)
    offsets = range(0, _REGION, MIB)

    def each(work: Callable[[int], object]) -> Callable[[], float]:
        return lambda: seconds_each(work, offsets)

    def copy_out(at: int) -> None:
        target[:] = memory[base + at : base + at + MIB]

    def copy_in(at: int) -> None:
        memory[base + at : base + at + MIB] = source

    yield versus(
        "read 1 MiB, in-process",
        each(lambda at: io.read(device, Extent(at, MIB))),
        "memcpy",
        each(copy_out),
        0.9,
    )
    yield versus(
        "write 1 MiB, in-process",
        each(lambda at: io.write(device, at, source)),
        "memcpy",
        each(copy_in),
        0.9,
    )


def _random_pages(count: int) -> list[int]:
    return [page * PAGE for page in random.Random(1).choices(range(_REGION // PAGE), k=count)]


def _read_pages(device: PmemDevice, offsets: list[int]) -> float:
    extents = [Extent(at, PAGE) for at in offsets]
    return seconds_each(lambda extent: io.read(device, extent), extents)


def _small_reads(device: PmemDevice) -> Row:
    base = device.pool.header.layout.data.offset
    offsets = _random_pages(_READS)
    fd = device.pool.backing.fd
    return versus(
        "read 4 KiB, in-process",
        lambda: _read_pages(device, offsets),
        "os.pread on tmpfs",
        lambda: seconds_each(lambda at: os.pread(fd, PAGE, base + at), offsets),
        1.0,
    )


def _recovery(device: PmemDevice) -> Row:
    data, other = os.urandom(64 * MIB), os.urandom(64 * MIB)

    def write() -> float:
        other.count(0)  # both begin with caches full of this, not of what the injection wrote
        return seconds(lambda: (io.write(device, 0, data), device.fence()))

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
    offsets = _random_pages(_READS)
    yield versus(
        "read 4 KiB, 1,000,000 bad sectors elsewhere",
        lambda: _read_pages(full, offsets),
        "empty record",
        lambda: _read_pages(empty, offsets),
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
