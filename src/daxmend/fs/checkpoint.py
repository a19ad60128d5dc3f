"""A checkpoint: the records of all inodes in checksummed pages, twice (format.md §6.2)."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

from xxhash import xxh3_64_intdigest

from daxmend.extent import Extent
from daxmend.fs.mirror import COPIES
from daxmend.units import PAGE

if TYPE_CHECKING:
    from collections.abc import Iterable

    from daxmend.fs.mirror import Mirror

MAGIC = b"DMCP"
_HEAD = struct.Struct("<4sHHQIIQ")  # magic, first record, flags, generation, index, used, sum
_SUMMED = struct.Struct("<4sHHQII")
PAYLOAD = PAGE - _HEAD.size
NO_RECORD = 0xFFFF  # no record begins in the page
_LAST = 1  # flag: no page comes after this one
_PIECE = 256  # pages read at once


def pages_for(length: int) -> int:
    """How many pages hold `length` bytes of records."""
    return max(-(-length // PAYLOAD), 1)


class Page(NamedTuple):
    """One page's payload, and where in it the first record begins, or `NO_RECORD`."""

    payload: bytes
    first_record: int


class FoundPage(NamedTuple):
    """A page that proves itself to be one of some checkpoint."""

    generation: int
    number: int  # of the page
    is_last: bool
    page: Page


class Reading(NamedTuple):
    """A checkpoint as it was found: `pages` has None where both copies are lost."""

    pages: list[Page | None]
    damaged: list[tuple[int, int]]  # copy and page


def write_checkpoint(mirror: Mirror, records: Iterable[bytes], generation: int) -> int:
    """Write the records to both copies; returns their length in bytes. Durable after a fence."""
    starts: list[int] = []
    length = 0
    parts = []
    for record in records:
        starts.append(length)
        length += len(record)
        parts.append(record)
    stream = b"".join(parts)
    data = b"".join(_pages(stream, starts, generation))
    for copy in COPIES:
        mirror.write(copy, 0, data)
    return length


def _pages(stream: bytes, starts: list[int], generation: int) -> Iterable[bytes]:
    record = 0
    count = pages_for(len(stream))
    for index in range(count):
        at = index * PAYLOAD
        payload = stream[at : at + PAYLOAD]
        while record < len(starts) and starts[record] < at:
            record += 1
        is_inside = record < len(starts) and starts[record] < at + PAYLOAD
        first_record = starts[record] - at if is_inside else NO_RECORD
        yield _pack(payload, first_record, generation, index, _LAST * (index == count - 1))


def _pack(payload: bytes, first_record: int, generation: int, index: int, flags: int = 0) -> bytes:
    head = _SUMMED.pack(MAGIC, first_record, flags, generation, index, len(payload))
    checksum = xxh3_64_intdigest(head + payload)
    return (head + checksum.to_bytes(8, "little") + payload).ljust(PAGE, b"\0")


def read_checkpoint(mirror: Mirror, length: int, generation: int) -> Reading:
    """Both copies, page by page: the payload of whichever proves itself."""
    count = pages_for(length)
    pages: list[Page | None] = []
    damaged = []
    for first in range(0, count, _PIECE):
        within = Extent(first * PAGE, min(_PIECE, count - first) * PAGE)
        areas = [memoryview(mirror.read(copy, within)) for copy in COPIES]
        for at in range(0, within.length, PAGE):
            index = first + at // PAGE
            found = [_unpack(area[at : at + PAGE], generation, index) for area in areas]
            pages.append(found[0] or found[1])
            damaged += [(copy, index) for copy in COPIES if found[copy] is None]
    return Reading(pages, damaged)


def _unpack(page: memoryview, generation: int, index: int) -> Page | None:
    """The page, if it is that page of that generation and whole."""
    found = unpack_page(page)
    if found is None or (found.generation, found.number) != (generation, index):
        return None
    return found.page


def unpack_page(page: memoryview | bytes) -> FoundPage | None:
    """The page, if it is a whole one of any checkpoint."""
    if len(page) < PAGE:
        return None
    magic, first_record, flags, generation, index, used, checksum = _HEAD.unpack_from(page)
    if magic != MAGIC or used > PAYLOAD:
        return None
    payload = bytes(page[_HEAD.size : _HEAD.size + used])
    if xxh3_64_intdigest(bytes(page[: _SUMMED.size]) + payload) != checksum:
        return None
    is_last = bool(flags & _LAST) or used < PAYLOAD
    return FoundPage(generation, index, is_last, Page(payload, first_record))


def heal_checkpoint(mirror: Mirror, damaged: list[tuple[int, int]], generation: int) -> None:
    """Rewrite pages of a copy from the other one, where that has them."""
    for copy, index in damaged:
        extent = Extent(index * PAGE, PAGE)
        page = mirror.read(1 - copy, extent)
        if _unpack(memoryview(page), generation, index) is not None:
            mirror.write(copy, extent.offset, page)
