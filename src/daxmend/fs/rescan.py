"""Where both superblocks are lost: a search of the device for the checkpoint (ADR 0006).

The journal's places follow from the device's size, and its mark says which generation counts. The
checkpoint's pages say themselves what they are. Only what proves itself is believed; whole files
that hold a pool of their own have such pages, too, so the mark counts for more than a high number.

It costs one look at every page of the device that was ever stored to, about 0.3 s a GiB in memory,
and memory for the places of what is found.
"""

from __future__ import annotations

import time
import uuid
from typing import TYPE_CHECKING, NamedTuple

from daxmend.dax.api import SparseDevice
from daxmend.errors import CorruptionError
from daxmend.extent import Extent, ExtentSet, merged
from daxmend.fs.checkpoint import MAGIC, PAYLOAD, Page, Reading, unpack_page
from daxmend.fs.extentmap import joined
from daxmend.fs.inode import FIRST_INO
from daxmend.fs.journal import marked_generation
from daxmend.fs.mirror import COPIES, read_pages
from daxmend.fs.record import load_records
from daxmend.fs.state import State
from daxmend.fs.superblock import MAX_GENERATION, Superblock, journal_places, superblock_mirror
from daxmend.units import MIB, PAGE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from daxmend.dax.api import DaxDevice

_GENERATIONS = 16  # of those found, so many of the newest are kept


class Rescan(NamedTuple):
    """What was found, in the place of what a superblock would have led to."""

    superblock: Superblock  # its extents are where pages were found, in no order
    reading: Reading
    text: str


class _Candidate:
    """One generation's pages: their numbers, and where up to two copies of each lie."""

    def __init__(self, generation: int) -> None:
        self.generation = generation
        self.last: int | None = None
        self.places: tuple[dict[int, int], dict[int, int]] = ({}, {})

    def add(self, index: int, is_last: bool, offset: int) -> None:
        for places in self.places:
            if index not in places:
                places[index] = offset
                break
        if is_last:
            self.last = index if self.last is None else min(self.last, index)

    @property
    def count(self) -> int:
        """How many pages it had; at least, where the last one is not there."""
        return max(self.places[0]) + 2 if self.last is None else self.last + 1

    @property
    def is_complete(self) -> bool:
        return self.last is not None and len(self.places[0]) == self.count

    @property
    def has_use(self) -> bool:
        """False where there are next to no pages of what their numbers say there were."""
        return self.count <= 16 * len(self.places[0]) + 16

    def extents(self, copy: int) -> list[Extent]:
        """Where the pages of a copy were found."""
        return merged(Extent(offset, PAGE) for offset in sorted(self.places[copy].values()))


def rescan(device: DaxDevice, reason: CorruptionError) -> Rescan:
    """Find the checkpoint that counts without a superblock; changes nothing.

    Raises `reason` where there is none.
    """
    journals = journal_places(device.size)
    if device.size < 2 * PAGE + sum(journal.length for journal in journals):
        raise reason
    marked = marked_generation(device, journals)
    found = _find_pages(device, marked)
    chosen = _choose(device, list(found.values()), marked)
    if chosen is None:
        raise reason
    said = "the journal confirms it" if chosen.generation == marked else "the journal has no mark"
    text = (
        f"no superblock counts ({reason}); a search of the device found the checkpoint "
        f"{chosen.generation}, {len(chosen.places[0])} of {chosen.count} pages ({said})"
    )
    return Rescan(_superblock(device, chosen), _read(device, chosen), text)


def _superblock(device: DaxDevice, chosen: _Candidate) -> Superblock:
    return Superblock(
        uuid.uuid4().bytes,
        time.time_ns(),
        device.size,
        chosen.generation,
        FIRST_INO,  # and above all inodes that are found
        chosen.count * PAYLOAD,
        journal_places(device.size),
        (tuple(chosen.extents(0)), tuple(chosen.extents(1))),
    )


def _iter_pages(device: DaxDevice) -> Iterator[tuple[int, bytes]]:
    """Offset and bytes of every page that begins like one of a checkpoint."""
    whole = Extent(0, device.size)
    stored = device.iter_stored(whole) if isinstance(device, SparseDevice) else iter([whole])
    for extent in stored:
        pages = extent.widened(PAGE).intersection(whole)
        for start in range(pages.offset, pages.end, MIB):
            piece = read_pages(device, Extent(start, min(MIB, pages.end - start)))
            for at in range(0, len(piece), PAGE):
                if piece[at : at + len(MAGIC)] == MAGIC:
                    yield start + at, piece[at : at + PAGE]


def _find_pages(device: DaxDevice, wanted: int | None) -> dict[int, _Candidate]:
    """The pages of one generation, or of the newest ones."""
    reserved = (*superblock_mirror(device).extents(), *journal_places(device.size))
    found: dict[int, _Candidate] = {}
    for offset, data in _iter_pages(device):
        page = unpack_page(data)
        if page is None or any(extent.overlaps(Extent(offset, PAGE)) for extent in reserved):
            continue
        generation = page.generation
        is_wanted = wanted is None or generation == wanted
        if is_wanted and generation <= MAX_GENERATION and page.number < device.size // PAGE:
            candidate = found.setdefault(generation, _Candidate(generation))
            candidate.add(page.number, page.is_last, offset)
            if len(found) > _GENERATIONS:
                del found[min(found)]
    return found


def _choose(
    device: DaxDevice, candidates: list[_Candidate], marked: int | None
) -> _Candidate | None:
    """The marked one; else the newest whole one that no other one knows to be part of a file."""
    candidates = [candidate for candidate in candidates if candidate.has_use]
    for candidate in candidates:
        if candidate.generation == marked:
            return candidate
    whole = [candidate for candidate in candidates if candidate.is_complete]
    if not whole:
        return max(candidates, key=lambda each: len(each.places[0]), default=None)
    files = {each.generation: _file_pages(device, each) for each in whole}
    own = [
        each
        for each in whole
        if not any(
            _lies_in(each, files[other.generation]) and not _lies_in(other, files[each.generation])
            for other in whole
        )
    ]
    return max(own or whole, key=lambda each: each.generation)


def _file_pages(device: DaxDevice, candidate: _Candidate) -> ExtentSet:
    """The pages that a checkpoint gives to files."""
    state = State()
    load_records(state, _read(device, candidate).pages, [])
    pages = ExtentSet(PAGE)
    for place, count in joined(state.iter_places()):
        pages.add(Extent(place * PAGE, count * PAGE).intersection(Extent(0, device.size)))
    return pages


def _lies_in(candidate: _Candidate, pages: ExtentSet) -> bool:
    return all(pages.covers(extent) for copy in COPIES for extent in candidate.extents(copy))


def _read(device: DaxDevice, candidate: _Candidate) -> Reading:
    """The pages' payloads, from the first place of each."""
    pages: list[Page | None] = []
    for index in range(candidate.count):
        offset = candidate.places[0].get(index)
        found = None if offset is None else unpack_page(read_pages(device, Extent(offset, PAGE)))
        pages.append(found.page if found is not None else None)
    return Reading(pages, [])
