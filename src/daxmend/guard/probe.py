"""Which pages would fault, asked without a signal."""

from __future__ import annotations

import errno
from collections.abc import Iterator

from daxmend import _native
from daxmend.errors import UnknownStateError
from daxmend.extent import Extent
from daxmend.guard.cause import mark_beyond
from daxmend.guard.region import Region, find_region, pages_of
from daxmend.guard.trap import Fault, merged_faults
from daxmend.units import PAGE

_MADV_POPULATE_READ = 22
_CHUNK = 1 << 30  # bytes asked for in one call
EHWPOISON = 133  # the errno module does not have it
_FAULTS = {errno.EFAULT: "EFAULT", EHWPOISON: "BUS_MCEERR_AR"}


def probe(buffer: object) -> list[Fault]:
    """The pages under a buffer that a load would fault on, in bytes of the file; ascending.

    `buffer` is a mapping of a file, or a part of one: any array or buffer. Reads all of it into the
    page cache, and no byte of it into the processor: latent poison is not met, and not found (R3).
    A page that can be read but not stored to (a full file system) is not found either, nor one that
    a `Watch` shows as zeros now.

    `UsageError` for memory without a file, `UnknownStateError` on a kernel that cannot be asked
    (before 5.14).
    """
    address, length = pages_of(buffer)
    region = find_region(buffer, address, length)
    return probe_region(region, Extent(address - region.address, length))


def probe_region(region: Region, extent: Extent) -> list[Fault]:
    """The same for a part of a region, in bytes of it."""
    found = []
    for at in range(extent.offset, extent.end, _CHUNK):
        part = Extent.between(at, min(extent.end, at + _CHUNK))
        for bad, code in _iter_bad(part.shifted(region.address)):
            file = bad.shifted(region.offset - region.address)
            found.append(Fault(file.offset, file.length, code))
    return merged_faults(mark_beyond(region.source, found))


def _iter_bad(extent: Extent) -> Iterator[tuple[Extent, str]]:
    """By halves; in bytes of memory."""
    rest = [extent]
    while rest:
        part = rest.pop()
        code = _ask(part)
        if code is None:
            continue
        if part.length == PAGE:
            yield part, code
            continue
        middle = part.offset + part.length // PAGE // 2 * PAGE
        rest += [Extent.between(middle, part.end), Extent.between(part.offset, middle)]


def _ask(extent: Extent) -> str | None:
    """None if all its pages are there."""
    try:
        _native.madvise(extent.offset, extent.length, _MADV_POPULATE_READ)
    except OSError as error:
        if error.errno in _FAULTS:
            return _FAULTS[error.errno]
        raise UnknownStateError(
            f"this kernel cannot tell which pages would fault: {error.strerror}; it needs Linux "
            "5.14, and memory that can be read"
        ) from None
    return None
