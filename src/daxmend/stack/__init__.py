"""Opens things: the name of a pool, or `ram:SIZE`, becomes a device."""

from daxmend.stack.device import open_device
from daxmend.stack.pool import create

__all__ = ["create", "open_device"]
