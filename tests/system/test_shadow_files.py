"""A shadow mount shows the directory below as it is, and changes go there."""

import contextlib
import errno
import fcntl
import os
import shutil
import socket
import stat
import subprocess
from pathlib import Path

import pytest
from rawmount import PAGE, ROOT, User, in_child, pattern, program, wait
from shadowmount import Shadowed, listing

DIAGONAL = True


def test_everything_looks_as_it_does_below(shadow: Shadowed, user: User) -> None:
    source = shadow.source
    (source / "dir/deep").mkdir(parents=True)
    (source / "dir/file").write_bytes(b"x" * 5000)
    os.chmod(source / "dir/file", 0o640)
    os.link(source / "dir/file", source / "twin")
    (source / "link").symlink_to("dir/file")
    (source / "dangling").symlink_to("/nowhere")
    os.mkfifo(source / "fifo", 0o600)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(source / "socket"))
    os.truncate(os.open(source / "sparse", os.O_CREAT | os.O_WRONLY), 1 << 40)
    if user.is_root:
        os.chown(source / "dir/deep", 12, 34)
        os.mknod(source / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.utime(source / "twin", ns=(-5, 1_234_567_890_123_456_789))
    assert listing(shadow.mountpoint) == listing(source)
    assert os.stat(shadow.path("twin")).st_atime_ns == -5
    assert os.readlink(shadow.path("link")) == "dir/file"
    assert shadow.path("link").read_bytes() == b"x" * 5000


def test_every_change_goes_below(shadow: Shadowed, user: User) -> None:
    top = shadow.mountpoint
    (top / "a/b").mkdir(parents=True)
    (top / "a/file").write_bytes(b"one")
    os.link(top / "a/file", top / "a/b/twin")
    os.symlink("file", top / "a/link")
    os.link(top / "a/link", top / "a/link2", follow_symlinks=False)
    os.rename(top / "a/b/twin", top / "renamed")
    os.mkfifo(top / "fifo")
    os.chmod(top / "a", 0o2751)
    os.truncate(top / "renamed", 10)
    os.utime(top / "a/b", ns=(1, 2))
    os.utime(top / "a/link", ns=(3, 4), follow_symlinks=False)
    if user.is_root:
        os.chown(top / "renamed", 11, 22)
        os.lchown(top / "a/link2", 33, 44)
    (top / "gone").write_bytes(b"")
    os.unlink(top / "gone")
    (top / "no").mkdir()
    os.rmdir(top / "no")
    assert listing(top) == listing(shadow.source)
    assert (shadow.source / "a/file").read_bytes() == b"one" + bytes(7)
    assert sorted(os.listdir(shadow.source)) == ["a", "fifo", "renamed"]


def test_what_is_renamed_below_confuses_nobody(shadow: Shadowed) -> None:
    source, top = shadow.source, shadow.mountpoint
    (source / "one/two").mkdir(parents=True)
    (source / "one/two/file").write_bytes(b"first")
    with open(top / "one/two/file", "rb", buffering=0) as file:
        directory = os.open(top / "one/two", os.O_RDONLY | os.O_DIRECTORY)
        os.rename(source / "one", source / "elsewhere")
        (source / "one/two").mkdir(parents=True)
        (source / "one/two/file").write_bytes(b"second")
        assert file.read() == b"first"
        inside = os.open("file", os.O_RDONLY, dir_fd=directory)
        assert os.read(inside, 10) == b"first"
        os.close(inside)
        os.close(directory)
    assert (top / "one/two/file").read_bytes() == b"second"
    assert (top / "elsewhere/two/file").read_bytes() == b"first"


def test_an_unlinked_file_lives_while_it_is_open(shadow: Shadowed) -> None:
    path = shadow.make("file")
    with open(path, "r+b", buffering=0) as file:
        os.unlink(path)
        assert not shadow.below("file").exists()
        assert os.fstat(file.fileno()).st_nlink == 0
        assert os.pread(file.fileno(), PAGE, PAGE) == pattern(1)
        os.pwrite(file.fileno(), b"still", 0)
        assert os.pread(file.fileno(), 5, 0) == b"still"
        os.ftruncate(file.fileno(), 3)
        os.fchmod(file.fileno(), 0o600)
        assert os.fstat(file.fileno()).st_size == 3


def test_a_nameless_file_gets_its_name_below(shadow: Shadowed) -> None:
    fd = os.open(shadow.mountpoint, os.O_TMPFILE | os.O_RDWR, 0o640)
    os.write(fd, b"data")
    proc = os.open("/proc/self/fd", os.O_RDONLY)  # link(2) would not follow
    os.link(str(fd), shadow.path("named"), src_dir_fd=proc, follow_symlinks=True)
    os.close(fd)
    assert shadow.below("named").read_bytes() == b"data"


def test_rename_with_flags(shadow: Shadowed) -> None:
    shadow.path("a").write_bytes(b"a")
    shadow.path("b").write_bytes(b"b")
    refused = program("mv", "-n", shadow.path("a"), shadow.path("b"))
    assert refused.status in (0, 1)
    assert shadow.below("b").read_bytes() == b"b"
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    a, b = (os.fsencode(shadow.path(name)) for name in "ab")
    assert libc.renameat2(-100, a, -100, b, 1) == -1
    assert ctypes.get_errno() == errno.EEXIST
    assert libc.renameat2(-100, a, -100, b, 2) == 0
    assert shadow.below("a").read_bytes() == b"b"


def test_extended_attributes_and_those_of_links_and_directories(
    shadow: Shadowed, user: User
) -> None:
    path, directory = shadow.make("file"), shadow.path("dir")
    directory.mkdir()
    for each in (path, directory):
        try:
            os.setxattr(each, "user.note", b"\0value")
        except OSError as error:
            pytest.skip(f"the file system below has no xattrs: {error}")
        assert os.getxattr(shadow.source / each.name, "user.note") == b"\0value"
        assert os.listxattr(each) == os.listxattr(shadow.source / each.name)
        os.removexattr(each, "user.note")
        with pytest.raises(OSError, match="No data"):
            os.getxattr(each, "user.note")
    if user.is_root:
        shadow.path("link").symlink_to("file")
        os.setxattr(shadow.path("link"), "trusted.note", b"1", follow_symlinks=False)
        assert os.getxattr(shadow.below("link"), "trusted.note", follow_symlinks=False) == b"1"
        assert os.listxattr(path) == []


def test_locks_exclude_each_other_on_the_mount(shadow: Shadowed) -> None:
    path = shadow.make("file")

    def other() -> None:
        with open(path, "r+b") as file:
            for lock in (fcntl.flock, fcntl.lockf):
                try:
                    lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                raise AssertionError("not locked")

    with open(path, "r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        fcntl.lockf(file, fcntl.LOCK_EX)
        assert wait(in_child(other)) == 0


def test_a_big_directory_is_listed_whole_and_removed(shadow: Shadowed) -> None:
    big = shadow.source / "big"
    big.mkdir()
    names = {f"{number:05}-{'x' * (number % 200)}" for number in range(5000)}
    for name in names:
        (big / name).touch()
    seen = shadow.mountpoint / "big"
    assert set(os.listdir(seen)) == names
    assert {entry.name for entry in os.scandir(seen) if entry.stat().st_size == 0} == names
    assert program("rm", "-r", seen).status == 0
    assert not big.exists()


def test_append_direct_and_sync_opens_write_below(shadow: Shadowed) -> None:
    path = shadow.path("log")
    for flags in (os.O_APPEND, os.O_APPEND | os.O_SYNC, os.O_APPEND | os.O_DSYNC):
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | flags, 0o600)
        os.write(fd, b"line\n")
        shadow.below("log").open("ab").write(b"from below\n")
        os.write(fd, b"line\n")
        os.close(fd)
    assert shadow.below("log").read_bytes() == b"line\nfrom below\nline\n" * 3
    assert path.read_bytes() == shadow.below("log").read_bytes()


def test_holes_space_and_copies_are_those_below(shadow: Shadowed) -> None:
    path = shadow.make("file")
    with open(path, "r+b", buffering=0) as file:
        assert program("fallocate", "-p", "-o", PAGE, "-l", 2 * PAGE, path).status == 0
        assert os.lseek(file.fileno(), 0, os.SEEK_HOLE) in (PAGE, 16 * PAGE)
        os.posix_fallocate(file.fileno(), 0, 20 * PAGE)
        with open(shadow.path("copy"), "w+b", buffering=0) as copy:
            done = 0
            while count := os.copy_file_range(
                file.fileno(), copy.fileno(), PAGE * 20 - done, done, done
            ):
                done += count
            assert done == 20 * PAGE
    assert (
        shadow.below("copy").read_bytes() == path.read_bytes() == shadow.below("file").read_bytes()
    )
    assert os.statvfs(shadow.mountpoint).f_blocks == os.statvfs(shadow.source).f_blocks


@pytest.mark.parametrize(("user", "open_mode"), [("root", "cached")], indirect=True)
class TestForEverybody:
    """Root's mount is for all users; who made a file owns it."""

    def test_what_a_user_makes_is_the_users(self, shadow: Shadowed, user: User) -> None:
        assert user == ROOT
        shadow.source.chmod(0o1777)
        (shadow.source / "inherits").mkdir()
        os.chown(shadow.source / "inherits", 0, 4321)
        (shadow.source / "inherits").chmod(0o2777)

        def somebody() -> None:
            os.setgroups([])
            os.setgid(65533)
            os.setuid(65533)
            os.umask(0o027)
            top = shadow.mountpoint
            (top / "file").write_bytes(b"x")
            (top / "dir").mkdir()
            (top / "link").symlink_to("file")
            os.mkfifo(top / "fifo")
            (top / "inherits/file").write_bytes(b"")
            os.close(os.open(top / "suid", os.O_CREAT | os.O_WRONLY, 0o4755))
            with contextlib.suppress(PermissionError):
                (top / ".daxmend/faults").read_text()
                raise AssertionError("the control directory is not the user's")

        assert wait(in_child(somebody)) == 0
        for name in ("file", "dir", "link", "fifo"):
            found = os.lstat(shadow.source / name)
            assert (found.st_uid, found.st_gid) == (65533, 65533), name
        assert os.stat(shadow.source / "inherits/file").st_gid == 4321
        assert stat.S_IMODE(os.stat(shadow.source / "file").st_mode) == 0o640
        assert stat.S_IMODE(os.stat(shadow.source / "suid").st_mode) == 0o4750

    def test_a_users_write_takes_suid_away(self, shadow: Shadowed, user: User) -> None:
        path = shadow.make("program")
        os.chmod(path, 0o6777)

        def somebody() -> None:
            os.setgid(65533)
            os.setuid(65533)
            with open(path, "r+b", buffering=0) as file:
                file.write(b"evil")

        assert wait(in_child(somebody)) == 0
        assert stat.S_IMODE(os.stat(shadow.below("program")).st_mode) == 0o777

    def test_access_control_lists_decide_and_are_inherited(
        self, shadow: Shadowed, user: User
    ) -> None:
        if shutil.which("setfacl") is None:
            pytest.skip("setfacl is missing")
        secret = shadow.make("secret")
        os.chmod(secret, 0o600)
        assert program("setfacl", "-m", "u:65533:r", secret).status == 0
        (shadow.mountpoint / "dir").mkdir()
        assert program("setfacl", "-d", "-m", "u:65533:rwx", shadow.path("dir")).status == 0
        os.umask(0o077)
        shadow.path("dir/file").write_bytes(b"x")
        assert os.getxattr(shadow.below("dir/file"), "system.posix_acl_access")

        def somebody() -> None:
            os.setgroups([])
            os.setgid(65533)
            os.setuid(65533)
            assert secret.read_bytes()
            assert shadow.path("dir/file").read_bytes() == b"x"

        assert wait(in_child(somebody)) == 0


def test_programs_work_on_it(shadow: Shadowed, tmp_path: Path) -> None:
    environment = {**os.environ, "HOME": str(shadow.base), "GIT_CONFIG_NOSYSTEM": "1"}

    def git(*words: str) -> None:
        subprocess.run(
            ["git", "-c", "user.name=a", "-c", "user.email=a@b", *words],
            cwd=shadow.mountpoint, check=True, capture_output=True, env=environment,
        )  # fmt: skip

    git("init", "-q")
    for number in range(20):
        shadow.path(f"file{number}").write_bytes(os.urandom(10_000))
    git("add", ".")
    git("commit", "-q", "-m", "all")
    git("gc", "-q")
    git("fsck", "--strict")
    git("status", "--porcelain")
