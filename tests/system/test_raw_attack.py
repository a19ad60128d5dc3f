"""Attempts to lose or falsify a byte without an error, and what came of them.

Each is a way in which a program, or two, could get old, torn or never stored bytes out of the
mount, or have acknowledged ones dropped. Randomness prints its seed.
"""

import contextlib
import ctypes
import errno
import fcntl
import itertools
import mmap
import os
import random
import signal
import struct
import threading
import time
from pathlib import Path

import pytest
from rawmount import (
    NEW,
    PAGE,
    SECTOR,
    Mounted,
    cli,
    died_of_sigbus,
    in_child,
    pattern,
    program,
    wait,
    wait_until,
)

from daxmend.fuse import find_mount
from daxmend.media.pool import read_owner

pytestmark = pytest.mark.timeout(60, method="signal")
DIAGONAL = True

FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, FALLOC_FL_ZERO_RANGE = 1, 2, 16
MIB = 1 << 20


def sleeps(pid: int) -> bool:
    """Whether a process sleeps in a system call."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "SD"


def errno_of(action) -> int:
    """The errno that an action fails with; 0 if it does not."""
    try:
        action()
    except OSError as error:
        return error.errno or -1
    return 0


# -- mappings and the page cache -----------------------------------------------------------


def test_dirty_pages_around_a_page_that_goes_bad_are_not_dropped_with_it_r27(raw: Mounted) -> None:
    """The write-back of 16 pages reaches the server when the 6th has just gone bad."""
    ready, tell = os.pipe()
    go, may = os.pipe()

    def dirty_and_sync() -> None:
        with raw.opened() as fd, mmap.mmap(fd, raw.size) as mapping:
            for page in range(16):
                mapping[page * PAGE] = 0x77
            os.write(tell, b"x")
            os.read(go, 1)
            assert errno_of(lambda: os.fsync(fd)) == errno.EIO  # a store is lost, and that is said

    dirtier = in_child(dirty_and_sync)
    os.read(ready, 1)
    server = raw.server
    control = os.open(raw.control / "badblocks", os.O_WRONLY)
    os.kill(server, signal.SIGSTOP)
    try:
        injector = in_child(lambda: os.write(control, b"40 8\n"))
        wait_until(lambda: sleeps(injector), "the injection waits for the server")
        os.write(may, b"x")
        wait_until(lambda: sleeps(dirtier), "the write-back waits for the server")
        time.sleep(0.05)  # the reader of the pipe may have been found asleep in that; no event
    finally:
        os.kill(server, signal.SIGCONT)
    assert (wait(injector), wait(dirtier)) == (0, 0)
    os.close(control)
    for page in set(range(16)) - {5}:
        assert raw.pread(1, page * PAGE) == b"\x77", page
    assert raw.badblocks == "40 8\n"


def test_a_dirty_page_shows_no_dropped_store_after_the_injection_has_returned_r27(
    raw: Mounted,
) -> None:
    with raw.mapped() as mapping:
        for page in range(64):
            offset = page * PAGE + 100
            assert mapping.store(offset, 0x77) == "ok"
            assert mapping.inject_and_load(page * 8, offset) == (offset, 2), page


def test_a_mapping_under_load_shows_what_pwrite_wrote_when_it_has_returned(raw: Mounted) -> None:
    """A fault that was answered before the write must not come back over it."""
    with raw.opened() as fd, mmap.mmap(fd, raw.size) as mapping:

        def hammer() -> None:
            os.nice(1)
            while True:
                mapping[3 * PAGE]

        hammers = [in_child(hammer) for _ in range(2)]
        try:
            for value in itertools.islice(itertools.cycle(range(256)), 2000):
                os.pwrite(fd, bytes([value]) * PAGE, 3 * PAGE)
                assert mapping[3 * PAGE] == value
        finally:
            for child in hammers:
                os.kill(child, signal.SIGKILL)
                wait(child)


def test_a_mapping_under_load_shows_what_a_heal_wrote_when_it_has_returned_r19(
    raw: Mounted,
) -> None:
    def hammer() -> None:
        """Whatever a reader gets is whole: one value of a page, or an error."""
        with raw.opened(os.O_RDONLY) as fd:
            while True:
                with contextlib.suppress(OSError):
                    page = os.pread(fd, PAGE, 3 * PAGE)
                    assert page == page[:1] * len(page), page
                    assert len(page) == PAGE

    raw.pwrite(bytes(PAGE), 3 * PAGE)
    hammers = [in_child(hammer) for _ in range(2)]
    with raw.mapped() as mapping:
        for value in range(1, 80):
            raw.make_bad(3)
            assert mapping.load(3 * PAGE) == (3 * PAGE, 2)
            assert raw.pwrite(bytes([value]) * PAGE, 3 * PAGE) == PAGE
            assert mapping.load(3 * PAGE, PAGE) == bytes([value]) * PAGE
    for child in hammers:
        os.kill(child, signal.SIGKILL)
        assert wait(child) == -signal.SIGKILL  # and not 1: it saw nothing torn


def test_sendfile_and_splice_see_every_write_and_every_injection(raw: Mounted) -> None:
    """They go through the page cache, on direct opens too."""
    target = os.memfd_create("target")

    def sent(page: int, count: int = 1) -> bytes:
        os.ftruncate(target, 0)
        os.lseek(target, 0, os.SEEK_SET)
        with raw.opened(os.O_RDONLY) as fd:
            os.sendfile(target, fd, page * PAGE, count * PAGE)
        return os.pread(target, count * PAGE, 0)

    assert sent(5, 4) == b"".join(map(pattern, range(5, 9)))
    raw.pwrite(NEW, 6 * PAGE)
    assert sent(5, 2) == pattern(5) + NEW
    raw.make_bad(6)
    assert sent(5, 4) == pattern(5)  # R11
    assert errno_of(lambda: sent(6)) == errno.EIO
    raw.pwrite(NEW[::-1], 6 * PAGE)
    assert sent(6, 2) == NEW[::-1] + pattern(7)


def test_splicing_and_copying_into_bad_pages_heals_them_or_fails(raw: Mounted) -> None:
    data = os.urandom(40 * PAGE)
    source = raw.base / "source"
    source.write_bytes(data)
    raw.make_bad(3, 20)
    with open(source, "rb") as file, raw.opened() as fd:
        os.lseek(fd, PAGE, os.SEEK_SET)
        sent = 0
        while sent < len(data):
            sent += os.sendfile(fd, file.fileno(), sent, len(data) - sent)
    assert raw.pread(40 * PAGE, PAGE) == data
    assert raw.badblocks == ""
    raw.make_bad(100, 8)
    with raw.opened() as fd:
        copied = 0
        while copied < 40 * PAGE:  # from the device to itself
            copied += os.copy_file_range(
                fd, fd, 40 * PAGE - copied, PAGE + copied, 90 * PAGE + copied
            )
    assert raw.pread(40 * PAGE, 90 * PAGE) == data
    assert raw.badblocks == ""
    raw.make_bad(5)
    with raw.opened() as fd:
        assert os.copy_file_range(fd, fd, 9 * PAGE, 2 * PAGE, 200 * PAGE) == 3 * PAGE  # R11
        assert errno_of(lambda: os.copy_file_range(fd, fd, PAGE, 5 * PAGE, 200 * PAGE)) == errno.EIO
    assert raw.pread(5 * PAGE, 200 * PAGE) == data[PAGE : 4 * PAGE] + bytes(2 * PAGE)


def test_copying_out_of_the_device_stops_at_the_bad_page_r11(raw: Mounted) -> None:
    raw.make_bad(20)
    ran = program("cp", raw.device, raw.base / "copy")
    assert ran.status == 1
    assert "Input/output error" in ran.err
    copy = (raw.base / "copy").read_bytes()
    assert copy == b"".join(map(pattern, range(64)))[: len(copy)]
    assert len(copy) <= 20 * PAGE


def test_o_direct_and_cached_opens_of_one_device_agree(raw: Mounted) -> None:
    with raw.mapped() as mapping, mmap.mmap(-1, PAGE) as buffer:
        for value in range(1, 60):
            page = value % 7
            buffer[:] = bytes([value]) * PAGE
            flags = os.O_RDWR | (os.O_DIRECT if value % 2 else 0)
            with raw.opened(flags) as fd:
                if value % 5 == 0:
                    raw.make_bad(page)
                assert os.pwritev(fd, [buffer], page * PAGE) == PAGE
                assert os.preadv(fd, [buffer], page * PAGE) == PAGE
                assert buffer[:] == bytes([value]) * PAGE
            assert raw.pread(PAGE, page * PAGE) == bytes([value]) * PAGE
            assert mapping.load(page * PAGE, PAGE) == bytes([value]) * PAGE
            assert mapping.store(page * PAGE + 5, 0xFF) == "ok"
            with raw.opened(os.O_RDONLY | os.O_DIRECT) as fd:
                assert os.preadv(fd, [buffer], page * PAGE) == PAGE
                assert buffer[5] == 0xFF


def test_a_mapping_of_the_device_as_buffer_of_its_own_reads_and_writes(raw: Mounted) -> None:
    raw.make_bad(30)
    with raw.opened() as fd:
        view = memoryview(mmap.mmap(fd, raw.size))

        def page(number: int) -> memoryview:
            return view[number * PAGE : (number + 1) * PAGE]

        assert os.pwrite(fd, page(5), 9 * PAGE) == PAGE
        assert os.pwrite(fd, page(5), 5 * PAGE) == PAGE  # onto itself
        assert os.preadv(fd, [page(11)], 6 * PAGE) == PAGE
        assert os.preadv(fd, [page(7)], 7 * PAGE) == PAGE
        assert os.pwrite(fd, page(12), 30 * PAGE) == PAGE  # heals from a mapped page
        raw.make_bad(31)
        assert errno_of(lambda: os.pwrite(fd, page(31), 8 * PAGE)) == errno.EFAULT
        assert errno_of(lambda: os.preadv(fd, [page(31)], 8 * PAGE)) == errno.EFAULT
        assert errno_of(lambda: os.pwrite(fd, page(31), 31 * PAGE)) == errno.EFAULT
    expected = {9: 5, 5: 5, 11: 6, 7: 7, 30: 12, 8: 8}
    for number, original in expected.items():
        assert raw.pread(PAGE, number * PAGE) == pattern(original), number
    assert raw.badblocks == f"{31 * 8} 8\n"


def test_a_refused_write_leaves_nothing_in_anybodys_cache(raw: Mounted) -> None:
    with raw.mapped() as mapping:
        assert mapping.load(4 * PAGE, 8) == pattern(4)[:8]
        raw.write_control("badblocks", f"{5 * 8 + 2} 1\n")
        fd = os.open(raw.device, os.O_RDWR)
        os.pwrite(fd, b"x" * (PAGE + 2 * SECTOR + 100), 4 * PAGE)
        os.pwrite(fd, b"y" * 50, 7 * PAGE)  # the other half does not come
        assert errno_of(lambda: os.fsync(fd)) == errno.EIO
        assert mapping.load(5 * PAGE) == (5 * PAGE, 2)
        assert mapping.load(4 * PAGE, PAGE) == b"x" * PAGE
        assert mapping.load(7 * PAGE, 51) == b"y" * 50 + pattern(7)[50:51]
        assert errno_of(lambda: os.close(fd)) == errno.EIO


# -- sizes, offsets, truncation ------------------------------------------------------------


def test_opening_with_o_trunc_takes_nothing_from_mappings_that_are_dirty(raw: Mounted) -> None:
    with raw.mapped() as mapping:
        assert mapping.store(3 * PAGE, 0x77) == "ok"
        os.close(os.open(raw.device, os.O_WRONLY | os.O_TRUNC))
        assert mapping.load(3 * PAGE) == b"\x77"
        assert mapping.load(9 * PAGE, 8) == pattern(9)[:8]
    assert raw.pread(1, 3 * PAGE) == b"\x77"


def test_an_append_after_o_trunc_is_enospc_and_not_a_write_at_the_start(raw: Mounted) -> None:
    with raw.opened(os.O_WRONLY | os.O_APPEND) as fd:
        os.close(os.open(raw.device, os.O_WRONLY | os.O_TRUNC))
        assert errno_of(lambda: os.write(fd, b"appended")) == errno.ENOSPC
    assert raw.pread(PAGE, 0) == pattern(0)


def test_programs_that_open_with_o_trunc_write_as_to_a_block_device(raw: Mounted) -> None:
    (raw.base / "good").write_bytes(NEW * 2)
    raw.make_bad(1)
    ran = program("dd", f"if={raw.base}/good", f"of={raw.device}", f"bs={PAGE}")
    assert ran.status == 0
    assert raw.pread(3 * PAGE, 0) == NEW * 2 + pattern(2)
    assert raw.device.stat().st_size == raw.size
    assert raw.badblocks == ""


def test_appending_is_enospc_and_changes_nothing(raw: Mounted) -> None:
    with raw.opened(os.O_WRONLY | os.O_APPEND) as fd:
        assert errno_of(lambda: os.write(fd, b"appended")) == errno.ENOSPC
        assert errno_of(lambda: os.pwrite(fd, b"appended", 0)) == errno.ENOSPC  # Linux: appends
    assert raw.pread(PAGE, 0) == pattern(0)


def test_the_device_cannot_be_truncated_or_extended(raw: Mounted) -> None:
    with raw.mapped() as mapping, raw.opened() as fd:
        assert mapping.store(3 * PAGE, 0x77) == "ok"
        for size in (0, PAGE, raw.size - 1, raw.size + 1, raw.size * 2):
            assert errno_of(lambda size=size: os.ftruncate(fd, size)) == errno.EINVAL
        for size in (PAGE, raw.size - 1, raw.size + PAGE):
            assert errno_of(lambda size=size: os.truncate(raw.device, size)) == errno.EINVAL
        os.ftruncate(fd, raw.size)
        assert mapping.load(3 * PAGE) == b"\x77"
        assert mapping.load(9 * PAGE, 8) == pattern(9)[:8]
    assert raw.device.stat().st_size == raw.size
    assert raw.pread(1, 3 * PAGE) == b"\x77"


def test_offsets_beyond_reason_are_errors(raw: Mounted) -> None:
    with raw.opened() as fd:
        for offset in ((1 << 63) - 1, (1 << 63) - PAGE, 1 << 62, 1 << 44, raw.size):
            number = errno_of(lambda offset=offset: os.pwrite(fd, b"x", offset))
            assert number in (errno.ENOSPC, errno.EFBIG, errno.EINVAL, errno.EOVERFLOW)
        assert os.pread(fd, 10, (1 << 63) - PAGE) == b""
        assert os.lseek(fd, 0, os.SEEK_END) == raw.size
    assert raw.device.stat().st_size == raw.size


def fallocate(fd: int, mode: int, offset: int, length: int) -> int:
    """The errno of fallocate(2), 0 for success."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long]
    return ctypes.get_errno() if libc.fallocate(fd, mode, offset, length) else 0


