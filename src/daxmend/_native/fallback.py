"""The checksums of units in Python, where the C core was built without the library's header."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xxhash import xxh3_64_intdigest

from daxmend._native._core import read

if TYPE_CHECKING:
    from typing_extensions import Buffer

_CHUNK = 1 << 20


def digest(memory: Buffer, offset: int, length: int, grain: int, /) -> bytes:
    """See `_core.pyi`."""
    if grain <= 0 or length % grain:
        raise ValueError(f"{length} bytes are not units of {grain}")
    step = max(_CHUNK // grain, 1) * grain
    digests = bytearray()
    for start in range(offset, offset + length, step):
        chunk = memoryview(read(memory, start, min(step, offset + length - start)))
        for at in range(0, len(chunk), grain):
            digests += xxh3_64_intdigest(chunk[at : at + grain]).to_bytes(8, "little")
    return bytes(digests)
