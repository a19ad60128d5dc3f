"""The inodes of a directory below that the kernel knows through a shadow mount.

Each is held by a descriptor (O_PATH), never by a path: whatever is renamed or replaced outside, a
nodeid stays the inode that it was, and its number is not given to another one meanwhile.
"""

from __future__ import annotations

import errno
import os
import resource
import stat
from collections.abc import Callable, Iterator

from daxmend.fuse.protocol import FUSE_ROOT_ID
from daxmend.mounts.shadowfaults import FileFaults
from daxmend.mounts.writepath import WritePath

FIRST_NODEID = 1024  # those below are the mount's own

_SPARE_DESCRIPTORS = 256  # for open files and all else, of few that there are
_MANY_DESCRIPTORS = 1 << 20  # what Linux gives at most, unless it was told otherwise
_PATH_ONLY = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC

Key = tuple[int, int]  # st_dev, st_ino


def key_of(found: os.stat_result) -> Key:
    """What makes an inode itself."""
    return found.st_dev, found.st_ino


class ShadowNode:
    """One inode. `fd` is O_PATH; `faults` and `writes` are there once it has had a fault."""

    __slots__ = (
        "backing_id",
        "backing_opens",
        "faults",
        "fd",
        "key",
        "lookups",
        "name",
        "nodeid",
        "opens",
        "parent",
        "stamp",
        "writes",
    )

    def __init__(self, nodeid: int, fd: int, key: Key, parent: int, name: bytes) -> None:
        self.nodeid = nodeid
        self.fd = fd
        self.key = key
        self.parent = parent  # where it was looked up last, to make the kernel forget it
        self.name = name
        self.lookups = 0
        self.faults: FileFaults | None = None
        self.writes: WritePath | None = None
        self.opens = 0  # through this server
        self.backing_opens = 0  # in passthrough
        self.backing_id = 0
        self.stamp: tuple[int, ...] | None = None  # what the cached pages belong to

    @property
    def link(self) -> str:
        """A path to this very inode."""
        return f"/proc/self/fd/{self.fd}"

    @property
    def is_bad(self) -> bool:
        """Whether it has faults now."""
        return self.faults is not None and bool(self.faults)


