"""`open_filesystem`: the file system on a device."""

import os

from daxmend.errors import UsageError
from daxmend.fs import FileSystem, make_file_system
from daxmend.media.backing import Durability
from daxmend.media.pool import Content
from daxmend.stack.member import PoolDevice, TableDevice


def has_filesystem(device: PoolDevice) -> bool:
    """True if the device was made for a file system, and has it.

    What a table with RAM members was made for is only there while it is mounted.
    """
    if isinstance(device, TableDevice):
        return device.has_files
    return device.pool.header.content is Content.FS


def make_volatile_filesystem(device: PoolDevice) -> None:
    """Make the file system of a table with RAM members, which begin empty each time (R40)."""
    if not isinstance(device, TableDevice) or device.has_files:
        return
    if device.content is Content.FS:
        make_file_system(device, uid=os.getuid(), gid=os.getgid())
        device.has_files = True
        device.notices.append(
            f"{device.name}: its table has RAM members, which begin empty: a new file system was "
            "made; it lasts until the device is closed"
        )


def open_filesystem(device: PoolDevice, *, writable: bool = True) -> FileSystem:
    """The file system of a pool. The caller closes it, and then the device.

    With durability `process` every operation is committed when it returns: a commit costs no
    system call there. Raises `UsageError` for a raw pool, and what `FileSystem` raises.
    """
    if not has_filesystem(device):
        raise UsageError(f"{device.name} holds a raw device, without a file system")
    if isinstance(device, TableDevice):
        is_cheap = device.is_cheap_to_fence
    else:
        is_cheap = device.pool.header.durability is Durability.PROCESS
    return FileSystem(device, commits_each=is_cheap, writable=writable)
