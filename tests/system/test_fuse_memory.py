"""A small file system in memory, served for real; the other test_fuse_* modules import it.

The server is always a process of its own, and a watchdog aborts the connection when time is up,
since a process that touches a hung mount cannot be killed.
"""

import contextlib
import errno
import faulthandler
import json
import os
import select
import shutil
import signal
import stat
import subprocess
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

import pytest

from daxmend.fuse import (
    PENDING,
    Attr,
    AttrOut,
    Caller,
    Dirent,
    DirentBuffer,
    Entry,
    Handler,
    Kstatfs,
    Opened,
    Pending,
    Session,
    SetAttr,
    find_mount,
    mount,
    pack_write_out,
    unmount,
    unmount_dead,
)
from daxmend.fuse import protocol as p

is_root = os.geteuid() == 0
can_mount = is_root or (os.access("/dev/fuse", os.W_OK) and shutil.which("fusermount3"))
pytestmark = [
    # Not the thread method: it ends the process at once and leaves the mount behind.
    pytest.mark.timeout(60, method="signal"),
    pytest.mark.skipif(not can_mount, reason="neither root nor fusermount3 with /dev/fuse"),
]
needs_root = pytest.mark.skipif(not is_root, reason="needs root")

PAGE = 4096
WATCHDOG_SECONDS = 40
FICTIVE_IOCTL = (3 << 30) | (8 << 16) | (ord("x") << 8) | 1  # _IOWR('x', 1, 8 bytes)


@dataclass
class Node:
    mode: int
    data: bytearray = field(default_factory=bytearray)
    children: dict[bytes, int] = field(default_factory=dict)
    xattrs: dict[bytes, bytes] = field(default_factory=dict)
    bad_pages: set[int] = field(default_factory=set)
    nlink: int = 1
    uid: int = 0
    gid: int = 0
    mtime: tuple[int, int] = (0, 0)


