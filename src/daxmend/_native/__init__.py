"""Guarded copies, flushing copies, and the few system calls that Python has no name for."""

from daxmend._native._core import (
    address_of,
    fence,
    flush,
    forget_segv,
    forward_segv,
    install,
    madvise,
    map_file,
    memory_at,
    read,
    read_into,
    store_line,
    unmap,
    userfaultfd,
    write,
    write_flush,
)
from daxmend._native.fault import MemoryFault

try:
    from daxmend._native._core import digest
except ImportError:  # built where <xxhash.h> was not
    from daxmend._native.fallback import digest

__all__ = [
    "MemoryFault",
    "address_of",
    "digest",
    "fence",
    "flush",
    "forget_segv",
    "forward_segv",
    "install",
    "madvise",
    "map_file",
    "memory_at",
    "read",
    "read_into",
    "store_line",
    "unmap",
    "userfaultfd",
    "write",
    "write_flush",
]
