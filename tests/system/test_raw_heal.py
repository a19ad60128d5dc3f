"""Plain writes that heal a raw device in place, for everybody (R14, R15, R17, R23, R33, R50)."""

import ctypes
import errno
import json
import mmap
import os
from subprocess import Popen

import pytest
from rawmount import NEW, PAGE, SECTOR, Mounted, cli, pattern, program

from daxmend.extent import Extent
from daxmend.host import fileioctl
from daxmend.media.pool import open_pool
from daxmend.pmem.device import PmemDevice
from daxmend.pmem.intent import Kept

pytestmark = pytest.mark.timeout(60, method="signal")

MIB = 1 << 20
LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.pwrite.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_long]
LIBC.pwrite.restype = ctypes.c_ssize_t


def write_fails(raw: Mounted, data: bytes, offset: int, number: int = errno.EIO) -> bool:
    """Whether the write gives this errno."""
    with pytest.raises(OSError) as info:
        raw.pwrite(data, offset)
    return info.value.errno == number


def write_and_close(raw: Mounted, data: bytes, offset: int) -> tuple[int, int]:
    """What the write returns, and the errno of the close after it."""
    fd = os.open(raw.device, os.O_WRONLY)
    count = os.pwrite(fd, data, offset)
    try:
        os.close(fd)
    except OSError as error:
        return count, error.errno or 0
    return count, 0


def aligned(data: bytes) -> mmap.mmap:
    """The data in memory that is page-aligned and resident."""
    memory = mmap.mmap(-1, len(data))
    memory[:] = data
    return memory


def test_dd_of_one_page_heals_it_in_place_and_list_says_so_r14(raw: Mounted) -> None:
    (raw.base / "good").write_bytes(NEW)
    raw.make_bad(26)
    assert cli("list", raw.mountpoint).status == 4
    ran = program(
        "dd", f"if={raw.base}/good", f"of={raw.device}", f"bs={PAGE}", "seek=26", "count=1",
        "conv=notrunc",
    )  # fmt: skip
    assert (ran.status, ran.out) == (0, "")
    assert raw.pread(3 * PAGE, 25 * PAGE) == pattern(25) + NEW + pattern(27)
    assert program("cat", raw.control / "badblocks") == (0, "", "")
    assert program("cat", raw.control / "poison") == (0, "", "")
    listed = cli("list", raw.mountpoint)
    assert listed == (0, f"{raw.mountpoint}: no bad blocks recorded\n", "")


@pytest.mark.parametrize(
    "flags", [os.O_WRONLY, os.O_RDWR | os.O_SYNC, os.O_WRONLY | os.O_DSYNC, os.O_RDWR | os.O_DIRECT]
)
def test_an_aligned_pwrite_heals_whatever_the_open_flags_r14(raw: Mounted, flags: int) -> None:
    raw.make_bad(5, 3)
    with raw.opened(flags) as fd, aligned(NEW * 3) as memory:
        assert os.pwritev(fd, [memory], 5 * PAGE) == 3 * PAGE
    assert raw.badblocks == ""
    assert raw.pread(5 * PAGE, 4 * PAGE) == pattern(4) + NEW * 3 + pattern(8)


def test_what_was_healed_survives_unmount_and_mount_r14(raw: Mounted) -> None:
    raw.make_bad(5)
    raw.make_bad(9)
    raw.pwrite(NEW, 5 * PAGE)
    raw.must_umount()
    listed = json.loads(cli("list", "--json", raw.pool).out)
    assert listed["badblocks"] == [{"offset": 72, "length": 8}]
    raw.must_mount()
    assert raw.pread(PAGE, 5 * PAGE) == NEW
    assert raw.badblocks == "72 8\n"


def test_unaligned_ends_do_not_matter_if_the_bad_page_is_covered_r15(raw: Mounted) -> None:
    raw.make_bad(26)
    start, end = 26 * PAGE - 1000, 27 * PAGE + 7
    assert raw.pwrite(b"e" * (end - start), start) == end - start
    assert raw.badblocks == ""
    expected = pattern(25)[:-1000] + b"e" * (end - start) + pattern(27)[7:]
    assert raw.pread(3 * PAGE, 25 * PAGE) == expected


