"""Targets of the running system: a block or dax device, a mounted file system, a file.

What is bad is what the kernel has recorded (`hostrecord.py`); whose it is, is asked of the mounted
file systems that lie on it (`hostupward.py`). Offsets count from the start of the thing named: of
a mount point, from the start of its file system's device (R47).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from daxmend.errors import UnknownStateError, UnsupportedError, UsageError
from daxmend.extent import Extent, check_bounds
from daxmend.host import ndbus
from daxmend.host.fiemap import file_extents
from daxmend.host.mountinfo import Mount
from daxmend.host.topology import BlockDevice, find_block_device
from daxmend.host.unknown import Unknown
from daxmend.rescue.hostowner import Progress
from daxmend.rescue.hostrecord import Bad, Findings, HostRecords
from daxmend.rescue.hostupward import owned_ranges
from daxmend.rescue.readscrub import ReadScrub
from daxmend.rescue.target import FileExtent, Place, Range, merged_ranges, recorded_sectors
from daxmend.units import SECTOR

if TYPE_CHECKING:
    from daxmend.faults import Fault


class HostTarget:
    """Implements `Target`, but for injection; `path` is what is read."""

    content = "host"

    def __init__(self, name: str, path: str, size: int, records: HostRecords) -> None:
        self.name = name
        self.path = path
        self.size = size
        self.notices: list[str] = []
        self.unknown: list[str] = []
        self.records = records

    def _find(self) -> Findings:
        raise NotImplementedError

    def findings(self) -> list[Bad]:
        """What is recorded as bad; sets `unknown`."""
        found = self._find()
        self.unknown[:] = found.unknown
        return found.bad

    def badblocks(self) -> list[Extent]:
        """See `Target`."""
        return recorded_sectors(self.ranges(), SECTOR)

    def ranges(self) -> list[Range]:
        """See `Target`; owners are `locate`'s."""
        return merged_ranges(map(self._range, self.findings()))

    def _range(self, bad: Bad) -> Range:
        return Range(bad.extent, bad.kind, bad.extent.offset, places=bad.places)

    def locate(self, progress: Progress, found: list[Extent] | None = None) -> list[Range]:
        """The ranges with their owners; `progress` is told how many files were looked at.

        Of `found` (ascending, disjoint) instead of the record, for a device that has none.
        """
        raise NotImplementedError

    def inject(self, faults: Iterable[Fault]) -> None:
        """See `Target`: not here."""
        raise UnsupportedError(
            f"{self.name} is no pool, and daxmend makes nothing bad that is real; a driver that "
            "keeps a record takes, from root: echo 'SECTOR COUNT' > /sys/block/DISK/badblocks"
        )

    def uninject(self, extent: Extent) -> Extent:
        """See `Target`: not here."""
        raise UnsupportedError(f"{self.name}: daxmend takes no poison from a real device")

    def scrub(self, extent: Extent | None) -> Iterator[Extent]:
        """See `Target`: by reading everything; what cannot be read is in no record."""
        run = ReadScrub(self.name, self.path, self.size)
        check_bounds(extent or Extent(0, self.size), self.size, self.name)
        try:
            yield from run.run(extent)
        finally:
            run.close()

    def status(self) -> dict[str, object]:
        """See `Target`; `recorded` is None where that is unknown."""
        bad = self.findings()
        recorded = sum(each.extent.length for each in bad) if bad or not self.unknown else None
        return {
            **self._describe(),
            "size": self.size,
            "recorded": recorded,
            "unknown": list(self.unknown),
        }

    def events(self) -> list[dict[str, object]] | None:
        """See `Target`: the kernel tells whoever listens, and keeps nothing."""
        return None

    def _describe(self) -> dict[str, object]:
        return {"device": self.path}

    def close(self) -> None:
        """Nothing is held."""


class HostDevice(HostTarget):
    """A block device, and what is mounted on it or on what lies on it."""

    def __init__(self, name: str, device: BlockDevice, records: HostRecords) -> None:
        super().__init__(name, name, device.size, records)
        self.device = device

    def _find(self) -> Findings:
        return self.records.of_device(self.device.number)

    def locate(self, progress: Progress, found: list[Extent] | None = None) -> list[Range]:
        """See `HostTarget`."""
        bad = self.findings() if found is None else self._as_bad(found)
        return owned_ranges(self.device, bad, self.notices, progress)

    def _as_bad(self, found: list[Extent]) -> list[Bad]:
        self.unknown.clear()
        node = self.device.node
        wide = (each.widened(SECTOR) for each in found)
        return [Bad(each, "unreadable", (Place(node, each.offset),)) for each in wide]

    def _describe(self) -> dict[str, object]:
        return {**super()._describe(), **_describe_memory(self.device.directory)}