@pytest.mark.parametrize(
    "mode",
    [
        FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE,
        FALLOC_FL_ZERO_RANGE,
        FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE,
    ],
)
def test_punching_and_zeroing_zero_in_place_and_heal_or_change_nothing_r33(
    raw: Mounted, mode: int
) -> None:
    raw.make_bad(5)
    with raw.mapped() as mapping, raw.opened() as fd:
        assert mapping.load(4 * PAGE, 8) == pattern(4)[:8]
        assert mapping.store(7 * PAGE + 1, 0x77) == "ok"  # dirty, in the range
        assert mapping.store(9 * PAGE + 1, 0x78) == "ok"  # dirty, behind it
        number = fallocate(fd, mode, 4 * PAGE, 4 * PAGE)
        if number:
            assert number == errno.EOPNOTSUPP
            assert raw.badblocks == "40 8\n"
            assert mapping.load(4 * PAGE, 8) == pattern(4)[:8]
            assert mapping.load(7 * PAGE + 1) == b"\x77"
        else:
            assert raw.badblocks == ""
            assert mapping.load(4 * PAGE, 4 * PAGE) == bytes(4 * PAGE)
            assert os.pread(fd, 4 * PAGE, 4 * PAGE) == bytes(4 * PAGE)
        assert mapping.load(8 * PAGE, 8) == pattern(8)[:8]
        assert mapping.load(9 * PAGE + 1) == b"\x78"
    raw.must_umount()
    raw.must_mount()
    assert raw.pread(1, 9 * PAGE + 1) == b"\x78"
    if not number:
        assert raw.pread(4 * PAGE, 4 * PAGE) == bytes(4 * PAGE)


