"""Guarded copies, flushing copies, and the few system calls that Python has no name for."""

from daxmend._native._core import (
    Watch,
    address_of,
    fence,
    forget_segv,
    forward_segv,
    install,
    instructions,
    read,
    read_into,
    store_line,
    write,
    write_flush,
)
from daxmend._native.fault import MemoryFault
from daxmend._native.mapping import madvise, map_again, map_file, unmap, userfaultfd

try:
    from daxmend._native._core import digest
except ImportError:  # built where <xxhash.h> was not
    from daxmend._native.fallback import digest

__all__ = [
    "MemoryFault",
    "Watch",
    "address_of",
    "digest",
    "fence",
    "forget_segv",
    "forward_segv",
    "install",
    "instructions",
    "madvise",
    "map_again",
    "map_file",
    "read",
    "read_into",
    "store_line",
    "unmap",
    "userfaultfd",
    "write",
    "write_flush",
]
