"""Opens things: the name of a pool, or `ram:SIZE`, becomes a device."""

from daxmend.media.pool import is_pool, read_owner
from daxmend.pmem.device import PmemDevice
from daxmend.stack.device import open_device, validate_length
from daxmend.stack.filesystem import (
    has_filesystem,
    make_volatile_filesystem,
    open_filesystem,
)
from daxmend.stack.member import PoolDevice, TableDevice
from daxmend.stack.pool import create, create_table
from daxmend.stack.summary import summarize

__all__ = [
    "PmemDevice",
    "PoolDevice",
    "TableDevice",
    "create",
    "create_table",
    "has_filesystem",
    "is_pool",
    "make_volatile_filesystem",
    "open_device",
    "open_filesystem",
    "read_owner",
    "summarize",
    "validate_length",
]