def test_fallocate_that_cannot_be_done_is_an_error_and_changes_nothing(raw: Mounted) -> None:
    raw.write_control("badblocks", "42 1\n")
    zero = FALLOC_FL_ZERO_RANGE
    with raw.opened() as fd:
        assert fallocate(fd, zero, 4 * PAGE, PAGE + 2 * SECTOR + 100)  # ends in the bad sector
        assert fallocate(fd, zero, raw.size - PAGE, 2 * PAGE)
        assert fallocate(fd, 0, 0, raw.size + 1)
        assert fallocate(fd, FALLOC_FL_KEEP_SIZE, raw.size, PAGE)
        assert fallocate(fd, 0x08, 0, PAGE)  # collapse
        assert fallocate(fd, 0x20, 0, PAGE)  # insert
    assert raw.badblocks == "42 1\n"
    assert raw.pread(PAGE, 4 * PAGE) == pattern(4)
    assert raw.device.stat().st_size == raw.size


def test_ioctls_of_block_devices_are_refused_not_ignored(raw: Mounted) -> None:
    blkdiscard, blkzeroout, blksecdiscard, fitrim = 0x1277, 0x127F, 0x127D, 0xC0185879
    with raw.opened() as fd:
        for number in (blkdiscard, blkzeroout, blksecdiscard):
            argument = struct.pack("QQ", 0, PAGE)
            assert errno_of(lambda n=number, a=argument: fcntl.ioctl(fd, n, a)) == errno.ENOTTY
        argument = struct.pack("QQQ", 0, PAGE, 0)
        assert errno_of(lambda: fcntl.ioctl(fd, fitrim, argument)) in (errno.ENOTTY, errno.EPERM)
    assert raw.pread(PAGE, 0) == pattern(0)


