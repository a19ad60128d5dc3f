"""A /sys of our own, planted in a directory: disks, partitions, dm and loop devices, and the bus of
persistent memory, laid out as Linux 6.1 and 6.12 show them."""

from __future__ import annotations

import os
from pathlib import Path

BASE = 0x40000000  # where the planted region begins in memory
MIB = 1 << 20


class SysfsTree:
    """`root` is what functions take as `sysfs`; sizes and offsets are bytes."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for directory in ("dev/block", "dev/char", "block", "bus/nd/devices", "bus/dax/devices"):
            (root / directory).mkdir(parents=True)
        (root / "class").mkdir()

    def write(self, directory: Path, **files: object) -> Path:
        directory.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (directory / name).write_text(f"{text}\n")
        return directory

    def disk(
        self, name: str, minor: int, size: int, badblocks: str | None = "", below: str = "devices"
    ) -> int:
        """A disk; `badblocks` None: the driver keeps no record."""
        directory = self.root / below / "block" / name
        number = self._block(directory, minor, size)
        (directory / "slaves").mkdir()
        (directory / "holders").mkdir()
        (directory / "badblocks").write_text("\n" if badblocks is None else badblocks)
        (self.root / "block" / name).symlink_to(directory)
        return number

    def directory(self, number: int) -> Path:
        link = self.root / "dev" / "block" / f"{os.major(number)}:{os.minor(number)}"
        return link.resolve()

    def partition(self, disk: int, name: str, minor: int, start: int, size: int) -> int:
        directory = self.directory(disk) / name
        number = self._block(directory, minor, size)
        self.write(directory, partition=1, start=start // 512)
        return number

    def mapped(self, name: str, minor: int, size: int, *below: int) -> int:
        """A dm device; its table is the ioctl's to tell."""
        number = self.disk(name, minor, size, None)
        self.write(self.directory(number) / "dm", name=f"{name}-name")
        for member in below:
            disk = self.directory(member)
            (self.directory(number) / "slaves" / disk.name).symlink_to(disk)
            holders = disk / "holders"
            holders.mkdir(exist_ok=True)
            (holders / name).symlink_to(self.directory(number))
        return number

    def loop(self, name: str, minor: int, size: int, backing_file: object, offset: int = 0) -> int:
        number = self.disk(name, minor, size, None)
        self.write(self.directory(number) / "loop", backing_file=backing_file, offset=offset)
        return number

    def _block(self, directory: Path, minor: int, size: int) -> int:
        self.write(directory, dev=f"259:{minor}", size=size // 512)
        (self.root / "dev" / "block" / f"259:{minor}").symlink_to(directory)
        return os.makedev(259, minor)

    # -- persistent memory -----------------------------------------------------------------

    BUS = "devices/platform/e820_pmem/ndbus0"

    @property
    def region(self) -> Path:
        return self.root / self.BUS / "region0"

    def plant_region(self, size: int, badblocks: str = "") -> Path:
        self.write(self.region, size=size, resource=hex(BASE))
        (self.region / "badblocks").write_text(badblocks)
        devices = self.root / "bus" / "nd" / "devices"
        (devices / "region0").symlink_to(self.region)
        (devices / "ndbus0").symlink_to(self.region.parent)
        return self.region

    def namespace(self, name: str, mode: str, offset: int, size: int, holder: str = "") -> Path:
        return self.write(
            self.region / name, mode=mode, size=size, resource=hex(BASE + offset), holder=holder
        )

    def claim(self, name: str, namespace: str, offset: int, size: int) -> Path:
        """What claims a namespace: pfn0.1, dax0.1, btt0.1; `offset` is its data's in the region."""
        return self.write(
            self.region / name, namespace=namespace, size=size, resource=hex(BASE + offset)
        )

    def pmem_disk(self, name: str, minor: int, claim: str, size: int, bad: str | None) -> int:
        return self.disk(name, minor, size, bad, below=f"{self.BUS}/region0/{claim}")

    def dax_device(self, name: str, minor: int, claim: str, offset: int, size: int) -> int:
        directory = self.write(
            self.region / claim / name, dev=f"252:{minor}", size=size, resource=hex(BASE + offset)
        )
        (directory / "subsystem").symlink_to(self.root / "bus" / "dax")
        (self.root / "dev" / "char" / f"252:{minor}").symlink_to(directory)
        return os.makedev(252, minor)
