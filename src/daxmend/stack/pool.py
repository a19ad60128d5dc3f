"""`create`: a new pool, with the durability that fits where it lies."""

from pathlib import Path

from daxmend.host.mountinfo import find_mount_of
from daxmend.media.backing import Durability
from daxmend.media.pool import Header, MediumKind, create_pool

_IN_MEMORY = ("tmpfs", "ramfs")


def create(
    path: Path,
    size: int,
    durability: Durability | None = None,
    medium: MediumKind = MediumKind.PLAIN,
) -> Header:
    """Make a raw pool of `size` bytes at `path`; durable on return.

    Without `durability`: `process` on file systems that live in memory, `machine` elsewhere.
    Raises what `create_pool` raises.
    """
    if durability is None:
        mount = find_mount_of(path)
        in_memory = mount is not None and mount.fstype in _IN_MEMORY
        durability = Durability.PROCESS if in_memory else Durability.MACHINE
    return create_pool(path, size, durability=durability, medium=medium)