# -- pieces, vectors, crowds ---------------------------------------------------------------


def test_a_vector_of_odd_pieces_heals_the_pages_that_it_covers_together_r15(raw: Mounted) -> None:
    raw.make_bad(5, 3)
    lengths = (1000, 3000, 5, PAGE - 1, 7, PAGE, 99)
    pieces = [bytes([number]) * length for number, length in enumerate(lengths)]
    with raw.opened() as fd:
        assert os.pwritev(fd, pieces, 5 * PAGE) == sum(map(len, pieces))
    assert raw.badblocks == ""
    assert raw.pread(sum(map(len, pieces)), 5 * PAGE) == b"".join(pieces)


def test_closing_duplicates_beside_a_large_write_does_not_cut_it_short_r50(raw: Mounted) -> None:
    """A close of a duplicate reaches the server between the requests of one pwrite."""
    data = memoryview(os.urandom(MIB + 9 * PAGE))[1001 : 1001 + MIB + 5 * PAGE]
    fd = os.open(raw.device, os.O_RDWR)
    ended = threading.Event()

    def close_duplicates() -> None:
        while not ended.is_set():
            errno_of(lambda: os.close(os.dup(fd)))

    closers = [threading.Thread(target=close_duplicates) for _ in range(2)]
    for closer in closers:
        closer.start()
    try:
        for _ in range(40):
            raw.make_bad(0, 300)
            assert os.pwrite(fd, data, 0) == len(data)
            assert raw.badblocks.startswith(f"{len(data) // SECTOR} ")
    finally:
        ended.set()
        for closer in closers:
            closer.join()
    os.close(fd)
    assert raw.pread(len(data), 0) == data


