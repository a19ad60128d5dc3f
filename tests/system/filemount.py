"""A file system in a pool, mounted through the command line; else as in rawmount.py."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from rawmount import DURABILITY, PAGE, SECTOR, Mapping, Mounted, Ran, cli, pattern, wait_until

from daxmend.extent import Extent, format_badblocks
from daxmend.media.pool import open_pool
from daxmend.pmem.device import PmemDevice
from daxmend.pmem.intent import Kept

FILE_POOL_SIZE = 32 << 20


class Placed(NamedTuple):
    """An extent of a file, as `user.daxmend.extents` has it."""

    offset: int
    device_offset: int
    length: int
    is_written: bool


class Files(Mounted):
    """A pool and, once `mount` was called, its file system; `path` names what is in it."""

    def __init__(self, base: Path, open_mode: str, programs: Path) -> None:
        super().__init__(base, open_mode, programs)
        self.size = FILE_POOL_SIZE
        self.device = self.control / "device"

    def create(self, *options: str) -> None:
        options = options or DURABILITY
        created = cli("create", self.pool, "--size", self.size, *options)
        assert created.status == 0, created
        self.mountpoint.mkdir(exist_ok=True)

    def mount(self, *options: str) -> Ran:
        words = ",".join([f"open={self.open_mode}", *options])
        return cli("mount", "-o", words, "--log", self.log, self.pool, self.mountpoint)

    def remount(self, *options: str) -> None:
        self.must_umount()
        self.must_mount(*options)

    # What the tests do all the time

    def path(self, name: str) -> Path:
        return self.mountpoint / name

    def make(self, name: str, pages: int = 8) -> Path:
        """A file whose pages hold `pattern`."""
        path = self.path(name)
        path.write_bytes(b"".join(map(pattern, range(pages))))
        return path

    @contextlib.contextmanager
    def opened_file(self, path: Path, flags: int = os.O_RDWR) -> Iterator[int]:
        fd = os.open(path, flags)
        try:
            yield fd
        finally:
            os.close(fd)

    def read_at(self, path: Path, length: int, offset: int) -> bytes:
        with self.opened_file(path, os.O_RDONLY) as fd:
            return os.pread(fd, length, offset)

    def write_at(self, path: Path, data: bytes, offset: int) -> int:
        with self.opened_file(path, os.O_WRONLY) as fd:
            return os.pwrite(fd, data, offset)

    def placed(self, path: Path | int) -> list[Placed]:
        """Where the file lies."""
        lines = os.getxattr(path, "user.daxmend.extents").decode().splitlines()
        rows = [line.split() for line in lines]
        return [Placed(int(a), int(b), int(c), state == "written") for a, b, c, state in rows]

    def place(self, path: Path | int, offset: int) -> int:
        """The device offset of a file offset."""
        for at, device_offset, length, _ in self.placed(path):
            if at <= offset < at + length:
                return device_offset + offset - at
        raise AssertionError(f"{path}: a hole at {offset}")

    def damage(self, path: Path | int, offset: int, length: int = PAGE) -> None:
        """Record and poison the sectors of a file's range."""
        wanted = Extent(offset, length).widened(SECTOR)
        for at, device_offset, size, _ in self.placed(path):
            part = wanted.intersection(Extent(at, size))
            if part.length:
                place = part.shifted(device_offset - at)
                self.write_control("badblocks", format_badblocks([place]))

    def poison(self, path: Path, offset: int, length: int = 64) -> None:
        """Make latent poison under a range of a file that lies in one piece."""
        self.write_control("poison", f"{self.place(path, offset)} {length}\n")

    def mapped_file(self, path: Path, access: str = "rw") -> Mapping:
        control = str(self.control / "badblocks")
        return Mapping([str(self.programs / "mapped"), str(path), access, control])

    def lose(self, path: Path, page: Extent, kept: int) -> None:
        """As a failed or stopped recovery leaves a page: lost, its first bytes kept (R18)."""
        place = self.place(path, page.offset)
        data = self.read_at(path, kept, page.offset)
        self.must_umount()
        device = PmemDevice(open_pool(self.pool))
        device._record.set_lost([Extent(place, page.length)])
        device._record.keep([Kept(Extent(place, kept), data)])
        device.close()
        self.must_mount()

    def wait_until_clean(self) -> None:
        """Until the janitor has cleared what is free."""
        wait_until(lambda: self.badblocks == "", "no bad sector is left in free space")
