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


def find_damaged(directory: str, tell: Tell) -> Tree:
    """The damaged files below the directory, on its own file system. Only reads.

    Raises `UsageError` for what is no directory of files.
    """
    top = os.path.realpath(directory)
    mount = find_mount_of(top)
    if mount is None:
        raise UnknownStateError(f"{directory}: what is mounted there cannot be known")
    notices: list[str] = []
    found = _recorded(mount, notices)
    if isinstance(found, str):
        files, unread = _read_all(top, tell)
        return Tree(files, [], unread, found, notices)
    names: set[str] = set()
    others = []
    for each in found:
        path = os.fsdecode(each.path)
        inside = os.path.relpath(path, top) if path else ".."
        if each.owner == "file" and inside.split("/")[0] != "..":
            names.add(inside)
        elif (each.owner != "file" or not path) and top == mount.mount_point:
            others.append(each)
    return Tree(sorted(names), others, [], None, notices)


def _recorded(mount: Mount, notices: list[str]) -> list[Range] | str:
    """What is recorded in the file system, with paths of the running system; or why it is not."""
    try:
        target = open_target(mount.mount_point)
    except UnknownStateError as error:
        return str(error)
    with contextlib.closing(target):
        if isinstance(target, HostTarget):
            found = target.locate(lambda done, total: None)
            notices += target.notices
            return "; ".join(target.unknown) or found
        if target.content not in ("fs", "shadow"):
            raise UsageError(f"{mount.mount_point} has no files: it is one device; name that")
        found = locate(target)
        notices += target.notices
    prefix = os.fsencode(mount.mount_point)
    return [each._replace(path=prefix + each.path if each.path else b"") for each in found]


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