def test_a_sector_written_in_small_pieces_is_bad_until_the_last_one_r50(raw: Mounted) -> None:
    raw.make_bad(5)
    fd = os.open(raw.device, os.O_RDWR)
    for at in range(0, SECTOR, 16):
        assert raw.badblocks == "40 8\n"
        assert errno_of(lambda: os.pread(fd, 1, 5 * PAGE)) == errno.EIO
        assert os.pwrite(fd, b"b" * 16, 5 * PAGE + at) == 16
    assert raw.badblocks == "41 7\n"
    for at in (0, 16, 48):  # a gap: what was held is dropped, what comes after is refused
        errno_of(lambda at=at: os.pwrite(fd, b"b" * 16, 5 * PAGE + SECTOR + at))
    assert raw.badblocks == "41 7\n"
    assert errno_of(lambda: os.fsync(fd)) == errno.EIO
    errno_of(lambda: os.close(fd))
    raw.pwrite(b"c" * 7 * SECTOR, 5 * PAGE + SECTOR)
    assert raw.pread(PAGE, 5 * PAGE) == b"b" * SECTOR + b"c" * 7 * SECTOR


def test_a_buffer_that_ends_in_unmapped_memory_heals_what_was_given_and_no_more(
    raw: Mounted,
) -> None:
    """The kernel takes what it can of the buffer: whole sectors of that heal, a part is refused."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.pwrite.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_long]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    for given in (PAGE, 3 * SECTOR, 1000, 100):
        raw.make_bad(5, 2)
        memory = mmap.mmap(-1, 2 * PAGE)
        memory[:PAGE] = b"g" * PAGE
        address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        assert libc.munmap(address + PAGE, PAGE) == 0
        fd = os.open(raw.device, os.O_RDWR)
        count = libc.pwrite(fd, address + PAGE - given, 2 * PAGE, 5 * PAGE)
        assert count in (-1, given)
        has_half = count > 0 and count % SECTOR > 0
        assert errno_of(lambda fd=fd: os.close(fd)) == (errno.EIO if has_half else 0)
        healed = max(count, 0) // SECTOR
        assert raw.badblocks == f"{40 + healed} {16 - healed}\n"
        if healed and raw.is_direct:
            assert raw.pread(PAGE, 5 * PAGE) == b"g" * healed * SECTOR


def numbers(text: str) -> list[list[int]]:
    """The lines of a control file."""
    return [list(map(int, line.split())) for line in text.splitlines()]


def test_a_scrub_beside_writers_records_what_is_poisoned_and_nothing_else_r4(raw: Mounted) -> None:
    seed = time.time_ns() & 0xFFFFFFFF
    print("seed", seed)
    chosen = random.Random(seed)

    def heal_and_poison() -> None:
        with raw.opened() as fd:
            while True:
                page = chosen.randrange(256)
                if chosen.random() < 0.5:
                    raw.write_control("poison", f"{page * PAGE + 64 * chosen.randrange(64)} 64\n")
                else:
                    os.pwrite(fd, NEW, page * PAGE)

    client = in_child(heal_and_poison)
    for _ in range(30):
        raw.write_control("scrub", "1\n")
        wait_until(lambda: "+" not in raw.read_control("scrub"), "the scrub ends")
    os.kill(client, signal.SIGKILL)
    assert wait(client) == -signal.SIGKILL
    raw.write_control("scrub", "1\n")
    wait_until(lambda: "+" not in raw.read_control("scrub"), "the scrub ends")
    recorded = raw.badblocks
    poisoned = set()
    for offset, length in (
        map(int, row.split()) for row in raw.read_control("poison").splitlines()
    ):
        poisoned |= set(range(offset // SECTOR, (offset + length - 1) // SECTOR + 1))
    rows = [tuple(map(int, row.split())) for row in recorded.splitlines()]
    assert {s for first, count in rows for s in range(first, first + count)} == poisoned
    for page in range(256):
        data = b""
        with contextlib.suppress(OSError):
            data = raw.pread(PAGE, page * PAGE)
        assert data in (pattern(page)[: len(data)], NEW[: len(data)], bytes(len(data)))


def test_readers_in_a_crowd_never_see_poison_or_half_a_write_r19(raw: Mounted) -> None:
    """Pages are injected and healed at random; each read is one writer's whole page, or EIO."""
    seed = time.time_ns() & 0xFFFFFFFF
    print("seed", seed)
    chosen = random.Random(seed)

    def read_all() -> None:
        mine = random.Random(os.getpid())
        with raw.opened(os.O_RDONLY) as fd:
            while True:
                page = mine.randrange(16)
                try:
                    data = os.pread(fd, PAGE, page * PAGE)
                except OSError as error:
                    if error.errno != errno.EIO:
                        raise
                    continue
                assert len(data) == PAGE or raw.is_direct  # R11, to the sector
                words = {data[at : at + 8] for at in range(0, len(data), 8)}
                assert {word[0] for word in words} == {page}, words
                if raw.is_direct:  # the page cache is torn under concurrent writes, on any system
                    assert len(words) == 1 or set(words) == {bytes([page]) * 8}, words

    for page in range(16):
        raw.pwrite(bytes([page]) * PAGE, page * PAGE)
    readers = [in_child(read_all) for _ in range(3)]
    with raw.opened() as fd:
        for number in range(300):
            page = chosen.randrange(16)
            if chosen.random() < 0.5:
                raw.write_control("badblocks", f"{page * 8 + chosen.randrange(8)} 1\n")
            elif chosen.random() < 0.3:
                raw.write_control("poison", f"{page * PAGE + 64 * chosen.randrange(64)} 64\n")
            text = (bytes([page]) + number.to_bytes(7, "big")) * (PAGE // 8)
            assert os.pwrite(fd, text, page * PAGE) == PAGE
    for reader in readers:
        os.kill(reader, signal.SIGKILL)
        assert wait(reader) == -signal.SIGKILL


# -- servers that end, disks that fill -----------------------------------------------------


def test_sigterm_under_a_dirty_mapping_loses_no_store(raw: Mounted) -> None:
    with raw.mapped() as mapping:
        for page in range(20):
            assert mapping.store(page * PAGE + 1, 0x77) == "ok"
        os.kill(raw.server, signal.SIGTERM)
        wait_until(lambda: read_owner(raw.pool) is None, "the server ends")
        wait_until(lambda: find_mount(raw.mountpoint) is None, "it takes the mount away")
    raw.must_mount()
    for page in range(20):
        assert raw.pread(1, page * PAGE + 1) == b"\x77", page


def test_a_client_that_is_killed_in_mid_write_leaves_whole_sectors(raw: Mounted) -> None:
    """Pages are old, new or still bad; never good with a mixture inside a sector."""
    for number in range(15):
        raw.make_bad(0, 256)

        def write(number: int = number) -> None:
            with raw.opened() as fd:
                while True:
                    os.pwrite(fd, bytes([number]) * MIB, 0)

        child = in_child(write)
        wait_until(lambda: not raw.badblocks.startswith("0 "), "it has begun to heal")
        os.kill(child, signal.SIGKILL)
        wait(child)
        for sector in range(0, 2048, 37):
            with contextlib.suppress(OSError):
                assert raw.pread(SECTOR, sector * SECTOR) == bytes([number]) * SECTOR


@pytest.mark.parametrize("user", ["root"], indirect=True)
def test_a_full_disk_below_the_pool_is_enospc_and_heals_nothing_by_halves(
    raw: Mounted, base: Path
) -> None:
    small = base / "small"
    small.mkdir()
    assert program("mount", "-t", "tmpfs", "-o", "size=3m", "none", small).status == 0
    mounted = Mounted(base, raw.open_mode, raw.programs)
    mounted.pool, mounted.mountpoint = small / "pool", base / "mnt2"
    mounted.device, mounted.control = base / "mnt2/device", base / "mnt2/.daxmend"
    mounted.size, mounted.log = 16 * MIB, base / "small.log"
    try:
        mounted.create()
        mounted.must_mount()
        mounted.make_bad(0, 8)
        written = 0
        with mounted.opened() as fd:
            number = 0
            while not number and written < mounted.size:
                number = errno_of(lambda at=written: os.pwrite(fd, NEW, at))
                written += 0 if number else PAGE
        assert number == errno.ENOSPC
        assert written < mounted.size
        for page in range(written // PAGE):
            assert mounted.pread(PAGE, page * PAGE) == NEW
        assert errno_of(lambda: mounted.pread(PAGE, written)) in (0, errno.EIO)
        # injection and healing need room in the journals; without it they fail, whole
        for page in range(8):
            number = errno_of(lambda p=page: mounted.make_bad(p))
            assert number in (0, errno.ENOSPC)
            number = errno_of(lambda p=page: mounted.pwrite(NEW[::-1], p * PAGE))
            assert number in (0, errno.ENOSPC, errno.EIO)
            if not number:
                assert mounted.pread(PAGE, page * PAGE) == NEW[::-1]
            else:
                with contextlib.suppress(OSError):
                    assert mounted.pread(PAGE, page * PAGE) in (NEW, NEW[::-1])
        mounted.must_umount()
        assert cli("list", mounted.pool).status in (0, 4)
    finally:
        mounted.umount("-F")
        program("umount", "-l", small)


@pytest.mark.parametrize("open_mode", ["direct"], indirect=True)
def test_a_mapping_that_faulted_recovers_in_the_same_process(raw: Mounted) -> None:
    with raw.opened() as fd, mmap.mmap(fd, raw.size) as mapping:
        raw.make_bad(5)
        assert died_of_sigbus(lambda: mapping[5 * PAGE])
        mapping_write = raw.pwrite(NEW, 5 * PAGE)
        assert mapping_write == PAGE
        assert mapping[5 * PAGE : 6 * PAGE] == NEW