class MemoryHandler(Handler):
    """Files whose name begins with `direct` are opened FOPEN_DIRECT_IO, all others cached.

    Special files in the root, all opened direct: `.ctl` takes a JSON list [method, argument...]
    and calls the method `ctl_METHOD`; `.log` reads as what happened; `.events` blocks a reader
    until there is an event.
    """

    def __init__(self) -> None:
        self.nodes = {p.FUSE_ROOT_ID: Node(stat.S_IFDIR | 0o777, nlink=2)}
        self.log: list[list[object]] = []
        self.events: list[bytes] = []
        self.waiting: list[int] = []  # parked reads of .events
        self.poll_handles: set[int] = set()
        self.parking: set[int] = set()
        self.last_log: Path | None = None
        self.tell_fd = -1
        self.special = {
            name: self._new(Node(stat.S_IFREG | 0o666)) for name in (b".ctl", b".log", b".events")
        }

    def tell(self, word: str) -> None:
        """What a test can wait for, with `Served.expect`."""
        if self.tell_fd >= 0:
            os.write(self.tell_fd, f"{word}\n".encode())

    def _new(self, node: Node) -> int:
        nodeid = max(self.nodes) + 1
        self.nodes[nodeid] = node
        return nodeid

    def _attr(self, nodeid: int) -> Attr:
        node = self.nodes[nodeid]
        size = len(node.data)
        times = (0, node.mtime[0], 0, 0, node.mtime[1], 0)
        return Attr(
            nodeid, size, -(-size // 512), *times, node.mode, node.nlink, node.uid, node.gid
        )

    def _entry(self, nodeid: int) -> Entry:
        return Entry(nodeid, self._attr(nodeid))

    def _child(self, parent: int, name: bytes) -> int:
        children = self.nodes[parent].children
        nodeid = self.special.get(name) if parent == p.FUSE_ROOT_ID else None
        nodeid = nodeid or children.get(name)
        if nodeid is None:
            raise FileNotFoundError(errno.ENOENT, "no such name")
        return nodeid

    def _make(self, caller: Caller, parent: int, name: bytes, mode: int) -> Entry:
        nodeid = self._new(Node(mode, uid=caller.uid, gid=caller.gid))
        self.nodes[parent].children[name] = nodeid
        return self._entry(nodeid)

    # What tests ask for through .ctl

    def ctl_bad(self, name: str, *pages: int) -> None:
        self.nodes[self._child(p.FUSE_ROOT_ID, name.encode())].bad_pages = set(pages)

    def ctl_change(self, name: str, offset: int, text: str) -> None:
        """Behind the kernel's back."""
        node = self.nodes[self._child(p.FUSE_ROOT_ID, name.encode())]
        node.data[offset : offset + len(text)] = text.encode()

    def ctl_invalidate(self, name: str, offset: int, length: int) -> None:
        nodeid = self._child(p.FUSE_ROOT_ID, name.encode())
        self.session.notifier.inval_inode(nodeid, offset, length)

    def ctl_rebind(self, old: str, new: str) -> None:
        """Rename behind the kernel's back and tell it."""
        children = self.nodes[p.FUSE_ROOT_ID].children
        children[new.encode()] = children.pop(old.encode())
        self.session.notifier.inval_entry(p.FUSE_ROOT_ID, old.encode())

    def ctl_event(self, text: str) -> None:
        if self.waiting:
            unique = self.waiting.pop(0)
            self.session.notifier.then(lambda: self._deliver(unique, text.encode()))
        else:
            self.events.append(text.encode())
            for kh in self.poll_handles:
                self.session.notifier.poll_wakeup(kh)
            self.poll_handles.clear()

    def _deliver(self, unique: int, text: bytes) -> None:
        if not self.session.reply(unique, text):
            self.events.append(text)

    def ctl_park(self, name: str) -> None:
        """From now on reads of this file are never answered."""
        self.parking.add(self._child(p.FUSE_ROOT_ID, name.encode()))

    def ctl_crash(self) -> None:
        raise ZeroDivisionError("planted")

    # Operations

    def destroy(self) -> None:
        if self.last_log:
            self.last_log.write_text(json.dumps([*self.log, ["destroy"]]))

    def init(self, session: Session) -> None:
        super().init(session)
        assert session.kernel is not None
        self.log.append(["init", session.kernel.minor, session.kernel.direct_mmap])
        self.tell("ready")

    def interrupted(self, unique: int) -> bool:
        self.log.append(["interrupted"])
        if unique in self.waiting:
            self.waiting.remove(unique)
        return True

    def lookup(self, caller: Caller, parent: int, name: bytes) -> Entry:
        return self._entry(self._child(parent, name))

    def forget(self, nodeid: int, nlookup: int) -> None:
        self.tell(f"forgot {nodeid} {nlookup}")

    def getattr(self, caller: Caller, nodeid: int, fh: int | None) -> AttrOut:
        return AttrOut(self._attr(nodeid))

    def setattr(self, caller: Caller, nodeid: int, change: SetAttr) -> AttrOut:
        node = self.nodes[nodeid]
        if change.valid & p.FATTR_MODE:
            node.mode = change.mode
        if change.valid & p.FATTR_UID:
            node.uid = change.uid
        if change.valid & p.FATTR_GID:
            node.gid = change.gid
        if change.valid & p.FATTR_SIZE:
            del node.data[change.size :]
            node.data.extend(bytes(change.size - len(node.data)))
        if change.valid & p.FATTR_MTIME:
            node.mtime = (change.mtime, change.mtimensec)
        return AttrOut(self._attr(nodeid))

    def readlink(self, caller: Caller, nodeid: int) -> bytes:
        return bytes(self.nodes[nodeid].data)

    def symlink(self, caller: Caller, parent: int, name: bytes, target: bytes) -> Entry:
        entry = self._make(caller, parent, name, stat.S_IFLNK | 0o777)
        self.nodes[entry.nodeid].data[:] = target
        return self._entry(entry.nodeid)

    def mknod(
        self, caller: Caller, parent: int, name: bytes, mode: int, rdev: int, umask: int
    ) -> Entry:
        return self._make(caller, parent, name, mode)

    def mkdir(self, caller: Caller, parent: int, name: bytes, mode: int, umask: int) -> Entry:
        return self._make(caller, parent, name, stat.S_IFDIR | mode)

    def unlink(self, caller: Caller, parent: int, name: bytes) -> None:
        self.nodes[self.nodes[parent].children.pop(name)].nlink -= 1

    def rmdir(self, caller: Caller, parent: int, name: bytes) -> None:
        if self.nodes[self._child(parent, name)].children:
            raise OSError(errno.ENOTEMPTY, "not empty")
        del self.nodes[parent].children[name]

    def rename(
        self, caller: Caller, parent: int, name: bytes, newdir: int, newname: bytes, flags: int
    ) -> None:
        target = self.nodes[newdir].children
        if flags & 1 and newname in target:  # RENAME_NOREPLACE
            raise FileExistsError(errno.EEXIST, "exists")
        target[newname] = self.nodes[parent].children.pop(name)

    def link(self, caller: Caller, oldnodeid: int, newdir: int, newname: bytes) -> Entry:
        self.nodes[newdir].children[newname] = oldnodeid
        self.nodes[oldnodeid].nlink += 1
        return self._entry(oldnodeid)

    def _opened(self, nodeid: int, flags: int) -> Opened:
        if flags & os.O_TRUNC:
            self.nodes[nodeid].data.clear()
        names = {child: name for name, child in self.nodes[p.FUSE_ROOT_ID].children.items()}
        if nodeid in self.special.values() or names.get(nodeid, b"").startswith(b"direct"):
            return Opened(nodeid, p.FOPEN_DIRECT_IO)
        return Opened(nodeid, p.FOPEN_KEEP_CACHE)

    def open(self, caller: Caller, nodeid: int, flags: int, open_flags: int) -> Opened:
        return self._opened(nodeid, flags)

    def create(
        self,
        caller: Caller,
        parent: int,
        name: bytes,
        flags: int,
        mode: int,
        umask: int,
        open_flags: int,
    ) -> tuple[Entry, Opened]:
        entry = self._make(caller, parent, name, stat.S_IFREG | mode)
        return entry, self._opened(entry.nodeid, 0)

    def tmpfile(
        self, caller: Caller, parent: int, flags: int, mode: int, umask: int, open_flags: int
    ) -> tuple[Entry, Opened]:
        nodeid = self._new(Node(stat.S_IFREG | mode, nlink=0, uid=caller.uid, gid=caller.gid))
        return self._entry(nodeid), self._opened(nodeid, 0)

    def read(
        self, nodeid: int, fh: int, offset: int, size: int, read_flags: int, open_flags: int
    ) -> bytes | memoryview | Pending:
        if nodeid == self.special[b".log"]:
            return json.dumps(self.log).encode()[offset : offset + size]
        if nodeid == self.special[b".events"]:
            if self.events:
                return self.events.pop(0)
            if open_flags & os.O_NONBLOCK:
                raise BlockingIOError(errno.EAGAIN, "no event yet")
            self.waiting.append(self.session.unique)
            self.tell("parked")
            return PENDING
        if nodeid in self.parking:
            self.tell("parked")
            return PENDING
        node = self.nodes[nodeid]
        self.log.append(["read", offset, size, read_flags, open_flags & os.O_DIRECT])
        bad = [
            page * PAGE for page in node.bad_pages if offset - PAGE < page * PAGE < offset + size
        ]
        if bad and not (read_flags & p.FUSE_READ_LOCKOWNER and offset < min(bad)):
            raise OSError(errno.EIO, "bad page")
        end = min([offset + size, *bad])
        return memoryview(bytes(node.data))[offset:end]

    def write(
        self, nodeid: int, fh: int, offset: int, data: memoryview, write_flags: int, open_flags: int
    ) -> int | Pending:
        if nodeid == self.special[b".ctl"]:
            return self._control(bytes(data))
        self.log.append(["write", offset, len(data), write_flags])
        node = self.nodes[nodeid]
        node.data.extend(bytes(max(0, offset + len(data) - len(node.data))))
        node.data[offset : offset + len(data)] = data
        return len(data)

    def _control(self, line: bytes) -> Pending:
        """Answered when what it queued with the notifier is done."""
        method, *arguments = json.loads(line)
        self.tell(method)
        getattr(self, f"ctl_{method}")(*arguments)
        unique, payload = self.session.unique, pack_write_out(len(line))
        self.session.notifier.then(lambda: self.session.reply(unique, payload))
        return PENDING

    def flush(self, nodeid: int, fh: int, lock_owner: int) -> None:
        pass

    def release(
        self, nodeid: int, fh: int, flags: int, release_flags: int, lock_owner: int
    ) -> None:
        if nodeid == self.special[b".events"]:
            self.tell("released")

    def fsync(self, nodeid: int, fh: int, fsync_flags: int) -> None:
        self.log.append(["fsync", fsync_flags])

    def fallocate(self, nodeid: int, fh: int, offset: int, length: int, mode: int) -> None:
        self.log.append(["fallocate", offset, length, mode])
        data = self.nodes[nodeid].data
        if mode & 2:  # PUNCH_HOLE
            data[offset : offset + length] = bytes(length)
        else:
            data.extend(bytes(max(0, offset + length - len(data))))

    def lseek(self, nodeid: int, fh: int, offset: int, whence: int) -> int:
        size = len(self.nodes[nodeid].data)
        if offset >= size:
            raise OSError(errno.ENXIO, "beyond the end")
        return offset if whence == os.SEEK_DATA else size

    def copy_file_range(
        self,
        nodeid_in: int,
        fh_in: int,
        off_in: int,
        nodeid_out: int,
        fh_out: int,
        off_out: int,
        length: int,
        flags: int,
    ) -> int:
        data = bytes(self.nodes[nodeid_in].data[off_in : off_in + length])
        self.nodes[nodeid_out].data[off_out : off_out + len(data)] = data
        self.log.append(["copy_file_range", len(data)])
        return len(data)

    def ioctl(
        self,
        caller: Caller,
        nodeid: int,
        fh: int,
        flags: int,
        cmd: int,
        arg: int,
        data: bytes,
        out_size: int,
    ) -> tuple[int, bytes]:
        if cmd != FICTIVE_IOCTL:
            raise OSError(errno.ENOTTY, "unknown ioctl")
        return 7, data[::-1]

    def poll(self, nodeid: int, fh: int, kh: int, flags: int, events: int) -> int:
        if nodeid != self.special[b".events"] or self.events:
            return events & (select.POLLIN | select.POLLOUT)
        if flags & p.FUSE_POLL_SCHEDULE_NOTIFY:
            self.poll_handles.add(kh)
            self.tell("polled")
        return 0

    def _names(self, nodeid: int) -> list[tuple[bytes, int]]:
        return [(b".", nodeid), (b"..", nodeid), *self.nodes[nodeid].children.items()]

    def readdir(self, nodeid: int, fh: int, offset: int, dirents: DirentBuffer) -> None:
        for index, (name, child) in enumerate(self._names(nodeid)[offset:], start=offset + 1):
            kind = stat.S_IFMT(self.nodes[child].mode) >> 12
            if not dirents.add(Dirent(child, index, kind, name)):
                return

    def getxattr(self, caller: Caller, nodeid: int, name: bytes) -> bytes:
        self.log.append(["getxattr", name.decode()])
        try:
            return self.nodes[nodeid].xattrs[name]
        except KeyError:
            raise OSError(errno.ENODATA, "no such xattr") from None

    def setxattr(self, caller: Caller, nodeid: int, name: bytes, value: bytes, flags: int) -> None:
        self.nodes[nodeid].xattrs[name] = value

    def listxattr(self, caller: Caller, nodeid: int) -> list[bytes]:
        return list(self.nodes[nodeid].xattrs)

    def removexattr(self, caller: Caller, nodeid: int, name: bytes) -> None:
        del self.nodes[nodeid].xattrs[name]

    def statfs(self, caller: Caller, nodeid: int) -> Kstatfs:
        return Kstatfs(1000, 900, 800, 50, 40)


class PlusHandler(MemoryHandler):
    """Negotiates READDIRPLUS and takes over the killing of suid and sgid."""

    kills_suidgid = True

    def readdirplus(self, nodeid: int, fh: int, offset: int, dirents: DirentBuffer) -> None:
        for index, (name, child) in enumerate(self._names(nodeid)[offset:], start=offset + 1):
            dirent = Dirent(child, index, stat.S_IFMT(self.nodes[child].mode) >> 12, name)
            entry = None if name in (b".", b"..") else self._entry(child)
            if not dirents.add_plus(entry, dirent):
                return
            self.log.append(["plus", name.decode()])


@dataclass
class Served:
    """A mount whose server is the process `pid`."""

    path: Path
    pid: int
    log_path: Path
    told: TextIO

    def expect(self, word: str) -> None:
        """Wait until the handler tells `word`."""
        while (line := self.told.readline()) != f"{word}\n":
            assert line, f"the server ended before {word!r}"

    def ctl(self, *words: object) -> None:
        fd = os.open(self.path / ".ctl", os.O_WRONLY)
        try:
            os.write(fd, json.dumps(words).encode())
        finally:
            os.close(fd)

    def log(self, kind: str) -> list[list[object]]:
        text = (self.path / ".log").read_bytes()
        return [entry[1:] for entry in json.loads(text) if entry[0] == kind]

    def last_log(self, kind: str) -> list[list[object]]:
        """As `log`, from what the server left behind when it ended."""
        text = self.log_path.with_suffix(".json").read_bytes()
        return [entry[1:] for entry in json.loads(text) if entry[0] == kind]


def serve(
    fd: int, handler: MemoryHandler, log_path: Path, mountpoint: Path, passthrough: bool
) -> None:
    """The server process: SIGTERM unmounts in good order, SIGINT and SIGUSR1 stop at once."""
    handler.last_log = log_path.with_suffix(".json")
    with log_path.open("a", buffering=1) as log:
        session = Session(
            fd, handler, passthrough=passthrough, log=lambda text: log.write(f"{text}\n")
        )
        unmounter = threading.Thread(target=unmount, args=(mountpoint,), daemon=True)
        signal.signal(signal.SIGTERM, lambda _signal, _frame: unmounter.start())
        signal.signal(signal.SIGINT, lambda _signal, _frame: session.stop())
        stopper = threading.Thread(target=session.stop, daemon=True)
        signal.signal(signal.SIGUSR1, lambda _signal, _frame: stopper.start())
        session.run()
        session.close()


def wait(pid: int) -> int:
    """The exit status of a child, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def in_child(body: Callable[[], object]) -> int:
    """The pid of a forked child that runs `body`; it exits with 0, or 1 and a traceback."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    faulthandler.disable()  # some children are meant to die of SIGBUS
    try:
        body()
        status = 0
    except BaseException:  # noqa: BLE001  # pytest.fail and KeyboardInterrupt as well
        traceback.print_exc()
    finally:
        os._exit(status)


def abort(device: int) -> None:
    """Abort a connection through fusectl, mounted in passing: not every system has it mounted."""
    with tempfile.TemporaryDirectory() as directory:
        subprocess.run(["mount", "-t", "fusectl", "none", directory], check=True)
        with contextlib.suppress(OSError):
            Path(directory, str(os.minor(device)), "abort").write_text("1")
        subprocess.run(["umount", directory], check=True)


def watchdog(device: int, server: int, alive: int) -> None:
    """Abort the connection unless the other end of the pipe `alive` is closed in time."""
    readable, _, _ = select.select([alive], [], [], WATCHDOG_SECONDS)
    if not readable:
        os.kill(server, signal.SIGKILL)
        if is_root:
            abort(device)


@contextlib.contextmanager
def served(
    directory: Path, handler: MemoryHandler, *, passthrough: bool = False
) -> Iterator[Served]:
    """Serve `handler` from another process on `directory/mnt`; clean up whatever happens."""
    mountpoint = directory / "mnt"
    mountpoint.mkdir()
    log_path = directory / "server.log"
    fd = mount(mountpoint, fsname="memory", subtype="daxmend-test")
    found = find_mount(mountpoint)
    assert found is not None
    told, handler.tell_fd = os.pipe()
    alive, test_end = os.pipe()
    os.set_inheritable(test_end, False)

    def server_body() -> None:
        os.close(test_end)
        serve(fd, handler, log_path, mountpoint, passthrough)

    def watchdog_body() -> None:
        os.close(test_end)
        os.close(fd)
        os.close(handler.tell_fd)
        watchdog(found.device, pid, alive)

    pid = in_child(server_body)
    guard = in_child(watchdog_body)
    os.close(fd)
    os.close(handler.tell_fd)
    try:
        with open(told) as told_file:
            mounted = Served(mountpoint, pid, log_path, told_file)
            mounted.expect("ready")
            yield mounted
    finally:
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)
        if find_mount(mountpoint):
            unmount_dead(mountpoint)
        os.close(test_end)
        os.close(alive)
        os.waitpid(guard, 0)


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Served]:
    with served(tmp_path, MemoryHandler()) as mounted:
        yield mounted


def test_an_unexpected_exception_is_eio_with_its_traceback_in_the_log(memory: Served) -> None:
    with pytest.raises(OSError) as info:
        memory.ctl("crash")
    assert info.value.errno == errno.EIO
    assert "ZeroDivisionError: planted" in memory.log_path.read_text()
    assert os.listdir(memory.path) == []  # and it serves on


def test_the_kernel_and_the_session_agree_on_a_version(memory: Served) -> None:
    ((minor, direct_mmap),) = memory.log("init")
    assert isinstance(minor, int)
    assert p.OLDEST_MINOR_VERSION <= minor <= p.FUSE_KERNEL_MINOR_VERSION
    release = tuple(int(part) for part in os.uname().release.split(".")[:2])
    assert direct_mmap == (release >= (6, 6))
