"""A raw mount made through the command line, and the users and programs that meet it.

The body of a test that uses the `user` fixture runs in a forked child as that user (conftest.py);
what may die of SIGBUS is a child of that one, and the mount's server is nobody's child. Whatever
hangs is freed by aborting the connection.
"""

import codecs
import contextlib
import ctypes
import faulthandler
import grp
import importlib
import io
import os
import pickle
import pwd
import select
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import daxmend.cli
from daxmend.fuse import find_mount, iter_mounts
from daxmend.media.pool import read_owner

PAGE = 4096
SECTOR = 512
SIZE = 4 << 20

# The tests kill programs, not the machine; without this each heal waits for the disk.
DURABILITY = ("--durability", "process")

BODY_SECONDS = 40.0
COMMAND_SECONDS = 20.0
_SYSTEM_PYTHON = "/usr/bin/python3"


class User(NamedTuple):
    """Who runs a test: root, or an ordinary user."""

    name: str
    uid: int
    gid: int

    @property
    def is_root(self) -> bool:
        return self.uid == 0

    def become(self) -> None:
        """In a child: drop to this user, for good."""
        if os.geteuid() == self.uid:
            return
        os.setgroups([])
        os.setgid(self.gid)
        os.setuid(self.uid)
        os.environ["HOME"] = "/"
        # The mount code asks about mounts in a child Python; a venv below /root cannot be run.
        if not os.access(sys.executable, os.X_OK):
            sys.executable = _SYSTEM_PYTHON


ROOT = User("root", 0, 0)

# Now, because an ordinary user may not be able to import them later, and children need not again.
codecs.lookup("ascii")
for _command in daxmend.cli.COMMANDS:
    importlib.import_module(f"daxmend.cli.{_command}_command")

_CLONE_NEWNS = 0x20000
_MS_REC_PRIVATE = 0x4000 | 0x40000
_MS_BIND = 0x1000
_MNT_DETACH = 2


def ordinary_user() -> User:
    """The user who runs the tests, or `nobody` if that is root."""
    if os.geteuid() == 0:
        return User("nobody", pwd.getpwnam("nobody").pw_uid, grp.getgrnam("nogroup").gr_gid)
    return User("user", os.geteuid(), os.getegid())


def let_everybody_mount() -> None:
    """As root: give these tests a mount namespace whose /dev/fuse is open to everybody.

    Every distribution's udev makes it so; machines without udev have it for root alone. Nothing
    outside this process and its children sees the change.
    """
    if os.geteuid() != 0 or os.stat("/dev/fuse").st_mode & 0o006 == 0o006:
        return
    libc = ctypes.CDLL(None, use_errno=True)

    def must(result: int, what: str) -> None:
        if result:
            pytest.skip(f"/dev/fuse is root's alone, and {what}: {os.strerror(ctypes.get_errno())}")

    must(libc.unshare(_CLONE_NEWNS), "there is no private mount namespace")
    must(libc.mount(None, b"/", None, _MS_REC_PRIVATE, None), "it cannot be made private")
    for found in list(iter_mounts()):  # not to keep other people's mounts alive
        if found.is_fuse:
            libc.umount2(os.fsencode(found.mount_point), _MNT_DETACH)
    with tempfile.TemporaryDirectory() as name:
        must(libc.mount(b"none", name.encode(), b"tmpfs", 0, None), "there is no tmpfs")
        node = os.path.join(name, "fuse")
        os.mknod(node, 0o020600, os.stat("/dev/fuse").st_rdev)
        os.chmod(node, 0o666)
        must(libc.mount(node.encode(), b"/dev/fuse", None, _MS_BIND, None), "it cannot be bound")
        libc.umount2(name.encode(), _MNT_DETACH)


class Ran(NamedTuple):
    """A command that ended."""

    status: int
    out: str
    err: str

    @property
    def complaint(self) -> str:
        """The one line in which a command says what went wrong."""
        assert "Traceback" not in self.err, self.err
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        return lines[0]


# -- children ------------------------------------------------------------------------------


