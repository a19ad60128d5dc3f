"""What a mounted file system holds after its server was killed, and after a stop (R18)."""

import contextlib
import errno
import mmap
import os
import random
import signal
import threading

import pytest
from filemount import Files
from rawmount import NEW, PAGE, Ran, in_child, pattern, wait, wait_until
from test_files_heal import fails

from daxmend.media.pool import read_owner

pytestmark = pytest.mark.timeout(60, method="signal")
DIAGONAL = True


def kill_and_mount(files: Files) -> None:
    """kill -9 the server, clean up, mount again."""
    files.kill_server()
    files.must_umount()
    files.must_mount()


def test_what_was_done_before_a_kill_is_there_after_it(files: Files) -> None:
    path, directory = files.make("file", 4), files.path("dir")
    directory.mkdir()
    os.link(path, directory / "link")
    os.symlink("target", files.path("symlink"))
    os.setxattr(path, "user.x", b"1")
    os.truncate(path, 3 * PAGE + 7)
    files.make("gone").unlink()
    files.make("old").rename(directory / "new")
    path.chmod(0o604)
    kill_and_mount(files)
    assert sorted(os.listdir(files.mountpoint)) == ["dir", "file", "symlink"]
    assert sorted(os.listdir(directory)) == ["link", "new"]
    assert path.read_bytes() == (pattern(0) + pattern(1) + pattern(2) + pattern(3)[:7])
    assert path.stat().st_nlink == 2
    assert os.getxattr(path, "user.x") == b"1"
    assert os.readlink(files.path("symlink")) == "target"
    assert (directory / "new").read_bytes() == b"".join(map(pattern, range(8)))


def test_what_fsync_promised_is_there_with_the_durability_of_a_machine(files: Files) -> None:
    files.must_umount()
    files.pool.unlink()
    files.create("--durability", "machine")
    files.must_mount()
    for number in range(5):
        with open(files.path(f"file{number}"), "wb") as file:
            file.write(pattern(number))
            file.flush()
            os.fsync(file.fileno())
    fd = os.open(files.path("sync"), os.O_CREAT | os.O_WRONLY | os.O_DSYNC)
    assert os.write(fd, NEW) == PAGE
    os.close(fd)
    files.path("dir").mkdir()
    fd = os.open(files.mountpoint, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)
    kill_and_mount(files)
    assert files.path("dir").is_dir()
    assert files.path("sync").read_bytes() == NEW
    assert [files.path(f"file{n}").read_bytes() for n in range(5)] == list(map(pattern, range(5)))


def test_mappings_and_descriptors_of_a_killed_server_end_in_errors(files: Files) -> None:
    path = files.make("file", 4)
    fd = os.open(path, os.O_RDWR)
    memory = mmap.mmap(fd, 4 * PAGE)
    assert memory[:8] == pattern(0)[:8]
    files.kill_server()
    for call, arguments in (
        (os.pwrite, (fd, b"x", 0)),
        (os.fsync, (fd,)),
        (os.listdir, (files.mountpoint,)),
    ):
        assert fails(call, *arguments, number=errno.ENOTCONN)
    if files.is_direct:  # else the kernel may still have the page
        assert fails(os.pread, fd, PAGE, 0, number=errno.ENOTCONN)
    memory.close()
    assert fails(os.close, fd, number=errno.ENOTCONN)
    files.must_umount()
    files.must_mount()
    assert path.read_bytes() == b"".join(map(pattern, range(4)))


def test_files_that_were_only_open_are_gone_after_a_kill(files: Files) -> None:
    free = os.statvfs(files.mountpoint).f_bfree
    path = files.make("file", 500)
    fd = os.open(path, os.O_RDWR)
    path.unlink()
    nameless = os.open(files.mountpoint, os.O_TMPFILE | os.O_RDWR)
    os.write(nameless, bytes(100 * PAGE))
    files.kill_server()
    for each in (fd, nameless):
        assert fails(os.close, each, number=errno.ENOTCONN)
    files.must_umount()
    files.must_mount()
    assert os.listdir(files.mountpoint) == []
    wait_until(lambda: os.statvfs(files.mountpoint).f_bfree > free - 64, "their space is free")


def test_bad_pages_stay_bad_and_healed_ones_healed_r18(files: Files) -> None:
    path = files.make("file", 16)
    files.damage(path, 2 * PAGE, 8 * PAGE)
    assert files.write_at(path, NEW * 3, 2 * PAGE) == 3 * PAGE
    record = files.badblocks
    kill_and_mount(files)
    assert files.badblocks == record
    assert files.read_at(path, 5 * PAGE, 0) == pattern(0) + pattern(1) + NEW * 3
    assert fails(files.read_at, path, PAGE, 5 * PAGE)
    assert files.write_at(path, NEW * 5, 5 * PAGE) == 5 * PAGE
    assert files.badblocks == ""


@pytest.mark.parametrize("seed", [1, 2])
def test_a_kill_while_many_pages_heal_leaves_each_bad_or_new_r18(files: Files, seed: int) -> None:
    count = 256
    path = files.make("file", count)
    files.damage(path, 0, count * PAGE)
    rng = random.Random(seed)
    pages = list(range(count))
    rng.shuffle(pages)

    def heal() -> None:
        with contextlib.suppress(OSError):  # the server is gone
            fd = os.open(path, os.O_RDWR)
            for page in pages:
                os.pwrite(fd, pattern(1000 + page), page * PAGE)

    healer = in_child(heal)
    killer = threading.Timer(rng.random() * 0.02, os.kill, (files.server, signal.SIGKILL))
    killer.start()
    assert wait(healer) == 0
    killer.join()
    wait_until(lambda: read_owner(files.pool) is None, "the server is dead")
    files.must_umount()
    files.must_mount()
    bad = 0
    with files.opened_file(path, os.O_RDONLY) as fd:
        for page in range(count):
            try:
                assert os.pread(fd, PAGE, page * PAGE) == pattern(1000 + page)
            except OSError:
                bad += 1
    assert files.badblocks.count("\n") <= bad
    print(f"{bad} of {count} pages were still bad")


def test_a_mount_in_use_is_not_unmounted_and_sigterm_writes_mappings_back(files: Files) -> None:
    path = files.make("file", 4)
    fd = os.open(path, os.O_RDWR)
    memory = mmap.mmap(fd, 4 * PAGE)
    memory[PAGE : PAGE + 6] = b"mapped"
    assert files.umount().status != 0
    os.kill(files.server, signal.SIGTERM)
    wait_until(lambda: read_owner(files.pool) is None, "the server has ended")
    memory.close()
    assert fails(os.close, fd, number=errno.ENOTCONN)
    if files.umount() != Ran(0, "", ""):
        pass  # the server has taken the mount away itself
    files.must_mount()
    assert path.read_bytes()[PAGE : PAGE + 6] == b"mapped"
