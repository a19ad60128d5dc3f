"""Block devices on which sectors can be made bad: what a comparison puts file systems on.

A *loop disk* is a pool of its own, mounted raw, with a loop device on it: any machine has that, for
root. A *real disk* is one whose driver keeps a bad-block record that root can write to, as that of
persistent memory does; everything on it is overwritten.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Final, Protocol

from daxmend.errors import (
    BusyError,
    DaxmendError,
    UnsupportedError,
    UsageError,
)
from daxmend.extent import Extent, format_badblocks
from daxmend.faults import Fault
from daxmend.fuse import unmount, unmount_dead
from daxmend.host.badblocks import read_badblocks_file
from daxmend.host.mountinfo import iter_mounts
from daxmend.host.sysfsfile import read_text
from daxmend.host.topology import find_block_device
from daxmend.host.unknown import Unknown
from daxmend.host.zeroing import block_zeroout
from daxmend.media.pool import Content
from daxmend.mounts.daemon import mount_in_background
from daxmend.mounts.option import MountOptions, OpenMode
from daxmend.report.interrupt import hold, release
from daxmend.rescue.opening import open_target
from daxmend.rescue.target import Target
from daxmend.stack.pool import create
from daxmend.units import MIB, SECTOR

_PROGRAM_PATH: Final = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
_PATIENCE: Final = 10  # times two seconds
# What an entry of the kernel's record holds. Linux 6.1 keeps the entries of a longer line in the
# wrong order, and cannot clear them any more.
_ENTRY: Final = 512 * SECTOR
_LOOP_CONTROL: Final = "/dev/loop-control"


class ProgramFailedError(DaxmendError):
    """A program of the system, mkfs or mount, refused."""


def find_program(name: str) -> str | None:
    """Where a program of the system is; those for root are looked for, too."""
    return shutil.which(name, path=_PROGRAM_PATH)


def run_program(*words: object) -> str:
    """Run it to its end; what it printed. Raises `ProgramFailedError` with what it complains of."""
    command = [str(word) for word in words]
    path = find_program(command[0])
    if path is None:
        raise UnsupportedError(f"{command[0]} is missing: install it first")
    done = subprocess.run(
        [path, *command[1:]],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        process_group=0,  # Ctrl-C is for us, who takes away what they made
    )
    if done.returncode:
        said = " ".join(done.stderr.split()) or f"exit status {done.returncode}"
        raise ProgramFailedError(f"{' '.join(command)}: {said}")
    return done.stdout


class Disk(Protocol):
    """A block device; offsets are bytes from its start."""

    node: str
    mount_options: tuple[str, ...]  # that a file system on it is mounted with

    def make_bad(self, extents: list[Extent]) -> None:
        """Put whole sectors on the record, ascending.

        Raises `UnsupportedError` where it is full; some of them are on it then.
        """

    def clear(self) -> None:
        """Write zeros to all that is bad. Only while nothing is mounted on it."""


class LoopDisk:
    """Implements `Disk` over a raw mount."""

    mount_options: tuple[str, ...] = ()

    def __init__(self, mountpoint: Path, node: str) -> None:
        self.node = node
        self._device = mountpoint / "device"
        self._target = open_own(mountpoint)

    def make_bad(self, extents: list[Extent]) -> None:
        """See `Disk`."""
        self._target.inject(map(Fault.of, extents))

    def clear(self) -> None:
        """See `Disk`."""
        fd = os.open(self._device, os.O_WRONLY | os.O_CLOEXEC)
        try:
            for extent in self._target.badblocks():
                for offset in range(extent.offset, extent.end, MIB):
                    os.pwrite(fd, bytes(min(MIB, extent.end - offset)), offset)
        finally:
            os.close(fd)

    def close(self) -> None:
        """Let go of the mount."""
        self._target.close()


def open_own(path: Path) -> Target:
    """What lies on a mount that is there for sure.

    On a busy machine its server may be slow, and the table of mounts, which is read in pieces, may
    miss one while others come and go.
    """
    for _ in range(_PATIENCE):
        with suppress(DaxmendError):
            return open_target(path, writable=True)
    return open_target(path, writable=True)


@contextmanager
def mounted_pool(base: Path, size: int, *, raw: bool) -> Iterator[Path]:
    """A new pool below `base`, mounted; the mount point. Nothing is left in the end."""
    pool, mountpoint = base / "pool", base / "mnt"
    with ExitStack() as stack:
        stack.callback(release)
        hold()
        mountpoint.mkdir(parents=True)
        stack.callback(shutil.rmtree, base)
        create(pool, size, content=Content.RAW if raw else Content.FS)
        options = MountOptions(open_mode=OpenMode.DIRECT if raw else OpenMode.AUTO)
        mount_in_background(pool, mountpoint, options, raw=raw)
        stack.callback(_unmount, mountpoint)
        stack.callback(hold)
        release()
        yield mountpoint


def _unmount(mountpoint: Path) -> None:
    """In good order; by force, if somebody else is in it. See `open_own` for the patience."""
    for _ in range(_PATIENCE):
        try:
            unmount(mountpoint)
        except BusyError:
            unmount_dead(mountpoint)
        except UsageError:  # it is not there; or so the table says
            continue
        return


@contextmanager
def loop_disk(base: Path, size: int) -> Iterator[LoopDisk]:
    """A new disk of `size` bytes whose pool is below `base`; nothing is left in the end."""
    with mounted_pool(base, size, raw=True) as mountpoint, ExitStack() as stack:
        stack.callback(release)
        hold()
        words = ("losetup", "--find", "--show", "--direct-io=on")
        node = run_program(*words, mountpoint / "device").strip()
        stack.callback(run_program, "losetup", "--detach", node)
        stack.callback(hold)
        release()
        with closing(LoopDisk(mountpoint, node)) as disk:
            yield disk


def why_no_loop_disk() -> str | None:
    """Why this process can have none; None if it can."""
    if os.geteuid() != 0:
        return "only root can make loop devices and mount them"
    if not os.path.exists(_LOOP_CONTROL):
        return f"{_LOOP_CONTROL} is missing: load the kernel's module (modprobe loop)"
    return None


class RealDisk:
    """Implements `Disk` over a device with a record of its own: `/dev/pmem0`."""

    def __init__(self, node: str) -> None:
        number = _number_of(node)
        device = find_block_device(number)
        if isinstance(device, Unknown):
            raise UsageError(f"{node}: {device.why}")
        self.node = node
        self._record = device.directory / "badblocks"
        dax = read_text(device.directory / "queue" / "dax")
        self.mount_options: tuple[str, ...] = ("-o", "dax") if dax == "1" else ()
        if isinstance(read_badblocks_file(self._record, node), Unknown):
            raise UnsupportedError(
                f"{node}: its driver keeps no bad-block record, so that nothing on it can be made "
                "bad; persistent memory in fsdax mode has one (/dev/pmem0)"
            )
        mounts = [mount.mount_point for mount in iter_mounts() if mount.device == number]
        if mounts:
            raise BusyError(f"{node} is mounted at {mounts[0]}; unmount it first")
        os.close(self._open())

    def _open(self) -> int:
        """For writing, and for us alone."""
        try:
            return os.open(self.node, os.O_RDWR | os.O_EXCL | os.O_CLOEXEC)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            raise BusyError(
                f"{self.node} is in use by another device, or as swap; end that first"
            ) from None

    def make_bad(self, extents: list[Extent]) -> None:
        """See `Disk`."""
        fd = os.open(self._record, os.O_WRONLY | os.O_CLOEXEC)
        try:
            for extent in extents:
                for offset in range(extent.offset, extent.end, _ENTRY):
                    part = Extent.between(offset, min(extent.end, offset + _ENTRY))
                    os.write(fd, format_badblocks([part]).encode())  # one line a write
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            raise UnsupportedError(f"the kernel's record of {self.node} is full") from None
        finally:
            os.close(fd)

    def clear(self) -> None:
        """See `Disk`. The record shows a page of itself at a time."""
        fd = self._open()
        try:
            last: list[Extent] = []
            while True:
                found = read_badblocks_file(self._record, self.node)
                if isinstance(found, Unknown):
                    raise DaxmendError(f"{self.node}: {found.why}")
                if not found.extents:
                    return
                if found.extents == last:
                    raise DaxmendError(f"{self.node}: writing zeros does not clear {last[0]}")
                last = found.extents
                for extent in last:
                    block_zeroout(fd, extent)
        finally:
            os.close(fd)


def _number_of(node: str) -> int:
    with suppress(OSError):
        found = os.stat(node)
        if stat.S_ISBLK(found.st_mode):
            return found.st_rdev
    raise UsageError(f"{node} is no block device")
