"""Errors in files of a mounted file system, and writes that heal them (R10-R28, R50)."""

import ctypes
import errno
import json
import mmap
import os

import pytest
from filemount import Files
from rawmount import NEW, PAGE, SECTOR, pattern, program
from test_files_data import ZERO_RANGE, fallocate

from daxmend.host import fileioctl
from daxmend.rescue.recovery_range import BusError, MappedRange, recovery_range

pytestmark = pytest.mark.timeout(60, method="signal")
DIAGONAL = True

MIB = 1 << 20
BUS_ADRERR = 2
LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.pwrite.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_long]
LIBC.pwrite.restype = ctypes.c_ssize_t


def fails(call: object, *arguments: object, number: int = errno.EIO) -> bool:
    """Whether the call gives this errno."""
    assert callable(call)
    with pytest.raises(OSError) as info:
        call(*arguments)
    return info.value.errno == number


def next_events(files: Files, what: object, *arguments: object) -> list[dict[str, object]]:
    """The events of a call."""
    assert callable(what)
    fd = os.open(files.control / "events", os.O_RDONLY | os.O_NONBLOCK)
    what(*arguments)
    text = b""
    while True:
        try:
            text += os.read(fd, 1 << 20)
        except BlockingIOError:
            break
    os.close(fd)
    return [json.loads(line) for line in text.splitlines()]


def test_an_aligned_write_heals_in_place_without_new_extents_r14(files: Files) -> None:
    path = files.make("file")
    before = files.placed(path)
    files.damage(path, 2 * PAGE, 2 * PAGE)
    assert fails(files.read_at, path, PAGE, 2 * PAGE)
    assert files.write_at(path, NEW * 2, 2 * PAGE) == 2 * PAGE
    assert files.badblocks == ""
    assert files.placed(path) == before
    expected = pattern(0) + pattern(1) + NEW * 2 + b"".join(map(pattern, range(4, 8)))
    assert path.read_bytes() == expected
    files.remount()
    assert path.read_bytes() == expected


def test_dd_heals_and_events_name_the_file_r42_r48(files: Files) -> None:
    path = files.make("file")
    (files.base / "good").write_bytes(NEW)
    place = files.place(path, 3 * PAGE)
    found = next_events(files, files.damage, path, 3 * PAGE)
    damaged = [each for each in found if each["event"] == "file_damaged"]
    assert {each["path"] for each in damaged} == {"/file"}
    assert {each["ino"] for each in damaged} == {path.stat().st_ino}
    assert [(each["offset"], each["length"]) for each in damaged] == [(place, PAGE)]
    assert [(each["file_offset"], each["file_length"]) for each in damaged] == [(3 * PAGE, PAGE)]
    found = next_events(
        files, program, "dd", f"if={files.base}/good", f"of={path}", f"bs={PAGE}", "seek=3",
        "count=1", "conv=notrunc",
    )  # fmt: skip
    healed = [each for each in found if each["event"] == "recovery_done"]
    assert [(each["offset"], each["length"]) for each in healed] == [(place, PAGE)]
    assert path.read_bytes()[2 * PAGE : 5 * PAGE] == pattern(2) + NEW + pattern(4)


def test_a_read_gives_what_is_before_the_bad_page_and_then_eio_r11(files: Files) -> None:
    path = files.make("file", 16)
    files.damage(path, 5 * PAGE)
    with files.opened_file(path) as fd:
        assert os.pread(fd, 16 * PAGE, 0) == b"".join(map(pattern, range(5)))
        assert fails(os.pread, fd, 11 * PAGE, 5 * PAGE)
        assert os.pread(fd, 10 * PAGE, 6 * PAGE) == b"".join(map(pattern, range(6, 16)))
        assert os.read(fd, 5 * PAGE + 1) == b"".join(map(pattern, range(5)))
        assert fails(os.read, fd, 1)


