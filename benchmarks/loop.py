"""A block device of the kernel's over a raw mount, whose record can be written to."""

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from daxmend.fuse import unmount
from daxmend.mounts.daemon import mount_in_background
from daxmend.mounts.option import MountOptions
from daxmend.stack.pool import create


def can_loop() -> bool:
    """Whether loop devices can be had: as root."""
    return os.geteuid() == 0 and os.path.exists("/dev/loop-control")


@contextmanager
def loop_device(directory: Path, size: int) -> Iterator[tuple[str, Path]]:
    """The device's name, and the file that makes its sectors bad."""
    pool, raw = directory / "loop.pool", directory / "raw"
    create(pool, size)
    raw.mkdir()
    mount_in_background(pool, raw, MountOptions(), raw=True)
    try:
        loop = run("losetup", "--find", "--show", raw / "device").strip()
        try:
            yield loop, raw / ".daxmend" / "badblocks"
        finally:
            run("losetup", "--detach", loop)
            while Path("/sys/block", Path(loop).name, "loop").exists():  # the kernel takes its time
                time.sleep(0.01)
    finally:
        unmount(raw)
        pool.unlink()
        raw.rmdir()


def run(*command: object) -> str:
    """What a command prints; it must succeed."""
    words = [str(word) for word in command]
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout
