"""The damaged files below a directory: what the record names, else what reading finds.

The record is asked for the file system that the directory is in. Where there is none, or it cannot
be asked, every file is read: that takes as long as reading takes, and says so.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import NamedTuple

from daxmend.errors import DaxmendError, UnknownStateError, UsageError
from daxmend.host.mountinfo import Mount, find_mount_of
from daxmend.rescue.hosttarget import HostTarget
from daxmend.rescue.opening import find_own_mount, open_target, validate_mount
from daxmend.rescue.repairplan import find_bad_pages
from daxmend.rescue.subjectopening import open_subject
from daxmend.rescue.target import Range, locate

Tell = Callable[[str], None]  # the file that is looked at


class Tree(NamedTuple):
    """`files` are paths from the directory on, ascending; `others` is bad, and no file's.

    `unread` are files that could not be looked at, and why; `why` says why the record was not
    enough and everything was read, or is None.
    """

    files: list[str]
    others: list[Range]
    unread: list[tuple[str, Exception]]
    why: str | None
    notices: list[str]


def is_tree(name: str) -> bool:
    """Whether a directory is named. Raises `UnknownStateError` for a mount that does not answer."""
    mount = find_own_mount(name)
    if mount is not None:
        validate_mount(mount, name)
    return os.path.isdir(name)


class Recorded(NamedTuple):
    """What is recorded of a directory: `ranges` of the device, with paths of the running system.

    Where the directory is all of a file system, also what is no file's. `unknown`: why there may be
    more.
    """

    mount_point: str
    ranges: list[Range]
    unknown: list[str]
    notices: list[str]


def find_recorded(directory: str) -> Recorded:
    """What is recorded below the directory, on its own file system; no file is read.

    Raises `UsageError` for what is no directory of files.
    """
    top = os.path.realpath(directory)
    mount = find_mount_of(top)
    if mount is None:
        raise UnknownStateError(f"{directory}: what is mounted there cannot be known")
    found = _recorded(mount)
    is_whole = top == mount.mount_point
    inside = [each for each in found.ranges if _is_below(each, top, is_whole=is_whole)]
    return found._replace(ranges=inside)


def _is_below(found: Range, top: str, *, is_whole: bool) -> bool:
    if found.owner != "file" or not found.path:
        return is_whole
    return os.path.relpath(os.fsdecode(found.path), top).split("/")[0] != ".."


def find_damaged(directory: str, tell: Tell) -> Tree:
    """The damaged files below the directory, on its own file system. Only reads.

    Raises `UsageError` for what is no directory of files.
    """
    top = os.path.realpath(directory)
    found = find_recorded(directory)
    if found.unknown:
        files, unread = _read_all(top, tell)
        return Tree(files, [], unread, "; ".join(found.unknown), found.notices)
    names: set[str] = set()
    others = []
    for each in found.ranges:
        if each.owner == "file" and each.path:
            names.add(os.path.relpath(os.fsdecode(each.path), top))
        else:
            others.append(each)
    return Tree(sorted(names), others, [], None, found.notices)


def _recorded(mount: Mount) -> Recorded:
    """What is recorded in all of the file system."""
    try:
        target = open_target(mount.mount_point)
    except UnknownStateError as error:
        return Recorded(mount.mount_point, [], [str(error)], [])
    with contextlib.closing(target):
        if isinstance(target, HostTarget):
            found = target.locate(lambda done, total: None)
            return Recorded(mount.mount_point, found, target.unknown, target.notices)
        if target.content not in ("fs", "shadow"):
            raise UsageError(f"{mount.mount_point} has no files: it is one device; name that")
        found = locate(target)
    prefix = os.fsencode(mount.mount_point)
    named = [each._replace(path=prefix + each.path if each.path else b"") for each in found]
    return Recorded(mount.mount_point, named, [], target.notices)


def _read_all(top: str, tell: Tell) -> tuple[list[str], list[tuple[str, Exception]]]:
    """Every file, read; those with lost bytes, and those that could not be read."""
    damaged: list[str] = []
    unread: list[tuple[str, Exception]] = []
    for path in _walk(top, unread):
        inside = os.path.relpath(path, top)
        tell(inside)
        try:
            with contextlib.closing(open_subject(path)) as subject:
                if find_bad_pages(subject, lambda _: None):
                    damaged.append(inside)
        except FileNotFoundError:
            pass  # somebody removed it meanwhile
        except (DaxmendError, OSError) as error:
            unread.append((inside, error))
    return sorted(damaged), unread


def _walk(top: str, unread: list[tuple[str, Exception]]) -> Iterator[str]:
    """The regular files of one file system below a directory."""
    device = os.stat(top).st_dev
    directories = [top]
    while directories:
        directory = directories.pop()
        try:
            with os.scandir(directory) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        if entry.stat(follow_symlinks=False).st_dev == device:
                            directories.append(entry.path)
                    elif entry.is_file(follow_symlinks=False):
                        yield entry.path
        except OSError as error:
            unread.append((os.path.relpath(directory, top), error))
