"""`open_target`: from what a command line names to a target.

`POOL`         a pool; if it is mounted, its mount is asked
`POOL:/PATH`   a file in the file system of a pool, mounted or not; no link is followed
`DIRECTORY`    a mount's directory, or what the mount itself keeps in it: `.daxmend`, `device`
`FILE`         a file on a mount

The directory of a shadow mount, and a file on it, are `ShadowTarget`s.

And of the running system (`hosttarget.py`): a block device, a dax device, the mount point of
another file system, and any other file that is no pool.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from daxmend.errors import BusyError, UnknownStateError, UsageError
from daxmend.host import ndbus
from daxmend.host.mountinfo import Mount, find_mount, find_mount_of
from daxmend.host.mountprobe import MountState, probe_mount
from daxmend.host.topology import find_block_device
from daxmend.host.unknown import Unknown
from daxmend.rescue.file import FileTarget
from daxmend.rescue.hostrecord import HostRecords
from daxmend.rescue.hosttarget import (
    HostDax,
    HostDevice,
    HostFileTarget,
    HostMount,
    HostTarget,
)
from daxmend.rescue.mount import MountTarget
from daxmend.rescue.shadow import SHADOW_PREFIX, ShadowTarget
from daxmend.rescue.target import CONTROL_DIRECTORY, DeviceTarget, Target, is_no_file
from daxmend.stack import is_pool, read_owner

_FILE_SYSTEM_TYPE = "fuse.daxmend"
_BEFORE_PATH = ":/"


def open_target(named: str | os.PathLike[str], *, writable: bool = False) -> Target:
    """The target that `named` names. The caller closes it.

    Raises `UsageError` for what is none, `UnknownStateError` where it may not be asked.
    """
    host = open_host_target(os.fspath(named))
    if host is not None:
        return host
    shadow = _open_shadow(os.fspath(named))
    if shadow is not None:
        return shadow
    device, path = _open(named, writable=writable)
    if path is None:
        return device
    with _closed_on_error(device):
        return FileTarget(device, path, os.fspath(named))


def _open_shadow(name: str) -> ShadowTarget | None:
    """A shadow mount, or a file on one; None for everything else."""
    mount = find_own_mount(name)
    if mount is None or not mount.source.startswith(SHADOW_PREFIX):
        return None
    validate_mount(mount, name)
    path = os.path.realpath(name)  # the server answers
    inside = os.path.relpath(path, mount.mount_point)
    first = inside.split("/")[0]
    if first == "..":  # a link that leads elsewhere
        return _open_shadow(path)
    if first in (".", CONTROL_DIRECTORY):
        return ShadowTarget(Path(mount.mount_point), None, name)
    if os.path.isdir(path):
        raise is_no_file(name, stat.S_IFDIR, mount.mount_point)
    return ShadowTarget(Path(mount.mount_point), os.fsencode("/" + inside), name)


def open_host_target(name: str) -> HostTarget | None:
    """What `name` is on the running system; None for a pool, a daxmend mount, and nothing at all.

    Raises `UnknownStateError` for what may not be asked, `UsageError` for what has no bytes.
    """
    if find_own_mount(name) is not None:
        return None
    try:
        mode = os.stat(name).st_mode
    except PermissionError as error:
        raise UnknownStateError(f"{name}: cannot be asked: {error.strerror}; ask root") from None
    except OSError:
        return None  # `_open` knows what to say, and what else the name could mean
    records = HostRecords(_open_own)
    if stat.S_ISBLK(mode):
        return _open_block(name, records)
    if stat.S_ISCHR(mode):
        dax = ndbus.find_dax_device(os.stat(name).st_rdev)
        if isinstance(dax, Unknown):
            raise UsageError(f"{name}: {dax.why}")
        return HostDax(name, dax, records)
    if stat.S_ISDIR(mode):
        return _open_mount_point(name, records)
    if not stat.S_ISREG(mode):
        raise UsageError(f"{name} is neither a device nor a regular file nor a mount point")
    try:
        is_own = is_pool(Path(name))
    except PermissionError:
        is_own = False  # who may not read it learns that from the file itself
    return None if is_own else HostFileTarget(name, records)


def _open_own(path: str) -> Target | None:
    """What lies on a daxmend mount; None for what does not."""
    return None if find_own_mount(path) is None else open_target(path)


def _open_block(name: str, records: HostRecords) -> HostTarget:
    device = find_block_device(os.stat(name).st_rdev)
    if isinstance(device, Unknown):
        raise UnknownStateError(f"{name}: {device.why}")
    return HostDevice(name, device, records)


def _open_mount_point(name: str, records: HostRecords) -> HostTarget | None:
    """The file system that is mounted there; None for another directory."""
    mount = find_mount(name)
    if mount is None:
        return None
    device = find_block_device(mount.device)
    if isinstance(device, Unknown):
        raise UnknownStateError(f"{name}: what is mounted there ({mount.fstype}) has no one device")
    return HostMount(name, mount, device, records)


def open_device_target(named: str | os.PathLike[str], *, writable: bool = False) -> DeviceTarget:
    """As `open_target`, for what is done to a whole file system: a file is a `UsageError`."""
    if _open_shadow(os.fspath(named)) is not None:
        raise UsageError(f"{os.fspath(named)} is on a shadow mount: there is no device below it")
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
                f"{path} is a directory, and nothing is mounted there; name a mount point or a file"
            )
        if not is_pool(path):
            raise UsageError(f"{path} is not a daxmend pool")
        owner = read_owner(path)
    except PermissionError as error:
        raise UnknownStateError(f"{path}: cannot be read: {error.strerror}") from None
    except FileNotFoundError:
        raise OSError(errno.ENOENT, _no_such(str(path)), str(path)) from None
    if owner is None:
        from daxmend.rescue.pool import PoolTarget  # the whole stack: only where it is needed

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
