"""A scrub by reading: every byte of a device or file is asked for, past the caches (R4).

For what has no scrub of its own. What cannot be read is found by halving, and kept in a map as GNU
ddrescue has it (`+` could be read, `-` could not), with which a scrub that was stopped goes on.
Nothing is written to what is read.
"""

from __future__ import annotations

import mmap
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from daxmend import _native
from daxmend._native import MemoryFault
from daxmend.errors import UnknownStateError, UsageError
from daxmend.extent import Extent
from daxmend.rescue.mapfile import RescueMap, Status, format_mapfile, parse_mapfile
from daxmend.rescue.reader import Reader
from daxmend.rescue.salvage import write_durably
from daxmend.rescue.subject import CHUNK, iter_lost
from daxmend.units import MIB, PAGE, align_down

_CHECKPOINT_SECONDS: Final = 5.0
_RATES_A_SECOND: Final = 8  # how often a limited scrub pauses
_DAX_ALIGNMENT: Final = 2 * MIB  # what a mapping of a dax device is aligned to, at least


class ReadScrub:
    """One run over `size` bytes of what lies at `path`; `name` is for messages.

    `rate` is bytes a second at most. With `mapfile`, what an earlier run has read is not read
    again, and what was bad is tried again. Raises `UnknownStateError` for what may not be read.
    """

    def __init__(
        self,
        name: str,
        path: str,
        size: int,
        *,
        mapfile: Path | None = None,
        rate: int | None = None,
    ) -> None:
        self._name = name
        self._mapfile = mapfile
        self._rate = rate
        self._saved_at = time.monotonic()
        self.map = self._open_map(size)
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        except PermissionError as error:
            raise UnknownStateError(f"{path}: cannot be read: {error.strerror}; ask root") from None
        mode = os.fstat(self._fd).st_mode
        self._is_file = stat.S_ISREG(mode)
        if stat.S_ISCHR(mode):
            self._reader: Reader | None = None
        else:
            self._reader = Reader(self._fd, name, size)

    def _open_map(self, size: int) -> RescueMap:
        if self._mapfile is None or not self._mapfile.exists():
            return RescueMap(size)
        return read_mapfile(self._mapfile, size)

    @property
    def bad(self) -> list[Extent]:
        """What could not be read, ascending; also what an earlier run could not."""
        return unreadable(self.map)

    def run(self, extent: Extent | None = None) -> Iterator[Extent]:
        """Read the range, or everything; yields what has been dealt with, in order.

        However it ends, the mapfile says how far it came.
        """
        whole = Extent(0, self.map.size) if extent is None else extent
        try:
            at = whole.offset
            rest = [status for status in Status if status is not Status.SAVED]
            for missing in self.map.extents(*rest, within=whole):
                if missing.offset > at:
                    yield Extent.between(at, missing.offset)
                for chunk in self._chunks(missing):
                    self._read(chunk)
                    yield chunk
                at = missing.end
            if whole.end > at:
                yield Extent.between(at, whole.end)
        finally:
            self._save()

    def _chunks(self, missing: Extent) -> Iterator[Extent]:
        """Pieces that are read at once; where the rate is limited, one at a time."""
        step = CHUNK
        if self._rate is not None:
            step = min(CHUNK, max(align_down(self._rate // _RATES_A_SECOND, PAGE), PAGE))
        at = missing.offset
        while at < missing.end:
            begun = time.monotonic()
            chunk = Extent.between(at, min(missing.end, at - at % step + step))
            yield chunk
            at = chunk.end
            if self._rate is not None:
                time.sleep(max(chunk.length / self._rate - (time.monotonic() - begun), 0))

    def _read(self, chunk: Extent) -> None:
        if self._reader is None:
            lost = list(self._read_mapped(chunk))
        else:
            lost = list(iter_lost(self._reader.pieces(chunk)))
            if self._ends_in_a_bad_page(chunk):
                lost.append(Extent.between(align_down(chunk.end, PAGE), chunk.end))
        self.map.set(chunk, Status.SAVED)
        for run in lost:
            self.map.set(run, Status.BAD)
        if time.monotonic() - self._saved_at > _CHECKPOINT_SECONDS:
            self._save()

    def _ends_in_a_bad_page(self, chunk: Extent) -> bool:
        """Whether a file's last page fails for what lies behind its end."""
        assert self._reader is not None
        is_last = self._is_file and chunk.end == self.map.size
        return is_last and not self._reader.is_tail_readable()

    def _read_mapped(self, chunk: Extent) -> Iterator[Extent]:
        """The pages of a dax device, which cannot be read but mapped, that fault."""
        window = chunk.widened(_DAX_ALIGNMENT).intersection(Extent(0, self.map.size))
        with mmap.mmap(
            self._fd, window.length, mmap.MAP_SHARED, mmap.PROT_READ, offset=window.offset
        ) as memory:
            at = chunk.offset - window.offset
            try:
                _native.read(memory, at, chunk.length)
            except MemoryFault:
                for page in range(at, at + chunk.length, PAGE):
                    length = min(PAGE, at + chunk.length - page)
                    try:
                        _native.read(memory, page, length)
                    except MemoryFault:
                        yield Extent(window.offset + page, length)

    def _save(self) -> None:
        self._saved_at = time.monotonic()
        if self._mapfile is not None:
            comments = [f"Mapfile of a scrub by daxmend of {self._name.encode('unicode_escape')!r}"]
            write_durably(self._mapfile, format_mapfile(self.map, comments).encode("ascii"))

    def close(self) -> None:
        """Let go of what was read."""
        if self._reader is not None:
            self._reader.close()
        os.close(self._fd)


def read_mapfile(path: Path, size: int) -> RescueMap:
    """The map of a thing of `size` bytes. Raises `OSError`, and as `parse_mapfile`."""
    try:
        text = path.read_text(encoding="ascii")
    except UnicodeDecodeError:
        raise UsageError(f"{path} is no mapfile of GNU ddrescue") from None
    return parse_mapfile(text, size, str(path))


def unreadable(rescue: RescueMap) -> list[Extent]:
    """What a map says could not be read, ascending."""
    return rescue.extents(Status.BAD, Status.UNTRIMMED, Status.UNSCRAPED)
