"""Faults on a shadow mount: EIO and SIGBUS where they were put, and an aligned write heals."""

import errno
import json
import mmap
import os
import select

import pytest
from rawmount import NEW, PAGE, SECTOR, cli, pattern, program
from shadowmount import PAGES, Shadowed

DIAGONAL = True
WHOLE = b"".join(map(pattern, range(PAGES)))


def expect_eio(shadow: Shadowed, name: str, offset: int, length: int) -> None:
    with pytest.raises(OSError, match="Input/output") as caught:
        shadow.read_at(shadow.path(name), length, offset)
    assert caught.value.errno == errno.EIO


def test_a_read_stops_before_the_bad_sector_and_then_fails_r10_r11(shadow: Shadowed) -> None:
    path = shadow.make("file")
    shadow.inject("file", 5 * PAGE + SECTOR, SECTOR)
    unit = SECTOR if shadow.is_direct else 0  # cached, the page is the unit
    bad = 5 * PAGE + unit
    assert shadow.read_at(path, len(WHOLE), 0) == WHOLE[:bad]
    expect_eio(shadow, "file", bad, PAGE)
    assert shadow.read_at(path, PAGE, 6 * PAGE) == pattern(6)
    if shadow.is_direct:
        assert shadow.read_at(path, SECTOR, 5 * PAGE) == pattern(5)[:SECTOR]
    assert shadow.below("file").read_bytes() == WHOLE


def test_an_aligned_write_heals_and_goes_below_r14(shadow: Shadowed) -> None:
    path = shadow.make("file")
    shadow.inject("file", 5 * PAGE, 3 * PAGE)
    assert shadow.write_at(path, NEW * 2, 5 * PAGE) == 2 * PAGE
    assert shadow.faults == f"/file {7 * PAGE} {PAGE} until-written\n"
    assert shadow.read_at(path, 2 * PAGE, 5 * PAGE) == NEW * 2
    expect_eio(shadow, "file", 7 * PAGE, 1)
    assert shadow.below("file").read_bytes() == WHOLE[: 5 * PAGE] + NEW * 2 + WHOLE[7 * PAGE :]


def test_a_write_that_cannot_heal_changes_nothing_below_r16_r17(shadow: Shadowed) -> None:
    path = shadow.make("file")
    shadow.inject("file", 5 * PAGE, PAGE)
    with pytest.raises(OSError, match="Input/output"):
        shadow.write_at(path, b"part", 5 * PAGE + 100)
    assert shadow.below("file").read_bytes() == WHOLE
    with pytest.raises(OSError, match="Input/output"):  # of close: the other half did not come
        shadow.write_at(path, NEW * 2 + b"part", 3 * PAGE)
    below = WHOLE[: 3 * PAGE] + NEW * 2 + WHOLE[5 * PAGE :]
    assert shadow.below("file").read_bytes() == below
    assert shadow.faults


def test_a_sector_is_healed_by_a_write_of_that_sector_r16(shadow: Shadowed) -> None:
    path = shadow.make("file")
    shadow.inject("file", 5 * PAGE + SECTOR, SECTOR)
    assert shadow.write_at(path, NEW[:SECTOR], 5 * PAGE + SECTOR) == SECTOR
    assert shadow.faults == ""
    assert shadow.read_at(path, PAGE, 5 * PAGE) == (
        pattern(5)[:SECTOR] + NEW[:SECTOR] + pattern(5)[2 * SECTOR :]
    )


def test_the_last_page_is_healed_by_a_write_up_to_the_end_r16(shadow: Shadowed) -> None:
    path = shadow.make("file")
    os.truncate(path, 5 * PAGE + 1000)
    shadow.inject("file", 5 * PAGE, 1000)
    assert shadow.write_at(path, b"n" * 1000, 5 * PAGE) == 1000
    assert shadow.faults == ""


