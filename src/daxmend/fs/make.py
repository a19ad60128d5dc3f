"""`make_file_system`: an empty one on a device."""

from __future__ import annotations

import stat
import time
import uuid
from typing import TYPE_CHECKING

from daxmend.errors import UsageError
from daxmend.extent import Extent
from daxmend.fs.checkpoint import write_checkpoint
from daxmend.fs.inode import FIRST_INO, ROOT_INO, Attributes, Inode
from daxmend.fs.journal import FsJournal
from daxmend.fs.mirror import Mirror
from daxmend.fs.superblock import (
    Superblock,
    journal_places,
    next_generation,
    write_superblock,
)
from daxmend.units import MIB, PAGE, format_size

if TYPE_CHECKING:
    from daxmend.dax.api import DaxDevice

MIN_SIZE = MIB  # of the device
_CHECKPOINT = 16 * PAGE  # of one copy, to begin with


def make_file_system(device: DaxDevice, *, uid: int = 0, gid: int = 0, mode: int = 0o755) -> None:
    """Make an empty file system on the whole device; the root belongs to `uid` and `gid`.

    Durable on return. What the device held is gone. Raises `UsageError` if it is too small.
    """
    if device.size < MIN_SIZE:
        raise UsageError(
            f"{device.name}: a file system needs {format_size(MIN_SIZE)}, "
            f"there are {format_size(device.size)}"
        )
    now = time.time_ns()
    journals = journal_places(device.size)
    copies = (
        (Extent(journals[0].end, _CHECKPOINT),),
        (Extent(journals[1].offset - _CHECKPOINT, _CHECKPOINT),),
    )
    root = Attributes(
        ROOT_INO, stat.S_IFDIR | mode, uid, gid, 2, 0, 0, 0, ROOT_INO, now, now, now, now
    )
    # Not that of anything which is left on the device, and not to be told from the root's times.
    generation = next_generation(now)
    length = write_checkpoint(Mirror(device, copies), [Inode(root).pack()], generation)
    device.fence()
    write_superblock(
        device,
        Superblock(
            uuid.uuid4().bytes,
            now,
            device.size,
            generation,
            FIRST_INO,
            length,
            journals,
            copies,
        ),
    )
    FsJournal(device, journals, generation).begin()