def test_good_sectors_of_a_bad_page_can_be_read_r10(files: Files) -> None:
    path = files.make("file")
    files.damage(path, 2 * PAGE + 3 * SECTOR, SECTOR)
    with files.opened_file(path, os.O_RDONLY) as fd:
        if files.is_direct:
            assert os.pread(fd, PAGE, 2 * PAGE) == pattern(2)[: 3 * SECTOR]
            assert fails(os.pread, fd, 1, 2 * PAGE + 3 * SECTOR)
            assert (
                os.pread(fd, PAGE, 2 * PAGE + 4 * SECTOR)[: PAGE // 2] == pattern(2)[4 * SECTOR :]
            )
        else:
            assert fails(os.pread, fd, 1, 2 * PAGE)
        assert os.pread(fd, PAGE, PAGE) == pattern(1)


def test_auto_opens_files_with_bad_sectors_direct_and_others_cached(files: Files) -> None:
    if tuple(int(part) for part in os.uname().release.split(".")[:2]) < (6, 6):
        pytest.skip("direct opens can be mapped from Linux 6.6 on")
    files.open_mode = "auto"
    files.remount()
    bad, good = files.make("bad"), files.make("good")
    with files.opened_file(bad) as before:
        files.damage(bad, 2 * PAGE + 3 * SECTOR, SECTOR)
        assert files.read_at(bad, PAGE, 2 * PAGE) == pattern(2)[: 3 * SECTOR]  # direct
        assert fails(os.pread, before, 1, 2 * PAGE)  # cached
        assert os.pwrite(before, NEW, 2 * PAGE) == PAGE
    with files.mapped_file(good) as mapping:  # cached: the server need not be there
        assert mapping.load(PAGE, 8) == pattern(1)[:8]
    files.remount()
    assert bad.read_bytes()[2 * PAGE : 3 * PAGE] == NEW


@pytest.mark.parametrize(("start", "length"), [(3 * SECTOR, SECTOR), (100, 2000), (1000, 3096)])
def test_a_write_that_covers_all_that_is_bad_heals_the_page_r16(
    files: Files, start: int, length: int
) -> None:
    path = files.make("file")
    files.damage(path, 2 * PAGE + 3 * SECTOR, SECTOR)
    assert files.write_at(path, b"w" * length, 2 * PAGE + start) == length
    assert files.badblocks == ""
    page = pattern(2)
    expected = page[:start] + b"w" * length + page[start + length :]
    assert path.read_bytes()[2 * PAGE : 3 * PAGE] == expected


def test_a_write_that_does_not_cover_it_is_eio_changes_nothing_and_names_the_page_r16(
    files: Files,
) -> None:
    path = files.make("file")
    files.damage(path, 2 * PAGE + 3 * SECTOR, 2 * SECTOR)
    place = files.place(path, 2 * PAGE)
    record = files.badblocks
    with files.opened_file(path) as fd:
        for start, length in ((3 * SECTOR, SECTOR), (100, 10), (2 * SECTOR + 1, 1000)):
            at = 2 * PAGE + start

            def write(at: int = at, length: int = length) -> None:
                assert fails(os.pwrite, fd, b"x" * length, at)

            found = next_events(files, write)
            assert [each["event"] for each in found] == ["recovery_refused"]
            assert (found[0]["offset"], found[0]["length"]) == (place, PAGE)
    assert files.badblocks == record
    assert files.write_at(path, b"", 0) == 0
    assert files.write_at(path, NEW, 2 * PAGE) == PAGE
    assert files.badblocks == ""


def test_bytes_beyond_the_end_of_the_file_count_as_covered_r16(files: Files) -> None:
    path = files.path("short")
    path.write_bytes(pattern(0) + b"tail" * 100)
    files.write_control("badblocks", f"{files.place(path, PAGE) // SECTOR} 8\n")
    assert fails(files.read_at, path, 1, PAGE)
    assert path.stat().st_size == PAGE + 400
    assert files.write_at(path, b"new!" * 100, PAGE) == 400
    assert files.badblocks == ""
    assert path.read_bytes() == pattern(0) + b"new!" * 100
    os.truncate(path, 2 * PAGE)
    assert path.read_bytes()[PAGE + 400 :] == bytes(PAGE - 400)


def test_a_bad_sector_behind_the_end_of_the_file_spoils_the_page_and_no_byte_r10_r24(
    files: Files,
) -> None:
    path = files.path("short")
    path.write_bytes(pattern(0) + b"tail" * 100)
    files.write_control("badblocks", f"{files.place(path, PAGE) // SECTOR + 3} 1\n")
    if files.is_direct:
        assert path.read_bytes() == pattern(0) + b"tail" * 100
    else:
        assert fails(path.read_bytes)
    assert files.read_at(path, PAGE, 0) == pattern(0)
    with files.mapped_file(path, "ro") as mapping:
        assert mapping.load(PAGE) == (PAGE, BUS_ADRERR)
    with open(path, "ab", buffering=0) as file:
        assert file.write(b"more") == 4  # what is bad belongs to nobody: it heals (R16)
    assert files.badblocks == ""
    assert path.read_bytes() == pattern(0) + b"tail" * 100 + b"more"


def test_a_bad_tail_is_an_error_and_not_the_end_of_the_file(files: Files) -> None:
    path = files.path("short")
    path.write_bytes(pattern(0) + b"tail" * 300)
    files.damage(path, PAGE + SECTOR, SECTOR)
    with files.opened_file(path, os.O_RDONLY) as fd:
        data = os.pread(fd, 3 * PAGE, 0)
        if files.is_direct:
            assert data == pattern(0) + b"tail" * 128
            assert fails(os.pread, fd, PAGE, PAGE + SECTOR)
            assert os.pread(fd, PAGE, PAGE + 2 * SECTOR) == b"tail" * 44
        else:
            assert data == pattern(0)
            assert fails(os.pread, fd, PAGE, PAGE)
    ran = program("cat", path)
    assert ran.status == 1
    assert "Input/output error" in ran.err
    with files.mapped_file(path, "ro") as mapping:
        assert mapping.load(PAGE + 3) == (PAGE + 3, BUS_ADRERR)


def test_a_mapped_load_faults_exactly_and_its_neighbours_do_not_r24(files: Files) -> None:
    path = files.make("file")
    files.damage(path, 3 * PAGE)
    with files.mapped_file(path, "ro") as mapping:
        for offset in (3 * PAGE, 3 * PAGE + 999, 4 * PAGE - 1):
            assert mapping.load(offset) == (offset, BUS_ADRERR)
        assert mapping.load(3 * PAGE - 8, 8) == pattern(2)[-8:]
        assert mapping.load(4 * PAGE, 8) == pattern(4)[:8]


def test_an_injection_and_a_heal_reach_mappings_that_exist_r27(files: Files) -> None:
    path = files.make("file")
    with files.mapped_file(path) as one, files.mapped_file(path, "ro") as two:
        for mapping in (one, two):
            assert mapping.load(3 * PAGE, 8) == pattern(3)[:8]
        sector = files.place(path, 3 * PAGE) // SECTOR
        assert one.inject_and_load(sector, 3 * PAGE + 5) == (3 * PAGE + 5, BUS_ADRERR)
        assert two.load(3 * PAGE) == (3 * PAGE, BUS_ADRERR)
        assert files.write_at(path, NEW, 3 * PAGE) == PAGE
        for mapping in (one, two):
            assert mapping.load(3 * PAGE, 8) == NEW[:8]
        assert one.store(3 * PAGE, 0x41) == "ok"
        assert one.sync() == "ok"
        assert two.load(3 * PAGE) == b"A"


def test_a_store_made_before_the_page_went_bad_is_lost_and_fsync_says_so_r27(
    files: Files,
) -> None:
    path = files.make("file")
    with files.mapped_file(path) as mapping:
        assert mapping.store(3 * PAGE, 0x41) == "ok"
        assert mapping.store(5 * PAGE, 0x42) == "ok"
        files.damage(path, 3 * PAGE)
        assert mapping.fsync() == f"errno {errno.EIO}"
        assert mapping.fsync() == "ok"
        assert mapping.load(3 * PAGE) == (3 * PAGE, BUS_ADRERR)
        assert mapping.load(5 * PAGE) == b"B"
    assert files.badblocks != ""
    assert files.write_at(path, NEW, 3 * PAGE) == PAGE
    assert path.read_bytes()[3 * PAGE : 5 * PAGE] == NEW + pattern(4)


def test_latent_poison_shows_at_the_first_read_and_enters_the_record_r3(files: Files) -> None:
    path = files.make("file")
    files.poison(path, 3 * PAGE + 100)
    assert files.badblocks == ""

    def read() -> None:
        with pytest.raises(OSError):
            files.read_at(path, SECTOR, 3 * PAGE)

    found = next_events(files, read)
    assert {each["event"] for each in found} >= {"poison_consumed", "file_damaged"}
    assert files.badblocks == f"{files.place(path, 3 * PAGE) // SECTOR} 1\n"
    assert files.write_at(path, NEW, 3 * PAGE) == PAGE
    assert files.badblocks == ""


def test_a_mapped_load_of_latent_poison_faults_enters_the_record_and_says_what_to_write_r25_r26(
    files: Files,
) -> None:
    """The range to recover follows from the SIGBUS alone; one aligned write of it heals."""
    path = files.make("file")
    files.remount()  # a page that the kernel has cached is not loaded from the medium
    files.poison(path, 3 * PAGE + 128)
    assert files.badblocks == ""
    with files.mapped_file(path) as mapping:
        found: list[object] = []
        events = next_events(files, lambda: found.append(mapping.load(3 * PAGE + 130)))
        assert found == [(3 * PAGE + 130, BUS_ADRERR)]
        assert {each["event"] for each in events} >= {"poison_consumed", "file_damaged"}
        assert files.badblocks == f"{files.place(path, 3 * PAGE) // SECTOR} 1\n"
        base = 0x7F0000000000
        where = MappedRange(base, 8 * PAGE, 0)
        extent = recovery_range(BusError(BUS_ADRERR, base + 3 * PAGE + 130, 0, where))
        assert extent == (3 * PAGE, PAGE)
        assert files.write_at(path, NEW, extent.offset) == extent.length
        assert files.badblocks == ""
        assert mapping.load(3 * PAGE + 130, 8) == NEW[130:138]


def test_verified_writes_tell_at_once_of_latent_poison_r45(files: Files) -> None:
    files.remount("verify_writes")
    path = files.make("file")
    files.poison(path, 3 * PAGE)
    assert fails(files.write_at, path, NEW, 3 * PAGE)
    assert files.write_at(path, NEW, 3 * PAGE) == PAGE
    files.damage(path, 0, 4 * PAGE)
    assert files.write_at(path, NEW * 4, 0) == 4 * PAGE
    assert files.badblocks == ""


def test_with_recovery_off_the_prefix_is_written_and_the_bad_page_stays_r17_r23(
    files: Files,
) -> None:
    path = files.make("file")
    files.remount("recovery=off")
    files.damage(path, 3 * PAGE)
    assert files.write_at(path, NEW * 4, PAGE) == 2 * PAGE
    assert fails(files.write_at, path, NEW, 3 * PAGE)
    assert files.badblocks != ""
    assert files.read_at(path, 2 * PAGE, PAGE) == NEW * 2
    assert files.read_at(path, PAGE, 4 * PAGE) == pattern(4)
    files.remount("recovery=on")
    assert files.write_at(path, NEW, 3 * PAGE) == PAGE


def test_large_writes_heal_whatever_the_buffer_r50(files: Files) -> None:
    path = files.path("file")
    data = os.urandom(3 * MIB)
    path.write_bytes(bytes(3 * MIB))
    before = files.placed(path)
    with files.opened_file(path) as fd:
        for round_ in range(3):
            files.damage(path, 0, 3 * MIB)
            if round_ == 0:
                memory = mmap.mmap(-1, 4 * MIB)
                memory[1001 : 1001 + 3 * MIB] = data
                view = memoryview(memory)[1001 : 1001 + 3 * MIB]
                assert os.pwrite(fd, view, 0) == 3 * MIB
            elif round_ == 1:
                assert os.pwrite(fd, data, 0) == 3 * MIB
            else:
                untouched = mmap.mmap(-1, 3 * MIB + PAGE)
                pointer = ctypes.addressof(ctypes.c_char.from_buffer(untouched)) + 48
                assert LIBC.pwrite(fd, pointer, 3 * MIB, 0) == 3 * MIB
                data = bytes(3 * MIB)
            assert files.badblocks == ""
            os.fsync(fd)
            assert path.read_bytes() == data
    assert files.placed(path) == before


def test_half_of_a_page_is_held_until_the_other_half_comes_r50(files: Files) -> None:
    path = files.make("file")
    files.damage(path, 2 * PAGE)
    record = files.badblocks
    with files.opened_file(path) as fd:
        assert os.pwrite(fd, b"1" * 1000, 2 * PAGE) == 1000
        assert files.badblocks == record
        assert fails(os.pread, fd, 1000, 2 * PAGE)
        assert os.pwrite(fd, b"2" * (PAGE - 1000), 2 * PAGE + 1000) == PAGE - 1000
        assert files.badblocks == ""
        os.fsync(fd)
    assert files.read_at(path, PAGE, 2 * PAGE) == b"1" * 1000 + b"2" * (PAGE - 1000)


def test_a_half_that_covers_all_of_the_file_that_is_bad_heals_at_once_r16(files: Files) -> None:
    path = files.path("short")
    path.write_bytes(b"s" * 2500)
    files.damage(path, 0, 2 * SECTOR)
    files.write_control("badblocks", f"{files.place(path, 0) // SECTOR + 6} 1\n")
    with files.opened_file(path) as fd:
        assert os.pwrite(fd, b"1" * 900, 0) == 900  # sector 1 has bytes that it does not cover
        assert files.badblocks != ""
        assert os.pwrite(fd, b"2" * 900, 900) == 900
        assert files.badblocks == ""
        os.fsync(fd)
    assert path.read_bytes() == b"1" * 900 + b"2" * 900 + b"s" * 700


def test_a_half_that_stays_alone_is_dropped_and_close_says_so_r50(files: Files) -> None:
    path = files.make("file")
    files.damage(path, 2 * PAGE)
    fd = os.open(path, os.O_RDWR)
    assert os.pwrite(fd, b"1" * 1000, 2 * PAGE) == 1000
    assert fails(os.fsync, fd)
    assert fails(os.close, fd)
    assert fails(files.read_at, path, PAGE, 2 * PAGE)
    assert files.write_at(path, NEW, 2 * PAGE) == PAGE


def test_a_half_does_not_come_back_after_a_truncation_r50(files: Files) -> None:
    path = files.make("file")
    files.damage(path, 2 * PAGE)
    with files.opened_file(path) as fd:
        assert os.pwrite(fd, b"1" * 1000, 2 * PAGE) == 1000
        os.ftruncate(fd, 0)
        assert os.pwrite(fd, b"2" * 10, 2 * PAGE + 1000) == 10
        os.fsync(fd)
    assert path.read_bytes() == bytes(2 * PAGE + 1000) + b"2" * 10
    files.wait_until_clean()


def test_a_truncation_into_a_half_drops_it_and_says_so_r50(files: Files) -> None:
    path = files.make("file")
    files.damage(path, 2 * PAGE)
    fd = os.open(path, os.O_RDWR)
    assert os.pwrite(fd, b"1" * 1000, 2 * PAGE) == 1000
    os.ftruncate(fd, 2 * PAGE + 500)
    assert fails(os.fsync, fd)
    assert fails(os.close, fd)
    assert fails(files.read_at, path, 100, 2 * PAGE)


@pytest.mark.parametrize("how", ["zeroinit", "zero_range"])
def test_a_zeroing_that_fails_leaves_the_half_as_it_is_r50(files: Files, how: str) -> None:
    path = files.make("file")
    files.damage(path, 2 * PAGE)
    with files.opened_file(path) as fd, files.opened_file(path) as other:
        assert os.pwrite(fd, b"1" * 1000, 2 * PAGE) == 1000
        if how == "zeroinit":
            assert fails(fileioctl.zeroinit, other, PAGE, PAGE + 100)
        else:
            assert fallocate(other, ZERO_RANGE, PAGE, PAGE + 100) == errno.EIO
        assert os.pwrite(fd, b"2" * 3096, 2 * PAGE + 1000) == 3096
        assert os.pread(fd, 2 * PAGE, PAGE) == pattern(1) + b"1" * 1000 + b"2" * 3096
        os.fsync(fd)


def test_an_unlinked_bad_file_that_is_open_can_be_healed(files: Files) -> None:
    path = files.make("file")
    with files.opened_file(path) as fd:
        files.damage(path, 3 * PAGE)
        path.unlink()
        assert f"file:#{os.fstat(fd).st_ino}\n" in files.read_control("ranges")
        assert fails(os.pread, fd, PAGE, 3 * PAGE)
        assert os.pwrite(fd, NEW, 3 * PAGE) == PAGE
        assert os.pread(fd, PAGE, 3 * PAGE) == NEW
        assert files.badblocks == ""


def test_bad_blocks_under_unwritten_extents_read_as_zeros_and_heal_by_any_write_r13(
    files: Files,
) -> None:
    path = files.path("file")
    with files.opened_file(path, os.O_RDWR | os.O_CREAT) as fd:
        os.posix_fallocate(fd, 0, 4 * PAGE)
        place = files.place(fd, 0)
        files.write_control("badblocks", f"{place // SECTOR} 32\n")
        assert os.pread(fd, 4 * PAGE, 0) == bytes(4 * PAGE)
        with files.mapped_file(path, "ro") as mapping:
            assert mapping.load(PAGE, 8) == bytes(8)
        assert os.pwrite(fd, b"w" * 10, PAGE + 100) == 10
        assert os.pread(fd, 4 * PAGE, 0) == bytes(PAGE + 100) + b"w" * 10 + bytes(3 * PAGE - 110)
        assert files.badblocks == f"{place // SECTOR} 8\n{place // SECTOR + 16} 16\n"
        assert files.place(fd, 0) == place


def test_o_direct_follows_the_same_rules(files: Files) -> None:
    path = files.make("file")
    files.damage(path, 3 * PAGE)
    memory = mmap.mmap(-1, 8 * PAGE)
    with files.opened_file(path, os.O_RDWR | os.O_DIRECT) as fd:
        assert os.preadv(fd, [memory], 0) == 3 * PAGE
        assert fails(os.preadv, fd, [memory], 3 * PAGE)
        memory[:PAGE] = NEW
        assert os.pwritev(fd, [memoryview(memory)[:PAGE]], 3 * PAGE) == PAGE
    assert files.badblocks == ""
    assert files.read_at(path, PAGE, 3 * PAGE) == NEW


def test_no_page_cache_shows_bytes_that_were_refused(files: Files) -> None:
    path = files.make("file")
    with files.mapped_file(path) as mapping:
        assert mapping.load(2 * PAGE, 8) == pattern(2)[:8]
        files.damage(path, 3 * PAGE)
        assert fails(files.write_at, path, b"x" * 100, 3 * PAGE + 8)
        assert mapping.load(3 * PAGE + 8) == (3 * PAGE + 8, BUS_ADRERR)
        assert fails(files.read_at, path, 8, 3 * PAGE + 8)


def test_a_source_with_a_bad_page_is_copied_up_to_it_and_a_bad_target_heals(files: Files) -> None:
    source, target = files.make("source"), files.make("target")
    files.damage(source, 3 * PAGE)
    files.damage(target, 0, 2 * PAGE)
    with files.opened_file(source) as one, files.opened_file(target) as two:
        assert os.copy_file_range(one, two, 8 * PAGE, 0, 0) == 3 * PAGE
        assert fails(os.copy_file_range, one, two, PAGE, 3 * PAGE, 3 * PAGE)
    assert target.read_bytes() == b"".join(map(pattern, range(8)))
    assert files.badblocks == f"{files.place(source, 3 * PAGE) // SECTOR} 8\n"
