"""Opens things: the name of a pool, or `ram:SIZE`, becomes a device.

Here stands what asks of a file without opening a device; `device`, `filesystem` and `pool` open and
make them, and import the whole stack.
"""

from daxmend.media.pool import is_pool, read_owner

__all__ = ["is_pool", "read_owner"]
