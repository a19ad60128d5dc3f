"""Reading a damaged raw device with programs that know nothing of daxmend (R3, R10, R11)."""

import errno
import mmap
import os

import pytest
from rawmount import PAGE, SECTOR, Mounted, Ran, pattern, program

pytestmark = pytest.mark.timeout(60, method="signal")
DIAGONAL = True

GOOD = b"".join(map(pattern, range(64))) + bytes(64 * PAGE)


def dd(raw: Mounted, page: int, count: int = 1) -> Ran:
    return program("dd", f"if={raw.device}", f"bs={PAGE}", f"skip={page}", f"count={count}")


def fails_with_eio(raw: Mounted, length: int, offset: int, flags: int = os.O_RDONLY) -> bool:
    """Whether a read gives EIO; False if it gives bytes."""
    return read_or_none(raw, length, offset, flags) is None


def read_or_none(raw: Mounted, length: int, offset: int, flags: int = os.O_RDONLY) -> bytes | None:
    """What a read gives; None for EIO."""
    try:
        return raw.pread(length, offset, flags)
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        return None


def read_direct(raw: Mounted, length: int, offset: int) -> bytes:
    """One O_DIRECT read into aligned memory."""
    with raw.opened(os.O_RDONLY | os.O_DIRECT) as fd, mmap.mmap(-1, length) as buffer:
        return buffer[: os.preadv(fd, [buffer], offset)]


def test_dd_of_a_bad_page_is_an_input_output_error_and_neighbours_are_not(raw: Mounted) -> None:
    raw.make_bad(26)
    ran = dd(raw, 26)
    assert (ran.status, ran.out) == (1, "")
    assert f"error reading '{raw.device}': Input/output error" in ran.err
    for page in (25, 27):
        ran = dd(raw, page)
        assert (ran.status, ran.out.encode("latin-1")) == (0, pattern(page))


def test_cat_delivers_every_byte_before_the_bad_page_r11(raw: Mounted) -> None:
    raw.make_bad(26)
    ran = program("cat", raw.device)
    assert ran.status == 1
    assert "Input/output error" in ran.err
    assert ran.out.encode("latin-1") == GOOD[: 26 * PAGE]


def test_cmp_finds_no_difference_before_the_bad_page_and_fails_on_it_r11(raw: Mounted) -> None:
    (raw.base / "copy").write_bytes(GOOD[: 32 * PAGE])
    raw.make_bad(26)
    ran = program("cmp", "-n", 26 * PAGE, raw.device, raw.base / "copy")
    assert ran == (0, "", "")
    ran = program("cmp", "-n", 32 * PAGE, raw.device, raw.base / "copy")
    assert ran.status == 2
    assert "Input/output error" in ran.err


def test_a_read_into_a_bad_page_is_short_and_the_next_one_fails_r11(raw: Mounted) -> None:
    raw.make_bad(5)
    with raw.opened() as fd:
        assert os.pread(fd, 16 * PAGE, 0) == GOOD[: 5 * PAGE]
        os.lseek(fd, 3 * PAGE + 100, os.SEEK_SET)
        assert os.read(fd, 9 * PAGE) == GOOD[3 * PAGE + 100 : 5 * PAGE]
        with pytest.raises(OSError) as info:
            os.read(fd, 1)
        assert info.value.errno == errno.EIO
        assert os.lseek(fd, 0, os.SEEK_CUR) == 5 * PAGE


@pytest.mark.parametrize("open_mode", ["direct"], indirect=True)
def test_good_sectors_of_a_bad_page_are_readable_on_direct_opens_r10(raw: Mounted) -> None:
    raw.write_control("badblocks", f"{26 * 8 + 3} 1\n")
    bad = 26 * PAGE + 3 * SECTOR
    assert raw.pread(bad - 26 * PAGE, 26 * PAGE) == GOOD[26 * PAGE : bad]
    assert raw.pread(1, bad - 1) == GOOD[bad - 1 : bad]
    assert raw.pread(4 * SECTOR, bad + SECTOR) == GOOD[bad + SECTOR : bad + 5 * SECTOR]
    assert raw.pread(PAGE, bad - 100) == GOOD[bad - 100 : bad]  # R11, at the sector's grain
    for offset in (bad, bad + SECTOR - 1):
        assert fails_with_eio(raw, 1, offset)


