"""That every ordinary operation of a file system arrives and is answered."""

import errno
import fcntl
import os
import stat
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_fuse_memory import (
    FICTIVE_IOCTL,
    PAGE,
    MemoryHandler,
    PlusHandler,
    Served,
    needs_root,
    pytestmark,  # noqa: F401
    served,
)

from daxmend.fuse import protocol as p


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Served]:
    with served(tmp_path, MemoryHandler()) as mounted:
        yield mounted


def test_files_are_made_written_read_and_truncated(memory: Served) -> None:
    path = memory.path / "file"
    path.write_bytes(b"hello world")
    assert path.read_bytes() == b"hello world"
    os.truncate(path, 5)
    assert path.read_bytes() == b"hello"
    with path.open("wb"):  # O_TRUNC is one step with the open
        pass
    assert path.stat().st_size == 0


def test_directories_links_and_renames_work(memory: Served) -> None:
    root = memory.path
    (root / "dir").mkdir(mode=0o700)
    (root / "dir" / "a").write_bytes(b"a")
    os.link(root / "dir" / "a", root / "hard")
    (root / "soft").symlink_to("dir/a")
    assert os.readlink(root / "soft") == "dir/a"
    assert (root / "soft").read_bytes() == b"a"
    assert (root / "hard").stat().st_nlink == 2
    os.rename(root / "hard", root / "dir" / "b")
    assert sorted(os.listdir(root / "dir")) == ["a", "b"]
    with pytest.raises(OSError) as info:
        (root / "dir").rmdir()
    assert info.value.errno == errno.ENOTEMPTY
    for name in ("a", "b"):
        (root / "dir" / name).unlink()
    (root / "dir").rmdir()
    assert sorted(os.listdir(root)) == ["soft"]


def test_a_directory_that_needs_many_replies_lists_every_name_once(memory: Served) -> None:
    names = [f"name-{number:04}-{'x' * (number % 50)}" for number in range(500)]
    for name in names:
        os.mknod(memory.path / name)
    assert sorted(os.listdir(memory.path)) == sorted(names)


def test_readdirplus_counts_only_the_lookups_that_the_kernel_got(tmp_path: Path) -> None:
    with served(tmp_path, PlusHandler()) as mounted:
        for number in range(300):
            os.mknod(mounted.path / f"file-{number}")
        with os.scandir(mounted.path) as entries:
            names = [entry.name for entry in entries if entry.stat().st_nlink == 1]
        assert len(set(names)) == len(names) == 300
        plus = [name for (name,) in mounted.log("plus")]
        assert {".", ".."} < set(plus)
        assert len(plus) == len(set(plus))


def test_modes_and_times_are_set(memory: Served) -> None:
    path = memory.path / "file"
    path.write_bytes(b"")
    path.chmod(0o640)
    os.utime(path, ns=(0, -1_500_000_001))  # before 1970
    found = path.stat()
    assert stat.S_IMODE(found.st_mode) == 0o640
    assert found.st_mtime_ns == -1_500_000_001


@needs_root
def test_owners_are_set(memory: Served) -> None:
    path = memory.path / "file"
    path.write_bytes(b"")
    os.chown(path, 3, 4)
    assert (path.stat().st_uid, path.stat().st_gid) == (3, 4)


def test_xattrs_are_set_listed_and_removed(memory: Served) -> None:
    path = memory.path / "file"
    path.write_bytes(b"")
    os.setxattr(path, "user.one", b"1" * 60_000)
    os.setxattr(path, "user.two", b"")
    assert os.getxattr(path, "user.one") == b"1" * 60_000
    assert sorted(os.listxattr(path)) == ["user.one", "user.two"]
    os.removexattr(path, "user.one")
    with pytest.raises(OSError) as info:
        os.getxattr(path, "user.one")
    assert info.value.errno == errno.ENODATA


def test_ioctl_carries_its_data_both_ways_and_its_result(memory: Served) -> None:
    with (memory.path / "file").open("wb") as file:
        argument = bytearray(b"12345678")
        assert fcntl.ioctl(file, FICTIVE_IOCTL, argument) == 7
        assert argument == b"87654321"
        with pytest.raises(OSError) as info:
            fcntl.ioctl(file, 0x127F, struct.pack("QQ", 0, 512))  # BLKZEROOUT
        assert info.value.errno == errno.ENOTTY


def test_fallocate_lseek_and_copy_file_range_reach_the_handler(memory: Served) -> None:
    with (memory.path / "a").open("w+b") as a, (memory.path / "b").open("w+b") as b:
        os.posix_fallocate(a.fileno(), 0, 3 * PAGE)
        assert memory.log("fallocate") == [[0, 3 * PAGE, 0]]
        assert os.lseek(a.fileno(), 100, os.SEEK_DATA) == 100
        assert os.lseek(a.fileno(), 100, os.SEEK_HOLE) == 3 * PAGE
        with pytest.raises(OSError) as info:
            os.lseek(a.fileno(), 4 * PAGE, os.SEEK_DATA)
        assert info.value.errno == errno.ENXIO
        os.pwrite(a.fileno(), b"data", 0)
        assert os.copy_file_range(a.fileno(), b.fileno(), 4, 0, 0) == 4
        assert os.pread(b.fileno(), 9, 0) == b"data"
        assert memory.log("copy_file_range") == [[4]]


def test_a_file_without_a_name_works(memory: Served) -> None:
    fd = os.open(memory.path, os.O_TMPFILE | os.O_RDWR, 0o600)
    try:
        os.write(fd, b"temporary")
        assert os.pread(fd, 100, 0) == b"temporary"
        assert os.fstat(fd).st_nlink == 0
    finally:
        os.close(fd)
    assert os.listdir(memory.path) == []


def test_fsync_and_fdatasync_are_told_apart(memory: Served) -> None:
    with (memory.path / "file").open("wb") as file:
        os.fsync(file.fileno())
        os.fdatasync(file.fileno())
    assert memory.log("fsync") == [[0], [p.FUSE_FSYNC_FDATASYNC]]


def test_statfs_gives_the_handlers_numbers(memory: Served) -> None:
    found = os.statvfs(memory.path)
    assert (found.f_blocks, found.f_bfree, found.f_bavail) == (1000, 900, 800)
    assert (found.f_files, found.f_ffree, found.f_namemax) == (50, 40, 255)


def test_what_was_looked_up_is_forgotten(memory: Served) -> None:
    os.mknod(memory.path / "file")  # counts a lookup
    nodeid = (memory.path / "file").stat().st_ino  # and so does this: names are not to be trusted
    (memory.path / "file").unlink()
    memory.expect(f"forgot {nodeid} 3")  # unlink looked it up as well
