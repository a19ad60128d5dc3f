"""`create`: a new pool, with the durability that fits where it lies."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from daxmend.fs import make_file_system
from daxmend.host.mountinfo import find_mount_of
from daxmend.media.backing import Durability
from daxmend.media.pool import Content, Header, MediumKind, create_pool
from daxmend.stack.device import open_device
from daxmend.stack.member import TableDevice
from daxmend.stack.tablepool import StoredTable, create_table_pool
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
    durability = durability or _usual_durability(path)
    header = create_pool(
        path, size, durability=durability, medium=medium, clear_unit=clear_unit, content=content
    )
    if content is Content.FS:
        with _removed_on_error(path), contextlib.closing(open_device(path)) as device:
            make_file_system(device, uid=os.getuid(), gid=os.getgid())
    return header


class CreatedTable(NamedTuple):
    """What `create_table` has made: bytes of the device, and whether it begins empty each time."""

    size: int
    is_volatile: bool


def create_table(
    path: Path,
    text: str,
    durability: Durability | None = None,
    *,
    content: Content = Content.FS,
) -> CreatedTable:
    """Make a pool at `path` that holds a dmsetup table; raw, or with an empty file system.

    What the members hold is gone, if it is a file system. With RAM members that is made anew at
    every mount. Durable on return. Raises `TableError` for a table that does not fit its members,
    and what `create` raises; nothing is left then, but for what members held.
    """
    durability = durability or _usual_durability(path)
    create_table_pool(path, StoredTable(text, content), durability)
    with _removed_on_error(path), contextlib.closing(open_device(path)) as device:
        assert isinstance(device, TableDevice)
        if device.has_files:
            make_file_system(device, uid=os.getuid(), gid=os.getgid())
        return CreatedTable(device.size, device.is_volatile)


def _usual_durability(path: Path) -> Durability:
    mount = find_mount_of(path)
    in_memory = mount is not None and mount.fstype in _IN_MEMORY
    return Durability.PROCESS if in_memory else Durability.MACHINE


@contextlib.contextmanager
def _removed_on_error(path: Path) -> Iterator[None]:
    try:
        yield
    except BaseException:
        path.unlink(missing_ok=True)
        raise
