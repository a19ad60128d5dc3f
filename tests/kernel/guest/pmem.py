"""The guest's emulated persistent memory, as the kernel and ndctl show it."""

import mmap
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from program import program

SECTOR = 512
PAGE = 4096


@dataclass(frozen=True)
class Pmem:
    """A namespace in fsdax mode, and its disk `/dev/NAME`."""

    name: str
    namespace: str
    _kept: dict[int, bytes] = field(default_factory=dict, repr=False, compare=False)

    @property
    def path(self) -> Path:
        """The block device."""
        return Path("/dev", self.name)

    @property
    def badblocks_file(self) -> Path:
        """The record in sysfs; writing to it injects."""
        return Path("/sys/block", self.name, "badblocks")

    def bad_sectors(self) -> list[int]:
        """What sysfs says."""
        lines = self.badblocks_file.read_text().splitlines()
        return expand(tuple(map(int, line.split())) for line in lines)

    def ndctl_bad_sectors(self) -> list[int]:
        """What `ndctl list -M` says."""
        (found,) = program("ndctl", "list", "-M", "-n", self.namespace).json
        blocks = found.get("badblocks", [])
        assert found.get("badblock_count", 0) == sum(block["length"] for block in blocks)
        return expand((block["offset"], block["length"]) for block in blocks)

    def inject(self, sector: int, count: int = 1) -> None:
        """Make sectors bad, each by a line of its own, as the recordings did."""
        for each in range(sector, sector + count):
            self._keep(each * SECTOR // PAGE)
            fd = os.open(self.badblocks_file, os.O_WRONLY)
            try:
                os.write(fd, f"{each} 1".encode())
            finally:
                os.close(fd)

    def _keep(self, page: int) -> None:
        """Remember what a good page holds."""
        if any(sector * SECTOR // PAGE == page for sector in self.bad_sectors()):
            return
        memory = mmap.mmap(-1, PAGE)
        fd = os.open(self.path, os.O_RDONLY | os.O_DIRECT)
        try:
            os.preadv(fd, [memory], page * PAGE)
        finally:
            os.close(fd)
        self._kept[page] = memory[:]

    def clear(self) -> None:
        """Forget all bad sectors: their pages are written again, as they were before it."""
        fd = os.open(self.path, os.O_WRONLY | os.O_DIRECT)
        try:
            for page in {sector * SECTOR // PAGE for sector in self.bad_sectors()}:
                memory = mmap.mmap(-1, PAGE)
                memory[:] = self._kept[page]
                os.pwrite(fd, memory, page * PAGE)
        finally:
            os.close(fd)
        assert self.bad_sectors() == []


def expand(ranges: Iterable[tuple[int, ...]]) -> list[int]:
    """The sectors of `(first, count)` pairs, in order."""
    return sorted(sector for first, count in ranges for sector in range(first, first + count))


def make_fsdax() -> list[Pmem]:
    """Both regions as fsdax namespaces, in the order of their names."""
    made = []
    for namespace in ("namespace0.0", "namespace1.0"):
        ran = program(
            "ndctl", "create-namespace", "-f", "-e", namespace, "-m", "fsdax", "--map=mem"
        )
        made.append(Pmem(str(ran.json["blockdev"]), str(ran.json["dev"])))
    assert [pmem.name for pmem in made] == ["pmem0", "pmem1"]
    return made


def kernel_series() -> str:
    """`6.1` or `6.12`."""
    found = re.match(r"\d+\.\d+", os.uname().release)
    assert found is not None
    return found[0]
