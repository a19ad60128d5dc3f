"""The bytes of files: read, write, allocate, zero, free (R10–R18, R29–R32)."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
from typing import TYPE_CHECKING

from daxmend.dax import io
from daxmend.dax.api import AccessMode, Recovery, Salvage
from daxmend.errors import MediaError, os_error
from daxmend.extent import Extent, merged
from daxmend.fs.change import Mapped, Unmapped, Written
from daxmend.fs.core import Core
from daxmend.fs.inode import MAX_SIZE, RUN_LENGTH, Inode, Mapping
from daxmend.units import PAGE, SECTOR, align_up

if TYPE_CHECKING:
    from collections.abc import Iterator

    from typing_extensions import Buffer

    from daxmend.fs.extentmap import Run

_END = MAX_SIZE // PAGE


class Data(Core):
    """The content of regular files. Offsets and lengths are bytes, of any alignment."""

    def _file(self, ino: int) -> Inode:
        inode = self._inode(ino)
        if not stat.S_ISREG(inode.attributes.mode):
            raise os_error(errno.EISDIR if stat.S_ISDIR(inode.attributes.mode) else errno.EINVAL)
        return inode

    # -- reading ---------------------------------------------------------------------------

    def read(self, ino: int, offset: int, length: int) -> bytes:
        """The bytes up to the end of the file or the first bad sector (R10, R11).

        Raises `MediaError` if the first byte's sector is bad.
        """
        inode = self._live.get(ino) or self._file(ino)
        gap = inode.gap
        if gap[0] <= offset < offset + length <= gap[1]:
            data = self.device.read_clean(offset + gap[2], length)
            if data is not None and inode.gap is gap:  # mapping and size are what they were
                return data
        with self.lock:
            length = min(length, self._file(ino).attributes.size - offset)
            return self._read_pieces(inode, offset, length) if length > 0 else b""

    def salvage(self, ino: int, extent: Extent) -> Salvage:
        """Everything readable of a range inside the file, and what is lost, in its offsets (R12).

        Also what recoveries kept (R18). Never raises for poison.
        """
        data = bytearray(extent.length)
        lost = []
        with self.lock:
            for offset, place in self._written(self._file(ino), extent):
                saved = self.device.recovery_read(place)
                at = offset - extent.offset
                data[at : at + place.length] = saved.data
                lost += [run.shifted(offset - place.offset) for run in saved.lost]
        return Salvage(data, merged(lost))

    def view(self, ino: int, offset: int, length: int) -> memoryview | None:
        """The bytes themselves, to be used at once, if they lie in one piece without damage."""
        inode = self._live.get(ino) or self._file(ino)
        gap = inode.gap
        if gap[0] <= offset < offset + length <= gap[1]:
            place = offset + gap[2]
            found = self.device.view_clean(place, length)
            return found or io.view(self.device, Extent(place, length))
        return None

    def _read_pieces(self, inode: Inode, offset: int, length: int) -> bytes:
        parts: list[bytes] = []
        end = offset + length
        while offset < end:
            run = self._look(inode, offset)
            if run is not None and run.pgoff * PAGE <= offset and run.is_written:
                count = min(end, run.end * PAGE) - offset
                place = run.place * PAGE + offset - run.pgoff * PAGE
                try:
                    data = io.read(self.device, Extent(place, count))
                except MediaError:
                    if not parts:
                        raise
                    break
            else:
                count = _zeros_ahead(run, offset, end)
                data = bytes(count)
            parts.append(data)
            offset += len(data)
            if len(data) < count:
                break
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _look(self, inode: Inode, offset: int) -> Run | None:
        """The run at `offset`, or the next one; the gap of the normal path follows it."""
        run = inode.map.find(offset // PAGE)
        if run is not None and run.is_written and run.pgoff * PAGE <= offset:
            start = run.pgoff * PAGE
            end = min(run.end * PAGE, inode.attributes.size)
            inode.gap = (start, end, run.place * PAGE - start)
        return run

    # -- writing ---------------------------------------------------------------------------

    def write(self, ino: int, offset: int, data: Buffer, recovery: Recovery = Recovery.AUTO) -> int:
        """Write; bad pages heal in place (R14–R16), the file grows. Returns the bytes written.

        Fewer than asked where a page cannot be healed (R17) or space ends; raises `MediaError` or
        ENOSPC if that is none. Durable after `sync`.
        """
        view = memoryview(data).cast("B")
        with self.lock:
            self._check_writable()
            inode = self._file(ino)
            if offset + len(view) > MAX_SIZE:
                if offset >= MAX_SIZE:
                    raise os_error(errno.EFBIG)
                view = view[: MAX_SIZE - offset]
            size = inode.attributes.size
            done = 0
            try:
                self._zero_to(inode, offset)
                while done < len(view):
                    done += self._write_piece(inode, offset + done, view[done:], recovery)
                    # At once: the next piece may commit, and no page is written beyond the end.
                    if offset + done > inode.attributes.size:
                        self._touch(inode, size=offset + done)
            except OSError:
                if done == 0:
                    raise
            finally:
                if done:
                    self._note_written(inode, has_grown=inode.attributes.size > size)
            return done

    def _note_written(self, inode: Inode, *, has_grown: bool) -> None:
        """The times; a write that changed only them waits for the next commit."""
        now = time.time_ns()
        self._touch(inode, mtime_ns=now, ctime_ns=now)
        if has_grown or self._pending:
            self._end_operation()

    def _write_piece(self, inode: Inode, offset: int, data: memoryview, recovery: Recovery) -> int:
        """Write up to the end of the run or hole at `offset`; at least a byte, or it raises."""
        run = self._look(inode, offset)
        if run is None or run.pgoff * PAGE > offset:
            limit = len(data) if run is None else run.pgoff * PAGE - offset
            return self._write_hole(inode, offset, data[:limit])
        place = run.place * PAGE + offset - run.pgoff * PAGE
        data = data[: run.end * PAGE - offset]
        if run.is_written:
            size = max(inode.attributes.size, offset + len(data))
            owned_end = place - offset + size
            return io.write(self.device, place, data, recovery, owned_end=owned_end)
        if not self._can_split():
            self._zero_run(inode, run)
            return self._write_piece(inode, offset, data, recovery)
        pages, first = _padded(offset, data), offset // PAGE
        done = io.write(self.device, place - offset % PAGE, pages)  # heals what is below (R13)
        done -= done % PAGE
        if not done:
            raise MediaError(self.device.name, place, len(data))
        self._change(Written(inode.ino, first, first + done // PAGE))
        return min(done - offset % PAGE, len(data))

    def _can_split(self) -> bool:
        """Whether there is room to say that the middle of a run is another one."""
        try:
            self._make_some_room(2 * RUN_LENGTH)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            return False
        return True

    def _zero_run(self, inode: Inode, run: Run) -> None:
        """All of an unwritten run becomes written: what has its place is never ENOSPC."""
        self._zero_pieces([Extent(run.place * PAGE, run.pages * PAGE)])
        self._change(Written(inode.ino, run.pgoff, run.end))

    def _write_hole(self, inode: Inode, offset: int, data: memoryview) -> int:
        """Allocate pages and fill them; what the data does not cover is zero (R13)."""
        pages, first = _padded(offset, data), offset // PAGE
        self._make_room(2 * RUN_LENGTH)
        extent = self._allocate(inode, first, len(pages))
        try:
            done = io.write(self.device, extent.offset, pages[: extent.length])
        except OSError:
            self._space.give_back(extent)
            raise
        used = Extent(extent.offset, done - done % PAGE)
        if used.length < extent.length:
            self._space.give_back(Extent.between(used.end, extent.end))
        if not used.length:
            raise MediaError(self.device.name, extent.offset, PAGE)
        self._map(inode, first, used, is_written=True)
        return min(used.length - offset % PAGE, len(data))

    def _allocate(self, inode: Inode, pgoff: int, length: int) -> Extent:
        """Up to `length` bytes for the pages from `pgoff` on, behind what is before them."""
        if self._space.free_length < length and self._space.has_freed:
            self._commit()
        if not self._space.free_length:
            self._return_room()
        return self._space.allocate(length, _goal(inode, pgoff))

    def _map(self, inode: Inode, pgoff: int, extent: Extent, *, is_written: bool) -> None:
        place, count = extent.offset // PAGE, extent.length // PAGE
        self._change(Mapped(inode.ino, pgoff, place, count, is_written))

    # -- size ------------------------------------------------------------------------------

    def truncate(self, ino: int, size: int) -> None:
        """Set the size. Never fails for a bad page, and never turns a bad sector good (R32)."""
        with self.lock:
            self._check_writable()
            inode = self._file(ino)
            if size > MAX_SIZE:
                raise os_error(errno.EFBIG)
            if size <= inode.attributes.size:  # what was allocated behind the end goes, too
                self._shrink(inode, size)
            else:
                self._zero_to(inode, size)
            now = time.time_ns()
            self._touch(inode, size=size, mtime_ns=now, ctime_ns=now)
            self._end_operation()
            self._clear_bad_tail(inode)

    def is_tail_bad(self, ino: int) -> bool:
        """True if the last page is bad behind the end of the file: it cannot be mapped (R24)."""
        with self.lock:
            return bool(self._bad_tail(self._file(ino)))

    def _shrink(self, inode: Inode, size: int) -> None:
        first = align_up(size, PAGE) // PAGE
        if inode.map.find(first) is not None:
            self._change(Unmapped(inode.ino, first, _END))

    def _clear_bad_tail(self, inode: Inode) -> bool:
        """Zeros behind the end of the file, if its last page is bad; whether it was.

        What the file gave up is cleared when that is durable, and not before.
        """
        bad = self._bad_tail(inode)
        if bad:
            self._commit()
            self._zero_sectors(bad)
        return bool(bad)

    def _bad_tail(self, inode: Inode) -> list[Extent]:
        """What lies behind the end in the last page, on the device, if the page is bad."""
        size = inode.attributes.size
        tail = self._written(inode, Extent(size, -size % PAGE))
        return [place for _, place in tail if any(self.device.badblocks(place.widened(PAGE)))]

    def _zero_to(self, inode: Inode, offset: int) -> None:
        """The file is about to grow: what lies behind its end in the last page becomes zeros."""
        size = inode.attributes.size
        if offset > size:
            gap = Extent.between(size, min(offset, align_up(size, PAGE)))
            if not self._clear_bad_tail(inode):
                self._zero_sectors(place for _, place in self._written(inode, gap))

    def _zero_sectors(self, extents: Iterator[Extent] | list[Extent]) -> None:
        """Zeros, sector by sector where the page is bad; a sector bad before the end stays so.

        What stays bad holds zeros, too, and what is kept of it is zeros: salvage and repair read
        good lines and kept bytes (R12), and what the file gave up must not come back.
        """
        for extent in extents:
            if not any(self.device.badblocks(extent.widened(PAGE))):
                io.write(self.device, extent.offset, bytes(extent.length))
                continue
            for sector in _sectors(extent):
                with contextlib.suppress(MediaError):
                    is_whole = sector.length == SECTOR
                    if is_whole or not any(self.device.badblocks(sector.widened(SECTOR))):
                        io.write_raw(self.device, sector.offset, bytes(sector.length))
                        continue
                with contextlib.suppress(MediaError):  # it stays bad, and says so (R5)
                    window = self.device.direct_access(sector, AccessMode.RECOVERY)
                    window.store(0, bytes(sector.length))
            self.device.keep_zeros(extent)

    # -- allocation ------------------------------------------------------------------------

    def fallocate(self, ino: int, offset: int, length: int, *, keep_size: bool = False) -> None:
        """Give the holes of the range places; they read as zeros until written."""
        with self.lock:
            inode = self._begin_range(ino, offset, length)
            self._fill_holes(inode, offset, offset + length)
            self._end_range(inode, offset + length, keep_size)

    def zero_range(self, ino: int, offset: int, length: int, *, keep_size: bool = False) -> None:
        """Zeros: in place, healing, where it is written (R29); holes are allocated.

        Raises `MediaError`, and nothing has changed, if a page that the range covers in part cannot
        be healed by it (R30).
        """
        with self.lock:
            inode = self._begin_range(ino, offset, length)
            pieces = self._zeroable(inode, offset, offset + length)
            self._fill_holes(inode, offset, offset + length)
            self._zero_pieces(pieces)
            self._end_range(inode, offset + length, keep_size)

    def zeroinit(self, ino: int, offset: int, length: int) -> None:
        """Zeros, in place, healing, where the file is written; all else stays (R29, R30)."""
        with self.lock:
            inode = self._begin_range(ino, offset, length)
            end = min(offset + length, inode.attributes.size)
            self._zero_pieces(self._zeroable(inode, offset, end))
            self._end_range(inode, end, keep_size=True)

    def punch(self, ino: int, offset: int, length: int) -> None:
        """Free whole pages and zero the edges; what was bad goes into quarantine (R31)."""
        with self.lock:
            inode = self._begin_range(ino, offset, length)
            end = offset + length
            inner = Extent(offset, length).narrowed(PAGE)
            head = Extent.between(offset, min(inner.offset, end))
            edges = [head, Extent.between(max(inner.end, head.end), end)]
            pieces = [
                piece for edge in edges for piece in self._zeroable(inode, edge.offset, edge.end)
            ]
            first, last = inner.offset // PAGE, inner.end // PAGE
            around = inode.map.find(first - 1) if first else None
            if around is not None and around.pgoff < first and around.end > last:
                self._make_some_room(RUN_LENGTH)
            self._zero_pieces(pieces)
            if inner.length:
                self._change(Unmapped(ino, first, last))
            self._end_range(inode, end, keep_size=True)

    def _begin_range(self, ino: int, offset: int, length: int) -> Inode:
        self._check_writable()
        if offset < 0 or length <= 0:
            raise os_error(errno.EINVAL)
        if offset + length > MAX_SIZE:
            raise os_error(errno.EFBIG)
        inode = self._file(ino)
        self._clear_bad_tail(inode)  # what lies behind the end counts as covered (R16, R30)
        return inode

    def _end_range(self, inode: Inode, end: int, keep_size: bool) -> None:
        now = time.time_ns()
        size = inode.attributes.size
        if not keep_size and end > size:
            self._zero_to(inode, end)
            size = end
        self._touch(inode, size=size, mtime_ns=now, ctime_ns=now)
        self._end_operation()

    def _zeroable(self, inode: Inode, offset: int, end: int) -> list[Extent]:
        """The device extents of what is written in the range, after a look at their edges (R30).

        What the last page holds behind the end of the file is zeroed, too.
        """
        if end >= inode.attributes.size:
            end = align_up(min(end, inode.attributes.size), PAGE)
        pieces = [place for _, place in self._written(inode, Extent.between(offset, end))]
        for piece in pieces:
            io.check_zeroinit(self.device, piece)
        return pieces

    def _zero_pieces(self, pieces: list[Extent]) -> None:
        for piece in pieces:
            io.zeroinit(self.device, piece)

    def _fill_holes(self, inode: Inode, offset: int, end: int) -> None:
        """All of them, or with ENOSPC none."""
        holes = _holes(inode, offset // PAGE, align_up(end, PAGE) // PAGE)
        wanted = sum(count for _, count in holes) * PAGE
        if wanted > self._space.free_length and self._space.has_freed:
            self._commit()
        self._make_room(2 * RUN_LENGTH * len(holes))
        if wanted > self._space.free_length:
            self._return_room()
        if wanted > self._space.free_length:
            raise os_error(errno.ENOSPC)
        found: list[tuple[int, Extent]] = []
        try:
            for pgoff, count in holes:
                while count:
                    extent = self._space.allocate(count * PAGE, _goal(inode, pgoff))
                    found.append((pgoff, extent))
                    self._make_room(RUN_LENGTH * len(found))
                    pgoff += extent.length // PAGE
                    count -= extent.length // PAGE
        except OSError:
            for _, extent in found:
                self._space.give_back(extent)
            raise
        for pgoff, extent in found:
            self._map(inode, pgoff, extent, is_written=False)

    # -- where things are ------------------------------------------------------------------

    def seek(self, ino: int, offset: int, whence: int) -> int:
        """SEEK_DATA or SEEK_HOLE; unwritten extents are holes. Raises ENXIO where there is none."""
        with self.lock:
            inode = self._file(ino)
            size = inode.attributes.size
            if not 0 <= offset < size:
                raise os_error(errno.ENXIO)
            if whence not in (os.SEEK_DATA, os.SEEK_HOLE):
                raise os_error(errno.EINVAL)
            hole = offset
            for run in inode.map.runs(offset // PAGE, align_up(size, PAGE) // PAGE):
                if not run.is_written:
                    continue
                start = max(run.pgoff * PAGE, offset)
                if whence == os.SEEK_DATA:
                    return start
                if start > hole:
                    break
                hole = run.end * PAGE
            if whence == os.SEEK_DATA:
                raise os_error(errno.ENXIO)
            return min(hole, size)

    def extents(self, ino: int, offset: int = 0) -> Iterator[Mapping]:
        """The extents from the page of `offset` on, merged; the file must not change meanwhile."""
        for run in self._file(ino).map.runs(offset // PAGE):
            pages = (run.pgoff * PAGE, run.place * PAGE, run.pages * PAGE)
            yield Mapping(*pages, run.is_written)

    def device_extents(self, ino: int, extent: Extent) -> list[tuple[int, Extent]]:
        """File offset and device extent of each written part of a file range."""
        with self.lock:
            return list(self._written(self._file(ino), extent))

    def _written(self, inode: Inode, extent: Extent) -> Iterator[tuple[int, Extent]]:
        if not extent.length:
            return
        for run in inode.map.runs(extent.offset // PAGE, align_up(extent.end, PAGE) // PAGE):
            if run.is_written:
                start = run.pgoff * PAGE
                part = Extent(start, run.pages * PAGE).intersection(extent)
                yield part.offset, part.shifted(run.place * PAGE - start)

    def bad_ranges(self, ino: int) -> list[Extent]:
        """The ranges of the file whose sectors are recorded as bad, merged and cut to its size."""
        with self.lock:
            inode = self._file(ino)
            size = inode.attributes.size
            found = []
            for offset, place in self._written(inode, Extent(0, size)):
                for bad, _ in self.device.badblocks(place.widened(SECTOR)):
                    part = bad.intersection(place)
                    found.append(part.shifted(offset - place.offset))
            return merged(found)


def _zeros_ahead(run: Run | None, offset: int, end: int) -> int:
    """How far it is zeros from `offset` on: a hole before `run`, or that if it is unwritten."""
    if run is None:
        return end - offset
    start = run.pgoff * PAGE
    return min(end, start if start > offset else run.end * PAGE) - offset


def _padded(offset: int, data: memoryview) -> memoryview:
    """The data with zeros before and behind, to whole pages."""
    head, tail = offset % PAGE, -(offset + len(data)) % PAGE
    if not head and not tail:
        return data
    return memoryview(bytes(head) + bytes(data) + bytes(tail))


def _goal(inode: Inode, pgoff: int) -> int | None:
    """Where on the device the page would continue what is before it."""
    before = inode.map.find(pgoff - 1) if pgoff else None
    if before is None or before.pgoff >= pgoff:
        return None
    return (before.place + before.pages) * PAGE


def _holes(inode: Inode, first: int, end: int) -> list[tuple[int, int]]:
    """Page and number of pages of each hole in `[first, end)`."""
    holes = []
    for run in inode.map.runs(first, end):
        if run.pgoff > first:
            holes.append((first, run.pgoff - first))
        first = run.end
    if first < end:
        holes.append((first, end - first))
    return holes


def _sectors(extent: Extent) -> Iterator[Extent]:
    """The extent, cut at every sector."""
    offset = extent.offset
    while offset < extent.end:
        end = min(offset - offset % SECTOR + SECTOR, extent.end)
        yield Extent.between(offset, end)
        offset = end
