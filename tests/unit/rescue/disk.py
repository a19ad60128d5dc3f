"""A disk with one file on it, for tests: sectors go bad, and the machine can stop at any step."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from daxmend.dax.api import Salvage
from daxmend.errors import ChangedError
from daxmend.extent import Extent, merged
from daxmend.host.deviceuser import User
from daxmend.host.unknown import Unknown
from daxmend.rescue.subject import Subject, iter_pieces
from daxmend.rescue.target import FileExtent
from daxmend.units import PAGE, SECTOR, align_up


class Killed(BaseException):
    """The machine stopped: nothing that runs after it may change anything."""


class Clock:
    """Counts steps; stops the machine before one of them."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.steps = 0
        self.stop_at = stop_at

    def step(self) -> None:
        if self.stop_at is not None and self.steps >= self.stop_at:
            raise Killed
        self.steps += 1


class Disk:
    """What survives: bytes, size, bad sectors; `refuses` names sectors that cannot be written."""

    def __init__(self, data: bytes) -> None:
        self.bytes = bytearray(data + bytes(-len(data) % PAGE))
        self.size = len(data)
        self.bad: set[int] = set()
        self.refuses: set[int] = set()
        self.is_dax = False  # programs get nothing of a page with a bad sector, also behind the end
        self.clock = Clock()
        self.note: Path | None = None

    def hurt(self, offset: int, length: int = SECTOR) -> None:
        for sector in range(offset // SECTOR, -(-(offset + length) // SECTOR)):
            self.bad.add(sector)
            self.bytes[sector * SECTOR : (sector + 1) * SECTOR] = b"\xee" * SECTOR


class DiskFile:
    """Implements `Subject` on a `Disk`."""

    grain = SECTOR
    identity = 7
    mtime_ns = 0
    is_touched = False
    has_holes = True
    mode = 0o600
    owner = 0

    def __init__(self, disk: Disk, place: Path) -> None:
        self.disk = disk
        self.name = str(place)
        self.location = (place, b"")
        self.size = disk.size
        self.notices: list[str] = []
        self.keeps_the_tail = False  # a write says it is done, and what is behind the end is not

    def data(self) -> Iterator[Extent]:
        if self.size:
            yield Extent(0, self.size)

    def salvage(self, extent: Extent) -> Salvage:
        data = bytearray(self.disk.bytes[extent.offset : extent.end])
        lost = []
        for sector in sorted(self.disk.bad):
            part = Extent(sector * SECTOR, SECTOR).intersection(extent)
            if part.length:
                lost.append(part)
                start = part.offset - extent.offset
                data[start : start + part.length] = bytes(part.length)
        return Salvage(data, merged(lost))

    def pieces(self, extent: Extent) -> Iterator[tuple[Extent, memoryview | None]]:
        return iter_pieces(extent, self.salvage(extent))

    def unreadable(self, extent: Extent) -> Iterator[Extent]:
        if not self.disk.is_dax:
            return iter(self.salvage(extent).lost)
        pages = sorted({sector * SECTOR // PAGE for sector in self.disk.bad})
        found = [Extent(page * PAGE, PAGE).intersection(extent) for page in pages]
        return (run for run in found if run.length)

    def validate(self) -> None:
        if self.disk.size != self.size:
            raise ChangedError("its size has changed")

    def user(self) -> User | None:
        return None

    def is_same(self, other: Subject) -> bool:
        return isinstance(other, DiskFile) and other.disk is self.disk

    def extents(self) -> list[FileExtent] | Unknown:
        return [FileExtent(0, 0, len(self.disk.bytes), True)]

    def is_same_as_path(self, path: str | os.PathLike[str]) -> bool:
        return Path(path) == self.location[0]

    def sharers(self, extents: list[Extent]) -> list[str]:
        return []

    def note_journal(self, path: Path | None) -> None:
        self.disk.clock.step()
        self.disk.note = path

    def noted_journal(self) -> Path | None:
        return self.disk.note

    def write(self, offset: int, data: bytes) -> int:
        end = offset + len(data)
        if self.keeps_the_tail and end == self.size:
            return len(data)
        whole = data + bytes(-len(data) % PAGE)
        if end == self.size and len(whole) > len(data):
            self.disk.clock.step()
            self.disk.size = align_up(self.size, PAGE)
        for at in range(0, len(whole), SECTOR):
            sector = (offset + at) // SECTOR
            try:
                self.disk.clock.step()
            except Killed:
                self.disk.bad.add(sector)  # what was being written is torn
                raise
            if sector in self.disk.refuses:
                if not at // PAGE:
                    raise OSError(5, "Input/output error")
                return at - at % PAGE
            self.disk.bytes[sector * SECTOR : (sector + 1) * SECTOR] = whole[at : at + SECTOR]
            self.disk.bad.discard(sector)
        if end == self.size:
            self.disk.clock.step()
            self.disk.size = self.size
        return len(data)

    def zero(self, extent: Extent) -> str:
        self.write(extent.offset, bytes(extent.length))
        return "zeroes"

    def punch(self, extent: Extent) -> None:
        wide = extent.widened(PAGE)
        self.disk.clock.step()
        self.disk.bytes[wide.offset : wide.end] = bytes(wide.length)
        self.disk.bad -= set(range(wide.offset // SECTOR, wide.end // SECTOR))

    def restore_size(self, size: int) -> None:
        self.disk.clock.step()
        self.disk.size = self.size = size

    def sync(self) -> None:
        self.disk.clock.step()

    def close(self) -> None:
        pass
