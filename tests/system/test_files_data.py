"""The bytes of files of a mounted file system, through real system calls."""

import ctypes
import errno
import fcntl
import mmap
import os
import random

import pytest
from filemount import Files
from rawmount import PAGE, in_child, pattern, shell, wait

from daxmend.host import fileioctl

pytestmark = pytest.mark.timeout(60, method="signal")
DIAGONAL = True

MIB = 1 << 20
KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE, COLLAPSE_RANGE = 0x01, 0x02, 0x10, 0x08
PUNCH = PUNCH_HOLE | KEEP_SIZE
LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long]


def fallocate(fd: int, mode: int, offset: int, length: int) -> int:
    """0, or the errno."""
    return ctypes.get_errno() if LIBC.fallocate(fd, mode, offset, length) else 0


def errno_of(call: object, *arguments: object) -> int:
    assert callable(call)
    with pytest.raises(OSError) as info:
        call(*arguments)
    return info.value.errno or 0


def test_appends_of_several_programs_do_not_overwrite_each_other(files: Files) -> None:
    path = files.path("log")
    path.touch()

    def append() -> None:
        fd = os.open(path, os.O_WRONLY | os.O_APPEND)
        for _ in range(200):
            assert os.write(fd, b"%5d\n" % os.getpid()) == 6
        os.close(fd)

    pids = [in_child(append) for _ in range(4)]
    assert [wait(pid) for pid in pids] == [0] * 4
    lines = path.read_bytes().splitlines()
    assert len(lines) == 800
    assert {line: lines.count(line) for line in lines} == {b"%5d" % pid: 200 for pid in pids}


def test_sparse_files_read_as_zeros_and_say_where_their_data_is(files: Files) -> None:
    path = files.path("sparse")
    with files.opened_file(path, os.O_RDWR | os.O_CREAT) as fd:
        os.ftruncate(fd, 100 * PAGE)
        for page in (10, 11, 50):
            os.pwrite(fd, pattern(page), page * PAGE)
        os.pwrite(fd, b"x", 70 * PAGE + 5)
        assert (
            os.pread(fd, 100 * PAGE, 0).count(0)
            == 100 * PAGE - sum(PAGE - pattern(page).count(0) for page in (10, 11, 50)) - 1
        )
        data = [0, 12 * PAGE, 51 * PAGE]
        assert [os.lseek(fd, at, os.SEEK_DATA) for at in data] == [10 * PAGE, 50 * PAGE, 70 * PAGE]
        holes = [0, 10 * PAGE, 50 * PAGE + 5, 70 * PAGE]
        assert [os.lseek(fd, at, os.SEEK_HOLE) for at in holes] == [
            0,
            12 * PAGE,
            51 * PAGE,
            71 * PAGE,
        ]
        assert errno_of(os.lseek, fd, 71 * PAGE, os.SEEK_DATA) == errno.ENXIO
        assert errno_of(os.lseek, fd, 100 * PAGE, os.SEEK_HOLE) == errno.ENXIO
        assert os.fstat(fd).st_blocks == 4 * 8
    assert [(at, length) for at, _, length, _ in files.placed(path)] == [
        (10 * PAGE, 2 * PAGE), (50 * PAGE, PAGE), (70 * PAGE, PAGE),
    ]  # fmt: skip
    copy = files.path("copy")
    assert shell(f"cp --sparse=auto {path} {copy} && cmp {path} {copy}").status == 0


