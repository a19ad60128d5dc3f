"""From a fault to the exception that a person reads: what happened, why, and what to do next."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from typing import Final

from daxmend.errors import FaultError, MediaError, TruncatedError, UnknownStateError
from daxmend.extent import Extent
from daxmend.guard.region import Source
from daxmend.guard.trap import Fault
from daxmend.units import PAGE, align_up

_BAD_BLOCK: Final = frozenset({errno.EIO, errno.ENODATA, errno.EILSEQ, errno.EREMOTEIO})
_GONE: Final = frozenset(
    {errno.ENOTCONN, errno.ESTALE, errno.ETIMEDOUT, errno.ECONNABORTED, errno.EHOSTDOWN}
    | {errno.ESHUTDOWN, errno.EHOSTUNREACH, errno.ENODEV, errno.ENXIO}
)
_MAX_NAMED: Final = 8

_MEND: Final = "save the rest with guard.salvage, put good data there with guard.repair"
_UNREADABLE: Final = f"a bad block, most likely: {_MEND}"
_MEMORY: Final = f"the hardware reports a memory error: {_MEND}"
_FULL: Final = "the file system is full, and the page has no block yet: make room, and try again"
_READABLE: Final = "it can be read by now: it was an error of a moment; refresh, and try again"
_NOT_ASKED: Final = (
    "a bad block, a file system that is full, or one that has gone; the file cannot be opened to "
    "ask"
)


def file_size(fd: int) -> int | None:
    """Bytes of a regular file; None for what has no end that moves."""
    status = os.fstat(fd)
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def mark_beyond(source: Source, faults: list[Fault]) -> list[Fault]:
    """The same faults, what lies past the end of the file as such."""
    fd = source.open()
    if fd is None:
        return faults
    try:
        size = file_size(fd)
    except OSError:
        return faults  # a file system that has gone; `explain` says so
    finally:
        os.close(fd)
    if size is None:
        return faults
    return [part for fault in faults for part in _cut(fault, align_up(size, PAGE))]


def _cut(fault: Fault, end: int) -> list[Fault]:
    """What of it lies before the end of the file, and what behind."""
    before = min(max(end - fault.offset, 0), fault.length)
    behind = fault._replace(
        offset=fault.offset + before, length=fault.length - before, is_beyond=True
    )
    return [part for part in (fault._replace(length=before), behind) if part.length]


def error_of(
    source: Source, faults: Sequence[Fault], unknown: Sequence[Extent] = ()
) -> FaultError | UnknownStateError:
    """The exception for faults, ascending: of the first one's kind; its `ranges` has all of them.

    Without any, for what is unknown.
    """
    if not faults:
        return UnknownStateError(f"{source.name}: {_unknown_text(unknown)}; read them again")
    first = next((fault for fault in faults if not fault.is_beyond), faults[0])
    others = [fault for fault in faults if fault is not first]
    hint = _explain(source, first)
    if others:
        named = ", ".join(f"{f.length} at {f.offset}" for f in others[:_MAX_NAMED])
        more = ", …" if len(others) > _MAX_NAMED else ""
        hint += f"; and {len(others)} more, bytes at offset: {named}{more}"
    if unknown:
        hint += f"; {_unknown_text(unknown)}"
    kind = TruncatedError if first.is_beyond else MediaError
    error = kind(source.name, first.offset, first.length, first.code, hint)
    error.ranges = tuple((fault.offset, fault.length) for fault in faults)
    return error


def _unknown_text(unknown: Sequence[Extent]) -> str:
    length = sum(run.length for run in unknown)
    return (
        f"of {length} bytes from offset {unknown[0].offset} on it is unknown which are bad: the "
        "process had no mapping left (vm.max_map_count), all of them were zeros, and stores to "
        "them are lost"
    )


def _explain(source: Source, fault: Fault) -> str:
    """The likely cause, and what to do."""
    if fault.code == "BUS_MCEERR_AR":
        return _MEMORY
    fd = source.open()
    if fd is None:
        return _open_failure(source)
    try:
        if fault.is_beyond:
            return (
                f"the file was truncated to {os.fstat(fd).st_size} bytes while it was mapped: map "
                "it again, or give it its length and its data back"
            )
        return _read_again(fd, fault)
    except OSError as error:
        return _gone(error)
    finally:
        os.close(fd)


def _open_failure(source: Source) -> str:
    if source.path is not None:
        try:
            os.stat(source.path)
        except FileNotFoundError:
            pass
        except OSError as error:
            if error.errno in _GONE:
                return _gone(error)
    return _NOT_ASKED


def _gone(error: OSError) -> str:
    if error.errno in _GONE:
        return (
            f"the file system has gone ({error.strerror}: a network, or the server of a mount): "
            "bring it back, and map the file again"
        )
    return f"the file cannot be asked for the cause: {error.strerror}"


def _read_again(fd: int, fault: Fault) -> str:
    """By what read(2) says of the same bytes."""
    try:
        os.pread(fd, min(fault.length, PAGE), fault.offset)
    except OSError as error:
        return _UNREADABLE if error.errno in _BAD_BLOCK else _gone(error)
    room = os.fstatvfs(fd)
    if room.f_blocks and not room.f_bavail and _is_hole(fd, fault.offset):
        return _FULL
    return _READABLE


def _is_hole(fd: int, offset: int) -> bool:
    try:
        return os.lseek(fd, offset, os.SEEK_DATA) > offset
    except OSError as error:
        return error.errno == errno.ENXIO