@pytest.mark.parametrize("open_mode", ["cached"], indirect=True)
def test_the_unit_of_a_cached_open_is_the_page_r10(raw: Mounted) -> None:
    raw.write_control("badblocks", f"{26 * 8 + 3} 1\n")
    assert fails_with_eio(raw, 1, 26 * PAGE)
    assert fails_with_eio(raw, 1, 27 * PAGE - 1)
    assert raw.pread(PAGE, 25 * PAGE) == pattern(25)
    assert raw.pread(PAGE, 27 * PAGE) == pattern(27)
    assert raw.pread(PAGE, 26 * PAGE - 1) == pattern(25)[-1:]


def test_o_direct_reads_deliver_the_bytes_before_the_bad_page_r11(raw: Mounted) -> None:
    raw.make_bad(26)
    assert read_direct(raw, 8 * PAGE, 20 * PAGE) == GOOD[20 * PAGE : 26 * PAGE]
    assert read_direct(raw, 4 * PAGE, 27 * PAGE) == GOOD[27 * PAGE : 31 * PAGE]
    with pytest.raises(OSError) as info:
        read_direct(raw, PAGE, 26 * PAGE)
    assert info.value.errno == errno.EIO


def test_every_page_of_a_large_read_over_scattered_bad_pages_is_judged_alone(raw: Mounted) -> None:
    bad = {3, 4, 11, 31, 32, 33, 50, 63}
    for page in bad:
        raw.make_bad(page)
    failed = {page for page in range(64) if fails_with_eio(raw, PAGE, page * PAGE)}
    assert failed == bad
    for page in set(range(64)) - bad:
        following = min((b for b in bad if b > page), default=64)
        assert (
            raw.pread(64 * PAGE - page * PAGE, page * PAGE)[: PAGE * 10]
            == (GOOD[page * PAGE : following * PAGE][: PAGE * 10])
        )


def test_a_read_of_latent_poison_fails_and_records_only_what_is_poisoned_r3(raw: Mounted) -> None:
    raw.write_control("poison", f"{26 * PAGE + 1000} 8\n")  # one line, in sector 1 of page 26
    assert raw.badblocks == ""
    assert raw.pread(PAGE, 25 * PAGE) == pattern(25)
    assert raw.badblocks == ""  # nothing has touched it
    assert fails_with_eio(raw, PAGE, 26 * PAGE) != raw.is_direct  # R11: direct, a sector is read
    assert fails_with_eio(raw, 1, 26 * PAGE + 1000)
    assert raw.badblocks == f"{26 * 8 + 1} 1\n"
    assert raw.read_control("poison") == f"{26 * PAGE + 960} 64\n"


def test_no_poisoned_byte_ever_reaches_a_reader(raw: Mounted) -> None:
    raw.make_bad(7)
    raw.write_control("poison", f"{9 * PAGE + 64} 64\n{12 * PAGE} {PAGE}\n")
    for length in (1, 64, SECTOR, PAGE, 5 * PAGE, 64 * PAGE):
        for offset in range(0, 16 * PAGE, 64 * 5):
            data = read_or_none(raw, length, offset)
            assert data is None or (data and data == GOOD[offset : offset + len(data)])


def test_a_read_at_or_past_the_end_gives_nothing_and_across_it_the_rest(raw: Mounted) -> None:
    assert raw.pread(PAGE, raw.size) == b""
    assert raw.pread(PAGE, raw.size + 5) == b""
    assert raw.pread(PAGE, (1 << 62)) == b""
    assert raw.pread(2 * PAGE, raw.size - 100) == bytes(100)
    raw.make_bad(raw.size // PAGE - 1)
    assert fails_with_eio(raw, 2 * PAGE, raw.size - PAGE)
    assert raw.pread(PAGE, raw.size) == b""