def in_child(body: Callable[[], Any]) -> int:
    """The pid of a forked child that runs `body` and exits with 0, or with 1 and a traceback."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return pid
    status = 1
    faulthandler.disable()  # some children are meant to die of SIGBUS
    try:
        body()
        status = 0
    except BaseException:  # noqa: BLE001  # pytest.fail and KeyboardInterrupt as well
        traceback.print_exc(file=sys.__stderr__)
    finally:
        os._exit(status)


def wait(pid: int) -> int:
    """The exit status of a child, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def died_of_sigbus(body: Callable[[], Any]) -> bool:
    """Whether `body`, in a child, dies of SIGBUS; False if it ends well."""
    status = wait(in_child(body))
    assert status in (0, -signal.SIGBUS), status
    return status == -signal.SIGBUS


def _outcome_of(body: Callable[[], Any]) -> bytes:
    """What became of `body`: a pickled kind and value."""
    try:
        return pickle.dumps(("value", body()))
    except pytest.skip.Exception as skipped:
        return pickle.dumps(("skip", str(skipped)))
    except BaseException:  # noqa: BLE001  # the parent reports it
        return pickle.dumps(("failure", traceback.format_exc()))


def call(body: Callable[[], Any], user: User, seconds: float, unhang: Callable[[], None]) -> Any:
    """The value of `body`, run in a forked child as `user`; `unhang` is called if time is up."""
    reader, writer = os.pipe()

    def child() -> None:
        user.become()
        outcome = _outcome_of(body)
        # Not until end of file: a server that the body started holds the pipe, too.
        os.write(writer, struct.pack("=I", len(outcome)))
        with open(writer, "wb", closefd=False) as pipe:
            pipe.write(outcome)

    pid = in_child(child)
    os.close(writer)
    with open(reader, "rb") as pipe:
        if not select.select([pipe], [], [], seconds)[0]:
            unhang()
            os.kill(pid, signal.SIGKILL)
            wait(pid)
            pytest.fail(f"no end after {seconds:.0f} s; the mount's connection was aborted")
        head = pipe.read(4)
        outcome = pipe.read(*struct.unpack("=I", head)) if head else b""
    status = wait(pid)
    if not outcome:
        pytest.fail(f"the test's process ended with {status}", pytrace=False)
    kind, value = pickle.loads(outcome)
    if kind == "skip":
        pytest.skip(value)
    if kind == "failure":
        pytest.fail(value, pytrace=False)
    return value


def cli(*arguments: object, directory: Path | None = None) -> Ran:
    """Run the command line in a child of this process; as whoever this process is."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:

        def body() -> None:
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            out.close()
            err.close()
            sys.stdout = io.TextIOWrapper(io.FileIO(1, "w", closefd=False), write_through=True)
            sys.stderr = io.TextIOWrapper(io.FileIO(2, "w", closefd=False), write_through=True)
            if directory is not None:
                os.chdir(directory)
            try:
                status = daxmend.cli.run([str(argument) for argument in arguments])
            except SystemExit as end:
                status = end.code if isinstance(end.code, int) else 1
            except BaseException:  # noqa: BLE001  # as the interpreter would
                traceback.print_exc()
                status = 1
            sys.stdout.flush()
            os._exit(status)

        status = wait(in_child(body))
        out.seek(0)
        err.seek(0)
        return Ran(status, out.read().decode(), err.read().decode())


def program(*arguments: object, data: bytes | None = None, cwd: Path | None = None) -> Ran:
    """Run a program that knows nothing of daxmend; its messages are in English."""
    done = subprocess.run(
        [str(argument) for argument in arguments],
        input=data,
        capture_output=True,
        timeout=COMMAND_SECONDS,
        cwd=cwd,
        env={**os.environ, "LC_ALL": "C"},
        check=False,
    )
    return Ran(done.returncode, done.stdout.decode("latin-1"), done.stderr.decode("latin-1"))


def shell(command: str, cwd: Path | None = None) -> Ran:
    """Run a line of shell."""
    return program("sh", "-c", command, cwd=cwd)


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 10.0) -> None:
    """Poll, for what sends no event."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.002)


