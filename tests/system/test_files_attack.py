"""What a reviewer tried against a mounted file system, to lose, falsify or leak a byte."""

import mmap
import os
import threading

import pytest
from filemount import Files
from rawmount import NEW, PAGE, SECTOR, cli, pattern
from test_files_data import PUNCH, fallocate
from test_files_heal import fails

pytestmark = pytest.mark.timeout(60, method="signal")
DIAGONAL = True


def test_what_was_allocated_takes_every_page_on_a_full_pool(files: Files) -> None:
    """Each write splits a run: metadata that had no room once made the mount read-only."""
    path = files.path("all")
    with files.opened_file(path, os.O_RDWR | os.O_CREAT) as fd:
        pages = os.statvfs(files.mountpoint).f_bavail
        while fallocate(fd, 0, 0, pages * PAGE):
            pages -= 1
        assert pages > 7000
        for page in range(1, pages, 2):
            assert os.pwrite(fd, b"%08d" % page, page * PAGE + 5) == 8
        os.fsync(fd)
    files.remount()
    with files.opened_file(path, os.O_RDONLY) as fd:
        for page in range(pages):
            wanted = b"%08d" % page if page % 2 else bytes(8)
            assert os.pread(fd, 20, page * PAGE) == bytes(5) + wanted + bytes(7)
    path.unlink()
    while os.statvfs(files.mountpoint).f_bavail < pages // 2:  # FORGET comes some requests later
        pass
    assert files.make("another").read_bytes() == b"".join(map(pattern, range(8)))


def test_half_a_write_into_which_somebody_truncates_is_told_and_gone_r50_r32(files: Files) -> None:
    path = files.make("file")
    fd, other = os.open(path, os.O_RDWR), os.open(path, os.O_RDWR)
    files.damage(path, 2 * PAGE + 2048, SECTOR)
    assert os.pwrite(fd, NEW[:1000], 2 * PAGE) == 1000
    os.ftruncate(other, 2 * PAGE + 500)
    os.ftruncate(other, 4 * PAGE)
    assert fails(os.fsync, fd)
    assert os.pread(fd, PAGE, 2 * PAGE) == pattern(2)[:500] + bytes(PAGE - 500)
    assert fails(os.close, fd)
    os.close(other)


def test_half_a_write_is_joined_after_rename_and_unlink_r50(files: Files) -> None:
    path = files.make("file")
    fd = os.open(path, os.O_RDWR)
    files.damage(path, 2048, SECTOR)
    assert os.pwrite(fd, NEW[:1000], 0) == 1000
    path.rename(files.path("other"))
    files.path("other").unlink()
    assert os.pwrite(fd, NEW[1000:], 1000) == PAGE - 1000
    assert os.pread(fd, 2 * PAGE, 0) == NEW + pattern(1)
    os.fsync(fd)
    os.close(fd)


def test_another_opens_sector_keeps_the_half_that_is_held_r50_r16(files: Files) -> None:
    """The page heals with the held bytes, not with those that were there before."""
    path = files.make("file")
    fd, other = os.open(path, os.O_RDWR), os.open(path, os.O_RDWR)
    files.damage(path, PAGE + 7 * SECTOR, SECTOR)
    assert os.pwrite(fd, NEW[:2000], PAGE) == 2000
    assert os.pwrite(other, b"s" * SECTOR, PAGE + 7 * SECTOR) == SECTOR
    assert os.pread(other, PAGE, PAGE) == NEW[:2000] + pattern(1)[2000 : 7 * SECTOR] + b"s" * SECTOR
    assert os.pwrite(fd, NEW[2000:], PAGE + 2000) == PAGE - 2000
    assert os.pread(other, PAGE, PAGE) == NEW
    os.fsync(fd)
    os.close(fd)
    os.close(other)


def test_a_repair_brings_nothing_back_that_was_truncated_away_r32_r12(files: Files) -> None:
    """It keeps the good lines of a bad sector; behind the old end those are zeros."""
    path = files.make("file", 2)
    files.poison(path, PAGE)
    with files.opened_file(path, os.O_RDONLY) as fd:
        assert fails(os.pread, fd, SECTOR, PAGE)
    os.truncate(path, PAGE + 100)
    os.truncate(path, 2 * PAGE)
    files.must_umount()
    assert cli("repair", f"{files.pool}:/file", "--zero", "--apply").status == 0
    files.must_mount()
    wanted = bytes(64) + pattern(1)[64:100] + bytes(PAGE - 100)
    assert path.read_bytes() == pattern(0) + wanted


def test_a_store_behind_the_end_of_a_mapped_file_never_shows_r32(files: Files) -> None:
    path = files.make("file", 2)
    with files.opened_file(path) as fd, mmap.mmap(fd, 2 * PAGE) as mapped:
        os.ftruncate(fd, PAGE + 50)
        mapped[PAGE + 60] = 5
        mapped.flush()
        files.damage(path, PAGE + 6 * SECTOR, SECTOR)
        os.ftruncate(fd, 2 * PAGE)
        assert files.badblocks == ""
        assert mapped[PAGE:] == pattern(1)[:50] + bytes(PAGE - 50)
        assert os.pread(fd, PAGE, PAGE) == pattern(1)[:50] + bytes(PAGE - 50)


def test_a_zeroing_before_the_end_ignores_what_is_bad_behind_it_r16_r30(files: Files) -> None:
    path = files.make("file", 1)
    os.truncate(path, 1000)
    files.damage(path, 7 * SECTOR, SECTOR)
    with files.opened_file(path) as fd:
        assert fallocate(fd, PUNCH, 100, 200) == 0
        assert os.pread(fd, PAGE, 0) == pattern(0)[:100] + bytes(200) + pattern(0)[300:1000]
    assert files.badblocks == ""


def test_renaming_over_an_open_bad_file_leaks_it_to_nobody_r31(files: Files) -> None:
    bad, good = files.make("bad"), files.make("good", 2)
    fd = os.open(bad, os.O_RDWR)
    files.damage(bad, 3 * PAGE)
    good.rename(bad)
    assert bad.read_bytes() == pattern(0) + pattern(1)
    assert fails(os.pread, fd, PAGE, 3 * PAGE)
    assert os.pread(fd, PAGE, 4 * PAGE) == pattern(4)
    os.close(fd)
    files.wait_until_clean()
    files.must_umount()
    assert cli("check", files.pool).status == 0


def test_a_directory_that_changes_lists_once_what_stays(files: Files) -> None:
    directory = files.path("directory")
    directory.mkdir()
    stays = {f"stays{number}" for number in range(300)}
    for name in stays:
        (directory / name).touch()
    is_over = threading.Event()

    def churn() -> None:
        while not is_over.is_set():
            (directory / "comes").touch()
            (directory / "comes").unlink()

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        for _ in range(10):
            listed = os.listdir(directory)
            assert len(listed) == len(set(listed))
            assert stays <= set(listed)
    finally:
        is_over.set()
        thread.join()
