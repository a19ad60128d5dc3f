"""What mount and unmount refuse, and mounting as an unprivileged user."""

import ctypes
import os
import pwd
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_fuse_memory import (
    MemoryHandler,
    Served,
    in_child,
    needs_root,
    pytestmark,  # noqa: F401
    served,
    wait,
)

from daxmend.errors import BusyError, UnsupportedError, UsageError
from daxmend.fuse import Session, find_mount, is_dead, mount, unmount, unmount_dead

CLONE_NEWNS = 0x20000
MS_BIND = 4096
MS_REC_PRIVATE = 0x4000 | 1 << 18


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Served]:
    with served(tmp_path, MemoryHandler()) as mounted:
        yield mounted


def try_mount(path: Path) -> int:
    return mount(path, fsname="refused", subtype="daxmend-test")


def test_a_missing_mount_point_is_named_with_the_next_step(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"missing does not exist: .*mkdir"):
        try_mount(tmp_path / "missing")


def test_a_file_is_no_mount_point(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UsageError, match="not a directory"):
        try_mount(tmp_path / "file")


def test_a_directory_with_something_in_it_is_no_mount_point(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UsageError, match="not empty"):
        try_mount(tmp_path)


def test_a_mount_is_no_mount_point(memory: Served) -> None:
    with pytest.raises(BusyError, match=r"already a mount \(fuse.daxmend-test, memory\)"):
        try_mount(memory.path)


def test_a_dead_mount_is_no_mount_point_until_it_is_cleaned_up(memory: Served) -> None:
    os.kill(memory.pid, 9)
    assert wait(memory.pid) == -9
    with pytest.raises(BusyError, match=r"dead mount.*daxmend umount"):
        try_mount(memory.path)
    unmount_dead(memory.path)
    os.close(try_mount(memory.path))


def test_a_mount_point_may_be_reached_through_symbolic_links(memory: Served) -> None:
    link = memory.path.parent / "link"
    link.symlink_to(memory.path.parent)
    (link / "last").symlink_to("mnt")
    assert find_mount(link / "mnt") == find_mount(memory.path) == find_mount(link / "last")
    unmount(link / "last")
    assert find_mount(memory.path) is None


def test_what_is_not_a_fuse_mount_is_not_unmounted(tmp_path: Path) -> None:
    for refuse in (unmount, unmount_dead):
        with pytest.raises(UsageError, match="not a mount point"):
            refuse(tmp_path)
        with pytest.raises(UsageError, match="a mount of proc, not FUSE"):
            refuse("/proc")


def test_a_missing_device_is_unsupported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = sys.modules["daxmend.fuse.mount"]  # the name itself is that of the function
    monkeypatch.setattr(module, "_DEVICE", str(tmp_path / "fuse"))
    (tmp_path / "mnt").mkdir()
    with pytest.raises(UnsupportedError, match="modprobe fuse"):
        try_mount(tmp_path / "mnt")


def test_without_fusermount3_only_root_can_mount(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1)
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "mnt").mkdir()
    with pytest.raises(UnsupportedError, match="fuse3"):
        try_mount(tmp_path / "mnt")


def test_the_descriptor_is_not_inherited(tmp_path: Path) -> None:
    fd = try_mount(tmp_path)
    try:
        assert not os.get_inheritable(fd)
    finally:
        os.close(fd)
        unmount_dead(tmp_path)


def test_a_session_that_is_stopped_before_init_ends(tmp_path: Path) -> None:
    session = Session(try_mount(tmp_path), MemoryHandler())
    session.stop()
    session.run()
    session.close()
    session.close()
    session.stop()
    unmount_dead(tmp_path)


# As a user: everything below happens in a child that has a mount namespace of its own, so the
# machine's /dev/fuse keeps its mode and nothing can be left behind.