def test_fallocate_modes(files: Files) -> None:
    path = files.make("file", 8)
    with files.opened_file(path) as fd:
        assert fallocate(fd, KEEP_SIZE, 8 * PAGE, 8 * PAGE) == 0
        assert (os.fstat(fd).st_size, os.fstat(fd).st_blocks) == (8 * PAGE, 16 * 8)
        assert fallocate(fd, 0, 10 * PAGE, 2 * PAGE + 1) == 0
        assert os.fstat(fd).st_size == 12 * PAGE + 1
        assert os.pread(fd, PAGE, 9 * PAGE) == bytes(PAGE)
        assert [is_written for *_, is_written in files.placed(fd)] == [True, False]
        assert fallocate(fd, PUNCH, PAGE + 100, 2 * PAGE) == 0
        expected = pattern(0) + pattern(1)[:100] + bytes(2 * PAGE) + pattern(3)[100:]
        assert os.pread(fd, 4 * PAGE, 0) == expected
        assert os.fstat(fd).st_blocks == 15 * 8
        before = files.placed(fd)
        assert fallocate(fd, ZERO_RANGE | KEEP_SIZE, 4 * PAGE + 7, PAGE) == 0
        assert os.pread(fd, 2 * PAGE, 4 * PAGE) == pattern(4)[:7] + bytes(PAGE) + pattern(5)[7:]
        assert files.placed(fd) == before  # in place (R29)
        assert fallocate(fd, ZERO_RANGE, 20 * PAGE, 1) == 0
        assert os.fstat(fd).st_size == 20 * PAGE + 1
        for mode in (PUNCH_HOLE, COLLAPSE_RANGE, 0x20, 0x40):
            assert fallocate(fd, mode, 0, PAGE) == errno.EOPNOTSUPP
        assert fallocate(fd, 0, 0, 0) == errno.EINVAL
        assert fallocate(fd, 0, 0, 1 << 40) == errno.ENOSPC
    with files.opened_file(path, os.O_RDONLY) as fd:
        assert fallocate(fd, 0, 0, PAGE) == errno.EBADF


def test_mapped_memory_and_plain_calls_see_each_other(files: Files) -> None:
    path = files.make("file", 4)
    with files.opened_file(path) as fd, mmap.mmap(fd, 4 * PAGE) as memory:
        assert memory[PAGE : PAGE + 8] == pattern(1)[:8]
        os.pwrite(fd, b"written", PAGE)
        assert memory[PAGE : PAGE + 7] == b"written"
        memory[2 * PAGE : 2 * PAGE + 6] = b"stored"
        assert os.pread(fd, 6, 2 * PAGE) == b"stored"
        assert fallocate(fd, ZERO_RANGE, 0, PAGE) == 0
        assert memory[:PAGE] == bytes(PAGE)
        memory[0:3] = b"new"
        fileioctl.zeroinit(fd, 0, 2 * PAGE)  # what is dirty is written back before, not after
        assert memory[: 2 * PAGE] == bytes(2 * PAGE)
        os.fsync(fd)
        assert os.pread(fd, 2 * PAGE, 0) == bytes(2 * PAGE)
        assert fallocate(fd, PUNCH, 2 * PAGE, PAGE) == 0
        assert memory[2 * PAGE : 3 * PAGE] == bytes(PAGE)
        memory[3 * PAGE] = 7
    assert path.read_bytes()[3 * PAGE] == 7
    files.remount()
    assert path.read_bytes() == bytes(3 * PAGE) + b"\x07" + pattern(3)[1:]


def test_truncation_forgets_what_was_behind_the_end(files: Files) -> None:
    path = files.make("file", 4)
    blocks = path.stat().st_blocks
    with files.opened_file(path) as fd:
        os.ftruncate(fd, PAGE + 100)
        os.ftruncate(fd, 4 * PAGE)
        assert os.pread(fd, 4 * PAGE, 0) == pattern(0) + pattern(1)[:100] + bytes(3 * PAGE - 100)
        assert os.fstat(fd).st_blocks == blocks // 2
        os.pwrite(fd, b"end", 3 * PAGE)
        os.ftruncate(fd, 0)
        assert os.pread(fd, 10, 0) == b""
        assert os.fstat(fd).st_blocks == 0
    path.write_bytes(b"again")
    with open(path, "wb"):
        assert path.stat().st_size == 0  # O_TRUNC


def test_files_reach_to_2_to_the_40_and_to_the_maximum_and_not_beyond(files: Files) -> None:
    path = files.path("large")
    with files.opened_file(path, os.O_RDWR | os.O_CREAT) as fd:
        for offset in ((1 << 40) - 3, (1 << 62) + 5):
            assert os.pwrite(fd, b"far away", offset) == 8
            assert os.fstat(fd).st_size == offset + 8
            assert os.pread(fd, 100, offset - 10) == bytes(10) + b"far away"
        assert os.fstat(fd).st_blocks == 3 * 8
        assert os.lseek(fd, 1 << 41, os.SEEK_DATA) == 1 << 62
        assert errno_of(os.pwrite, fd, b"x", (1 << 63) - 1) in (errno.EFBIG, errno.EINVAL)
        assert errno_of(os.pwrite, fd, b"x", (1 << 63) - PAGE) == errno.EFBIG
        assert errno_of(os.ftruncate, fd, (1 << 63) - 1) == errno.EFBIG
        os.ftruncate(fd, 1 << 41)
        assert os.fstat(fd).st_size == 1 << 41
    files.remount()
    assert files.read_at(path, 8, (1 << 40) - 3) == b"far away"