def test_a_bad_sector_that_is_not_its_pages_first_heals_by_an_unaligned_write_r15(
    raw: Mounted,
) -> None:
    raw.write_control("badblocks", f"{26 * 8 + 5} 2\n")  # 6.1: EFAULT
    start = 26 * PAGE + 3 * SECTOR + 11
    assert raw.pwrite(b"e" * 2500, start) == 2500
    assert raw.badblocks == ""
    assert raw.pread(PAGE, 26 * PAGE) == (
        pattern(26)[: 3 * SECTOR + 11] + b"e" * 2500 + pattern(26)[3 * SECTOR + 2511 :]
    )


def test_a_sector_write_heals_that_sector_only_r33(raw: Mounted) -> None:
    raw.make_bad(26)
    sector = 26 * 8 + 3
    assert raw.pwrite(b"s" * SECTOR, sector * SECTOR) == SECTOR
    assert raw.badblocks == f"{26 * 8} 3\n{sector + 1} 4\n"
    if raw.is_direct:
        assert raw.pread(SECTOR, sector * SECTOR) == b"s" * SECTOR
    with raw.mapped() as mapping:
        assert mapping.load(sector * SECTOR) == (sector * SECTOR, 2)  # the page is still bad
    for other in (*range(26 * 8, sector), *range(sector + 1, 27 * 8)):
        raw.pwrite(b"t" * SECTOR, other * SECTOR)
    assert raw.badblocks == ""
    assert raw.pread(PAGE, 26 * PAGE) == b"t" * 3 * SECTOR + b"s" * SECTOR + b"t" * 4 * SECTOR


@pytest.mark.parametrize(("start", "length"), [(1, 511), (100, 1), (256, 256)])
def test_a_write_to_a_part_of_a_bad_sector_is_eio_and_changes_nothing_r33(
    raw: Mounted, start: int, length: int
) -> None:
    sector = 26 * 8 + 3
    raw.write_control("badblocks", f"{sector} 1\n")
    before = (raw.pool.read_bytes(), raw.read_control("ranges"))
    assert write_fails(raw, b"x" * length, sector * SECTOR + start)
    assert (raw.pool.read_bytes(), raw.read_control("ranges")) == before


def test_a_write_into_good_sectors_of_a_bad_page_is_stored_and_heals_nothing_r33(
    raw: Mounted,
) -> None:
    raw.write_control("badblocks", f"{26 * 8 + 3} 1\n")
    assert raw.pwrite(b"g" * 100, 26 * PAGE + 50) == 100
    assert raw.pwrite(b"h" * SECTOR, 26 * PAGE + 4 * SECTOR) == SECTOR
    assert raw.badblocks == f"{26 * 8 + 3} 1\n"
    assert raw.pwrite(b"i" * SECTOR, 26 * PAGE + 3 * SECTOR) == SECTOR
    old = pattern(26)
    expected = old[:50] + b"g" * 100 + old[150 : 3 * SECTOR]
    expected += b"i" * SECTOR + b"h" * SECTOR + old[5 * SECTOR :]
    assert raw.pread(PAGE, 26 * PAGE) == expected


def test_a_write_that_meets_what_it_cannot_heal_keeps_the_prefix_r17(raw: Mounted) -> None:
    raw.make_bad(5, 3)
    raw.must_umount()
    raw.must_mount("recovery=off")
    assert raw.pwrite(b"p" * 4 * PAGE, 3 * PAGE) == 2 * PAGE
    assert raw.pread(8 * PAGE, 2 * PAGE) == pattern(2) + b"p" * 2 * PAGE
    assert raw.badblocks == "40 24\n"


def test_no_page_cache_shows_bytes_that_the_device_refused(raw: Mounted) -> None:
    with raw.mapped() as mapping:
        assert mapping.load(6 * PAGE, 8) == pattern(6)[:8]
        raw.make_bad(7)
        assert write_and_close(raw, b"p" * (PAGE + 100), 6 * PAGE) == (PAGE + 100, errno.EIO)
        assert write_fails(raw, b"p" * 100, 7 * PAGE + 8)
        assert mapping.load(7 * PAGE) == (7 * PAGE, 2)
        assert mapping.load(6 * PAGE, 8) == b"p" * 8
        assert mapping.load(8 * PAGE, 8) == pattern(8)[:8]


