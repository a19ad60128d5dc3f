"""`open_target`: from what a command line names to a target.

`POOL`         a pool; if it is mounted, its mount is asked
`POOL:/PATH`   a file in the file system of a pool, mounted or not; no link is followed
`DIRECTORY`    a mount's directory, or what the mount itself keeps in it: `.daxmend`, `device`
`FILE`         a file on a mount
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from daxmend.errors import BusyError, UnknownStateError, UsageError
from daxmend.host.mountinfo import Mount, find_mount, find_mount_of
from daxmend.host.mountprobe import MountState, probe_mount
from daxmend.rescue.file import FileTarget
from daxmend.rescue.mount import MountTarget
from daxmend.rescue.pool import PoolTarget
from daxmend.rescue.target import CONTROL_DIRECTORY, DeviceTarget, Target, is_no_file
from daxmend.stack import is_pool, read_owner

_FILE_SYSTEM_TYPE = "fuse.daxmend"
_BEFORE_PATH = ":/"


def open_target(named: str | os.PathLike[str], *, writable: bool = False) -> Target:
    """The target that `named` names. The caller closes it.

    Raises `UsageError` for what is none, `UnknownStateError` where it may not be asked.
    """
    device, path = _open(named, writable=writable)
    if path is None:
        return device
    with _closed_on_error(device):
        return FileTarget(device, path, os.fspath(named))


def open_device_target(named: str | os.PathLike[str], *, writable: bool = False) -> DeviceTarget:
    """As `open_target`, for what is done to a whole file system: a file is a `UsageError`."""
    device, path = _open(named, writable=writable)
    if path is not None:
        device.close()
        raise UsageError(f"{os.fspath(named)} is a file; name its pool, or its mount's directory")
    return device


def _open(named: str | os.PathLike[str], *, writable: bool) -> tuple[DeviceTarget, bytes | None]:
    """The device, and the path of a file in its file system, or None."""
    name = os.fspath(named)
    mount = find_own_mount(name)
    if mount is not None:
        return _open_on_mount(mount, name, writable=writable)
    split = None if os.path.lexists(name) else split_name(name)
    if split is None:
        return _open_pool(Path(name), writable=writable), None
    pool, path = split
    return _open_pool(Path(pool), writable=writable), path


def find_own_mount(name: str) -> Mount | None:
    """The daxmend mount that holds `name`, existing or not; nothing on it is touched."""
    mount = find_mount_of(name)
    return mount if mount is not None and mount.fstype == _FILE_SYSTEM_TYPE else None


def split_name(name: str) -> tuple[str, bytes] | None:
    """A pool and a path in it: cut where what is before the cut is a file."""
    at = name.find(_BEFORE_PATH)
    while at >= 0:
        if os.path.isfile(name[:at]):
            return name[:at], os.fsencode(name[at + 1 :])
        at = name.find(_BEFORE_PATH, at + 1)
    return None


def _open_on_mount(mount: Mount, name: str, *, writable: bool) -> tuple[DeviceTarget, bytes | None]:
    """A mount, or a file on it."""
    device = _open_mount(mount, name)
    path = os.path.realpath(name)  # the server answers, or the mount had not been opened
    inside = os.path.relpath(path, mount.mount_point)
    first = inside.split("/")[0]
    if first == "..":  # a link that leads elsewhere
        return _open(path, writable=writable)
    if first in (".", CONTROL_DIRECTORY) or device.content == "raw":
        return device, None
    if os.path.isdir(path):
        raise is_no_file(name, stat.S_IFDIR, mount.mount_point)
    return device, os.fsencode("/" + inside)


def _open_pool(path: Path, *, writable: bool) -> DeviceTarget:
    """The pool itself, or its mount."""
    try:
        if stat.S_ISDIR(path.stat().st_mode):
            raise UsageError(
                f"{path} is a directory without a daxmend mount; mount a pool there first"
            )
        if not is_pool(path):
            raise UsageError(f"{path} is not a daxmend pool, nor a daxmend mount")
        owner = read_owner(path)
    except PermissionError as error:
        raise UnknownStateError(f"{path}: cannot be read: {error.strerror}") from None
    except FileNotFoundError:
        raise OSError(errno.ENOENT, _no_such(str(path)), str(path)) from None
    if owner is None:
        return PoolTarget(path, writable=writable)
    pid, mounted_at = owner
    mount = find_mount(mounted_at) if mounted_at else None
    if mount is None or mount.fstype != _FILE_SYSTEM_TYPE:
        raise BusyError(f"{path} is in use by process {pid}; end it, or wait for it")
    return _open_mount(mount, str(path))


def _no_such(name: str) -> str:
    """The complaint; who forgot the slash of `POOL:/PATH` is told."""
    said = f"{name}: {os.strerror(errno.ENOENT)}"
    pool, colon, path = name.partition(":")
    if colon and os.path.isfile(pool):
        return f"{said}; a file in a pool is {pool}:/{path or 'PATH'}"
    return said


def _open_mount(mount: Mount, name: str) -> DeviceTarget:
    """The mount, if its server can be asked (R44)."""
    validate_mount(mount, name)
    return MountTarget(Path(mount.mount_point), name)


def validate_mount(mount: Mount, name: str) -> None:
    """Raise `UnknownStateError` unless the mount's server answers: whoever goes on might hang."""
    where = mount.mount_point
    complaint = {
        MountState.DEAD: f"the server of {where} has died; clean up with: daxmend umount {where}",
        MountState.SILENT: f"the server of {where} does not answer; force it with: "
        f"daxmend umount -F {where}",
        MountState.CLOSED: f"{where} is another user's own mount; only its owner can ask",
    }.get(probe_mount(mount))
    if complaint:
        raise UnknownStateError(f"{name}: {complaint}")


@contextlib.contextmanager
def _closed_on_error(device: DeviceTarget) -> Iterator[None]:
    try:
        yield
    except BaseException:
        device.close()
        raise
