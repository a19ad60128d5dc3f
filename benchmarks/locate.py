"""Locating 100 bad blocks among 100,000 files: in a pool, and on the kernel's own file systems.

ext4 and XFS stand on a loop device on a raw mount (as root), whose record they are found in.
Without a reverse map, which only XFS can have, every file's extents are asked for.
"""

import os
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.harness import Measure, Note, Result, seconds
from benchmarks.loop import can_loop, loop_device, run
from daxmend.extent import Extent, format_badblocks
from daxmend.fs import ROOT_INO
from daxmend.host.fiemap import file_extents
from daxmend.host.unknown import Unknown
from daxmend.media.pool import Content
from daxmend.rescue.hosttarget import HostTarget
from daxmend.rescue.opening import open_target
from daxmend.rescue.target import locate
from daxmend.stack.device import open_device
from daxmend.stack.filesystem import open_filesystem
from daxmend.stack.pool import create
from daxmend.units import GIB, PAGE, SECTOR

_FILES = 100_000
_DIRECTORIES = 100
_BAD = 100
_SIZE = 2 * GIB
_MKFS = {
    "ext4": ["mkfs.ext4", "-q", "-b", "4096", "-N", "200000"],
    "XFS with a reverse map": ["mkfs.xfs", "-q", "-m", "rmapbt=1"],
    "XFS without one": ["mkfs.xfs", "-q", "-m", "rmapbt=0"],
}


def results(directory: Path) -> Iterator[Result]:
    """`directory` is on tmpfs."""
    yield from _in_pool(directory / "locate.pool")
    if not can_loop():
        yield Note("locate: ext4 and XFS are measured as root, on loop devices")
        return
    for name, mkfs in _MKFS.items():
        if shutil.which(mkfs[0]) is None:
            yield Note(f"locate: {mkfs[0]} is missing")
            continue
        with _kernel_file_system(directory, mkfs) as (loop, where, record):
            files = list(_make_files(where))
            with open(record, "w", encoding="ascii") as badblocks:
                badblocks.write(format_badblocks(map(_first_sector, _chosen(files))))
            for target, said in ((loop, "device"), (where, "mount point")):
                took = seconds(lambda target=target: _locate(target))  # type: ignore[misc]
                yield Measure(f"locate 100 of 100,000: {name}, {said}", took, "s", 10)


def _chosen(files: list[Path]) -> list[Path]:
    return random.Random(1).sample(files, _BAD)


def _in_pool(path: Path) -> Iterator[Measure]:
    create(path, _SIZE, content=Content.FS)
    device = open_device(path)
    fs = open_filesystem(device)
    inodes = []
    for number in range(_DIRECTORIES):
        parent = fs.make(ROOT_INO, b"%d" % number, 0o040755, 0, 0)
        for each in range(_FILES // _DIRECTORIES):
            ino = fs.make(parent, b"%d" % each, 0o100644, 0, 0)
            fs.write(ino, 0, b"x" * PAGE)
            inodes.append(ino)
    places = [next(iter(fs.extents(ino))) for ino in random.Random(1).sample(inodes, _BAD)]
    fs.close()
    for place in places:
        device.inject(Extent(place.device_offset, SECTOR))
    device.close()
    yield Measure(
        "locate 100 of 100,000: pool, not mounted", seconds(lambda: _locate(path)), "s", 10
    )
    path.unlink()


def _locate(named: str | Path) -> None:
    """As the command does; every bad block must have been found in its file."""
    target = open_target(named)
    try:
        nobody: Callable[[int, int], None] = lambda done, total: None  # noqa: E731
        found = target.locate(nobody) if isinstance(target, HostTarget) else locate(target)
    finally:
        target.close()
    assert len(found) == _BAD
    assert all(each.owner == "file" and each.path for each in found)


@contextmanager
def _kernel_file_system(directory: Path, mkfs: list[str]) -> Iterator[tuple[str, Path, Path]]:
    """The loop device, where its file system is mounted, and the record of what is below."""
    where = directory / "locate-fs"
    where.mkdir()
    with loop_device(directory, _SIZE) as (loop, record):
        run(*mkfs, loop)
        run("mount", loop, where)
        try:
            yield loop, where, record
        finally:
            run("umount", where)
    where.rmdir()


def _make_files(where: Path) -> Iterator[Path]:
    for number in range(_DIRECTORIES):
        parent = where / str(number)
        parent.mkdir()
        for each in range(_FILES // _DIRECTORIES):
            path = parent / str(each)
            path.write_bytes(b"x" * PAGE)
            yield path
    os.sync()


def _first_sector(path: Path) -> Extent:
    fd = os.open(path, os.O_RDONLY)
    try:
        extents = file_extents(fd)
    finally:
        os.close(fd)
    assert not isinstance(extents, Unknown)
    return Extent(extents[0].device_offset, SECTOR)