def test_a_write_cut_by_the_kernel_heals_whole_r50(shadow: Shadowed) -> None:
    path = shadow.make("file", 1024)
    shadow.inject("file", 0, 1024 * PAGE)
    data = b"12345678" * (1024 * PAGE // 8)  # a buffer that is not page-aligned
    assert shadow.write_at(path, data, 0) == len(data)
    assert shadow.faults == ""
    assert shadow.below("file").read_bytes() == data


def test_latent_poison_shows_itself_when_it_is_met_r3_r5(shadow: Shadowed) -> None:
    path = shadow.make("file")
    shadow.inject("file", 5 * PAGE + 128, 64, "--latent")
    assert cli("list", path).status == 0
    assert shadow.write_at(path, b"store" * 100, 5 * PAGE) == 500  # over it: succeeds
    expect_eio(shadow, "file", 5 * PAGE + 128, 64)
    assert shadow.faults == f"/file {5 * PAGE} {SECTOR} until-written\n"
    assert shadow.write_at(path, NEW, 5 * PAGE) == PAGE
    assert shadow.read_at(path, PAGE, 5 * PAGE) == NEW


def test_once_fails_one_access(shadow: Shadowed) -> None:
    path = shadow.make("file")
    shadow.inject("file", 5 * PAGE, PAGE, "--once")
    expect_eio(shadow, "file", 5 * PAGE, PAGE)
    assert shadow.read_at(path, PAGE, 5 * PAGE) == pattern(5)
    assert shadow.faults == ""
    shadow.inject("file", 5 * PAGE, PAGE, "--once")
    with shadow.mapped_file(path, "ro") as mapping:  # the kernel itself tries a second time
        assert mapping.load(5 * PAGE, 8) == pattern(5)[:8]
    assert shadow.faults == ""


def test_a_scrub_makes_latent_poison_known_r4(shadow: Shadowed) -> None:
    path = shadow.make("file")
    shadow.inject("file", 128, 64, "--latent")
    assert cli("scrub", shadow.mountpoint).status == 4
    assert cli("list", path).status == 4


def test_what_is_uninjected_can_be_read(shadow: Shadowed) -> None:
    path = shadow.make("file")
    shadow.inject("file", 0, PAGE)
    shadow.inject("file", 0, SECTOR, "--uninject")
    assert shadow.faults == f"/file {SECTOR} {PAGE - SECTOR} until-written\n"
    shadow.write_control("faults", "-** 0 1T\n")
    assert path.read_bytes() == WHOLE


def test_a_file_goes_bad_while_it_is_open_and_mapped_r27(unmounted_shadow: Shadowed) -> None:
    shadow = unmounted_shadow
    shadow.must_mount("--arm", "*")
    path = shadow.make("file")
    with shadow.mapped_file(path) as mapping, open(path, "r+b", buffering=0) as file:
        assert mapping.load(5 * PAGE, 8) == pattern(5)[:8]
        assert file.read() == WHOLE
        shadow.inject("file", 5 * PAGE, PAGE)
        assert mapping.load(5 * PAGE + 77) == (5 * PAGE + 77, 2)
        assert mapping.load(4 * PAGE, 8) == pattern(4)[:8]
        with pytest.raises(OSError, match="Input/output"):
            os.pread(file.fileno(), PAGE, 5 * PAGE)
        assert os.pwrite(file.fileno(), NEW, 5 * PAGE) == PAGE
        assert mapping.load(5 * PAGE, 8) == NEW[:8]
        assert mapping.store(5 * PAGE, 0x21) == "ok"
        assert mapping.sync() == "ok"
    assert shadow.below("file").read_bytes()[5 * PAGE : 5 * PAGE + 4] == b"!new"


def test_a_store_made_before_the_page_went_bad_never_heals_r27(
    unmounted_shadow: Shadowed,
) -> None:
    shadow = unmounted_shadow
    shadow.must_mount("--arm", "*")
    path = shadow.make("file")
    with shadow.mapped_file(path) as mapping:
        assert mapping.store(5 * PAGE, 0x21) == "ok"
        shadow.inject("file", 5 * PAGE, PAGE)
        assert mapping.load(5 * PAGE) == (5 * PAGE, 2)
        assert mapping.fsync() == f"errno {errno.EIO}"
        assert mapping.fsync() == "ok"  # told once
        assert shadow.faults
    below = shadow.below("file").read_bytes()
    assert below[5 * PAGE + 1 :] == WHOLE[5 * PAGE + 1 :]


def test_open_modes_are_mixed_on_one_inode(shadow: Shadowed) -> None:
    path = shadow.make("file")
    os.link(path, shadow.path("twin"))
    with (
        open(path, "r+b", buffering=0) as before,
        open(shadow.path("twin"), "rb", buffering=0) as twin,
    ):
        assert twin.read(PAGE) == pattern(0)
        shadow.inject("twin", 0, PAGE)
        with open(path, "r+b", buffering=0) as after, mmap.mmap(after.fileno(), 0) as mapped:
            with pytest.raises(OSError, match="Input/output"):
                os.pread(after.fileno(), 10, 0)
            assert mapped[PAGE : PAGE + 8] == pattern(1)[:8]
            direct = os.open(path, os.O_RDWR | os.O_DIRECT)
            page = mmap.mmap(-1, PAGE)
            page[:] = NEW
            assert os.pwrite(direct, page, 0) == PAGE
            os.close(direct)
            assert os.pread(after.fileno(), PAGE, 0) == NEW
            assert mapped[:PAGE] == NEW
        assert os.pread(before.fileno(), PAGE, 0) == os.pread(twin.fileno(), PAGE, 0) == NEW
    assert shadow.below("file").read_bytes()[:PAGE] == NEW


def test_faults_follow_the_file_and_end_with_it(shadow: Shadowed) -> None:
    shadow.make("file")
    shadow.make("other")
    shadow.inject("file", 0, SECTOR)
    os.rename(shadow.path("file"), shadow.path("moved"))
    assert shadow.faults == "/moved 0 512 until-written\n"
    os.rename(shadow.below("moved"), shadow.below("below"))  # behind the mount's back
    assert shadow.faults == "/below 0 512 until-written\n"
    expect_eio(shadow, "below", 0, 10)
    os.replace(shadow.path("other"), shadow.path("below"))
    assert shadow.faults == ""
    assert shadow.path("below").read_bytes() == WHOLE


def test_truncation_takes_faults_along_and_heals_none_r32(shadow: Shadowed) -> None:
    path = shadow.make("file")
    shadow.inject("file", 5 * PAGE, 2 * PAGE)
    os.truncate(path, 5 * PAGE + 100)
    assert shadow.faults == f"/file {5 * PAGE} {SECTOR} until-written\n"
    os.truncate(path, 10 * PAGE)
    expect_eio(shadow, "file", 5 * PAGE, 1)
    assert shadow.read_at(path, PAGE, 6 * PAGE) == bytes(PAGE)
    os.truncate(path, 0)
    assert shadow.faults == ""


def test_zeros_and_holes_heal_what_they_cover_r29_r31(shadow: Shadowed) -> None:
    path = shadow.make("file")
    shadow.inject("file", 5 * PAGE, 3 * PAGE)
    assert program("fallocate", "-z", "-o", 5 * PAGE, "-l", PAGE, path).status == 0
    assert program("fallocate", "-p", "-o", 6 * PAGE, "-l", PAGE, path).status == 0
    assert program("fallocate", "-p", "-o", 7 * PAGE, "-l", 100, path).status != 0
    assert shadow.faults == f"/file {7 * PAGE} {PAGE} until-written\n"
    assert shadow.read_at(path, 2 * PAGE, 5 * PAGE) == bytes(2 * PAGE)
    assert shadow.below("file").read_bytes()[7 * PAGE :] == WHOLE[7 * PAGE :]


def test_copies_of_a_bad_file_fail_where_it_is_bad(shadow: Shadowed) -> None:
    path = shadow.make("file")
    shadow.inject("file", 5 * PAGE, PAGE)
    assert program("cp", path, shadow.path("copy")).status == 1
    assert shadow.below("copy").read_bytes() == WHOLE[: 5 * PAGE]


def test_with_recovery_off_nothing_heals_r23(unmounted_shadow: Shadowed) -> None:
    shadow = unmounted_shadow
    shadow.must_mount("-o", "recovery=off")
    path = shadow.make("file")
    shadow.inject("file", 0, PAGE)
    with pytest.raises(OSError, match="Input/output"):
        shadow.write_at(path, NEW, 0)
    assert shadow.below("file").read_bytes() == WHOLE


def test_verify_writes_meets_latent_poison_at_once_r45(unmounted_shadow: Shadowed) -> None:
    shadow = unmounted_shadow
    shadow.must_mount("-o", "verify_writes")
    path = shadow.make("file")
    shadow.inject("file", 64, 64, "--latent")
    with pytest.raises(OSError, match="Input/output"):
        shadow.write_at(path, NEW, 0)
    assert shadow.write_at(path, NEW, 0) == PAGE  # known by now: heals
    assert shadow.read_at(path, PAGE, 0) == NEW


def test_events_and_status_name_the_file(shadow: Shadowed) -> None:
    path = shadow.make("file")
    events = os.open(shadow.control / "events", os.O_RDONLY | os.O_NONBLOCK)
    shadow.inject("file", 0, PAGE)
    shadow.write_at(path, NEW, 0)
    assert select.select([events], [], [], 5)[0]
    told = [json.loads(line) for line in os.read(events, 65536).splitlines()]
    os.close(events)
    assert [(each["event"], each["path"], each["offset"]) for each in told] == [
        ("fault_injected", "/file", 0),
        ("recovery_done", "/file", 0),
    ]
    status = json.loads(cli("status", shadow.mountpoint, "--json").out)
    assert status["events"] == {"fault_injected": 1, "recovery_done": 1}
    assert status["healed"] == PAGE
    assert "daxmend_healed_bytes_total 4096\n" in shadow.read_control("metrics")


def test_salvage_and_repair_work_on_a_shadow(shadow: Shadowed) -> None:
    path = shadow.make("file")
    copy = shadow.base / "copy"
    copy.write_bytes(WHOLE)
    shadow.inject("file", 5 * PAGE, SECTOR)
    saved = cli("salvage", path, "-o", shadow.base / "saved")
    assert saved.status == 4, saved
    lost = slice(5 * PAGE, 5 * PAGE + (SECTOR if shadow.is_direct else PAGE))
    rescued = (shadow.base / "saved").read_bytes()
    assert rescued[: lost.start] == WHOLE[: lost.start]
    assert rescued[lost.stop :] == WHOLE[lost.stop :]
    repaired = cli("repair", path, "--from", copy, "--apply", "--journal", shadow.base)
    assert repaired.status == 0, repaired
    assert path.read_bytes() == WHOLE


def test_all_of_a_shadow_is_saved_and_repaired_at_once(shadow: Shadowed) -> None:
    (shadow.source / "dir").mkdir()
    backup = shadow.base / "backup"
    (backup / "dir").mkdir(parents=True)
    for name in ("a", "dir/b", "dir/clean"):
        shadow.make(name)
        (backup / name).write_bytes(WHOLE)
    shadow.inject("a", 0, PAGE)
    shadow.inject("dir/b", 3 * PAGE, SECTOR)
    saved = cli("salvage", shadow.mountpoint, "-o", shadow.base / "saved")
    assert saved.status == 4, saved
    words = ("--from", backup, "--apply", "--journal", shadow.base)
    repaired = cli("repair", shadow.mountpoint, *words)
    assert repaired.status == 0, repaired
    assert shadow.faults == ""
    assert shadow.path("dir/b").read_bytes() == WHOLE
