"""Mounting and unmounting, as root with mount(2), else through the setuid `fusermount3`.

Whatever may block on a mount whose server is stuck is done in a child process with a time limit.
A thread would not do: blocked in the kernel it survives SIGKILL and, in the server's own process,
keeps /dev/fuse open, so that not even the server's death would end it.
"""

import contextlib
import ctypes
import errno
import os
import shutil
import socket
import subprocess
from collections.abc import Mapping
from typing import Final

from daxmend.errors import BusyError, UnsupportedError, UsageError
from daxmend.host.childprogram import run_program
from daxmend.host.mountinfo import Mount, find_mount
from daxmend.host.mountprobe import MountState, probe_mount

MS_NOSUID: Final = 2
MS_NODEV: Final = 4
MNT_FORCE: Final = 1
MNT_DETACH: Final = 2
UMOUNT_NOFOLLOW: Final = 8

_DEVICE: Final = "/dev/fuse"
_CONNECTIONS: Final = "/sys/fs/fuse/connections"
_PERMISSIONS: Final = "default_permissions"  # the kernel checks modes and owners
_UMOUNT_SECONDS: Final = 10.0

# The child ends with the errno as its exit status.
_UMOUNT_PROGRAM: Final = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
sys.exit(libc.umount2(os.fsencode(sys.argv[1]), int(sys.argv[2])) and ctypes.get_errno())
"""

Path = str | os.PathLike[str]


def mount(mountpoint: Path, *, fsname: str, subtype: str) -> int:
    """Mount on an existing, empty directory; the descriptor is for `Session`, and not inherited.

    `fsname` is the source and `fuse.SUBTYPE` the type that mount(8) shows. Root's mount is for
    everybody, as far as modes and owners allow; a user's is the user's own.

    Raises UsageError for a mount point that cannot be one, BusyError for one that is in use (also
    by a dead mount), UnsupportedError where the system has no FUSE or does not allow it.
    """
    path = _check_mountpoint(mountpoint)
    check_device()
    if os.geteuid() == 0:
        return _mount_as_root(path, fsname, subtype)
    return _mount_with_fusermount(path, fsname, subtype)


def check_device() -> None:
    """Raise UnsupportedError, which says what to do, if /dev/fuse is missing or not allowed."""
    if not os.path.exists(_DEVICE):
        raise UnsupportedError(f"{_DEVICE} is missing: load the kernel's module (modprobe fuse)")
    if not os.access(_DEVICE, os.R_OK | os.W_OK):  # fusermount3 opens it as the user, too
        raise UnsupportedError(
            f"{_DEVICE} cannot be opened by user {os.getuid()}: ask root for access to it"
            f" (chmod a+rw {_DEVICE}, or the group that has it), or mount as root"
        )


def unmount(mountpoint: Path, *, lazy: bool = False) -> None:
    """Unmount in good order: only what nobody uses, so nothing is left to be written back.

    `lazy` detaches a mount that is in use; it ends when the last open file is closed. Never hangs.
    Raises UsageError if no FUSE mount is there, BusyError if it is in use or its server does not
    answer (`unmount_dead` is for those).
    """
    path = _fuse_mount(mountpoint).mount_point
    status, message = _umount(path, MNT_DETACH if lazy else 0)
    if status is None:
        raise BusyError(
            f"{path}: its server has not answered for {_UMOUNT_SECONDS:.0f} s; the unmount goes on,"
            " kill the server or force it (umount -f) to end it"
        )
    if status == errno.EBUSY:
        raise BusyError(
            f"{path} is in use: close what is open below it (fuser -vm {path}) and try again"
        )
    if status:
        raise UsageError(f"{path} cannot be unmounted: {message}")


def unmount_dead(mountpoint: Path) -> None:
    """Take away a mount whose server has died or is stuck; whoever waits for it gets an error.

    Aborts the connection where it may (root, or fusectl is mounted) and detaches. Never hangs, but
    for a caller that has a file of the mount open which children do not inherit.
    Raises UsageError if no FUSE mount is there, BusyError if it could not be detached.
    """
    found = _fuse_mount(mountpoint)
    connection = os.path.join(_CONNECTIONS, str(os.minor(found.device)))
    with contextlib.suppress(OSError), open(f"{connection}/abort", "wb", buffering=0) as abort:
        abort.write(b"1")
    status, message = _umount(found.mount_point, MNT_FORCE | MNT_DETACH)
    if status == errno.EINVAL and find_mount(found.mount_point) is None:
        return  # a server that was only slow has ended at the abort, and taken its mount along
    if status != 0:
        raise BusyError(f"{found.mount_point} could not be detached: {message or 'no answer'}")


def is_dead(mount: Mount) -> bool:
    """Whether the server of a FUSE mount has gone. Never hangs.

    False also where that cannot be known: a server that does not answer in time is not dead, and
    another user's mount does not tell.
    """
    return mount.is_fuse and probe_mount(mount) is MountState.DEAD


def _check_mountpoint(mountpoint: Path) -> str:
    path = os.path.abspath(os.fspath(mountpoint))
    found = find_mount(path)
    if found is not None and is_dead(found):
        raise BusyError(
            f"{path} is a dead mount, its server has gone: clean it up (daxmend umount {path})"
        )
    if found is not None:
        raise BusyError(
            f"{path} is already a mount ({found.fstype}, {found.source}):"
            f" unmount it first (daxmend umount {path}) or choose another directory"
        )
    try:
        names = os.listdir(path)
    except FileNotFoundError:
        raise UsageError(f"{path} does not exist: make it first (mkdir {path})") from None
    except NotADirectoryError:
        raise UsageError(f"{path} is not a directory: give an empty directory") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be a mount point: {error.strerror}") from error
    if names:
        raise UsageError(
            f"{path} is not empty: a mount would hide what is in it; give an empty one"
        )
    return os.path.realpath(path)


def _fuse_mount(mountpoint: Path) -> Mount:
    found = find_mount(mountpoint)
    if found is None:
        raise UsageError(f"{os.fspath(mountpoint)} is not a mount point: nothing is mounted there")
    if not found.is_fuse:
        raise UsageError(f"{found.mount_point} is a mount of {found.fstype}, not FUSE: use umount")
    return found


def _mount_as_root(path: str, fsname: str, subtype: str) -> int:
    try:
        fd = os.open(_DEVICE, os.O_RDWR)
    except OSError as error:
        raise UnsupportedError(
            f"{_DEVICE} cannot be opened: {error.strerror}; is the kernel's module loaded"
            " (modprobe fuse), and may this container use the device?"
        ) from error
    own = f"fd={fd},rootmode=40755,user_id={os.getuid()},group_id={os.getgid()}"
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(
        os.fsencode(fsname),
        os.fsencode(path),
        os.fsencode(f"fuse.{subtype}"),
        ctypes.c_ulong(MS_NOSUID | MS_NODEV),
        f"{own},{_PERMISSIONS},allow_other".encode(),
    ):
        number = ctypes.get_errno()
        os.close(fd)
        hint = "; root in a container needs CAP_SYS_ADMIN" if number == errno.EPERM else ""
        raise UnsupportedError(f"{path} cannot be mounted: {os.strerror(number)}{hint}")
    return fd


def _mount_with_fusermount(path: str, fsname: str, subtype: str) -> int:
    options = f"{_PERMISSIONS},fsname={_escape(fsname)},subtype={_escape(subtype)}"
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            process = _fusermount(
                ["-o", options, "--", path], {"_FUSE_COMMFD": str(theirs.fileno())}
            )
        _, fds, _, _ = socket.recv_fds(ours, 1, 1)
        _, stderr = process.communicate()
    if not fds:
        raise UnsupportedError(f"{path} cannot be mounted: {os.fsdecode(stderr).strip()}")
    os.set_inheritable(fds[0], False)
    return fds[0]


def _fusermount(arguments: list[str], environment: Mapping[str, str]) -> "subprocess.Popen[bytes]":
    program = shutil.which("fusermount3")
    if program is None:
        raise UnsupportedError(
            "fusermount3 is missing, without which only root can mount: install the package fuse3"
        )
    return subprocess.Popen(
        [program, *arguments],
        env={**os.environ, "LC_ALL": "C", **environment},
        # None of ours but those: but to close a file of the mount could wait for its server.
        close_fds=bool(environment),
        pass_fds=[int(fd) for fd in environment.values()],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def _umount(path: str, flags: int) -> tuple[int | None, str]:
    """The errno of umount2(2) (0: done, None: not within the time limit) and a message."""
    if os.geteuid() == 0:
        number = str(flags | UMOUNT_NOFOLLOW)
        status = run_program(_UMOUNT_PROGRAM, path, number, seconds=_UMOUNT_SECONDS)
        return status, os.strerror(status) if status else ""
    lazily = ["-z"] if flags & MNT_DETACH else []
    process = _fusermount(["-u", *lazily, "--", path], {})
    try:
        _, stderr = process.communicate(timeout=_UMOUNT_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()  # and no wait: until the server answers it cannot die
        return None, ""
    message = os.fsdecode(stderr).strip()
    if process.returncode and os.strerror(errno.EBUSY) in message:
        return errno.EBUSY, message
    return errno.EPERM if process.returncode else 0, message


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace(",", "\\,")