def test_a_full_file_system_says_so_and_files_can_still_be_removed(files: Files) -> None:
    piece = os.urandom(MIB)
    paths = []

    def fill() -> None:
        while True:
            paths.append(files.path(f"file{len(paths)}"))
            with open(paths[-1], "wb", buffering=0) as file:
                rest = memoryview(piece)
                while rest:
                    rest = rest[file.write(rest) :]

    assert errno_of(fill) == errno.ENOSPC
    assert 20 < len(paths) < 40
    with pytest.raises(OSError, match="No space left"):
        paths[0].with_name("name").write_bytes(bytes(PAGE))
    with files.opened_file(paths[0]) as fd:
        assert os.pwrite(fd, b"in place", 0) == 8  # needs no space
        os.ftruncate(fd, 10)
    for path in paths:
        path.unlink()
    assert os.listdir(files.mountpoint) in ([], ["name"])
    files.path("new").write_bytes(piece)
    files.remount()
    assert files.path("new").read_bytes() == piece


def test_a_store_into_a_hole_that_finds_no_space_is_an_error_of_fsync(files: Files) -> None:
    path = files.path("sparse")
    with files.opened_file(path, os.O_RDWR | os.O_CREAT) as fd:
        os.ftruncate(fd, 1024 * PAGE)
        with files.opened_file(files.path("full"), os.O_WRONLY | os.O_CREAT) as full:

            def fill() -> None:
                while True:
                    os.write(full, bytes(MIB))

            assert errno_of(fill) == errno.ENOSPC
        with mmap.mmap(fd, 1024 * PAGE) as memory:
            for page in range(1024):
                memory[page * PAGE] = 1
            assert errno_of(memory.flush) == errno.ENOSPC
            files.path("full").unlink()
            os.fsync(files_root := os.open(files.mountpoint, os.O_RDONLY))
            os.close(files_root)
            for page in range(1024):
                memory[page * PAGE] = 2
            memory.flush()
        os.fsync(fd)
    files.remount()
    assert path.read_bytes()[::PAGE] == b"\x02" * 1024


def test_what_a_mapping_stores_into_a_hole_is_there(files: Files) -> None:
    path = files.path("sparse")
    with files.opened_file(path, os.O_RDWR | os.O_CREAT) as fd:
        os.ftruncate(fd, 64 * PAGE)
        with mmap.mmap(fd, 64 * PAGE) as memory:
            for page in range(0, 64, 5):
                memory[page * PAGE + 9] = page
            memory.flush()
        assert os.fstat(fd).st_blocks >= 13 * 8
    files.remount()
    data = path.read_bytes()
    assert [data[page * PAGE + 9] for page in range(0, 64, 5)] == list(range(0, 64, 5))


def test_copy_file_range_copies(files: Files) -> None:
    source, target = files.make("source", 700), files.path("target")
    with files.opened_file(source) as one, open(target, "wb+") as two:
        done = 0
        while copied := os.copy_file_range(one, two.fileno(), 700 * PAGE, done, done + 100):
            done += copied
        assert done == 700 * PAGE
        assert os.pread(two.fileno(), 700 * PAGE, 100) == source.read_bytes()
        assert os.copy_file_range(one, one, 100, 5, 50 * PAGE) == 100
        assert os.pread(one, 100, 50 * PAGE) == (pattern(0) * 2)[5:105]
        assert os.copy_file_range(one, two.fileno(), 100, 1 << 30, 0) == 0


