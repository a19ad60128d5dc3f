"""Where a file's pages lie: runs of pages, ascending, merged, in three columns (format.md §6.4)."""

import sys
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from daxmend.units import PAGE

_WRITTEN = 1
_MAX_PAGE = (1 << 63) // PAGE  # of a file, or of a device


class Run(NamedTuple):
    """`pages` of a file from `pgoff` on, at the device's page `place`.

    What is allocated but not written reads as zeros, whatever the medium holds (R13).
    """

    pgoff: int
    place: int
    pages: int
    is_written: bool

    @property
    def end(self) -> int:
        """The first page of the file after the run."""
        return self.pgoff + self.pages

    def cut(self, first: int, end: int) -> "Run":
        """The part inside the pages `[first, end)`, which the run overlaps."""
        start = max(self.pgoff, first)
        pages = min(self.end, end) - start
        return Run(start, self.place + start - self.pgoff, pages, self.is_written)


class ExtentMap:
    """The mapping of one file, in pages; a column takes eight bytes a run."""

    __slots__ = ("_counts", "_pgoffs", "_places", "page_count")

    def __init__(self) -> None:
        self._pgoffs = array("Q")
        self._places = array("Q")
        self._counts = array("Q")  # pages, times two; plus one if written
        self.page_count = 0

    def __len__(self) -> int:
        return len(self._pgoffs)

    def _run(self, index: int) -> Run:
        count = self._counts[index]
        return Run(self._pgoffs[index], self._places[index], count >> 1, bool(count & _WRITTEN))

    def _first_index(self, pgoff: int) -> int:
        """The first run that ends after the page."""
        index = bisect_right(self._pgoffs, pgoff) - 1
        if index >= 0 and self._pgoffs[index] + (self._counts[index] >> 1) > pgoff:
            return index
        return index + 1

    def find(self, pgoff: int) -> Run | None:
        """The run that holds the page, or the next one, or None."""
        index = self._first_index(pgoff)
        return self._run(index) if index < len(self._pgoffs) else None

    def runs(self, first: int = 0, end: int | None = None) -> Iterator[Run]:
        """The runs in the pages `[first, end)`, cut to them. The map must not change meanwhile."""
        # All of them are asked for by `check`, too, which cannot rely on their order.
        for index in range(self._first_index(first) if first else 0, len(self._pgoffs)):
            run = self._run(index)
            if first == 0 and end is None:
                yield run
                continue
            if end is not None and run.pgoff >= end:
                return
            yield run.cut(first, run.end if end is None else end)

    def columns(self) -> tuple["array[int]", "array[int]", "array[int]"]:
        """Of each run its pgoff, its place, and its pages times two, plus one if it is written."""
        return self._pgoffs, self._places, self._counts

    def places(self) -> Iterator[tuple[int, int]]:
        """Place and number of pages of each run."""
        for place, count in zip(self._places, self._counts, strict=True):
            yield place, count >> 1

    def at_places(self, first: int, end: int) -> Iterator[Run]:
        """The runs that have one of the device's pages `[first, end)`, uncut; looks at all."""
        for index, (place, pages) in enumerate(self.places()):
            if place < end and place + pages > first:
                yield self._run(index)

    def last(self) -> Run | None:
        """The last run."""
        return self._run(-1) if self._pgoffs else None

    def map(self, run: Run) -> None:
        """Map pages that are not mapped. Raises `ValueError` if one is, or cannot be."""
        found = self.find(run.pgoff)
        if not _is_possible(run) or (found is not None and found.pgoff < run.end):
            raise ValueError(f"{run} cannot be mapped")
        self._replace(run.pgoff, run.end, [run])
        self.page_count += run.pages

    def unmap(self, first: int, end: int) -> Iterator[Run]:
        """Take the pages `[first, end)` out; returns the runs that were there."""
        _check_ascending(first, end)
        removed = ExtentMap()
        start, stop = self._first_index(first), bisect_left(self._pgoffs, end)
        if start < stop:
            removed._pgoffs = self._pgoffs[start:stop]
            removed._places = self._places[start:stop]
            removed._counts = self._counts[start:stop]
            self._replace(first, end, [])
            self.page_count -= sum(count >> 1 for count in removed._counts)
            # the first and the last may reach beyond what goes, and stay in part
            self.page_count += max(first - removed._pgoffs[0], 0)
            self.page_count += max(removed._run(-1).end - end, 0)
        return removed.runs(first, end)

    def mark_written(self, first: int, end: int) -> None:
        """What is mapped in the pages `[first, end)` is written from now on."""
        _check_ascending(first, end)
        runs = [run._replace(is_written=True) for run in self.runs(first, end)]
        self._replace(first, end, runs)

    def is_ascending(self, device_pages: int = _MAX_PAGE) -> bool:
        """True if the runs are possible, in order, and apart; else most methods make no sense."""
        end = 0
        for pgoff, place, count in zip(self._pgoffs, self._places, self._counts, strict=True):
            if pgoff < end or count <= _WRITTEN or place + (count >> 1) > device_pages:
                return False
            end = pgoff + (count >> 1)
        return end <= _MAX_PAGE

    def _replace(self, first: int, end: int, runs: list[Run]) -> None:
        """Put `runs` in place of all that is mapped in `[first, end)`."""
        start, stop = self._first_index(first), bisect_left(self._pgoffs, end)
        if start < stop:
            head, tail = self._run(start), self._run(stop - 1)
            if head.pgoff < first:
                runs = [head.cut(0, first), *runs]
            if tail.end > end:
                runs = [*runs, tail.cut(end, tail.end)]
        stop = max(start, stop)
        if start > 0:
            start -= 1
            runs = [self._run(start), *runs]
        if stop < len(self._pgoffs):
            runs = [*runs, self._run(stop)]
            stop += 1
        self._splice(start, stop, _merged(runs))

    def _splice(self, start: int, stop: int, runs: list[Run]) -> None:
        self._pgoffs[start:stop] = array("Q", [run.pgoff for run in runs])
        self._places[start:stop] = array("Q", [run.place for run in runs])
        self._counts[start:stop] = array("Q", [run.pages << 1 | run.is_written for run in runs])

    def pack(self) -> bytes:
        """The three columns, one after the other, little-endian."""
        return b"".join(_bytes(column) for column in (self._pgoffs, self._places, self._counts))

    @classmethod
    def unpack(cls, columns: bytes | memoryview) -> "ExtentMap":
        """The map whose `pack` gave `columns`."""
        result = cls()
        length = len(columns) // 3
        for index, column in enumerate((result._pgoffs, result._places, result._counts)):
            column.frombytes(columns[index * length : (index + 1) * length])
            if sys.byteorder == "big":
                column.byteswap()
        result.page_count = sum(count >> 1 for count in result._counts)
        return result


def joined(places: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Places and numbers of pages, where one goes on behind another made one."""
    place = pages = 0
    for at, count in places:
        if at == place + pages:
            pages += count
        else:
            if pages:
                yield place, pages
            place, pages = at, count
    if pages:
        yield place, pages


def _is_possible(run: Run) -> bool:
    return run.pages > 0 and run.end <= _MAX_PAGE and run.place + run.pages <= _MAX_PAGE


def _check_ascending(first: int, end: int) -> None:
    if end < first:
        raise ValueError(f"the pages from {first} to {end} are no range")


def _bytes(column: "array[int]") -> bytes:
    if sys.byteorder == "big":
        column = column[:]
        column.byteswap()
    return column.tobytes()


def _merged(runs: list[Run]) -> list[Run]:
    """The same pages in the fewest runs."""
    result: list[Run] = []
    for run in runs:
        if result:
            last = result[-1]
            is_next = last.end == run.pgoff and last.place + last.pages == run.place
            if is_next and last.is_written == run.is_written:
                result[-1] = last._replace(pages=last.pages + run.pages)
                continue
        result.append(run)
    return result