class HostDax(HostTarget):
    """A dax character device: nobody's files."""

    def __init__(self, name: str, device: ndbus.DaxCharacterDevice, records: HostRecords) -> None:
        super().__init__(name, name, device.size, records)
        self._device = device

    def _find(self) -> Findings:
        return self.records.of_dax(self._device.number)

    def _describe(self) -> dict[str, object]:
        return {**super()._describe(), **_describe_memory(self._device.directory)}

    def locate(self, progress: Progress, found: list[Extent] | None = None) -> list[Range]:
        """See `HostTarget`; there is nobody to ask for."""
        if found is not None:
            raise UsageError(f"{self.name}: name the device or the mount point that was scrubbed")
        return self.ranges()


class HostMount(HostDevice):
    """The file system on a mount point."""

    def __init__(self, name: str, mount: Mount, device: BlockDevice, records: HostRecords) -> None:
        super().__init__(name, device, records)
        self.path = device.node
        self._mount = mount

    def locate(self, progress: Progress, found: list[Extent] | None = None) -> list[Range]:
        """See `HostTarget`."""
        bad = self.findings() if found is None else self._as_bad(found)
        return owned_ranges(self.device, bad, self.notices, progress, self._mount)

    def _describe(self) -> dict[str, object]:
        return {**super()._describe(), "mounted": self._mount.mount_point}


class HostFileTarget(HostTarget):
    """A regular file; `extents` are where it lies on its file system's device."""

    content = "file"

    def __init__(self, name: str, records: HostRecords) -> None:
        try:
            self._fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except PermissionError as error:
            raise UnknownStateError(f"{name}: {error.strerror}; ask its owner, or root") from None
        super().__init__(name, name, os.fstat(self._fd).st_size, records)

    @property
    def extents(self) -> list[FileExtent]:
        """All of them, ascending. Raises `UnknownStateError` where that cannot be asked."""
        try:
            found = file_extents(self._fd)
        except OSError as error:
            found = Unknown(f"where it lies cannot be asked: {error.strerror}")
        if isinstance(found, Unknown):
            raise UnknownStateError(f"{self.name}: {found.why}")
        return [FileExtent(e.offset, e.device_offset, e.length, e.is_written) for e in found]

    def _find(self) -> Findings:
        found = self.records.of_open_file(self._fd, self.name)
        if found.bad and found.bad[-1].extent.end > self.size:
            said = (
                f"{self.name} ends at byte {self.size}: what is bad behind that is none of its "
                "bytes, but lies in its last page, and a read of that page fails; repair writes it"
            )
            self.notices += [] if said in self.notices else [said]
        return found

    def _range(self, bad: Bad) -> Range:
        path = os.fsencode(os.path.abspath(self.name))
        place = bad.places[-1].offset
        offset = bad.extent.offset
        return Range(bad.extent, bad.kind, place, "file", path, offset, bad.places)

    def locate(self, progress: Progress, found: list[Extent] | None = None) -> list[Range]:
        """See `HostTarget`; there is nobody to ask for."""
        if found is not None:
            raise UsageError(f"{self.name}: name the device or the mount point that was scrubbed")
        return self.ranges()

    def _describe(self) -> dict[str, object]:
        device = find_block_device(os.fstat(self._fd).st_dev)
        return {
            "file": self.name,
            "device": None if isinstance(device, Unknown) else device.node,
            "extents": len(self.extents),
        }

    def close(self) -> None:
        """See `Target`."""
        os.close(self._fd)


def _describe_memory(directory: Path) -> dict[str, object]:
    """Of a device of persistent memory, given by its directory in sysfs: its region, namespace."""
    region, bus = ndbus.region_of(directory), ndbus.bus_of(directory)
    if isinstance(region, Unknown) or isinstance(bus, Unknown):
        return {}
    claims = {parent.name for parent in directory.parents}
    found = [
        namespace
        for namespace in ndbus.iter_namespaces(region)
        if namespace.name in claims or namespace.holder in claims
    ]
    unit, scrub = ndbus.clear_unit(bus, region), ndbus.read_scrub(bus)
    return {
        "region": region.name,
        "namespace": found[0].name if found else None,
        "mode": str(found[0].mode) if found and isinstance(found[0].mode, str) else None,
        "clear_unit": None if isinstance(unit, Unknown) else unit,
        "scrubs": None if isinstance(scrub, Unknown) else f"{scrub.done}{'+' * scrub.is_running}",
    }