def become_nobody() -> None:
    libc = ctypes.CDLL(None, use_errno=True)

    def check(result: int) -> None:
        assert result == 0, os.strerror(ctypes.get_errno())

    check(libc.unshare(CLONE_NEWNS))
    check(libc.mount(b"none", b"/", None, ctypes.c_ulong(MS_REC_PRIVATE), None))
    if not os.stat("/dev/fuse").st_mode & stat.S_IWOTH:
        directory = tempfile.mkdtemp()
        check(libc.mount(b"none", directory.encode(), b"tmpfs", ctypes.c_ulong(0), None))
        os.mknod(f"{directory}/fuse", stat.S_IFCHR, os.makedev(10, 229))
        os.chmod(f"{directory}/fuse", 0o666)
        source = f"{directory}/fuse".encode()
        check(libc.mount(source, b"/dev/fuse", None, ctypes.c_ulong(MS_BIND), None))
        check(libc.umount2(directory.encode(), 2))
        os.rmdir(directory)
    nobody = pwd.getpwnam("nobody")
    os.setgroups([])
    os.setgid(nobody.pw_gid)
    os.setuid(nobody.pw_uid)
    # Children of ours must be able to run an interpreter; that of a checkout may be unreadable.
    sys.executable = shutil.which("python3", path="/usr/bin:/bin") or sys.executable


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """A directory that nobody may reach and write, which pytest's are not."""
    directory = Path(tempfile.mkdtemp(prefix="daxmend-fuse-"))
    directory.chmod(0o777)
    yield directory
    shutil.rmtree(directory)


needs_fusermount = pytest.mark.skipif(not shutil.which("fusermount3"), reason="no fusermount3")


@needs_root
@needs_fusermount
def test_a_user_mounts_uses_and_unmounts_without_privilege(open_directory: Path) -> None:
    def body() -> None:
        become_nobody()
        with served(open_directory, MemoryHandler()) as mounted:
            found = find_mount(mounted.path)
            assert found is not None
            assert (found.source, found.fstype) == ("memory", "fuse.daxmend-test")
            assert "allow_other" not in found.super_options
            (mounted.path / "file").write_bytes(b"mine")
            mounted.ctl("invalidate", "file", 0, 0)
            assert (mounted.path / "file").read_bytes() == b"mine"
            assert (mounted.path / "file").stat().st_uid == os.getuid()
            with pytest.raises(BusyError, match="already a mount"):
                try_mount(mounted.path)
            fd = os.open(mounted.path, os.O_RDONLY)
            with pytest.raises(BusyError, match="in use"):
                unmount(mounted.path)
            os.close(fd)
            unmount(mounted.path)
            assert find_mount(mounted.path) is None
            assert wait(mounted.pid) == 0

    assert wait(in_child(body)) == 0


@needs_root
@needs_fusermount
def test_a_user_cleans_up_a_dead_mount_without_privilege(open_directory: Path) -> None:
    def body() -> None:
        become_nobody()
        with served(open_directory, MemoryHandler()) as mounted:
            os.kill(mounted.pid, 9)
            wait(mounted.pid)
            found = find_mount(mounted.path)
            assert found is not None
            assert is_dead(found)
            unmount_dead(mounted.path)
            assert find_mount(mounted.path) is None

    assert wait(in_child(body)) == 0


@needs_root
def test_a_user_who_may_not_open_the_device_is_told_what_helps(
    open_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = sys.modules["daxmend.fuse.mount"]
    monkeypatch.setattr(module, "_DEVICE", str(open_directory / "fuse"))
    os.mknod(open_directory / "fuse", stat.S_IFCHR | 0o600, os.makedev(10, 229))
    (open_directory / "mnt").mkdir()

    def body() -> None:
        become_nobody()
        with pytest.raises(UnsupportedError, match=r"by user \d+: ask root .*chmod a\+rw"):
            try_mount(open_directory / "mnt")

    (open_directory / "mnt").chmod(0o777)
    assert wait(in_child(body)) == 0
    (open_directory / "fuse").unlink()
    os.mknod(open_directory / "fuse", stat.S_IFCHR | 0o600, os.makedev(10, 250))  # no such driver
    with pytest.raises(UnsupportedError, match=r"cannot be opened: No such device.*modprobe fuse"):
        try_mount(open_directory / "mnt")


@needs_root
@needs_fusermount
def test_a_user_is_told_why_fusermount_refuses(open_directory: Path) -> None:
    (open_directory / "roots").mkdir(mode=0o755)

    def body() -> None:
        become_nobody()
        with pytest.raises(UnsupportedError, match="no write access to mountpoint"):
            try_mount(open_directory / "roots")

    assert wait(in_child(body)) == 0
