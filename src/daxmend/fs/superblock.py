"""The superblock: where the journal and the current checkpoint lie (format.md §6.1).

Copy 0 is the device's first page, copy 1 its last. A new one is made durable in copy 0 before copy
1 is touched, and nothing that the older one names is reused before both are (persistence.md §4).
"""

from __future__ import annotations

import secrets
import struct
import time
from typing import TYPE_CHECKING, NamedTuple

from xxhash import xxh3_64_intdigest

from daxmend.errors import CorruptionError, MediaError, UnsupportedError
from daxmend.extent import Extent
from daxmend.fs.inode import MAX_INO
from daxmend.fs.mirror import COPIES, Mirror
from daxmend.units import KIB, MIB, PAGE, align_down, is_aligned

if TYPE_CHECKING:
    from daxmend.dax.api import DaxDevice

FS_VERSION = 1
MAX_EXTENTS = 100  # of one copy of the checkpoint
MAX_GENERATION = (1 << 63) - 1
_STEP_BITS = 32  # of a random step from one generation to the next
_MIN_JOURNAL = 64 * KIB
_MAX_JOURNAL = 16 * MIB

_MAGIC = b"DMFILES\0"
_PREFIX = struct.Struct("<8sII")
_BODY = struct.Struct("<8sII16sQQQQQQQQII")
_EXTENT = struct.Struct("<QQ")
_CHECKSUM = struct.Struct("<Q")


class Superblock(NamedTuple):
    """The fields of format.md §6.1; offsets and lengths are bytes on the device."""

    uuid: bytes
    created_ns: int
    size: int  # of the device
    generation: int  # grows with every checkpoint; the journal's entries carry it
    next_ino: int
    checkpoint_length: int  # bytes of the records in it
    journal: tuple[Extent, Extent]
    checkpoint: tuple[tuple[Extent, ...], tuple[Extent, ...]]
    has_journal: bool = True  # False: it is out of use, and whatever it holds counts for nothing

    def pack(self) -> bytes:
        """One page."""
        extents = [extent for copy in self.checkpoint for extent in copy]
        length = _BODY.size + len(extents) * _EXTENT.size + _CHECKSUM.size
        body = _BODY.pack(
            _MAGIC,
            FS_VERSION,
            length,
            self.uuid,
            self.created_ns,
            self.size,
            self.generation,
            self.next_ino,
            self.checkpoint_length,
            self.journal[0].length if self.has_journal else 0,
            self.journal[0].offset,
            self.journal[1].offset,
            *map(len, self.checkpoint),
        )
        body += b"".join(_EXTENT.pack(*extent) for extent in extents)
        return (body + _CHECKSUM.pack(xxh3_64_intdigest(body))).ljust(PAGE, b"\0")

    @classmethod
    def unpack(cls, page: bytes, offset: int) -> Superblock:
        """The superblock in a page, which lies at `offset` of the device.

        Raises `CorruptionError` for anything else, `UnsupportedError` for another version.
        """
        magic, version, length = _PREFIX.unpack_from(page)
        if magic != _MAGIC:
            raise CorruptionError("superblock", offset, "magic", _MAGIC.hex(), magic.hex())
        if not _BODY.size + _CHECKSUM.size <= length <= PAGE:
            raise CorruptionError("superblock", offset, "length", f"at most {PAGE}", length)
        (checksum,) = _CHECKSUM.unpack_from(page, length - _CHECKSUM.size)
        wanted = xxh3_64_intdigest(page[: length - _CHECKSUM.size])
        if checksum != wanted:
            raise CorruptionError("superblock", offset, "checksum", wanted, checksum)
        if version != FS_VERSION:
            raise UnsupportedError(
                f"the file system is of version {version}, this daxmend knows {FS_VERSION}; "
                "use the daxmend that made it"
            )
        (_, _, _, uuid, created_ns, size, generation, next_ino, checkpoint_length, *rest) = (
            _BODY.unpack_from(page)
        )
        journal_length, journal0, journal1, count0, count1 = rest
        has_journal = journal_length > 0
        if not has_journal:
            journal_length = journal_places(size)[0].length
        pairs = page[_BODY.size : length - _CHECKSUM.size]
        if len(pairs) != (count0 + count1) * _EXTENT.size:
            raise CorruptionError("superblock", offset, "extents", count0 + count1, len(pairs))
        extents = tuple(Extent(*pair) for pair in _EXTENT.iter_unpack(pairs))
        return cls(
            uuid,
            created_ns,
            size,
            generation,
            next_ino,
            checkpoint_length,
            (Extent(journal0, journal_length), Extent(journal1, journal_length)),
            (extents[:count0], extents[count0:]),
            has_journal,
        )