def test_a_write_over_latent_poison_succeeds_and_the_next_read_fails_r5(raw: Mounted) -> None:
    raw.write_control("poison", f"{26 * PAGE} {PAGE}\n")
    assert raw.pwrite(NEW, 26 * PAGE) == PAGE
    with pytest.raises(OSError):
        raw.pread(PAGE, 26 * PAGE)
    assert raw.badblocks == f"{26 * 8} 8\n"
    assert raw.pwrite(NEW, 26 * PAGE) == PAGE  # now it is known, and heals
    assert raw.badblocks == ""
    assert raw.pread(PAGE, 26 * PAGE) == NEW


def test_a_recorded_sector_without_poison_heals_like_any_other(raw: Mounted) -> None:
    raw.make_bad(26)
    raw.write_control("poison", f"-{26 * PAGE} {PAGE}\n")
    raw.pwrite(NEW, 26 * PAGE)
    assert raw.badblocks == ""
    assert raw.pread(PAGE, 26 * PAGE) == NEW


def scattered(raw: Mounted, count: int = 40) -> None:
    """Bad sectors, bad pages and latent lines all over the first 3 MiB."""
    pages = range(0, 760, 760 // count)
    lines = "".join(f"{page * 8 + page % 8} {1 + page % 9}\n" for page in pages)
    raw.write_control("badblocks", lines)


def test_a_large_aligned_write_from_resident_aligned_memory_heals_all(raw: Mounted) -> None:
    scattered(raw)
    data = os.urandom(3 * MIB)
    with raw.opened() as fd, aligned(data) as memory:
        assert os.pwritev(fd, [memory], 0) == 3 * MIB
    assert raw.badblocks == ""
    assert raw.pread(3 * MIB, 0) == data


def test_a_large_write_from_an_unaligned_buffer_heals_all_r50(raw: Mounted) -> None:
    data = os.urandom(3 * MIB)
    raw.make_bad(0, 768)
    with raw.opened() as fd:
        assert os.pwrite(fd, memoryview(aligned(b"#" * 1001 + data))[1001:], 0) == 3 * MIB
    assert raw.badblocks == ""
    assert raw.pread(3 * MIB, 0) == data


def test_a_large_write_from_untouched_memory_heals_all_r50(raw: Mounted) -> None:
    raw.make_bad(0, 768)
    with raw.opened() as fd, mmap.mmap(-1, 3 * MIB + PAGE) as memory:
        pointer = ctypes.addressof(ctypes.c_char.from_buffer(memory)) + 48
        assert LIBC.pwrite(fd, pointer, 3 * MIB, 0) == 3 * MIB
    assert raw.badblocks == ""
    assert raw.pread(3 * MIB, 0) == bytes(3 * MIB)


def test_a_large_write_of_a_python_bytes_object_heals_all_r50(raw: Mounted) -> None:
    raw.make_bad(0, 512)
    assert raw.pwrite(bytes(2 * MIB), 0) == 2 * MIB
    assert raw.badblocks == ""
    assert raw.pread(2 * MIB, 0) == bytes(2 * MIB)


def test_dd_with_large_blocks_heals_all_r14(raw: Mounted) -> None:
    (raw.base / "good").write_bytes(NEW * 768)
    raw.make_bad(0, 768)
    ran = program("dd", f"if={raw.base}/good", f"of={raw.device}", "bs=3M", "conv=notrunc")
    assert ran.status == 0, ran
    assert raw.badblocks == ""
    assert raw.pread(3 * MIB, 0) == NEW * 768


def test_half_of_a_sector_is_held_until_its_other_half_comes_r50(raw: Mounted) -> None:
    raw.make_bad(26)
    with raw.opened() as fd:
        assert os.pwrite(fd, b"1" * 1000, 26 * PAGE) == 1000
        assert raw.badblocks == f"{26 * 8 + 1} 7\n"  # the half sector is still bad
        assert os.pwrite(fd, b"2" * (PAGE - 1000), 26 * PAGE + 1000) == PAGE - 1000
        assert raw.badblocks == ""
        os.fsync(fd)
    assert raw.pread(PAGE, 26 * PAGE) == b"1" * 1000 + b"2" * (PAGE - 1000)


def test_a_half_without_its_other_half_is_reported_and_heals_nothing_r50(raw: Mounted) -> None:
    raw.make_bad(26)
    assert write_and_close(raw, b"1" * 100, 26 * PAGE) == (100, errno.EIO)
    fd = os.open(raw.device, os.O_RDWR)
    assert os.pwrite(fd, b"1" * 100, 26 * PAGE) == 100
    with pytest.raises(OSError) as info:
        os.fsync(fd)
    assert info.value.errno == errno.EIO
    with pytest.raises(OSError):
        os.close(fd)
    assert raw.badblocks == f"{26 * 8} 8\n"
    with pytest.raises(OSError):
        raw.pread(1, 26 * PAGE)


def test_the_halves_of_two_opens_are_not_joined_r50(raw: Mounted) -> None:
    raw.write_control("badblocks", f"{26 * 8} 1\n")
    one, two = os.open(raw.device, os.O_RDWR), os.open(raw.device, os.O_RDWR)
    assert os.pwrite(one, b"1" * 100, 26 * PAGE) == 100
    with pytest.raises(OSError):
        os.pwrite(two, b"2" * (SECTOR - 100), 26 * PAGE + 100)
    os.close(two)
    assert raw.badblocks == f"{26 * 8} 1\n"
    assert os.pwrite(one, b"1" * (SECTOR - 100), 26 * PAGE + 100) == SECTOR - 100
    os.close(one)
    assert raw.pread(SECTOR, 26 * PAGE) == b"1" * SECTOR


def test_whoever_heals_a_held_sector_in_between_is_not_overwritten_by_its_half_r50(
    raw: Mounted,
) -> None:
    raw.write_control("badblocks", f"{26 * 8} 1\n")
    fd = os.open(raw.device, os.O_RDWR)
    assert os.pwrite(fd, b"1" * 100, 26 * PAGE) == 100  # acknowledged before
    assert raw.pwrite(b"2" * SECTOR, 26 * PAGE) == SECTOR  # all of what comes after
    assert os.pwrite(fd, b"3" * 10, 26 * PAGE + 100) == 10
    os.close(fd)
    assert raw.pread(SECTOR, 26 * PAGE) == b"2" * 100 + b"3" * 10 + b"2" * (SECTOR - 110)


def test_a_half_is_forgotten_when_the_server_dies_and_the_page_is_still_bad_r50(
    raw: Mounted,
) -> None:
    raw.make_bad(26)
    fd = os.open(raw.device, os.O_RDWR)
    assert os.pwrite(fd, b"1" * 100, 26 * PAGE) == 100
    raw.kill_server()
    with pytest.raises(OSError):
        os.close(fd)
    raw.must_umount()
    ran = raw.mount()
    assert (ran.status, ran.out) == (0, "")
    assert "half of a write" in ran.complaint
    assert "recovery_refused" in program("head", "-n", "1", raw.control / "events").out
    assert raw.badblocks == f"{26 * 8} 8\n"
    assert raw.pwrite(NEW, 26 * PAGE) == PAGE
    assert raw.pread(PAGE, 26 * PAGE) == NEW


def test_a_write_past_the_end_is_enospc_and_across_it_short(raw: Mounted) -> None:
    assert write_fails(raw, b"x", raw.size, errno.ENOSPC)
    assert write_fails(raw, b"x" * PAGE, raw.size + 12345, errno.ENOSPC)
    assert raw.pwrite(b"x" * 100, raw.size - 10) == 10
    assert raw.pread(20, raw.size - 15) == bytes(5) + b"x" * 10
    assert raw.device.stat().st_size == raw.size
    raw.make_bad(raw.size // PAGE - 1)
    assert raw.pwrite(NEW * 2, raw.size - PAGE) == PAGE
    assert raw.badblocks == ""


def test_with_recovery_off_a_bad_page_is_eio_for_writers_too_r23(raw: Mounted) -> None:
    raw.must_umount()
    raw.must_mount("recovery=off")
    raw.make_bad(26)
    assert write_fails(raw, NEW, 26 * PAGE)
    assert raw.pwrite(NEW * 3, 25 * PAGE) == PAGE  # R17
    where = ("--offset", str(26 * PAGE), "--length", str(PAGE))
    for mode in ("--zero-range", "--punch-hole"):  # neither by any other way to write
        ran = program("fallocate", mode, "--keep-size", *where, raw.device)
        assert ran.status == 1
        assert "Input/output error" in ran.err
    assert raw.badblocks == f"{26 * 8} 8\n"
    assert raw.pread(PAGE, 25 * PAGE) == NEW
    assert raw.pread(PAGE, 27 * PAGE) == pattern(27)
    raw.must_umount()
    raw.must_mount("recovery=on")
    assert raw.pwrite(NEW, 26 * PAGE) == PAGE
    assert raw.badblocks == ""


def test_verified_writes_tell_at_once_of_latent_poison_r45(raw: Mounted) -> None:
    raw.must_umount()
    raw.must_mount("verify_writes")
    raw.write_control("poison", f"{26 * PAGE} 64\n")
    assert write_fails(raw, NEW, 26 * PAGE)
    assert raw.badblocks == f"{26 * 8} 1\n"
    assert raw.pwrite(NEW, 26 * PAGE) == PAGE
    assert raw.badblocks == ""
    assert raw.pread(PAGE, 26 * PAGE) == NEW


def test_verified_writes_that_the_kernel_cuts_heal_all_r50(raw: Mounted) -> None:
    raw.must_umount()
    raw.must_mount("verify_writes")
    raw.make_bad(0, 768)
    data = os.urandom(3 * MIB)
    with raw.opened() as fd:
        assert os.pwrite(fd, memoryview(aligned(b"#" * 1001 + data))[1001:], 0) == 3 * MIB
    assert raw.badblocks == ""
    assert raw.pread(3 * MIB, 0) == data
    raw.make_bad(5)
    assert write_and_close(raw, b"1" * 100, 5 * PAGE) == (100, errno.EIO)


def test_many_writers_heal_disjoint_pages_at_the_same_time(raw: Mounted) -> None:
    raw.make_bad(0, 64)
    script = (
        f"for page in $(seq $0 4 63); do dd if={raw.base}/good of={raw.device} bs={PAGE} "
        "seek=$page count=1 conv=notrunc status=none || exit 1; done"
    )
    (raw.base / "good").write_bytes(NEW)
    writers = [Popen(["sh", "-c", script, str(number)]) for number in range(4)]
    assert [writer.wait(20) for writer in writers] == [0] * 4
    assert raw.badblocks == ""
    assert raw.pread(64 * PAGE, 0) == NEW * 64


def test_a_device_is_saved_by_the_cacheline_and_with_what_recoveries_kept_r12_r18(
    raw: Mounted,
) -> None:
    """A repair keeps these bytes, too. The device of a mount has no other way to them."""
    raw.must_umount()
    device = PmemDevice(open_pool(raw.pool))
    device._record.set_lost([Extent(3 * PAGE, PAGE)])
    device._record.keep([Kept(Extent(3 * PAGE, 700), pattern(3)[:700])])
    device.inject(Extent(7 * PAGE + 64, 64), latent=True)
    device.close()
    raw.must_mount()
    out = raw.base / "out"
    ran = cli("salvage", raw.device, "-o", out, "--json")
    assert (ran.status, ran.err) == (4, ""), ran
    lost = [(run["offset"], run["length"]) for run in json.loads(ran.out)["ranges"]]
    assert lost == [(3 * PAGE + 700, PAGE - 700), (7 * PAGE + 64, 64)]
    wanted = bytearray(b"".join(pattern(page) for page in range(64)))
    for offset, length in lost:
        wanted[offset : offset + length] = bytes(length)
    assert out.read_bytes()[: len(wanted)] == wanted
    assert cli("repair", raw.device, "--zero", "--apply", "--journal", raw.base).status == 0
    assert raw.pread(len(wanted), 0) == wanted
    assert raw.badblocks == ""
    with raw.opened(os.O_WRONLY) as fd, pytest.raises(OSError) as info:
        fileioctl.salvage(fd, 0)
    assert info.value.errno == errno.EBADF
