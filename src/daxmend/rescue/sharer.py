"""Who else has the blocks of a file: reflinked copies share them until one of them is written."""

from __future__ import annotations

import os
from collections.abc import Iterable

from daxmend.extent import Extent, ExtentSet
from daxmend.host.mountinfo import find_mount_of
from daxmend.rescue.hostowner import OwnerSearch
from daxmend.units import SECTOR


def find_sharers(fd: int, path: str | os.PathLike[str], places: Iterable[Extent]) -> list[str]:
    """The names of the other files that have one of these places on the device of the open file.

    Also in words what could not be named: what may be missing is never left out silently.
    """
    wanted = list(ExtentSet(SECTOR, (place.widened(SECTOR) for place in places)))
    mount = find_mount_of(path)
    if not wanted or mount is None:
        return []
    search = OwnerSearch(mount)
    found = search.find(wanted)
    ours = os.fstat(fd)
    names = sorted({each.path for each in found if each.owner == "file" and each.path})
    others = [os.fsdecode(name) for name in names if not _is(name, ours)]
    if search.closed:
        others.append(f"perhaps {search.closed} files or directories that may not be looked into")
    return others or ["files whose names were not found"]


def _is(name: bytes, ours: os.stat_result) -> bool:
    try:
        return os.path.samestat(os.stat(name, follow_symlinks=False), ours)
    except OSError:
        return False
