"""What a block device and a dax device have in common as subjects: they lie on themselves."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from daxmend.extent import Extent
from daxmend.host.unknown import Unknown
from daxmend.rescue.target import FileExtent


class DeviceFile:
    """The part of `Subject` in which devices do not differ. `size` is in bytes."""

    is_touched = False  # a device does not tell
    mtime_ns = None
    has_holes = False
    mode = 0o600  # of a copy: whoever could read the device could read every file on it

    size: int
    _stat: os.stat_result

    def data(self) -> Iterator[Extent]:
        """See `Subject`: all of it."""
        if self.size:
            yield Extent(0, self.size)

    @property
    def owner(self) -> int:
        """See `Subject`."""
        return self._stat.st_uid

    @property
    def identity(self) -> int:
        """See `Subject`: the number of the device."""
        return self._stat.st_rdev

    def extents(self) -> list[FileExtent] | Unknown:
        """See `Subject`: it lies on itself."""
        return [FileExtent(0, 0, self.size, True)]

    def sharers(self, extents: list[Extent]) -> list[str]:
        """See `Subject`: nobody else has it."""
        return []

    def note_journal(self, path: Path | None) -> None:
        """See `Subject`: a device keeps no notes."""

    def noted_journal(self) -> Path | None:
        """See `Subject`."""
        return None

    def restore_size(self, size: int) -> None:
        """See `Subject`: a write never changes it."""
