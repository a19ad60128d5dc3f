"""A file system mounted `-o dax` on a place, and where its files lie by the kernel's own tools."""

import ctypes
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from place import Place
from pmem import PAGE, SECTOR
from program import program

MAKE = {"ext4": ("mkfs.ext4", "-q", "-F", "-b", "4096"), "xfs": ("mkfs.xfs", "-q", "-f")}
STATX_ATTR_DAX = 0x00200000
_LIBC = ctypes.CDLL(None, use_errno=True)


class Run(NamedTuple):
    """A piece of a file: bytes of the file, bytes of the device, and whether it is unwritten."""

    offset: int
    place: int
    length: int
    unwritten: bool

    @property
    def end(self) -> tuple[int, int]:
        """Where it ends, in the file and on the device."""
        return self.offset + self.length, self.place + self.length


@dataclass(frozen=True)
class Mounted:
    """The file system; `directory` is its root."""

    kind: str
    place: Place
    directory: Path

    def runs(self, path: Path) -> list[Run]:
        """Where a file lies: filefrag's answer; on XFS xfs_bmap must agree."""
        found = filefrag(path)
        if self.kind == "xfs":
            assert xfs_bmap(path) == found
        return found

    def inject(self, path: Path, *offsets: int) -> None:
        """Make the sectors at these bytes of a file bad, cached nowhere."""
        runs = filefrag(path)
        for offset in offsets:
            self.place.inject(place_of(runs, offset), SECTOR)
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    def device_offset(self, path: Path, offset: int) -> int:
        """Where a byte of a file lies on the device."""
        return place_of(filefrag(path), offset)

    def write(self, name: str, data: bytes) -> Path:
        """A new file, on the medium."""
        path = self.directory / name
        with path.open("xb") as file:
            file.write(data)
            os.fsync(file.fileno())
        return path


def place_of(runs: list[Run], offset: int) -> int:
    """Where a byte of a file lies on the device, by where the file lies."""
    (run,) = (run for run in runs if run.offset <= offset < run.offset + run.length)
    return run.place + offset - run.offset


def filefrag(path: Path) -> list[Run]:
    """`filefrag -v`; adjoining runs of one kind are one."""
    return joined(filefrag_rows(path))


def filefrag_rows(path: Path) -> list[Run]:
    """`filefrag -v`, in bytes, each extent that it prints."""
    runs = []
    for line in program("filefrag", "-v", "-b4096", path).out.splitlines():
        found = re.match(r"\s*\d+:\s*(\d+)\.\.\s*\d+:\s*(\d+)\.\.\s*\d+:\s*(\d+):(.*)", line)
        if found:
            first, block, count = (int(found[n]) * PAGE for n in (1, 2, 3))
            runs.append(Run(first, block, count, "unwritten" in found[4]))
    return runs


def xfs_bmap(path: Path) -> list[Run]:
    """`xfs_bmap -vp`, in bytes; flag 010000 is unwritten."""
    runs = []
    for line in program("xfs_bmap", "-vp", path).out.splitlines():
        found = re.match(
            r"\s*\d+: \[(\d+)\.\.(\d+)\]:\s*(\d+)\.\.\d+\s+\d+\s+\(.*?\)\s+\d+(?:\s+(\d+))?", line
        )
        if found:
            first, last, block = (int(found[n]) for n in (1, 2, 3))
            unwritten = int(found[4] or "0", 8) & 0o10000 != 0
            length = (last - first + 1) * SECTOR
            runs.append(Run(first * SECTOR, block * SECTOR, length, unwritten))
    return joined(runs)


def joined(runs: list[Run]) -> list[Run]:
    """The same with neighbours made one, in the file and on the device."""
    out: list[Run] = []
    for run in sorted(runs):
        last = out[-1] if out else None
        if last and run == (*last.end, run.length, last.unwritten):
            out[-1] = last._replace(length=last.length + run.length)
        else:
            out.append(run)
    return out


def is_dax(path: Path) -> bool:
    """Whether the kernel opens the file for DAX (statx)."""
    buffer = ctypes.create_string_buffer(256)
    if _LIBC.statx(-100, os.fsencode(path), 0, 0x7FF, buffer):
        raise OSError(ctypes.get_errno(), "statx", str(path))
    return bool(int.from_bytes(buffer.raw[8:16], "little") & STATX_ATTR_DAX)


@contextmanager
def open_mount(
    kind: str, place: Place, directory: Path, *options: str, dax: bool = True
) -> Iterator[Mounted]:
    """A new file system, made with `options`, mounted while the context lasts."""
    program(*MAKE[kind], *options, place.path)
    mount(place, directory, dax=dax)
    try:
        yield Mounted(kind, place, directory)
    finally:
        program("umount", directory)


def mount(place: Place, directory: Path, *, dax: bool = True) -> None:
    """`mount -o dax`, or without."""
    directory.mkdir(exist_ok=True)
    program("mount", *(["-o", "dax"] if dax else []), place.path, directory)
