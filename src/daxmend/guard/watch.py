"""`watch`: any code works on mapped memory, and what faulted is an exception at the end."""

from __future__ import annotations

import errno
import os
import signal
from types import TracebackType
from typing import Self

from daxmend.errors import FaultError, UnknownStateError, UsageError
from daxmend.extent import Extent, merged
from daxmend.guard.cause import error_of, mark_beyond
from daxmend.guard.probe import probe_region
from daxmend.guard.region import Region, find_region, pages_of
from daxmend.guard.trap import Done, Entry, Fault, merged_faults, unpack_entries
from daxmend.host.siginfo import code_name


class Watch:
    """A guard over the pages of a buffer that shows a mapped file, for a `with` block.

    Inside the block, a load or store of any code and any thread that faults in these pages finds
    zeros instead, and goes on; stores to such a page are lost. Leaving the block maps the file back
    and raises `MediaError` (`TruncatedError`, if all of it lies past the end of the file), whose
    `ranges` has every range, in bytes of the file; pages count as a whole. A block that ended in an
    exception raises the fault, with that as its context; but for `KeyboardInterrupt` and its like,
    which go through. So does what does not touch the pages.

    A system call on a bad page (`os.write(fd, array)`) gives EFAULT and no signal. If that ends the
    block, the pages are asked, and the fault is raised in its place.

    What cannot be kept exact: over 16,384 faults in memory mapped read-only, the good pages between
    bad ones show what they held then, and no later change, until `refresh`; and where the kernel's
    limit of mappings is reached, good pages are zeros too: `unknown` and the exception say so.

    May be entered again, not twice at a time; watches of others may overlap it: each is told, also
    of what others met before and have not mapped back.
    """

    def __init__(self, buffer: object) -> None:
        """`UsageError` for memory without a file; `UnsupportedError`: see `Region`."""
        address, length = pages_of(buffer)
        name = getattr(buffer, "filename", None)  # numpy.memmap and Mapping have it
        region = find_region(buffer, address, length, None if name is None else os.fspath(name))
        self._setup(buffer, region, address, length)

    @classmethod
    def over(cls, region: Region, address: int, length: int) -> Self:
        """The same for whole pages of a region that is known: cheaper."""
        self = cls.__new__(cls)
        self._setup(region.owner, region, address, length)
        return self

    def _setup(self, buffer: object, region: Region, address: int, length: int) -> None:
        self._buffer = buffer
        self._pin: memoryview | None = None  # nobody unmaps what is watched
        self._region = region
        self._within = Extent(address - region.address, length)
        self._is_active = False
        self._faults: list[Fault] = []
        self._unknown: list[Extent] = []
        self._trap = region.watch(self._within)

    @property
    def region(self) -> Region:
        """The pages' mapping, for `over`."""
        return self._region

    # -- the block -------------------------------------------------------------------------

    def __enter__(self) -> Self:
        if self._is_active:
            raise UsageError("this guard is active already; make another one")
        if self._faults or self._unknown:
            self._faults, self._unknown = [], []
        pin = _pinned(self._buffer)
        self._trap.start()
        self._pin = pin
        self._is_active = True
        self._region.users += 1
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        has_met = self._trap.stop()
        try:
            if has_met or self._faults or self._unknown or kind is not None:
                self._leave(error)
        finally:
            self._is_active = False
            self._region.users -= 1
            if self._pin is not None:
                self._pin.release()

    def _leave(self, error: BaseException | None) -> None:
        self._show_file()  # first: at the limit of mappings there is no memory to read the list
        self._take()
        if not self._faults and _is_refused_call(error):
            self._faults = probe_region(self._region, self._within)
        is_other = error is not None and not isinstance(error, Exception)
        if is_other or isinstance(error, FaultError):
            return
        if self._faults or self._unknown:
            raise error_of(self._region.source, self._faults, self._unknown) from error

    # -- what was met ----------------------------------------------------------------------

    @property
    def faults(self) -> list[Fault]:
        """What faulted since the block was entered, or `refresh` was called; ascending.

        In bytes of the file. Of a block that has ended: what was raised.
        """
        self._take()
        return list(self._faults)

    @property
    def unknown(self) -> list[Extent]:
        """Where good pages were zeros too, in bytes of the file; see the class."""
        self._take()
        return list(self._unknown)

    def refresh(self) -> list[Fault]:
        """Show the file again where there are zeros, after a repair; returns what is still bad.

        What can be read by now is forgotten, and does not raise at the end of the block. Raises
        `UnknownStateError` if the file cannot be mapped back; nothing is forgotten then.
        """
        self._take()  # first: what is put there later has to be told again
        self._show_file()
        before = [fault.extent for fault in self._faults] + self._unknown
        self._faults, self._unknown = [], []
        for extent in before:
            self._faults += probe_region(self._region, extent.shifted(-self._region.offset))
        self._faults = merged_faults(self._faults)
        return list(self._faults)

    def _take(self) -> None:
        """Read what the trap has done since the last time."""
        entries = [entry for entry in unpack_entries(self._trap.take()) if entry.length]
        if entries:
            self._note(entries)

    def _note(self, entries: list[Entry]) -> None:
        region = self._region
        shift = region.offset + self._within.offset
        faults: list[Fault] = []
        unknown: list[Extent] = []
        for entry in entries:
            where = Extent(entry.offset, entry.length).shifted(shift)
            if entry.done == Done.UNKNOWN:
                unknown.append(where)
            elif entry.done != Done.COPIED:
                code = code_name(signal.SIGBUS, entry.code)
                faults.append(Fault(*where, code))
        self._unknown = merged([*self._unknown, *unknown])
        self._faults = merged_faults([*self._faults, *mark_beyond(region.source, faults)])

    def _show_file(self) -> None:
        try:
            self._trap.restore()
        except OSError as error:
            raise UnknownStateError(
                f"{self._region.source.name}: zeros stand in the memory, and cannot be replaced by "
                f"the file: {error.strerror}; unmap the memory, or end this process"
            ) from error


def _is_refused_call(error: BaseException | None) -> bool:
    """Whether a system call may have met a bad page: numpy tells of a short write, and no errno."""
    return isinstance(error, OSError) and error.errno in (errno.EFAULT, None)


def _pinned(buffer: object) -> memoryview | None:
    """A view; None for an array, which keeps its mapping itself. `ValueError` for a closed one."""
    if hasattr(buffer, "__array_interface__"):
        return None
    return memoryview(buffer)  # type: ignore[arg-type]  # that is what is asked
