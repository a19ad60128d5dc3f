"""What a recovery means to do, durable before it clears anything (R18, R46; format.md §5).

An intent names the bad units that one write is about to heal, the checksum of each as it is to
become, and the good bytes among them that must survive (`kept`).
"""

import struct
from collections.abc import Iterator
from typing import NamedTuple, Self

from xxhash import xxh3_64_intdigest

from daxmend.extent import Extent

_HEAD = struct.Struct("<QIIII")  # id, grain, runs, kept, reserved
_PAIR = struct.Struct("<QQ")  # offset, length
_CHECKSUM = struct.Struct("<Q")


class Kept(NamedTuple):
    """Good bytes of a bad unit: where they stand on the device, and what they are."""

    extent: Extent
    data: bytes


class Intent(NamedTuple):
    """One recovery. `runs` are aligned to `grain`, ascending; `checksums` has one for each unit."""

    id: int
    grain: int
    runs: tuple[Extent, ...]
    checksums: tuple[int, ...]
    kept: tuple[Kept, ...] = ()

    @classmethod
    def to_write(
        cls,
        intent_id: int,
        grain: int,
        runs: tuple[Extent, ...],
        offset: int,
        data: memoryview,
        keep: tuple[Extent, ...],
    ) -> Self:
        """The intent to make `runs` hold their part of `data`, which starts at `offset`."""
        checksums = tuple(
            xxh3_64_intdigest(data[at - offset : at - offset + grain])
            for run in runs
            for at in range(run.offset, run.end, grain)
        )
        kept = tuple(
            Kept(part, bytes(data[part.offset - offset : part.end - offset]))
            for part in keep
            if any(part.overlaps(run) for run in runs)
        )
        return cls(intent_id, grain, runs, checksums, kept)

    def units(self) -> Iterator[tuple[Extent, int]]:
        """Each unit with its checksum."""
        extents = (
            Extent(at, self.grain)
            for run in self.runs
            for at in range(run.offset, run.end, self.grain)
        )
        return zip(extents, self.checksums, strict=True)

    def pack(self) -> bytes:
        """As it stands in the record journal."""
        return b"".join(
            (
                _HEAD.pack(self.id, self.grain, len(self.runs), len(self.kept), 0),
                *(_PAIR.pack(*run) for run in self.runs),
                *(_PAIR.pack(*kept.extent) for kept in self.kept),
                struct.pack(f"<{len(self.checksums)}Q", *self.checksums),
                *(kept.data for kept in self.kept),
            )
        )

    @classmethod
    def unpack(cls, payload: bytes) -> Self:
        """The intent of a payload whose checksum the journal has proven."""
        intent_id, grain, run_count, kept_count, _ = _HEAD.unpack_from(payload)
        position = _HEAD.size
        pairs = []
        for _ in range(run_count + kept_count):
            pairs.append(Extent(*_PAIR.unpack_from(payload, position)))
            position += _PAIR.size
        runs, kept_extents = tuple(pairs[:run_count]), pairs[run_count:]
        units = sum(run.length for run in runs) // grain
        checksums = struct.unpack_from(f"<{units}Q", payload, position)
        position += units * _CHECKSUM.size
        kept = []
        for extent in kept_extents:
            kept.append(Kept(extent, payload[position : position + extent.length]))
            position += extent.length
        return cls(intent_id, grain, runs, checksums, tuple(kept))


def unpack_id(payload: bytes) -> int:
    """The id that opens an intent's payload and the payload that completes it."""
    return int.from_bytes(payload[:8], "little")


def pack_id(intent_id: int) -> bytes:
    """As `unpack_id` reads it."""
    return intent_id.to_bytes(8, "little")
