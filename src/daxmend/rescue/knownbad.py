"""What the record of bad blocks already says of a file, so that it need not be asked for in vain.

A recorded sector is EIO until it is written (R10), and each such answer costs more than a good one:
a large file with many of them is read several times faster around them. One grain of each run is
asked for all the same: a record that is wrong, or old, makes nothing lost. The record is asked
once, when the first byte turns out to be lost.
"""

from __future__ import annotations

import contextlib
import os
from bisect import bisect_right

from daxmend.errors import DaxmendError
from daxmend.extent import Extent, ExtentSet
from daxmend.rescue.opening import open_target


class KnownBad:
    """Bad ranges of one file or device, widened to `grain`; none before `ask`."""

    def __init__(self, path: str | os.PathLike[str], grain: int) -> None:
        self._path = path
        self._grain = grain
        self._is_asked = False
        self._extents: list[Extent] = []
        self._starts: list[int] = []

    def ask(self) -> None:
        """Read the record, once. Where that cannot be asked, nothing is known, and all is read."""
        if self._is_asked:
            return
        self._is_asked = True
        with contextlib.suppress(DaxmendError, OSError):
            target = open_target(self._path)
            with contextlib.closing(target):
                wide = [run.widened(self._grain) for run in target.badblocks()]
                self._extents = list(ExtentSet(self._grain, wide))
        self._starts = [run.offset for run in self._extents]

    def within(self, extent: Extent) -> list[Extent]:
        """What of the range is known to be bad, ascending."""
        first = max(bisect_right(self._starts, extent.offset) - 1, 0)
        found = []
        for run in self._extents[first:]:
            if run.offset >= extent.end:
                break
            if run.overlaps(extent):
                found.append(run.intersection(extent))
        return found