@contextlib.contextmanager
def loop_device(path: Path, *options: str) -> Iterator[str]:
    """A loop device on a file, of which it has let go at the end, whoever else looks at devices."""
    made = program("losetup", "--find", "--show", *options, path)
    if made.status:
        pytest.skip(f"losetup: {made.err.strip()}")
    loop = made.out.strip()
    backing = Path("/sys/block", Path(loop).name, "loop", "backing_file")
    try:
        yield loop
    finally:
        detached = program("losetup", "--detach", loop)
        assert detached.status == 0, detached
        wait_until(lambda: not backing.exists(), f"{loop} lets go of {path}")


# -- the mount -----------------------------------------------------------------------------


def pattern(page: int, length: int = PAGE) -> bytes:
    """What a test's device holds in a page before anything happens to it."""
    return struct.pack("<Q", 0xDA0000000000 + page) * (length // 8)


NEW = b"\x5anew" * (PAGE // 4)


class Mounted:
    """A pool and, once `mount` was called, its raw mount; all paths below `base`."""

    def __init__(self, base: Path, open_mode: str, programs: Path) -> None:
        self.base = base
        self.open_mode = open_mode
        self.programs = programs
        self.pool = base / "pool"
        self.mountpoint = base / "mnt"
        self.device = self.mountpoint / "device"
        self.control = self.mountpoint / ".daxmend"
        self.size = SIZE
        self.log = base / "server.log"

    @property
    def is_direct(self) -> bool:
        return self.open_mode == "direct"

    def create(self, *options: str) -> None:
        options = options or DURABILITY
        created = cli("create", self.pool, "--size", self.size, "--raw", *options)
        assert created.status == 0, created
        self.mountpoint.mkdir(exist_ok=True)

    def mount(self, *options: str) -> Ran:
        words = ",".join([f"open={self.open_mode}", *options])
        return cli("mount", "--raw", "-o", words, "--log", self.log, self.pool, self.mountpoint)

    def must_mount(self, *options: str) -> None:
        ran = self.mount(*options)
        assert ran == Ran(0, "", ""), ran

    def umount(self, *options: str) -> Ran:
        return cli("umount", *options, self.mountpoint)

    def must_umount(self) -> None:
        ran = self.umount()
        assert ran == Ran(0, "", ""), ran
        assert find_mount(self.mountpoint) is None
        assert read_owner(self.pool) is None

    @property
    def server(self) -> int:
        """The pid of the server."""
        owner = read_owner(self.pool)
        assert owner is not None
        return owner[0]

    def kill_server(self) -> None:
        """kill -9, and wait until it is gone."""
        pid = self.server
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: read_owner(self.pool) is None, "the server is dead")

    # What the tests do all the time

    def fill(self, first: int = 0, count: int = 64) -> None:
        """Write `pattern` to pages."""
        with self.opened() as fd:
            for page in range(first, first + count):
                assert os.pwrite(fd, pattern(page), page * PAGE) == PAGE

    @contextlib.contextmanager
    def opened(self, flags: int = os.O_RDWR) -> Iterator[int]:
        fd = os.open(self.device, flags)
        try:
            yield fd
        finally:
            os.close(fd)

    def pread(self, length: int, offset: int, flags: int = os.O_RDONLY) -> bytes:
        with self.opened(flags) as fd:
            return os.pread(fd, length, offset)

    def pwrite(self, data: bytes, offset: int) -> int:
        with self.opened(os.O_WRONLY) as fd:
            return os.pwrite(fd, data, offset)

    def write_control(self, name: str, text: str) -> None:
        """As `echo` does: the text in one write."""
        fd = os.open(self.control / name, os.O_WRONLY | os.O_TRUNC)
        try:
            assert os.write(fd, text.encode()) == len(text)
        finally:
            os.close(fd)

    def read_control(self, name: str) -> str:
        return (self.control / name).read_text()

    @property
    def badblocks(self) -> str:
        return self.read_control("badblocks")

    def make_bad(self, page: int, count: int = 1) -> None:
        """Record and poison whole pages."""
        self.write_control("badblocks", f"{page * 8} {count * 8}\n")

    def mapped(self, access: str = "rw") -> "Mapping":
        control = str(self.control / "badblocks")
        return Mapping([str(self.programs / "mapped"), str(self.device), access, control])


class Mapping:
    """A C program (mapped.c) that has the whole device mapped, and survives SIGBUS."""

    def __init__(self, command: list[str]) -> None:
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def __enter__(self) -> "Mapping":
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def ask(self, line: str) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(line.encode() + b"\n")
        self._process.stdin.flush()
        return self._process.stdout.readline().decode().strip()

    def load(self, offset: int, length: int = 1) -> bytes | tuple[int, int]:
        """The bytes, or `(offset of si_addr, si_code)` of the SIGBUS."""
        return self._unpack(self.ask(f"load {offset} {length}"), bytes.fromhex)

    def store(self, offset: int, byte: int) -> str | tuple[int, int]:
        """`ok`, or as `load`."""
        return self._unpack(self.ask(f"store {offset} {byte:x}"), str)

    def inject_and_load(self, sector: int, offset: int) -> bytes | tuple[int, int]:
        """Make 8 sectors bad and load a byte as soon as that has returned."""
        return self._unpack(self.ask(f"inject {sector} {offset}"), bytes.fromhex)

    def sync(self) -> str:
        return self.ask("sync")

    def fsync(self) -> str:
        return self.ask("fsync")

    @staticmethod
    def _unpack(text: str, convert: Callable[[str], Any]) -> Any:
        _, sigbus, rest = text.partition("SIGBUS ")
        if sigbus:
            offset, code = rest.split()
            return int(offset), int(code)
        return convert(text)


# -- the end -------------------------------------------------------------------------------


def _mounts_below(base: Path) -> list[Any]:
    return [
        found
        for found in iter_mounts()
        if found.mount_point.startswith(f"{base}/") and found.fstype == "fuse.daxmend"
    ]


def abort_mounts(base: Path) -> None:
    """The last resort: abort the connections of the mounts below `base`, detach them."""
    for found in _mounts_below(base):
        _abort(os.minor(found.device))
        with contextlib.suppress(subprocess.TimeoutExpired):
            tool = ["umount", "-l"] if os.geteuid() == 0 else ["fusermount3", "-u", "-z"]
            subprocess.run([*tool, found.mount_point], timeout=5, check=False)


def _abort(connection: int) -> None:
    path = Path("/sys/fs/fuse/connections", str(connection), "abort")
    with contextlib.suppress(OSError):
        if not path.parent.parent.is_dir() or os.geteuid() != 0:
            return
        if not path.exists():  # not every system has fusectl mounted
            subprocess.run(
                ["mount", "-t", "fusectl", "none", "/sys/fs/fuse/connections"],
                timeout=5,
                check=False,
            )
        path.write_text("1")


def take_away(mounted: Mounted, user: User) -> None:
    """Unmount, whatever the test left; the plain `umount` must do, and the pool be in order."""
    trouble = []
    if mounted.pool.exists() and (owner := read_owner(mounted.pool)) is not None:
        os.kill(owner[0], signal.SIGCONT)  # a test may have been ended while it was stopped
    try:
        if find_mount(mounted.mountpoint) is not None:
            ran = call(mounted.umount, user, 20, lambda: abort_mounts(mounted.base))
            if ran != Ran(0, "", ""):
                trouble.append(f"umount: {ran}")
        if find_mount(mounted.mountpoint) is not None:
            ran = call(lambda: mounted.umount("-F"), user, 20, lambda: abort_mounts(mounted.base))
            trouble.append(f"umount -F: {ran}")
        listed = call(lambda: cli("list", mounted.pool), user, 20, lambda: None)
        if mounted.pool.exists() and (listed.status not in (0, 4) or listed.err):
            trouble.append(f"the pool is not in order: {listed}")
        if mounted.log.exists() and mounted.log.read_text():
            trouble.append(f"the server complained: {mounted.log.read_text()}")
    finally:
        abort_mounts(mounted.base)
        shutil.rmtree(mounted.base, ignore_errors=True)
    assert not trouble, trouble
