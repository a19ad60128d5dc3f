"""`open_subject`: from what a command line names to the file that is to be saved or repaired.

`FILE`         a file of the running system, on any file system, also on a daxmend mount
`DEVICE`       a block device, or a dax device, which can only be read
`POOL:/PATH`   a file in a pool; through its mount where it is mounted; no link is followed
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from daxmend.errors import BusyError, UnknownStateError, UsageError
from daxmend.host.mountinfo import find_mount
from daxmend.host.ndbus import find_dax_device
from daxmend.host.unknown import Unknown
from daxmend.rescue.blockfile import BlockFile
from daxmend.rescue.daxfile import DaxFile
from daxmend.rescue.hostfile import HostFile
from daxmend.rescue.opening import find_own_mount, split_name, validate_mount
from daxmend.rescue.subject import Subject
from daxmend.rescue.target import inner_path, is_no_file
from daxmend.stack import is_pool, read_owner


def open_subject(named: str | os.PathLike[str], *, writable: bool = False) -> Subject:
    """The file that `named` names. The caller closes it.

    Raises `UsageError` for what is no regular file, disk or dax device, `OSError` as open(2)
    does (but `UnknownStateError` for who may not read it), `UnknownStateError` for a mount whose
    server does not answer.
    """
    name = os.fspath(named)
    mount = find_own_mount(name)
    if mount is not None:
        validate_mount(mount, name)
    split = None if mount is not None or os.path.lexists(name) else split_name(name)
    path = Path(name)
    try:
        if split is not None:
            return _open_inner(Path(split[0]), split[1], name, writable=writable)
        mode = path.stat().st_mode
        if stat.S_ISBLK(mode):
            return BlockFile(path, name, writable=writable)
        if stat.S_ISCHR(mode):
            dax = find_dax_device(path.stat().st_rdev)
            if isinstance(dax, Unknown):
                raise UsageError(f"{name}: {dax.why}; name a file, a disk or a dax device")
            return DaxFile(path, name, dax.size, writable=writable)
        if stat.S_ISREG(mode) and mount is None and is_pool(path):
            raise UsageError(f"{name} is a pool; name a file in it, as in {name}:/PATH")
    except PermissionError as error:
        if split is not None and writable:
            raise
        raise UnknownStateError(f"{name}: cannot be read: {error.strerror}") from None
    return HostFile(path, name, writable=writable)


def _open_inner(pool: Path, path: bytes, name: str, *, writable: bool) -> Subject:
    """A file in a pool: of the pool itself, or on its mount."""
    if not is_pool(pool):
        raise UsageError(f"{pool} is not a daxmend pool")
    owner = read_owner(pool)
    if owner is None:
        from daxmend.rescue.poolfile import PoolFile  # the whole stack: only where it is needed

        return PoolFile(pool, path, name, writable=writable)
    pid, mounted_at = owner
    mount = find_mount(mounted_at) if mounted_at else None
    if mount is None or find_own_mount(mount.mount_point) is None:
        raise BusyError(f"{pool} is in use by process {pid}; end it, or wait for it")
    validate_mount(mount, name)
    return HostFile(_on_mount(Path(mount.mount_point), path, name), name, writable=writable)


def _on_mount(mountpoint: Path, path: bytes, name: str) -> Path:
    """Where the file stands on the mount. Raises `UsageError` if there is a link on the way."""
    found = mountpoint
    for part in inner_path(path):
        found = found / os.fsdecode(part)
        mode = os.lstat(found).st_mode
        if stat.S_ISLNK(mode):
            raise is_no_file(name, mode, str(mountpoint))
    return found