def next_generation(generation: int) -> int:
    """A later one that nobody can guess, so that no user can forge what belongs to it (ADR 0006).

    Nor is it that of a checkpoint which a stop kept from counting.
    """
    later = generation + 1 + secrets.randbits(_STEP_BITS)
    return later if later <= MAX_GENERATION else time.time_ns()  # somebody made it up: begin again


def journal_places(size: int) -> tuple[Extent, Extent]:
    """Where the two copies of the journal lie on a device of `size` bytes."""
    length = min(max(align_down(size // 128, PAGE), _MIN_JOURNAL), _MAX_JOURNAL)
    end = align_down(size, PAGE)
    return Extent(PAGE, length), Extent(end - PAGE - length, length)


def superblock_mirror(device: DaxDevice) -> Mirror:
    """Where the two copies lie."""
    return Mirror(device, ([Extent(0, PAGE)], [Extent(device.size - PAGE, PAGE)]))


def read_superblock(device: DaxDevice) -> tuple[Superblock, list[tuple[int, str]]]:
    """The newest superblock that proves itself, and the copies that do not hold it, with why.

    Raises `CorruptionError` if there is none, or the newest is of a device of another size;
    `UnsupportedError` if one is of another version.
    """
    found: dict[int, Superblock] = {}
    reasons: dict[int, CorruptionError] = {}
    mirror = superblock_mirror(device)
    for copy in COPIES:
        page = bytes(mirror.read(copy, Extent(0, PAGE)))
        (extent,) = mirror.copies[copy]
        try:
            found[copy] = Superblock.unpack(page, extent.offset)
            _validate(found[copy], extent.offset)
        except CorruptionError as error:
            found.pop(copy, None)
            unreadable = CorruptionError("superblock", extent.offset, "page", "readable", "bad")
            reasons[copy] = unreadable if any(device.badblocks(extent)) else error
    if not found:
        raise reasons[0]
    best = max(found.values(), key=lambda each: each.generation)
    if best.size != device.size:
        raise CorruptionError(
            "superblock", 0, _SIZE_FIELD, device.size, best.size, "the device was cut, or grew"
        )
    stale = [(copy, "is behind") for copy, each in found.items() if each != best]
    return best, stale + [(copy, str(error)) for copy, error in reasons.items()]


_SIZE_FIELD = "size of the device"


def is_of_another_size(error: CorruptionError) -> bool:
    """True if `read_superblock` raised because the device is not the one that was made."""
    return error.field == _SIZE_FIELD


def _validate(superblock: Superblock, offset: int) -> None:
    """Raise `CorruptionError` where the numbers cannot be, whoever wrote them."""
    room = (sum(extent.length for extent in copy) for copy in superblock.checkpoint)
    limits = {
        "generation": MAX_GENERATION,
        "next_ino": MAX_INO,
        "checkpoint_length": min(room),
    }
    for field, limit in limits.items():
        number = getattr(superblock, field)
        if number > limit:
            raise CorruptionError("superblock", offset, field, f"at most {limit}", number)
    length = superblock.journal[0].length
    if length > _MAX_JOURNAL:
        raise CorruptionError("superblock", offset, "journal_length", _MAX_JOURNAL, length)
    end = PAGE
    copies = (superblock.journal, *superblock.checkpoint)
    for extent in sorted(extent for copy in copies for extent in copy):
        is_whole = is_aligned(extent.offset, PAGE) and is_aligned(extent.length, PAGE)
        if not is_whole or not extent.length or extent.offset < end:
            raise CorruptionError("superblock", offset, "extents", "apart, whole pages", extent)
        end = extent.end
    if end > align_down(superblock.size, PAGE) - PAGE:
        raise CorruptionError("superblock", offset, "extents", "on the device", f"up to {end}")


def write_superblock(device: DaxDevice, superblock: Superblock) -> list[int]:
    """Make it durable in copy 0, then in copy 1; returns the copies that hold it.

    Raises `MediaError` if the medium takes it in neither.
    """
    page = superblock.pack()
    mirror = superblock_mirror(device)
    written = []
    for copy in COPIES:
        try:
            mirror.write(copy, 0, page)
            device.fence()
            written.append(copy)
        except MediaError:
            if copy == COPIES[-1] and not written:
                raise
    return written
