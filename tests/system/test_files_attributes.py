"""Modes, owners, times and extended attributes in a mounted file system."""

import errno
import fcntl
import os
import stat
import struct

import pytest
from filemount import Files
from rawmount import PAGE, User, in_child, ordinary_user, pattern, program, wait
from test_files_data import errno_of

pytestmark = pytest.mark.timeout(60, method="signal")
DIAGONAL = True

NS = 1_000_000_001


def as_other(body: object) -> None:
    """Run `body` as an ordinary user who does not own the mount."""
    assert callable(body)
    other = ordinary_user()

    def run() -> None:
        other.become()
        body()

    assert wait(in_child(run)) == 0


# For what an ordinary user cannot do: be somebody else.
AS_ROOT = pytest.mark.parametrize(
    ("user", "open_mode"), [("root", "cached"), ("root", "direct")], indirect=True
)


def test_modes_are_kept_and_the_umask_counts(files: Files) -> None:
    path, directory = files.path("file"), files.path("dir")
    os.umask(0o027)
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o666))
    directory.mkdir(0o777)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert stat.S_IMODE(directory.stat().st_mode) == 0o750
    for mode in (0o000, 0o7777, 0o1755, 0o644):
        directory.chmod(mode)
        assert stat.S_IMODE(directory.stat().st_mode) == mode
    path.chmod(0o604)
    files.remount()
    assert stat.S_IMODE(path.stat().st_mode) == 0o604
    assert path.stat().st_uid == os.geteuid()


@AS_ROOT
def test_other_users_may_do_what_the_modes_allow(files: Files, user: User) -> None:
    secret, shared, public = files.make("secret", 1), files.make("shared", 1), files.path("public")
    secret.chmod(0o600)
    shared.chmod(0o644)
    public.mkdir()
    public.chmod(0o1777)
    (public / "roots").write_text("mine")

    def body() -> None:
        assert shared.read_bytes() == pattern(0)
        for call, arguments in (
            (os.open, (secret, os.O_RDONLY)),
            (os.open, (shared, os.O_WRONLY)),
            (os.mkdir, (files.path("new"),)),
            (os.listdir, (files.control,)),
        ):
            assert errno_of(call, *arguments) == errno.EACCES
        for call, arguments in (
            (os.chmod, (shared, 0o777)),
            (os.unlink, (public / "roots",)),
            (os.chown, (shared, os.getuid(), -1)),
        ):
            assert errno_of(call, *arguments) == errno.EPERM
        own = public / "own"
        own.write_text("x")
        found = own.stat()
        assert (found.st_uid, found.st_gid) == (os.getuid(), os.getgid())
        own.chmod(0o2755)
        own.unlink()

    as_other(body)
    shared.chmod(0o600)  # what the kernel remembers follows
    as_other(lambda: errno_of(os.open, shared, os.O_RDONLY) == errno.EACCES)


@AS_ROOT
def test_an_owner_may_heal_without_privilege_r14(files: Files, user: User) -> None:
    path = files.make("file", 4)
    path.chmod(0o666)
    files.damage(path, PAGE)

    def body() -> None:
        with files.opened_file(path) as fd:
            assert os.pwrite(fd, pattern(9), PAGE) == PAGE

    as_other(body)
    assert files.badblocks == ""


def test_writing_truncating_and_chown_take_the_right_to_run_as_the_owner(
    files: Files, user: User
) -> None:
    path = files.make("program", 1)

    def mode_after(change: object, mode: int = 0o6777) -> int:
        assert callable(change)
        path.chmod(mode)
        assert stat.S_IMODE(path.stat().st_mode) == mode
        if user.is_root:
            as_other(change)
        else:
            change()
        return stat.S_IMODE(path.stat().st_mode)

    def write() -> None:
        files.write_at(path, b"x", 0)

    assert mode_after(write) == 0o777
    assert mode_after(lambda: os.truncate(path, 5)) == 0o777
    assert mode_after(lambda: open(path, "wb").close()) == 0o777
    if user.is_root:
        path.chmod(0o6755)
        os.chown(path, 1, 1)
        assert stat.S_IMODE(path.stat().st_mode) == 0o755
        os.setxattr(path, "security.capability", bytes.fromhex("0100000202000000" + "00" * 12))
        assert "security.capability" in os.listxattr(path)
        path.chmod(0o777)
        as_other(write)
        assert "security.capability" not in os.listxattr(path)


@AS_ROOT
def test_a_setgid_directory_gives_its_group(files: Files, user: User) -> None:
    directory = files.path("dir")
    directory.mkdir()
    os.chown(directory, 0, 1234)
    directory.chmod(0o2775)
    (directory / "file").touch()
    (directory / "sub").mkdir()
    assert (directory / "file").stat().st_gid == 1234
    assert (directory / "sub").stat().st_gid == 1234
    assert (directory / "sub").stat().st_mode & stat.S_ISGID


def test_times_are_kept_to_the_nanosecond(files: Files) -> None:
    path = files.make("file", 1)
    for atime, mtime in ((0, 1), (NS, 7 * NS), (-5 * NS, 2**32 * 10**9 + 3)):
        os.utime(path, ns=(atime, mtime))
        found = path.stat()
        assert (found.st_atime_ns, found.st_mtime_ns) == (atime, mtime)
    os.symlink("x", files.path("link"))
    os.utime(files.path("link"), ns=(3, 4), follow_symlinks=False)
    files.remount()
    assert path.stat().st_mtime_ns == 2**32 * 10**9 + 3
    assert files.path("link").lstat().st_mtime_ns == 4
    before = path.stat().st_ctime_ns
    os.utime(path)
    assert path.stat().st_mtime_ns > before
    assert path.stat().st_ctime_ns > before


def test_what_changes_a_file_changes_its_times(files: Files) -> None:
    path = files.make("file", 2)

    def changes(change: object, *names: str, of: object = path) -> None:
        assert callable(change)
        before = os.stat(of)  # type: ignore[call-overload]
        change()
        after = os.stat(of)  # type: ignore[call-overload]
        for name in ("st_mtime_ns", "st_ctime_ns"):
            assert (getattr(after, name) > getattr(before, name)) == (name in names), (change, name)

    both = ("st_mtime_ns", "st_ctime_ns")
    changes(lambda: files.write_at(path, b"x", 0), *both)
    changes(lambda: os.truncate(path, PAGE), *both)
    changes(lambda: os.truncate(path, PAGE), *both)
    changes(lambda: path.chmod(0o600), "st_ctime_ns")
    changes(lambda: os.link(path, files.path("link")), "st_ctime_ns")
    changes(lambda: files.path("link").unlink(), "st_ctime_ns")
    changes(lambda: os.setxattr(path, "user.x", b"1"), "st_ctime_ns")
    changes(lambda: files.path("new").touch(), *both, of=files.mountpoint)
    changes(lambda: files.path("new").unlink(), *both, of=files.mountpoint)
    changes(path.read_bytes)


def test_xattrs(files: Files, user: User) -> None:
    path, directory = files.make("file", 1), files.path("dir")
    directory.mkdir()
    for each in (path, directory):
        os.setxattr(each, "user.one", b"1")
        os.setxattr(each, "user.empty", b"")
        os.setxattr(each, "user." + "n" * 250, os.urandom(1000))
        assert errno_of(os.setxattr, each, "user.one", b"2", os.XATTR_CREATE) == errno.EEXIST
        assert errno_of(os.setxattr, each, "user.two", b"2", os.XATTR_REPLACE) == errno.ENODATA
        assert errno_of(os.getxattr, each, "user.none") == errno.ENODATA
        assert errno_of(os.removexattr, each, "user.none") == errno.ENODATA
        assert set(os.listxattr(each)) == {"user.one", "user.empty", "user." + "n" * 250}
        os.removexattr(each, "user." + "n" * 250)
    large = os.urandom(65536)
    os.setxattr(path, "user.large", large)
    files.remount()
    assert os.getxattr(path, "user.large") == large
    assert set(os.listxattr(path)) == {"user.one", "user.empty", "user.large"}
    assert os.getxattr(directory, "user.empty") == b""
    acl = struct.pack("<I" + "HHI" * 3, 2, 1, 6, -1 & 0xFFFFFFFF, 4, 4, -1 & 0xFFFFFFFF, 32, 4, 0)
    for name in ("system.posix_acl_access", "system.posix_acl_default", "system.other"):
        assert errno_of(os.setxattr, directory, name, acl) == errno.EOPNOTSUPP
        assert errno_of(os.getxattr, path, name) == errno.EOPNOTSUPP
    if user.is_root:
        os.setxattr(path, "trusted.secret", b"t")
        os.setxattr(path, "security.note", b"s")
        assert {"trusted.secret", "security.note"} <= set(os.listxattr(path))
        path.chmod(0o644)
        as_other(lambda: "trusted.secret" not in os.listxattr(path) or 1 / 0)


def test_the_virtual_xattr_can_only_be_read(files: Files) -> None:
    path = files.make("file", 1)
    assert "user.daxmend.extents" not in os.listxattr(path)
    for name in ("user.daxmend.extents", "user.daxmend.other"):
        assert errno_of(os.setxattr, path, name, b"x") == errno.EPERM
        assert errno_of(os.removexattr, path, name) == errno.EPERM
    assert errno_of(os.getxattr, path, "user.daxmend.other") == errno.ENODATA
    assert errno_of(os.getxattr, files.mountpoint, "user.daxmend.extents") == errno.ENODATA
    offset, device_offset, length, state = os.getxattr(path, "user.daxmend.extents").split()
    assert (offset, length, state) == (b"0", b"4096", b"written")
    assert int(device_offset) % PAGE == 0


def test_statvfs_and_df(files: Files) -> None:
    before = os.statvfs(files.mountpoint)
    assert (before.f_bsize, before.f_frsize, before.f_namemax) == (PAGE, PAGE, 255)
    assert before.f_blocks * PAGE == files.size
    assert 0 < before.f_bavail <= before.f_bfree < before.f_blocks
    files.make("file", 100)
    after = os.statvfs(files.mountpoint)
    assert before.f_bfree - after.f_bfree >= 100
    assert before.f_files - before.f_ffree + 1 == after.f_files - after.f_ffree
    assert str(files.pool) in program("df", files.mountpoint).out


def test_locks_are_the_kernels_own(files: Files) -> None:
    path = files.make("file", 1)
    with files.opened_file(path) as fd:
        fcntl.flock(fd, fcntl.LOCK_EX)
        fcntl.lockf(fd, fcntl.LOCK_EX, 10)

        def other() -> None:
            with files.opened_file(path) as mine:
                for lock in (fcntl.flock, fcntl.lockf):
                    with pytest.raises(BlockingIOError):
                        lock(mine, fcntl.LOCK_EX | fcntl.LOCK_NB)

        assert wait(in_child(other)) == 0
