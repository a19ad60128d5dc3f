"""A log of the kernel's log-writes is read by daxmend, and daxmend's by the format's rules."""

import mmap
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from logreader import DISCARD, Logged, read_log, replayed
from pmem import PAGE, SECTOR, Pmem
from program import Daxmend, program

from daxmend.dm.logformat import iter_entries, read_data
from daxmend.dm.logreplay import replay
from daxmend.extent import Extent
from daxmend.media.pool import create_memory_pool
from daxmend.pmem.device import PmemDevice
from daxmend.stack.plain import open_window

SIZE = 8 << 20
DISCARDED = Extent(2 << 20, 64 << 10)


@pytest.fixture
def data_and_log(pmems: list[Pmem]) -> Iterator[tuple[Path, Path]]:
    """Two devices of zeros."""
    paths = []
    for name, pmem in zip(("ring-data", "ring-log"), pmems, strict=True):
        program("dmsetup", "create", name, text=f"0 {SIZE // SECTOR} linear {pmem.path} 0")
        paths.append(Path("/dev/mapper", name))
        write(paths[-1], 0, bytes(SIZE))
    yield paths[0], paths[1]
    for path in paths:
        program("dmsetup", "remove", path.name)


def write(path: Path, offset: int, data: bytes) -> None:
    """A direct write, then fsync."""
    memory = mmap.mmap(-1, len(data))
    memory[:] = data
    fd = os.open(path, os.O_WRONLY | os.O_DIRECT)
    try:
        assert os.pwrite(fd, memory, offset) == len(data)
        os.fsync(fd)
    finally:
        os.close(fd)


def content(path: Path) -> bytes:
    """All of a device, from the medium."""
    program("blockdev", "--flushbufs", path)
    return path.read_bytes()


def ours(path: Path) -> list[Logged]:
    """What daxmend reads of a log."""
    log = open_window(path, str(path), writable=False)
    try:
        return [
            Logged(
                *placed.entry.extent, int(placed.entry.flags), read_data(log, placed.data),
                placed.entry.mark,
            )
            for placed in iter_entries(log)
        ]  # fmt: skip
    finally:
        log.close()


def replayed_by_daxmend(path: Path, until: str | None) -> bytes:
    """What a device of zeros holds after daxmend's replay."""
    log = open_window(path, str(path), writable=False)
    target = PmemDevice(create_memory_pool(SIZE))
    try:
        replay(log, target, until)
        return target.recovery_read(Extent(0, SIZE)).data
    finally:
        target.close()
        log.close()


def test_the_kernels_log_is_read_and_replayed(data_and_log: tuple[Path, Path]) -> None:
    data, log = data_and_log
    random_bytes = random.Random(13).randbytes
    program("dmsetup", "create", "ring-lw", text=f"0 {SIZE // SECTOR} log-writes {data} {log}")
    logged = Path("/dev/mapper/ring-lw")
    try:
        write(logged, 0, random_bytes(PAGE))
        write(logged, 3 * PAGE + SECTOR, random_bytes(SECTOR))
        write(logged, 1 << 20, random_bytes(300 << 10))
        program("dmsetup", "message", "ring-lw", "0", "mark", "half")
        half = content(data)
        write(logged, SECTOR, random_bytes(3 * SECTOR))
        write(logged, DISCARDED.offset, random_bytes(DISCARDED.length))
        program("blkdiscard", "-o", DISCARDED.offset, "-l", DISCARDED.length, logged)
        write(logged, DISCARDED.offset + PAGE, random_bytes(PAGE))
    finally:
        program("dmsetup", "remove", "ring-lw")
    entries = list(read_log(log))
    assert any(entry.flags & DISCARD for entry in entries)
    assert ours(log) == entries
    assert replayed_by_daxmend(log, "half") == half
    assert replayed_by_daxmend(log, None) == replayed(entries, SIZE)


def test_our_log_is_read_by_the_formats_rules(
    data_and_log: tuple[Path, Path], tmp_path: Path, daxmend: Daxmend
) -> None:
    data, log = data_and_log
    random_bytes = random.Random(17).randbytes
    table, pool, directory = tmp_path / "table", tmp_path / "pool", tmp_path / "mnt"
    table.write_text(f"0 {SIZE // SECTOR} log-writes {data} {log}\n")
    directory.mkdir()
    daxmend("create", pool, "--raw", "--table", table)
    program(".venv/bin/daxmend", "mount", "--raw", pool, directory)
    device = directory / "device"
    try:
        write(device, 0, random_bytes(PAGE))
        write(device, 5 * PAGE + SECTOR, random_bytes(SECTOR))
        write(device, 1 << 20, random_bytes(300 << 10))
    finally:
        program(".venv/bin/daxmend", "umount", directory)
    entries = list(read_log(log))
    assert entries[-1].mark == "dm-log-writes-end"
    assert ours(log) == entries
    assert replayed(entries, SIZE) == content(data)
