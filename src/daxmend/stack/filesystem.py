"""`open_filesystem`: the file system on a device."""

from daxmend.errors import UsageError
from daxmend.fs import FileSystem
from daxmend.media.backing import Durability
from daxmend.media.pool import Content
from daxmend.pmem.device import PmemDevice


def has_filesystem(device: PmemDevice) -> bool:
    """True if the device's pool was made for a file system."""
    return device.pool.header.content is Content.FS


def open_filesystem(device: PmemDevice, *, writable: bool = True) -> FileSystem:
    """The file system of a pool. The caller closes it, and then the device.

    With durability `process` every operation is committed when it returns: a commit costs no
    system call there. Raises `UsageError` for a raw pool, and what `FileSystem` raises.
    """
    if not has_filesystem(device):
        raise UsageError(f"{device.name} holds a raw device, without a file system")
    is_cheap = device.pool.header.durability is Durability.PROCESS
    return FileSystem(device, commits_each=is_cheap, writable=writable)