class ShadowNodes:
    """All of them, and their numbers. Used on the request thread.

    `forget_entry` asks the kernel to let go of a name: with ever more files, descriptors run out.
    """

    def __init__(self, root: int, forget_entry: Callable[[int, bytes], None]) -> None:
        self._forget_entry = forget_entry
        self._last = FIRST_NODEID - 1
        self._limit = _raise_limit() - _SPARE_DESCRIPTORS
        node = ShadowNode(FUSE_ROOT_ID, root, key_of(os.fstat(root)), FUSE_ROOT_ID, b"")
        node.lookups = 1
        self.root = node
        self._by_nodeid = {FUSE_ROOT_ID: node}
        self._by_key = {node.key: node}
        self._asked: int = FIRST_NODEID  # what the kernel was asked to forget lies below

    def __len__(self) -> int:
        return len(self._by_nodeid)

    def __iter__(self) -> Iterator[ShadowNode]:
        return iter(list(self._by_nodeid.values()))

    def __getitem__(self, nodeid: int) -> ShadowNode:
        return self._by_nodeid[nodeid]

    def find(self, found: os.stat_result) -> ShadowNode | None:
        """The node of an inode, if it has one."""
        return self._by_key.get(key_of(found))

    def lookup(self, parent: ShadowNode, name: bytes) -> tuple[ShadowNode, os.stat_result]:
        """What the name stands for, counted; `OSError` as open(2) has it."""
        found = os.stat(name, dir_fd=parent.fd, follow_symlinks=False)
        node = self.find(found)
        if node is None:
            node, found = self._adopt(os.open(name, _PATH_ONLY, dir_fd=parent.fd), parent, name)
        node.parent, node.name = parent.nodeid, name
        node.lookups += 1
        return node, found

    def of_open(
        self, fd: int, parent: ShadowNode, name: bytes
    ) -> tuple[ShadowNode, os.stat_result]:
        """The node of an open file, counted."""
        node, found = self._adopt(
            os.open(f"/proc/self/fd/{fd}", os.O_PATH | os.O_CLOEXEC), parent, name
        )
        node.lookups += 1
        return node, found

    def _adopt(self, fd: int, parent: ShadowNode, name: bytes) -> tuple[ShadowNode, os.stat_result]:
        found = os.fstat(fd)
        known = self.find(found)
        if known is not None:
            os.close(fd)
            return known, found
        self._last += 1
        node = ShadowNode(self._last, fd, key_of(found), parent.nodeid, name)
        self._by_nodeid[node.nodeid] = self._by_key[node.key] = node
        if len(self._by_nodeid) > self._limit:
            self._ask_to_forget()
        return node, found

    def open_path(self, path: str) -> ShadowNode:
        """The node of a path from the root, through no link; not counted: `drop` it, or keep it."""
        node = self.root
        for part in filter(None, os.fsencode(path).split(b"/")):
            try:
                if part in (b".", b".."):
                    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
                below, _ = self.lookup(node, part)
            finally:
                self.drop(node)
            below.lookups -= 1
            node = below
        return node

    def forget(self, nodeid: int, nlookup: int) -> None:
        """The kernel gives lookups back."""
        node = self._by_nodeid[nodeid]
        node.lookups -= nlookup
        self.drop(node)

    def drop(self, node: ShadowNode) -> bool:
        """Let go of a node that nobody knows; one with faults stays as long as it has a name.

        Whether it is gone.
        """
        if node.lookups > 0 or node.opens or node.backing_opens:
            return False
        if node.is_bad and os.fstat(node.fd).st_nlink:
            return False
        del self._by_nodeid[node.nodeid], self._by_key[node.key]
        os.close(node.fd)
        return True

    def _ask_to_forget(self) -> None:
        """The oldest names, a part of them: the kernel answers with FORGET for those in no use."""
        upto = min(self._asked + self._limit // 8, self._last)
        for nodeid in range(self._asked, upto):
            node = self._by_nodeid.get(nodeid)
            if node is not None and not node.opens:
                self._forget_entry(node.parent, node.name)
        self._asked = FIRST_NODEID if upto == self._last else upto

    def path(self, node: ShadowNode) -> bytes | None:
        """Where it stands now, from the root; None for what has no name, or has left."""
        top, here = (os.fsencode(os.readlink(each.link)) for each in (self.root, node))
        if node is self.root:
            return b"/"
        top = top.rstrip(b"/")
        if not here.startswith(top + b"/"):
            return None
        path = here[len(top) :]
        try:
            found = os.stat(path[1:], dir_fd=self.root.fd, follow_symlinks=False)
        except OSError:
            return None
        return path if key_of(found) == node.key else None

    def walk_files(self) -> Iterator[tuple[str, os.stat_result]]:
        """All regular files: paths from the root without its slash; through no link."""
        top = os.open(self.root.link, os.O_RDONLY | os.O_DIRECTORY)
        try:
            for directory, _, names, fd in os.fwalk(".", dir_fd=top, follow_symlinks=False):
                prefix = "" if directory == "." else directory.removeprefix("./") + "/"
                for name in names:
                    try:
                        found = os.stat(name, dir_fd=fd, follow_symlinks=False)
                    except FileNotFoundError:  # removed meanwhile
                        continue
                    if stat.S_ISREG(found.st_mode):
                        yield prefix + name, found
        finally:
            os.close(top)

    def close(self) -> None:
        """Let go of all."""
        for node in self:
            os.close(node.fd)


def _raise_limit() -> int:
    """As many descriptors as this process may have."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        hard = _MANY_DESCRIPTORS
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard
