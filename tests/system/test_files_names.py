"""Names in a mounted file system, through real system calls."""

import contextlib
import ctypes
import errno
import os
import sqlite3
import stat
from pathlib import Path

import pytest
from filemount import Files
from rawmount import cli, in_child, pattern, shell, wait

pytestmark = pytest.mark.timeout(60, method="signal")
DIAGONAL = True

AT_FDCWD = -100
AT_SYMLINK_FOLLOW = 0x400
RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_WHITEOUT = 1, 2, 4
LIBC = ctypes.CDLL(None, use_errno=True)


def renameat2(old: Path, new: Path, flags: int) -> int:
    """0, or the errno."""
    failed = LIBC.renameat2(AT_FDCWD, bytes(old), AT_FDCWD, bytes(new), flags)
    return ctypes.get_errno() if failed else 0


def errno_of(call: object, *arguments: object) -> int:
    assert callable(call)
    with pytest.raises(OSError) as info:
        call(*arguments)
    return info.value.errno or 0


def test_names_of_255_bytes_are_names_and_those_of_256_are_too_long(files: Files) -> None:
    for name in (b"n" * 255, bytes(range(128, 256)) + b"\xff" * 127, b" \n\t\\%'\"" * 36):
        path = os.path.join(bytes(files.mountpoint), name)
        Path(os.fsdecode(path)).write_bytes(name)
        assert Path(os.fsdecode(path)).read_bytes() == name
        assert os.listdir(bytes(files.mountpoint)) == [name]
        os.unlink(path)
        for call in (os.mkdir, os.stat, os.unlink, os.rmdir, os.readlink):
            assert errno_of(call, path + b"x" * 5) == errno.ENAMETOOLONG
    assert os.listdir(files.mountpoint) == []


def test_names_need_not_be_text_and_survive_a_remount(files: Files) -> None:
    root = bytes(files.mountpoint)
    names = {b"\xff\xfe", b"\x80", b"a\nb", b"\xc3\xa4", b"-", b"...", b".hidden", b"%41"}
    for name in names:
        with open(root + b"/" + name, "wb") as file:
            file.write(name)
    files.remount()
    assert set(os.listdir(root)) == names
    assert {open(root + b"/" + name, "rb").read() for name in names} == names  # noqa: SIM115


def test_deep_paths(files: Files) -> None:
    os.chdir(files.mountpoint)
    for depth in range(150):
        os.mkdir(f"d{depth}" * 10)
        os.chdir(f"d{depth}" * 10)
    Path("end").write_text("deep")
    assert os.stat("..").st_nlink == 3
    for _ in range(150):
        os.chdir("..")
    assert os.path.samefile(".", files.mountpoint)
    os.chdir("/")
    assert shell(f"find {files.mountpoint} -name end | wc -l").out.strip() == "1"
    assert shell(f"rm -r {files.mountpoint}/d0*").status == 0
    assert os.listdir(files.mountpoint) == []


def test_symbolic_links_lead_where_they_say_and_loops_are_found(files: Files) -> None:
    file = files.make("file")
    for name, target in (
        ("rel", "file"),
        ("abs", str(file)),
        ("long", "x" * 4000),
        ("bad", b"\xff"),
    ):
        os.symlink(target, files.path(name))
        assert os.readlink(os.fsencode(files.path(name))) == os.fsencode(target)
        assert os.lstat(files.path(name)).st_size == len(target)
    assert files.path("rel").samefile(files.path("abs"))
    assert errno_of(os.stat, files.path("bad")) == errno.ENOENT
    os.symlink("b", files.path("a"))
    os.symlink("a", files.path("b"))
    assert errno_of(os.stat, files.path("a")) == errno.ELOOP
    assert errno_of(os.symlink, "x", files.path("a")) == errno.EEXIST
    assert errno_of(os.symlink, "", files.path("empty")) == errno.ENOENT
    files.path("rel").unlink()
    assert file.exists()


def test_hard_links_are_one_file(files: Files) -> None:
    file = files.make("file", 2)
    for number in range(5):
        os.link(file, files.path(f"link{number}"))
    assert file.stat().st_nlink == 6
    files.path("link3").write_text("new")
    assert file.read_text() == "new"
    assert files.path("link1").samefile(file)
    file.unlink()
    assert files.path("link0").stat().st_nlink == 5
    assert errno_of(os.link, files.path("link0"), files.path("link1")) == errno.EEXIST
    files.path("dir").mkdir()
    assert errno_of(os.link, files.path("dir"), files.path("dir2")) == errno.EPERM
    files.remount()
    assert files.path("link4").stat().st_nlink == 5
    assert files.path("link4").read_text() == "new"


def test_rename_replaces_what_it_may_and_refuses_the_rest(files: Files) -> None:
    one, two = files.make("one", 1), files.make("two", 2)
    directory, full = files.path("dir"), files.path("full")
    directory.mkdir()
    full.mkdir()
    files.make("full/x", 1)
    one.rename(two)
    assert not one.exists()
    assert two.stat().st_size == 4096
    assert errno_of(os.rename, two, directory) == errno.EISDIR
    assert errno_of(os.rename, directory, two) == errno.ENOTDIR
    assert errno_of(os.rename, directory, full) == errno.ENOTEMPTY
    assert errno_of(os.rename, full, full / "inside") == errno.EINVAL
    assert errno_of(os.rename, one, two) == errno.ENOENT
    full.rename(directory)
    assert (directory / "x").exists()
    assert files.mountpoint.stat().st_nlink == 3
    os.link(two, one)
    os.rename(one, two)  # two names of one file: nothing happens
    assert one.exists()
    assert two.exists()


def test_rename_flags(files: Files) -> None:
    one, two, new = files.make("one", 1), files.path("two"), files.path("new")
    two.mkdir()
    assert renameat2(one, two, RENAME_NOREPLACE) == errno.EEXIST
    assert renameat2(one, two, RENAME_EXCHANGE) == 0
    assert one.is_dir()
    assert two.is_file()
    assert renameat2(two, new, RENAME_EXCHANGE) == errno.ENOENT
    assert renameat2(two, new, RENAME_NOREPLACE) == 0
    assert renameat2(new, two, RENAME_WHITEOUT) == errno.EINVAL
    assert sorted(os.listdir(files.mountpoint)) == ["new", "one"]


def test_directories_that_move_know_their_parent(files: Files) -> None:
    for name in ("a", "b", "a/moved", "a/moved/below"):
        files.path(name).mkdir()
    inside = os.open(files.path("a/moved/below"), os.O_RDONLY)
    files.path("a/moved").rename(files.path("b/moved"))
    above = os.stat("../..", dir_fd=inside)
    assert above.st_ino == files.path("b").stat().st_ino
    os.close(inside)
    assert (files.path("a").stat().st_nlink, files.path("b").stat().st_nlink) == (2, 3)
    listed = {entry.name: entry.inode() for entry in os.scandir(files.path("b"))}
    assert listed == {"moved": files.path("b/moved").stat().st_ino}


def test_an_unlinked_file_lives_as_long_as_it_is_open(files: Files) -> None:
    path = files.make("file", 1000)
    free = os.statvfs(files.mountpoint).f_bfree
    fd = os.open(path, os.O_RDWR)
    path.unlink()
    assert errno_of(os.stat, path) == errno.ENOENT
    assert os.fstat(fd).st_nlink == 0
    assert os.pwrite(fd, b"still there", 8 * 4096) == 11
    assert os.pread(fd, 11, 8 * 4096) == b"still there"
    assert os.statvfs(files.mountpoint).f_bfree <= free
    os.ftruncate(fd, 5)
    assert os.fstat(fd).st_size == 5
    files.make("file", 1)  # the name is somebody else's now
    assert os.fstat(fd).st_size == 5
    assert os.pread(fd, 5, 0) == pattern(0)[:5]
    os.close(fd)
    assert os.statvfs(files.mountpoint).f_bfree >= free + 990


def test_a_removed_directory_that_is_somewhere_to_be_takes_nothing(files: Files) -> None:
    path = files.path("dir")
    path.mkdir()
    fd = os.open(path, os.O_RDONLY)
    path.rmdir()
    assert os.listdir(fd) == []

    def make() -> None:
        os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=fd)

    assert errno_of(make) == errno.ENOENT
    os.close(fd)


def test_a_file_without_a_name_can_be_given_one(files: Files) -> None:
    fd = os.open(files.mountpoint, os.O_TMPFILE | os.O_RDWR, 0o640)
    os.write(fd, b"no name yet")
    assert os.listdir(files.mountpoint) == []
    assert os.fstat(fd).st_nlink == 0
    name = bytes(files.path("named"))
    failed = LIBC.linkat(AT_FDCWD, b"/proc/self/fd/%d" % fd, AT_FDCWD, name, AT_SYMLINK_FOLLOW)
    assert failed == 0, os.strerror(ctypes.get_errno())
    os.close(fd)
    assert files.path("named").read_bytes() == b"no name yet"
    assert files.path("named").stat().st_nlink == 1
    os.close(os.open(files.mountpoint, os.O_TMPFILE | os.O_WRONLY, 0o600))  # and goes
    files.remount()
    assert os.listdir(files.mountpoint) == ["named"]


def test_exclusive_creation_and_what_is_not_there(files: Files) -> None:
    path = files.path("file")
    assert errno_of(os.stat, path) == errno.ENOENT  # and the kernel may remember that
    os.close(os.open(path, os.O_CREAT | os.O_EXCL))
    assert errno_of(os.open, path, os.O_CREAT | os.O_EXCL) == errno.EEXIST
    assert errno_of(os.open, path / "x", os.O_RDONLY) == errno.ENOTDIR
    assert errno_of(os.rmdir, path) == errno.ENOTDIR
    assert errno_of(os.unlink, files.path("none")) == errno.ENOENT
    files.path("dir").mkdir()
    assert errno_of(os.mkdir, files.path("dir")) == errno.EEXIST
    assert errno_of(os.unlink, files.path("dir")) in (errno.EISDIR, errno.EPERM)


def test_large_directories_are_listed_whole_also_while_they_change(files: Files) -> None:
    directory = files.path("dir")
    directory.mkdir()
    for number in range(1200):
        os.mknod(directory / f"file-{number:05}")
    seen = set()
    with os.scandir(directory) as entries:
        for entry in entries:
            seen.add(entry.name)
            assert entry.stat().st_ino == entry.inode()
            if len(seen) % 7 == 0:
                os.unlink(entry.path)
    assert len(seen) == 1200
    assert len(os.listdir(directory)) == 1200 - 1200 // 7
    assert shell(f"ls -f {directory} | wc -l").out.strip() == str(1200 - 1200 // 7 + 2)
    fd = os.open(directory, os.O_RDONLY)
    before = os.listdir(fd)
    os.mknod(directory / "late")
    assert set(os.listdir(fd)) == {*before, "late"}  # a rewound directory is read anew
    os.close(fd)
    assert shell(f"rm -r {directory}").status == 0


def test_a_listed_name_that_is_another_file_by_now_is_that_file(files: Files) -> None:
    """What READDIRPLUS tells of an entry is of the moment, not of the listing's start."""
    directory = files.path("dir")
    directory.mkdir()
    for number in range(500):
        (directory / f"{number:03}").write_text("old")
    with os.scandir(directory) as entries:
        next(entries)
        for number in range(500):
            (directory / "new").write_text("newer")
            (directory / "new").rename(directory / f"{number:03}")
        for _ in entries:
            pass
    assert {(directory / f"{n:03}").stat().st_size for n in range(500)} == {5}


def test_fifos_and_sockets_are_kept(files: Files, user: object) -> None:
    os.mkfifo(files.path("fifo"), 0o620)
    os.mknod(files.path("socket"), stat.S_IFSOCK | 0o600)
    files.remount()
    assert stat.S_ISFIFO(files.path("fifo").stat().st_mode)
    assert stat.S_ISSOCK(files.path("socket").stat().st_mode)


def test_the_control_directory_is_hidden_and_stays_what_it_is(files: Files) -> None:
    control = files.control
    assert os.listdir(files.mountpoint) == []
    assert control.is_dir()
    names = set(os.listdir(control))
    assert {"device", "badblocks", "events", "status", "ranges"} <= names
    assert files.device.stat().st_size == files.size
    for call, arguments in (
        (os.rmdir, (control,)),
        (os.rename, (control, files.path("other"))),
        (os.unlink, (control / "device",)),
        (os.mkdir, (control / "new",)),
        (os.symlink, ("x", control / "new")),
        (os.link, (control / "status", files.path("status"))),
        (os.rename, (control / "status", files.path("status"))),
        (os.rename, (files.make("file", 1), control / "file")),
        (os.setxattr, (control, "user.x", b"1")),
    ):
        assert errno_of(call, *arguments) == errno.EPERM, call
    assert errno_of(os.mkdir, control) == errno.EEXIST
    assert set(os.listdir(control)) == names
    assert cli("list", files.mountpoint).status == 0


@pytest.mark.parametrize("journal", ["delete", "wal", "truncate"])
def test_sqlite_keeps_its_promises(files: Files, journal: str) -> None:
    path = files.path("data.db")

    def rows() -> int:
        with contextlib.closing(sqlite3.connect(path, timeout=20)) as db:
            assert db.execute("pragma integrity_check").fetchone() == ("ok",)
            return int(db.execute("select count(*) from t").fetchone()[0])

    def insert() -> None:
        with contextlib.closing(sqlite3.connect(path, timeout=20)) as db:
            for number in range(15):
                with db:
                    db.execute("insert into t values (?, ?)", (number, os.urandom(3000)))

    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute(f"pragma journal_mode={journal}")
        db.execute("create table t (a, b)")
        db.commit()
    pids = [in_child(insert) for _ in range(3)]
    assert [wait(pid) for pid in pids] == [0] * 3
    assert rows() == 45
    files.kill_server()
    files.must_umount()
    files.must_mount()
    assert rows() == 45


@pytest.mark.parametrize("program", ["git", "tar", "cc"])
def test_programs_that_many_people_use_are_content(files: Files, program: str) -> None:
    there = files.mountpoint
    lines = {
        "git": f"cd {there} && git init -q r && cd r && git config user.email a@b && "
        "git config user.name n && seq 2000 > f && git add f && git commit -qm one && "
        "seq 3000 > f && git commit -qam two && git gc -q && git fsck --strict && "
        "git log --oneline | wc -l",
        "tar": f"cd {there} && cp -a /etc/ssl . 2>/dev/null; mkdir out && "
        "tar cf - ssl | tar xf - -C out && diff -r --no-dereference ssl out/ssl && echo 2",
        "cc": f"cd {there} && printf 'int main(void) {{ return 0; }}' > a.c && cc -O1 -o a a.c && "
        "./a && echo 2",
    }
    if shell(f"command -v {program}").status:
        pytest.skip(f"there is no {program}")
    ran = shell(f"export HOME={files.base}; {lines[program]}")
    assert ran.status == 0, ran
    assert ran.out.strip().endswith("2")
