"""A set of extents as journal payloads (format.md §4): pairs where it is sparse, bits where dense.

Numbers are in units of the set's grain. Bits bound a snapshot: a bit a unit, whatever the set.
"""

import re
import struct
from collections.abc import Iterable, Iterator

from daxmend.extent import Extent, ExtentSet

_COUNT = struct.Struct("<II")  # form, count
_PAIR = struct.Struct("<QQ")  # first unit, units
_FIRST = struct.Struct("<Q")
_FORM_PAIRS = 1
_FORM_BITS = 2
_BITS_LENGTH = 4096  # bytes of bits in one payload
_CHUNK = 8 * _BITS_LENGTH  # units that one payload of bits covers
_DENSE = _BITS_LENGTH // _PAIR.size  # runs in a chunk from which on bits are shorter
_BATCH = 4096  # runs in one journal entry
_ONES = re.compile("1+")


def batched_runs(extents: list[Extent]) -> Iterator[list[Extent]]:
    """The list in pieces that make journal entries of at most 64 KiB."""
    return (extents[at : at + _BATCH] for at in range(0, len(extents), _BATCH))


def pack_runs(extents: Iterable[Extent], grain: int) -> bytes:
    """The payload that names these extents by pairs."""
    pairs = [_PAIR.pack(e.offset // grain, e.length // grain) for e in extents]
    return _COUNT.pack(_FORM_PAIRS, len(pairs)) + b"".join(pairs)


def unpack_runs(payload: bytes, grain: int) -> Iterator[Extent]:
    """The extents of a payload of either form."""
    form, count = _COUNT.unpack_from(payload)
    if form == _FORM_PAIRS:
        pairs = payload[_COUNT.size : _COUNT.size + count * _PAIR.size]
        for first, units in _PAIR.iter_unpack(pairs):
            yield Extent(first * grain, units * grain)
    else:
        yield from _unpack_bits(payload, grain)


def pack_snapshot(extents: ExtentSet) -> Iterator[bytes]:
    """Payloads that together hold the set, each of a few KiB."""
    grain = extents.grain
    pairs: list[Extent] = []
    position = extents.next_offset(0)
    while position is not None:
        chunk = Extent(position // grain // _CHUNK * _CHUNK * grain, _CHUNK * grain)
        runs = list(extents.extents(chunk))
        if len(runs) >= _DENSE:
            yield _pack_bits(chunk.offset // grain, runs, grain)
        else:
            pairs += runs
        if len(pairs) >= _DENSE:
            yield pack_runs(pairs, grain)
            pairs = []
        position = extents.next_offset(chunk.end)
    if pairs:
        yield pack_runs(pairs, grain)


def _pack_bits(first: int, runs: list[Extent], grain: int) -> bytes:
    text = ""  # a digit a unit, the first unit first: text keeps this linear in the chunk
    for run in runs:
        text = text.ljust(run.offset // grain - first, "0") + "1" * (run.length // grain)
    bits = int(text[::-1], 2).to_bytes(_BITS_LENGTH, "little")
    return _COUNT.pack(_FORM_BITS, _CHUNK) + _FIRST.pack(first) + bits


def _unpack_bits(payload: bytes, grain: int) -> Iterator[Extent]:
    (first,) = _FIRST.unpack_from(payload, _COUNT.size)
    text = f"{int.from_bytes(payload[_COUNT.size + _FIRST.size :], 'little'):b}"[::-1]
    for run in _ONES.finditer(text):
        yield Extent((first + run.start()) * grain, (run.end() - run.start()) * grain)
