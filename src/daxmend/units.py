"""Sizes, alignment, and lengths as text.

`offset` and `length` are bytes everywhere; a `sector` counts 512 bytes, a `pgoff` 4096-byte pages.
"""

import re

from daxmend.errors import UsageError

CACHELINE = 64  # bytes; the unit of poison (R1)
CLEAR_UNIT = 256  # bytes; the default unit of the medium's clear command (R7)
SECTOR = 512  # bytes; the unit of the bad-block record (R1)
PAGE = 4096  # bytes; the unit of DAX access, recovery and page faults

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30
TIB = 1 << 40

MAX_OFFSET = (1 << 63) - 1  # what the kernel's loff_t holds

_SUFFIXES = {"": 1, "K": KIB, "M": MIB, "G": GIB, "T": TIB}
# Thirty digits: more than any offset, and far from where int() refuses.
_SIZE = re.compile(r"(\d{1,30})([KMGT]?)", re.IGNORECASE | re.ASCII)


def align_down(offset: int, unit: int) -> int:
    """The largest multiple of `unit` that is not above `offset`."""
    return offset - offset % unit


def align_up(offset: int, unit: int) -> int:
    """The smallest multiple of `unit` that is not below `offset`."""
    return offset + -offset % unit


def is_aligned(number: int, unit: int) -> bool:
    """True if `number` is a multiple of `unit`."""
    return number % unit == 0


def parse_size(text: str) -> int:
    """Bytes from `4096`, `64K`, `1G`: a whole number and a power of 1024.

    Raises `UsageError` for anything else, and for what a file offset cannot hold.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"'{text}' is not a size: give bytes, or a number with K, M, G or T")
    size = int(match[1]) * _SUFFIXES[match[2].upper()]
    if size > MAX_OFFSET:
        raise UsageError(f"'{text}' is more than a file offset can hold ({MAX_OFFSET} bytes)")
    return size


def format_size(length: int) -> str:
    """A length for people: `64 KiB`, `1.5 GiB`, `100 B`."""
    for unit, name in ((TIB, "TiB"), (GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
        if length >= unit:
            return f"{length / unit:.4g} {name}"
    return f"{length} B"
