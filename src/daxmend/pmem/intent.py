"""What a recovery means to do, durable before it clears anything (R18, R46; format.md §5).

An intent names the bad units that one write is about to heal, the checksum of each as it is to
become, and the good bytes among them that must survive (`kept`).
"""

import struct
from collections.abc import Iterator
from typing import NamedTuple, Self

from daxmend.extent import Extent
from daxmend.media.checksum import CHECKSUM_LENGTH, checksum_units

_HEAD = struct.Struct("<QIIII")  # id, grain, runs, kept, reserved
_PAIR = struct.Struct("<QQ")  # offset, length


class Request(NamedTuple):
    """One write: `data` for the device bytes of `extent`, `keep` of them from the medium (R16).

    `grain` is the unit of its recovery: a page, or a sector on the block path (R33). The sectors of
    `aside` go with the extent where they share a clear unit with a bad one, and stay lost (R7).
    """

    extent: Extent
    data: memoryview
    keep: tuple[Extent, ...]
    grain: int
    aside: tuple[Extent, ...] = ()

    def part(self, run: Extent) -> memoryview:
        """The data of a run inside the extent."""
        return self.data[run.offset - self.extent.offset : run.end - self.extent.offset]


class Kept(NamedTuple):
    """Good bytes of a bad unit: where they stand on the device, and what they are."""

    extent: Extent
    data: bytes

    def inside(self, extent: Extent) -> "Kept":
        """What of it lies in `extent`, perhaps nothing."""
        part = self.extent.intersection(extent)
        start = part.offset - self.extent.offset
        return Kept(part, self.data[start : start + part.length])

    def outside(self, extent: Extent) -> Iterator["Kept"]:
        """The pieces of it that do not lie in `extent`: none, one or two."""
        before = Extent.between(self.extent.offset, min(extent.offset, self.extent.end))
        after = Extent.between(max(extent.end, self.extent.offset), self.extent.end)
        return (self.inside(part) for part in (before, after) if part.length)


class Hold(NamedTuple):
    """The acknowledged first half of a cut write, and the unit it must cover to heal (R50)."""

    kept: Kept
    unit: int


class Intent(NamedTuple):
    """One recovery. `runs` are aligned to `grain`, ascending.

    For each unit 8 bytes of `checksums` say what it will hold, 8 of `before` what it held, with
    a pattern for each poisoned line: so an untouched unit is told from one that the medium has
    cleared in part.
    """

    id: int
    grain: int
    runs: tuple[Extent, ...]
    checksums: bytes
    before: bytes
    kept: tuple[Kept, ...] = ()

    @classmethod
    def to_write(
        cls, intent_id: int, request: Request, runs: tuple[Extent, ...], before: bytes
    ) -> Self:
        """The intent to make `runs` hold their part of the request's data, keeping its `keep`."""
        checksums = b"".join(checksum_units(request.part(run), request.grain) for run in runs)
        kept = tuple(
            Kept(part, bytes(request.part(part)))
            for part in (wanted.intersection(run) for wanted in request.keep for run in runs)
            if part.length
        )
        return cls(intent_id, request.grain, runs, checksums, before, kept)

    def parts(self) -> Iterator[tuple[Extent, bytes, bytes]]:
        """Each run with its part of `checksums` and of `before`."""
        position = 0
        for run in self.runs:
            length = run.length // self.grain * CHECKSUM_LENGTH
            part = slice(position, position + length)
            yield run, self.checksums[part], self.before[part]
            position += length

    def units(self) -> Iterator[tuple[Extent, bytes, bytes]]:
        """Each unit with its checksum and what `before` says of it."""
        for run, checksums, before in self.parts():
            for index, at in enumerate(range(run.offset, run.end, self.grain)):
                part = slice(index * CHECKSUM_LENGTH, (index + 1) * CHECKSUM_LENGTH)
                yield Extent(at, self.grain), checksums[part], before[part]

    def pack(self) -> bytes:
        """As it stands in the record journal."""
        return b"".join(
            (
                _HEAD.pack(self.id, self.grain, len(self.runs), len(self.kept), 0),
                *(_PAIR.pack(*run) for run in self.runs),
                *(_PAIR.pack(*kept.extent) for kept in self.kept),
                self.checksums,
                self.before,
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
        length = sum(run.length for run in runs) // grain * CHECKSUM_LENGTH
        checksums = payload[position : position + length]
        before = payload[position + length : position + 2 * length]
        position += 2 * length
        kept = []
        for extent in kept_extents:
            kept.append(Kept(extent, payload[position : position + extent.length]))
            position += extent.length
        return cls(intent_id, grain, runs, checksums, before, tuple(kept))


def unpack_id(payload: bytes) -> int:
    """The id that opens an intent's payload and the payload that completes it."""
    return int.from_bytes(payload[:8], "little")


def pack_id(intent_id: int) -> bytes:
    """As `unpack_id` reads it."""
    return intent_id.to_bytes(8, "little")
