"""A real file system on a loop device on a raw mount: the kernel's own ext4 and XFS meet damage.

What `daxmend` says of the loop device, the mount point and the files on it is the operator's view
of a real machine; the record is the raw mount's, which it finds through the loop device.
"""

import contextlib
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from rawmount import SECTOR, Mounted, loop_device, program

SIZES = {"ext4": 64 << 20, "xfs": 320 << 20, "xfs-plain": 320 << 20}
_MKFS = {
    "ext4": ["mkfs.ext4", "-q", "-b", "4096"],
    "xfs": ["mkfs.xfs", "-q", "-m", "rmapbt=1"],
    "xfs-plain": ["mkfs.xfs", "-q", "-m", "rmapbt=0,reflink=1"],
}
FILE_SIZE = 1 << 20


def must(*command: object) -> str:
    ran = program(*command)
    assert ran.status == 0, (command, ran)
    return ran.out


class HostStack:
    """`loop` is the device's node, `fs` where its file system is mounted."""

    def __init__(self, raw: Mounted, loop: str, fs: Path, kind: str) -> None:
        self.raw = raw
        self.loop = loop
        self.fs = fs
        self.kind = kind

    def make(self, name: str, size: int = FILE_SIZE) -> Path:
        """A file in one directory of the file system, with its own bytes, on the device."""
        path = self.fs / name
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_bytes(os.urandom(size))
        must("sync", path)
        return path

    def place(self, path: Path, offset: int = 0) -> int:
        """Where a byte of a file lies on the loop device, by filefrag."""
        rows = re.findall(
            r"^\s*\d+:\s*(\d+)\.\.\s*(\d+):\s*(\d+)\.\.",
            must("filefrag", "-v", "-b512", path),
            re.MULTILINE,
        )
        sector = offset // SECTOR
        for start, end, physical in (tuple(map(int, row)) for row in rows):
            if start <= sector <= end:
                return (physical + sector - start) * SECTOR + offset % SECTOR
        raise AssertionError((rows, offset))

    def damage(self, offset: int, length: int = SECTOR) -> None:
        """Make bytes of the device bad."""
        self.raw.write_control("badblocks", f"{offset // SECTOR} {length // SECTOR}\n")

    def damage_file(self, path: Path, offset: int, length: int = SECTOR) -> int:
        """Make bytes of a file bad, cached nowhere; returns where they lie on the device."""
        place = self.place(path, offset)
        self.damage(place, length)
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return place


@contextlib.contextmanager
def host_stack(raw: Mounted, kind: str) -> Iterator[HostStack]:
    """The pool made, mounted raw, with a file system on a loop device on it; and taken away."""
    tool = _MKFS[kind][0]
    if not shutil.which(tool, path=f"{os.environ['PATH']}:/sbin:/usr/sbin"):
        pytest.skip(f"{tool} is missing")
    raw.must_mount()
    fs = raw.base / "fs"
    fs.mkdir()
    with loop_device(raw.device) as loop:
        try:
            must(*_MKFS[kind], loop)
            must("mount", loop, fs)
            yield HostStack(raw, loop, fs, kind)
        finally:
            program("umount", fs)
            program("umount", "-l", fs)
