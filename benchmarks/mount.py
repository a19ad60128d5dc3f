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

from benchmarks.harness import Missing, Result, seconds_each, versus, versus_briefly
from daxmend.fuse import find_mount, unmount
from daxmend.media.pool import Content
from daxmend.mounts.daemon import mount_in_background
from daxmend.mounts.option import MountOptions
from daxmend.stack.pool import create
from daxmend.units import MIB, PAGE

SIZE = 256 * MIB
_READS = 10_000


def results(directory: Path) -> Iterator[Result]:
    """`directory` is on tmpfs. Without libfuse3-dev there is no peer and no row."""
    with our_device(directory) as ours, peer_device(directory) as peer:
        for fd in (ours, peer):
            sequential_write(fd)
        yield versus_briefly(
            "mount: read 4 KiB, random",
            lambda at: os.pread(ours, PAGE, at),
            "C libfuse",
            lambda at: os.pread(peer, PAGE, at),
            random_offsets(),
            0.8,
        )
        yield versus(
            "mount: read 1 MiB, sequential",
            lambda: sequential_read(ours),
            "C libfuse",
            lambda: sequential_read(peer),
            0.9,
        )
        yield versus(
            "mount: write 1 MiB, sequential",
            lambda: sequential_write(ours),
            "C libfuse",
            lambda: sequential_write(peer),
            0.9,
        )


def build_peer(directory: Path, name: str) -> Path:
    """The compiled C server. Raises `Missing` where cc or libfuse3-dev is missing."""
    missing = Missing("no C peer: install gcc, pkg-config and libfuse3-dev")
    if shutil.which("cc") is None or shutil.which("pkg-config") is None:
        raise missing
    flags = subprocess.run(
        ["pkg-config", "--cflags", "--libs", "fuse3"], capture_output=True, text=True, check=False
    )
    if flags.returncode:
        raise missing
    program = directory / name
    source = Path(__file__).with_name(f"{name}.c")
    subprocess.run(["cc", "-O2", source, "-o", program, *flags.stdout.split()], check=True)
    return program


@contextmanager
def mounted(directory: Path, size: int) -> Iterator[Path]:
    """Where a new file system is mounted."""
    pool, mountpoint = directory / "fs.pool", directory / "fs"
    create(pool, size, content=Content.FS)
    mountpoint.mkdir()
    mount_in_background(pool, mountpoint, MountOptions())
    try:
        yield mountpoint
    finally:
        unmount(mountpoint)
        pool.unlink()
        mountpoint.rmdir()


@contextmanager
def our_device(directory: Path) -> Iterator[int]:
    """A raw device, mounted."""
    pool, mountpoint = directory / "mount.pool", directory / "ours"
    create(pool, SIZE)
    mountpoint.mkdir()
    mount_in_background(pool, mountpoint, MountOptions(), raw=True)
    try:
        with open(mountpoint / "device", "r+b", buffering=0) as file:
            yield file.fileno()
    finally:
        unmount(mountpoint)


@contextmanager
def peer_device(directory: Path) -> Iterator[int]:
    """One file of tmpfs behind the C server."""
    program = build_peer(directory, "passthrough")
    backing, mountpoint = directory / "peer.file", directory / "peer"
    backing.touch()
    os.truncate(backing, SIZE)
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


def random_offsets() -> list[int]:
    """Of pages of what has `SIZE` bytes."""
    return random.Random(1).choices(range(0, SIZE, PAGE), k=_READS)


def sequential_read(fd: int) -> float:
    """Seconds of one read of 1 MiB."""
    buffer = mmap.mmap(-1, MIB)  # page-aligned and resident, so that requests are whole
    buffer.write(bytes(MIB))
    spans = range(0, SIZE, MIB)
    return seconds_each(lambda at: os.preadv(fd, [buffer], at), spans)


def sequential_write(fd: int) -> float:
    """Seconds of one write of 1 MiB."""
    buffer = mmap.mmap(-1, MIB)
    buffer.write(bytes(MIB))
    spans = range(0, SIZE, MIB)
    return seconds_each(lambda at: os.pwritev(fd, [buffer], at), spans)
