"""What is mounted where, read from /proc/self/mountinfo.

That file is the only safe place to ask: a path at or below a dead mount gives ENOTCONN, which
`os.path.exists` and `os.path.ismount` report as "not there", and one whose server is stuck blocks
its caller beyond the reach of SIGKILL.
"""

import os
import re
from collections.abc import Iterator
from typing import NamedTuple

_ESCAPE = re.compile(rb"\\([0-7]{3})")


class Mount(NamedTuple):
    """One line of mountinfo; `device` is st_dev of its files, options are comma-separated.

    `root` is what of the file system is mounted: `/`, or a directory in it, for a bind mount.
    """

    mount_id: int
    device: int
    mount_point: str
    options: str
    fstype: str
    source: str
    super_options: str
    root: str = "/"

    @property
    def is_fuse(self) -> bool:
        """Whether a FUSE server is behind it (not fuseblk, not fusectl)."""
        return self.fstype == "fuse" or self.fstype.startswith("fuse.")

    @property
    def user_id(self) -> int | None:
        """Who mounted it, where the mount tells: a FUSE mount does."""
        words = (word.partition("=") for word in self.super_options.split(","))
        return next((int(value) for name, _, value in words if name == "user_id"), None)


def parse_mountinfo(text: bytes) -> Iterator[Mount]:
    """The mounts in the text of a mountinfo file, in its order: a later one hides an earlier."""
    for line in text.splitlines():
        fields = line.split(b" ")
        # mount_id parent_id major:minor root mount_point options [tag...] - fstype source super
        tail = fields.index(b"-", 6)
        major, minor = fields[2].split(b":")
        yield Mount(
            int(fields[0]),
            os.makedev(int(major), int(minor)),
            _unescape(fields[4]),
            _unescape(fields[5]),
            _unescape(fields[tail + 1]),
            _unescape(fields[tail + 2]),
            _unescape(b" ".join(fields[tail + 3 :])),
            _unescape(fields[3]),
        )


def _unescape(field: bytes) -> str:
    return os.fsdecode(_ESCAPE.sub(lambda match: bytes([int(match[1], 8)]), field))


def iter_mounts() -> Iterator[Mount]:
    """The mounts of this process's mount namespace."""
    with open("/proc/self/mountinfo", "rb") as file:
        text = file.read()
    return parse_mountinfo(text)


def find_mount(path: str | os.PathLike[str]) -> Mount | None:
    """The topmost mount whose mount point is `path` itself; None if there is none.

    Never touches what is mounted there: only the path's parents are resolved, and `path` (it may
    be a symbolic link) after nothing was found.
    """
    absolute = os.path.abspath(os.fspath(path))
    parent, name = os.path.split(absolute)
    mounts = {mount.mount_point: mount for mount in iter_mounts()}
    found = mounts.get(os.path.join(os.path.realpath(parent), name))
    return found or mounts.get(os.path.realpath(absolute))


def find_mount_of(path: str | os.PathLike[str]) -> Mount | None:
    """The mount that holds `path`, existing or not: the topmost of the deepest mount point.

    What lies in a FUSE mount is never touched, so this answers for dead and stuck ones too.
    """
    found = _deepest(os.path.abspath(os.fspath(path)))
    if found is not None and found.is_fuse:
        return found
    return _deepest(os.path.realpath(path))  # a symbolic link may lead elsewhere


def _deepest(absolute: str) -> Mount | None:
    best: Mount | None = None
    for mount in iter_mounts():
        inside = absolute == mount.mount_point or absolute.startswith(
            mount.mount_point.rstrip("/") + "/"
        )
        if inside and (best is None or len(mount.mount_point) >= len(best.mount_point)):
            best = mount
    return best
