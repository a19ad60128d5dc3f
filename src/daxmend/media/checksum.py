"""Checksums of units: XXH3-64, 8 bytes each, little-endian (format.md §5)."""

from __future__ import annotations

import sys
from array import array
from typing import TYPE_CHECKING

from daxmend import _native

if TYPE_CHECKING:
    from typing_extensions import Buffer

CHECKSUM_LENGTH = 8


def checksum_units(data: Buffer, grain: int, offset: int = 0, length: int | None = None) -> bytes:
    """The checksums of the units of `grain` bytes in `data[offset : offset + length]`.

    Raises `_native.MemoryFault` if `data` is a mapping that faults.
    """
    if length is None:
        length = memoryview(data).nbytes - offset
    digests = _native.digest(data, offset, length, grain)
    if sys.byteorder == "little":
        return digests
    numbers = array("Q", digests)
    numbers.byteswap()
    return numbers.tobytes()
