"""Six ways to put good bytes back where a medium lost some, each as a program would do it by hand.

Every one begins with the same: a file of which some sectors are bad, and the right bytes of exactly
those sectors, from a copy. What else is in a bad page the program has only as far as it can read
it. What it cannot read, and then writes over, it has lost.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Final, NamedTuple

from daxmend.extent import Extent, merged
from daxmend.host import zeroing
from daxmend.report.damage import bad_pages
from daxmend.rescue.reader import Reader
from daxmend.units import MIB


class Lost(NamedTuple):
    """Whole sectors that are bad, and what they held, from the copy."""

    extent: Extent
    right: bytes


class Patient:
    """The damaged file in a program's hands. Counts what is written.

    `name` lies in the directory that `directory` is open on. `lost` is ascending and disjoint.
    """

    def __init__(self, directory: int, name: str, lost: list[Lost]) -> None:
        self.name = name
        self.directory = directory
        self.lost = lost
        self.fd = os.open(name, os.O_RDWR | os.O_CLOEXEC, dir_fd=directory)
        self.size = os.fstat(self.fd).st_size
        self._reader = Reader(self.fd, name, self.size)
        self.has_changed = False
        self.requests = 0  # that change something: writes, holes, verbs that zero, renames
        self.written = 0  # bytes of data
        self.zeroed = 0  # bytes that a verb made zeros

    def __enter__(self) -> Patient:
        return self

    def __exit__(self, *_: object) -> None:
        self._reader.close()
        os.close(self.fd)

    def bad_runs(self) -> Iterator[Extent]:
        """The bad pages, those that follow each other as one, at most 1 MiB."""
        for run in merged(bad_pages([each.extent for each in self.lost])):
            for offset in range(run.offset, run.end, MIB):
                yield Extent.between(offset, min(run.end, offset + MIB))

    def read_around(self, extent: Extent) -> bytearray:
        """What can be read of a range, past the page cache; the copy's bytes where that is bad,
        and zeros for what can be neither read nor had from the copy."""
        saved = self._reader.salvage(extent)
        first = bisect_right(self.lost, extent.offset, key=lambda each: each.extent.end)
        for bad, right in self.lost[first:]:
            part = bad.intersection(extent)
            if not part.length:
                break
            at = part.offset - extent.offset
            start = part.offset - bad.offset
            saved.data[at : at + part.length] = right[start : start + part.length]
        return saved.data

    def write(self, offset: int, data: bytes | bytearray, fd: int | None = None) -> None:
        """pwrite(2) until all is written."""
        view = memoryview(data)
        while view:
            self.requests += 1
            done = os.pwrite(self.fd if fd is None else fd, view, offset)
            self.has_changed = True
            self.written += done
            offset += done
            view = view[done:]

    def change(self, verb: Callable[[int, Extent], None], extent: Extent, *, zeros: bool) -> None:
        """One request that is no write."""
        self.requests += 1
        verb(self.fd, extent)
        self.has_changed = True
        self.zeroed += extent.length if zeros else 0


def pwrite(patient: Patient) -> None:
    """Write the page: what could be read of it, and the copy's bytes. Nothing else (R14)."""
    for run in patient.bad_runs():
        patient.write(run.offset, patient.read_around(run))
    os.fsync(patient.fd)


def zeroinit(patient: Patient) -> None:
    """Set the page to zeros in place with the verb that 2021 proposed for it, then write (R29)."""
    _change_and_write(patient, zeroing.zeroinit, zeros=True)


def zero_range(patient: Patient) -> None:
    """The same with fallocate(2)'s verb for zeros."""
    _change_and_write(patient, zeroing.zero_range, zeros=True)


def zeroout(patient: Patient) -> None:
    """Find the blocks below (FIEMAP), zero the bad sectors there (BLKZEROOUT), then write (R34).

    The device's unit is the sector, so that the rest of the page stays, and is not even read.
    """
    for bad, right in patient.lost:
        patient.change(zeroing.zeroout_below, bad, zeros=True)
        patient.write(bad.offset, right)
    os.fsync(patient.fd)


def punch(patient: Patient) -> None:
    """Give the page back to the file system, and write, so that it gives another one (R35)."""
    _change_and_write(patient, zeroing.punch_hole, zeros=False)


def _change_and_write(
    patient: Patient, verb: Callable[[int, Extent], None], *, zeros: bool
) -> None:
    """Save what can be read of a page, let the verb have it, and write all of it."""
    for run in patient.bad_runs():
        data = patient.read_around(run)
        patient.change(verb, run, zeros=zeros)
        patient.write(run.offset, data)
    os.fsync(patient.fd)


def copy_and_rename(patient: Patient) -> None:
    """Write all of it to a new file, which then takes the name of the old one."""
    name = f"{patient.name}.new"
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    new = os.open(name, flags, 0o600, dir_fd=patient.directory)
    patient.requests += 1
    try:
        for offset in range(0, patient.size, MIB):
            part = Extent.between(offset, min(offset + MIB, patient.size))
            patient.write(offset, patient.read_around(part), new)
        os.fsync(new)
        patient.requests += 1
        os.rename(name, patient.name, src_dir_fd=patient.directory, dst_dir_fd=patient.directory)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=patient.directory)
        raise
    finally:
        os.close(new)
    os.fsync(patient.directory)


class Strategy(NamedTuple):
    """`key` is its name on the command line and in JSON, `title` the one for people; `lacking`
    says what a file system has not on which it cannot be."""

    key: str
    title: str
    lacking: str
    repair: Callable[[Patient], None]


STRATEGIES: Final = (
    Strategy("pwrite", "aligned pwrite", "it cannot be written", pwrite),
    Strategy("zeroinit", "zeroinit + write", "it has no zeroinit", zeroinit),
    Strategy("zero-range", "ZERO_RANGE + write", "it has no ZERO_RANGE", zero_range),
    Strategy("zeroout", "BLKZEROOUT + write", "it names no blocks on a device (FIEMAP)", zeroout),
    Strategy("punch", "punch + write", "no holes can be punched", punch),
    Strategy("copy", "copy + rename", "no file can be made beside it", copy_and_rename),
)
