"""`open_subject`: from what a command line names to the file that is to be saved or repaired.

`FILE`         a file of the running system, on any file system, also on a daxmend mount
`POOL:/PATH`   a file in a pool; through its mount where it is mounted; no link is followed
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from daxmend.errors import BusyError, UnknownStateError, UsageError
from daxmend.host.mountinfo import find_mount
from daxmend.rescue.hostfile import HostFile
from daxmend.rescue.opening import find_own_mount, split_name, validate_mount
from daxmend.rescue.poolfile import PoolFile
from daxmend.rescue.target import inner_path, is_no_file
from daxmend.stack import is_pool, read_owner


def open_subject(named: str | os.PathLike[str], *, writable: bool = False) -> HostFile | PoolFile:
    """The file that `named` names. The caller closes it.

    Raises `UsageError` for what is no regular file, `OSError` as open(2) does (but
    `UnknownStateError` for who may not read it), `UnknownStateError` for a mount whose server does
    not answer.
    """
    name = os.fspath(named)
    mount = find_own_mount(name)
    if mount is not None:
        validate_mount(mount, name)
    try:
        split = None if mount is not None or os.path.lexists(name) else split_name(name)
        if split is not None:
            return _open_inner(Path(split[0]), split[1], name, writable=writable)
        path = Path(name)
        if path.is_file() and mount is None and is_pool(path):
            raise UsageError(f"{name} is a pool; name a file in it, as in {name}:/PATH")
        return HostFile(path, name, writable=writable)
    except PermissionError as error:
        if writable:
            raise
        raise UnknownStateError(f"{name}: cannot be read: {error.strerror}") from None


def _open_inner(pool: Path, path: bytes, name: str, *, writable: bool) -> HostFile | PoolFile:
    """A file in a pool: of the pool itself, or on its mount."""
    if not is_pool(pool):
        raise UsageError(f"{pool} is not a daxmend pool")
    owner = read_owner(pool)
    if owner is None:
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