@pytest.mark.parametrize("flags", [0, os.O_DIRECT, os.O_SYNC, os.O_DSYNC])
def test_random_writes_and_reads_agree_with_a_model(files: Files, flags: int) -> None:
    rng = random.Random(flags)
    model = bytearray(48 * PAGE)
    size = 0
    unit = PAGE if flags == os.O_DIRECT else 1
    with files.opened_file(files.path("file"), os.O_RDWR | os.O_CREAT | flags) as fd:
        for _ in range(150):
            offset = rng.randrange(40 * PAGE) // unit * unit
            length = max(rng.choice((1, 100, PAGE, 5 * PAGE)) // unit, 1) * unit
            memory = mmap.mmap(-1, length)
            memory[:] = rng.randbytes(length)
            assert os.pwritev(fd, [memory], offset) == length
            model[offset : offset + length] = memory
            size = max(size, offset + length)
            start = rng.randrange(size) // unit * unit
            into = mmap.mmap(-1, 8 * PAGE)
            count = os.preadv(fd, [into], start)
            assert into[:count] == model[start : min(start + 8 * PAGE, size)]
    files.remount()
    assert files.path("file").read_bytes() == model[:size]


def test_the_extents_of_a_file_by_xattr_and_by_ioctl(files: Files) -> None:
    path = files.path("sparse")
    with files.opened_file(path, os.O_RDWR | os.O_CREAT) as fd:
        assert os.getxattr(fd, "user.daxmend.extents") == b""
        for page in range(0, 6000, 2):
            os.pwrite(fd, b"x", page * PAGE)
        fallocate(fd, 0, 7000 * PAGE, PAGE)
        extents = list(fileioctl.iter_extents(fd))
        assert [extent.offset for extent in extents] == [
            *(page * PAGE for page in range(0, 6000, 2)), 7000 * PAGE,
        ]  # fmt: skip
        assert [extent.is_written for extent in extents] == [True] * 3000 + [False]
        text = os.getxattr(fd, "user.daxmend.extents").decode()
        *lines, last = text.splitlines()
        assert last == "more"
        assert 65500 < len(text) <= 65536
        for line, extent in zip(lines, extents, strict=False):
            assert line == f"{extent.offset} {extent.device_offset} {extent.length} written"
        assert list(fileioctl.iter_extents(fd, 5990 * PAGE)) == extents[-6:]
        with files.opened_file(files.device, os.O_RDONLY) as device:
            for extent in extents[::100]:
                assert os.pread(device, 1, extent.device_offset) in (b"x", b"\0")


def test_ioctls_that_are_not_ours_are_enotty_and_ours_need_what_they_need(files: Files) -> None:
    path = files.make("file", 2)
    blkzeroout, tcgets, fs_ioc_fiemap = 0x127F, 0x5401, 0xC020660B
    with files.opened_file(path, os.O_RDONLY) as fd:
        for number in (blkzeroout, tcgets, fileioctl.ZEROINIT + 1, fileioctl.EXTENTS + 1):
            with pytest.raises(OSError) as info:
                fcntl.ioctl(fd, number, bytearray(fileioctl.EXTENTS_SIZE))
            assert info.value.errno == errno.ENOTTY
        with pytest.raises(OSError):
            fcntl.ioctl(fd, fs_ioc_fiemap, bytes(32))
        assert errno_of(fileioctl.zeroinit, fd, 0, PAGE) == errno.EBADF
        assert errno_of(fileioctl.salvage, fd, 512) == errno.EINVAL
        assert errno_of(fileioctl.salvage, fd, 2 * PAGE) == errno.EINVAL
    with files.opened_file(path, os.O_WRONLY) as fd:
        assert errno_of(fileioctl.salvage, fd, 0) == errno.EBADF
    with files.opened_file(path) as fd:
        fileioctl.zeroinit(fd, 100, 0)
        fileioctl.zeroinit(fd, 10 * PAGE, PAGE)
        assert os.fstat(fd).st_size == 2 * PAGE
        assert errno_of(fileioctl.zeroinit, fd, (1 << 64) - PAGE, PAGE) == errno.EINVAL
        fileioctl.zeroinit(fd, PAGE + 10, 1 << 40)
        assert os.pread(fd, 2 * PAGE, 0) == pattern(0) + pattern(1)[:10] + bytes(PAGE - 10)
        before = os.fstat(fd).st_mtime_ns
        fileioctl.zeroinit(fd, 0, 1)
        assert os.fstat(fd).st_mtime_ns > before  # what the kernel remembered is dropped
    directory = os.open(files.mountpoint, os.O_RDONLY)
    with pytest.raises(OSError):
        fcntl.ioctl(directory, fileioctl.EXTENTS, bytearray(fileioctl.EXTENTS_SIZE))
    os.close(directory)
