"""Reading around what is bad, of anything that is open: what cannot be read is found by halving.

Reads go past the page cache (O_DIRECT) where they can, so that the unit of loss is the sector and
not the page, and what was read was on the medium a moment ago; else what is cached is dropped
before it is read.
"""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Iterator, Sequence
from typing import Final

from daxmend.dax.api import Salvage
from daxmend.errors import ChangedError
from daxmend.extent import Extent
from daxmend.rescue.subject import CHUNK, collected
from daxmend.units import PAGE, SECTOR, align_down, align_up

_EHWPOISON: Final = 133  # Python's errno does not have it
# What the kernel says of bytes that the medium cannot give: the block layer has four words, and a
# mapped page that the memory-failure code took away is EHWPOISON.
BAD_ERRNOS: Final = frozenset({errno.EIO, errno.ENODATA, errno.EILSEQ, errno.EREMOTEIO, _EHWPOISON})
_GROWTH: Final = 8  # how much more is asked for after what was asked for came


class Reader:
    """Of an open file or block device with `size` bytes; `grain` is the unit of loss.

    It is at least `grain`. The caller keeps `fd` open meanwhile. With `access` O_RDWR, `write` can
    be used, too.
    """

    def __init__(
        self, fd: int, name: str, size: int, access: int = os.O_RDONLY, grain: int = SECTOR
    ) -> None:
        self.name = name
        self.size = size
        self._fd = fd
        self._view = memoryview(mmap.mmap(-1, CHUNK + PAGE))  # page-aligned, as O_DIRECT wants it
        self._is_exact = False
        self._direct, self.grain = self._open_direct(access, grain)

    @property
    def is_direct(self) -> bool:
        """Whether it reads past the page cache."""
        return self._direct is not None

    def _open_direct(self, access: int, least: int) -> tuple[int | None, int]:
        """The same past the page cache, and the unit of reading; None where it cannot."""
        try:
            fd = os.open(f"/proc/self/fd/{self._fd}", access | os.O_DIRECT | os.O_CLOEXEC)
        except OSError:
            return None, PAGE
        for grain in (SECTOR, PAGE):
            try:
                os.preadv(fd, [self._view[:grain]], 0)
            except OSError as error:
                if error.errno == errno.EINVAL:
                    continue
            return fd, max(grain, least)
        os.close(fd)
        return None, PAGE

    def salvage(self, extent: Extent) -> Salvage:
        """Everything readable of a range before `size`, and what is lost (R12)."""
        return collected(extent, self.pieces(extent))

    def pieces(
        self, extent: Extent, known: Sequence[Extent] = ()
    ) -> Iterator[tuple[Extent, memoryview | None]]:
        """The range, ascending: what was read, valid until the next step, or None for what is lost.

        Nothing is copied or allocated: this is what large files are read with. Of what is `known`
        to be bad (ascending, in whole grains but at the ends of the range) only the first grain
        is read: where that is bad, the rest is believed to be.
        """
        at = extent.offset
        for bad in [*known, Extent(extent.end, 0)]:
            yield from self._unknown_pieces(Extent.between(at, bad.offset))
            if bad.length and self._read(align_down(bad.offset, self.grain), self.grain) is None:
                yield bad, None
            else:
                yield from self._unknown_pieces(bad)
            at = bad.end

    def _unknown_pieces(self, extent: Extent) -> Iterator[tuple[Extent, memoryview | None]]:
        if not extent.length:
            return
        if self._direct is None:  # all of it: a large folio is not dropped in part
            os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_DONTNEED)
        end = align_up(extent.end, self.grain)
        offset = align_down(extent.offset, self.grain)
        while offset < end:
            wide = Extent.between(offset, min(end, offset + CHUNK))
            for part, got in self._walk(wide):
                inside = part.intersection(extent)
                if inside.length:
                    skip = inside.offset - part.offset
                    yield inside, None if got is None else got[skip : skip + inside.length]
            offset = wide.end

    def _walk(self, wide: Extent) -> Iterator[tuple[Extent, memoryview | None]]:
        """The range in pieces, ascending: what was read (until the next step), or None.

        What was asked for in vain holds something bad: its half is asked for next, and the half of
        what is left. Behind something lost the steps are small, and grow; where reads end exactly
        at what is bad, so that a large one costs nothing, they are large at once.
        """
        at, step, is_short = wide.offset, wide.length, False
        suspect = at  # before it something bad is known to lie
        end = min(wide.end, self.size)
        while at < end:
            asked = min(step, wide.end - at)
            got = self._read(at, asked)
            if got is None and asked > self.grain:
                suspect = at + asked
                step = self._half(asked)
                continue
            length = min(asked, end - at) if got is None else len(got)
            yield Extent(at, length), got
            at += length
            if got is None or length < asked:
                self._is_exact = got is None and (self._is_exact or is_short)
                step, suspect = self.grain, at
            elif at < suspect:
                step = self._half(suspect - at)
            else:
                step = CHUNK if self._is_exact else min(step * _GROWTH, CHUNK)
            is_short = got is not None and length < asked

    def _half(self, length: int) -> int:
        return max(self.grain, align_down(length // 2, self.grain))

    def _read(self, offset: int, length: int) -> memoryview | None:
        """What comes of one request, at least a byte; None if its first unit is bad, or a later."""
        fd = self._fd if self._direct is None else self._direct
        try:
            count = os.preadv(fd, [self._view[:length]], offset)
        except OSError as error:
            if error.errno in BAD_ERRNOS:
                return None
            raise OSError(
                error.errno, f"{error.strerror} (at offset {offset})", self.name
            ) from None
        if not count:
            size = os.fstat(self._fd).st_size
            raise ChangedError(
                f"{self.name} became shorter while it was read: {size} bytes, it had {self.size}; "
                "begin again when nobody changes it"
            )
        return self._view[: min(count, self.size - offset)]

    def cached(self, part: Extent) -> Salvage | None:
        """A part of a page, if the page cache has it: programs read it there (R12).

        Until the kernel drops it, or writes past it. Nothing is read from the medium.
        """
        if self._direct is None:  # what was cached was dropped
            return None
        data = bytearray(part.length)
        try:
            count = os.preadv(self._fd, [data], part.offset, os.RWF_NOWAIT)
        except OSError:  # not cached, or a file system that cannot be asked
            return None
        return Salvage(data, []) if count == part.length else None

    def is_tail_readable(self) -> bool:
        """Whether the page in which the file ends can be read as a whole.

        The page cache, and DAX, fail for a sector behind the end; a request by sectors, which goes
        past the cache, does not ask for that one.
        """
        tail = align_down(self.size, PAGE)
        if tail == self.size:
            return True
        os.posix_fadvise(self._fd, tail, PAGE, os.POSIX_FADV_DONTNEED)
        try:
            os.pread(self._fd, self.size - tail, tail)
        except OSError as error:
            if error.errno not in BAD_ERRNOS:
                raise
            return False
        return True

    def write(self, offset: int, data: bytes) -> int:
        """One request, past the cache if that can be; else written back on return (fdatasync)."""
        if self._direct is not None:
            try:
                self._view[: len(data)] = data
                return os.pwritev(self._direct, [self._view[: len(data)]], offset)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
        done = os.pwrite(self._fd, data, offset)
        os.fdatasync(self._fd)
        return done

    def close(self) -> None:
        """Let go of what it opened itself."""
        if self._direct is not None:
            os.close(self._direct)
