"""`create`: a new pool, with the durability that fits where it lies."""

import os
from pathlib import Path

from daxmend.fs import make_file_system
from daxmend.host.mountinfo import find_mount_of
from daxmend.media.backing import Durability
from daxmend.media.pool import Content, Header, MediumKind, create_pool
from daxmend.stack.device import open_device
from daxmend.units import CLEAR_UNIT

_IN_MEMORY = ("tmpfs", "ramfs")


def create(
    path: Path,
    size: int,
    durability: Durability | None = None,
    medium: MediumKind = MediumKind.PLAIN,
    clear_unit: int = CLEAR_UNIT,
    *,
    content: Content = Content.RAW,
) -> Header:
    """Make a pool of `size` bytes at `path`, raw or with an empty file system; durable on return.

    Without `durability`: `process` on file systems that live in memory, `machine` elsewhere. The
    file system's root belongs to the caller. Raises what `create_pool` and `make_file_system`
    raise; nothing is left then.
    """
    if durability is None:
        mount = find_mount_of(path)
        in_memory = mount is not None and mount.fstype in _IN_MEMORY
        durability = Durability.PROCESS if in_memory else Durability.MACHINE
    header = create_pool(
        path, size, durability=durability, medium=medium, clear_unit=clear_unit, content=content
    )
    if content is Content.FS:
        try:
            _make_file_system(path)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
    return header


def _make_file_system(path: Path) -> None:
    device = open_device(path)
    try:
        make_file_system(device, uid=os.getuid(), gid=os.getgid())
    finally:
        device.close()
