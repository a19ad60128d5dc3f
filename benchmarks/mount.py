"""The raw mount against a C libfuse server over the same tmpfs file; all on one CPU."""

import mmap
import os
import random
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.harness import Row, seconds_each, versus
from daxmend.fuse import find_mount, unmount
from daxmend.mounts.daemon import mount_in_background
from daxmend.mounts.option import MountOptions
from daxmend.stack import create
from daxmend.units import MIB, PAGE

_SIZE = 256 * MIB
_READS = 5000


def rows(directory: Path) -> Iterator[Row]:
    """`directory` is on tmpfs. Without libfuse3-dev there is no peer and no row."""
    with _ours(directory) as ours, _peer(directory) as peer:
        for fd in (ours, peer):
            _sequential_write(fd)
        offsets = random.Random(1).choices(range(0, _SIZE, PAGE), k=_READS)
        yield versus(
            "mount: read 4 KiB, random",
            lambda: _random_reads(ours, offsets),
            "C libfuse",
            lambda: _random_reads(peer, offsets),
            0.8,
        )
        yield versus(
            "mount: read 1 MiB, sequential",
            lambda: _sequential_read(ours),
            "C libfuse",
            lambda: _sequential_read(peer),
            0.9,
        )
        yield versus(
            "mount: write 1 MiB, sequential",
            lambda: _sequential_write(ours),
            "C libfuse",
            lambda: _sequential_write(peer),
            0.9,
        )


def build_peer(directory: Path) -> Path | None:
    """The compiled C server, or None where cc or libfuse3-dev is missing."""
    if shutil.which("cc") is None or shutil.which("pkg-config") is None:
        return None
    flags = subprocess.run(
        ["pkg-config", "--cflags", "--libs", "fuse3"], capture_output=True, text=True, check=False
    )
    if flags.returncode:
        return None
    program = directory / "passthrough"
    source = Path(__file__).with_name("passthrough.c")
    subprocess.run(["cc", "-O2", source, "-o", program, *flags.stdout.split()], check=True)
    return program


@contextmanager
def _ours(directory: Path) -> Iterator[int]:
    pool, mountpoint = directory / "mount.pool", directory / "ours"
    create(pool, _SIZE)
    mountpoint.mkdir()
    mount_in_background(pool, mountpoint, MountOptions(), raw=True)
    try:
        with open(mountpoint / "device", "r+b", buffering=0) as file:
            yield file.fileno()
    finally:
        unmount(mountpoint)


@contextmanager
def _peer(directory: Path) -> Iterator[int]:
    program = build_peer(directory)
    if program is None:
        raise LookupError("no C peer: install gcc, pkg-config and libfuse3-dev")
    backing, mountpoint = directory / "peer.file", directory / "peer"
    backing.touch()
    os.truncate(backing, _SIZE)
    mountpoint.mkdir()
    server = subprocess.Popen([program, backing, mountpoint])
    try:
        while find_mount(mountpoint) is None:
            time.sleep(0.01)
        with open(mountpoint / "device", "r+b", buffering=0) as file:
            yield file.fileno()
    finally:
        unmount(mountpoint)
        server.wait()


def _random_reads(fd: int, offsets: list[int]) -> float:
    return seconds_each(lambda at: os.pread(fd, PAGE, at), offsets)


def _sequential_read(fd: int) -> float:
    buffer = mmap.mmap(-1, MIB)  # page-aligned and resident, so that requests are whole
    buffer.write(bytes(MIB))
    spans = range(0, _SIZE, MIB)
    return seconds_each(lambda at: os.preadv(fd, [buffer], at), spans)


def _sequential_write(fd: int) -> float:
    buffer = mmap.mmap(-1, MIB)
    buffer.write(bytes(MIB))
    spans = range(0, _SIZE, MIB)
    return seconds_each(lambda at: os.pwritev(fd, [buffer], at), spans)
