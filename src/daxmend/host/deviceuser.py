"""Who has a block device, or a file that is a disk: a mount, swap, or devices that lie on it.

Nothing of a file system is touched, so that a dead mount is not waited for: files are compared by
name.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from daxmend.host.mountinfo import Mount, iter_mounts
from daxmend.host.sysfsfile import SYSFS, read_text
from daxmend.host.topology import find_block_device, holders
from daxmend.host.unknown import Unknown


class User(NamedTuple):
    """`words` follow the name of what is used: `below /dev/dm-0, which is mounted at /mnt`."""

    words: str
    remedy: str


CLAIMED: Final = User(
    "claimed by somebody that the system does not name (a mount elsewhere, an array, a program)",
    "end that first",
)
_SWAP: Final = User("used as swap", "first: swapoff")
_MOUNTED: Final = (
    "repair the files there instead ('daxmend locate' names those that are hit), or unmount it "
    "first"
)
_SWAPS: Final = Path("/proc/swaps")
_ESCAPE: Final = re.compile(r"\\([0-7]{3})")
_DEVICES: Final = "/dev/"


def find_device_user(number: int, sysfs: Path = SYSFS, swaps: Path = _SWAPS) -> User | None:
    """Who has the device of that number, through any depth of partitions, dm, md and loops.

    None if nobody shows: somebody may still have claimed it (`is_claimed`).
    """
    return _user_above(number, sysfs, swaps) or _user_below(number, sysfs, swaps)


def _user_above(number: int, sysfs: Path, swaps: Path) -> User | None:
    user = _own_user(number, swaps)
    if user is not None:
        return user
    device = find_block_device(number, sysfs)
    for above in [] if isinstance(device, Unknown) else holders(device, sysfs):
        found = find_block_device(above, sysfs)
        if isinstance(found, Unknown):
            continue
        user = _user_above(above, sysfs, swaps)
        if user is None and (found.directory / "partition").exists():
            continue  # a partition that nobody uses
        return _through(f"below {found.node}", user or User("", "remove that first"))
    return None


def _own_user(number: int, swaps: Path) -> User | None:
    """Who has this very device."""
    mounted = next((each for each in iter_mounts() if _is_on(each, number)), None)
    if mounted is not None:
        return User(f"mounted at {mounted.mount_point}", _MOUNTED)
    is_swap = any(_is_node_of(path, number) for path in _swap_paths(swaps))
    return _SWAP if is_swap else None


def _through(words: str, user: User) -> User:
    """Whoever has something that has it."""
    return user._replace(words=f"{words}, which is {user.words}" if user.words else words)


def _user_below(number: int, sysfs: Path, swaps: Path) -> User | None:
    """Who has what a loop device lies on, which it does not claim: its device, or its file."""
    device = find_block_device(number, sysfs)
    if isinstance(device, Unknown):
        return None
    path = read_text(device.directory / "loop" / "backing_file")
    if isinstance(path, Unknown):
        return None
    if path.startswith(_DEVICES):
        user = _user_of_node(path, swaps)
    else:
        others = (each for each in _loops_on(path, sysfs) if each[1] != number)
        user = _user_of_loops(others, sysfs, swaps)
    return None if user is None else _through(f"on {path}", user)


def _user_of_node(path: str, swaps: Path) -> User | None:
    try:
        return _own_user(os.stat(path).st_rdev, swaps)
    except OSError:
        return None


def find_file_user(path: Path, sysfs: Path = SYSFS, swaps: Path = _SWAPS) -> User | None:
    """Who has a regular file as a disk: swap, or a loop device that somebody has in turn."""
    real = os.path.realpath(path)
    if real in _swap_paths(swaps):
        return _SWAP
    return _user_of_loops(_loops_on(real, sysfs), sysfs, swaps)


def _user_of_loops(loops: Iterable[tuple[str, int]], sysfs: Path, swaps: Path) -> User | None:
    for node, number in loops:
        user = _user_above(number, sysfs, swaps)
        with contextlib.suppress(OSError):  # who may not open the node cannot be told
            user = user or (CLAIMED if is_claimed(node) else None)
        if user is not None:
            return _through(f"the disk of {node}", user)
    return None


def is_claimed(node: str | os.PathLike[str]) -> bool:
    """Whether somebody has a block device for itself, as a mount has; raises `OSError`."""
    try:
        os.close(os.open(node, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC))
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        return True
    return False


def _is_on(mount: Mount, number: int) -> bool:
    """Some file systems have a number of their own (btrfs), and name their device alone."""
    if mount.device == number:
        return True
    return os.major(mount.device) == 0 and _is_node_of(mount.source, number)


def _is_node_of(path: str, number: int) -> bool:
    try:
        return path.startswith(_DEVICES) and os.stat(path).st_rdev == number
    except OSError:
        return False


def _swap_paths(swaps: Path) -> list[str]:
    """The devices and files in use as swap; none where the kernel does not say."""
    text = read_text(swaps)
    lines = [] if isinstance(text, Unknown) else text.splitlines()[1:]
    return [_unescaped(line.split()[0]) for line in lines if line.strip()]


def _unescaped(word: str) -> str:
    return _ESCAPE.sub(lambda match: chr(int(match[1], 8)), word)


def _loops_on(real: str, sysfs: Path) -> Iterator[tuple[str, int]]:
    """Node and number of the loop devices on a file."""
    for directory in sorted((sysfs / "block").glob("loop*")):
        number = read_text(directory / "dev")
        if read_text(directory / "loop" / "backing_file") == real and isinstance(number, str):
            major, _, minor = number.partition(":")
            yield f"{_DEVICES}{directory.name}", os.makedev(int(major), int(minor))
