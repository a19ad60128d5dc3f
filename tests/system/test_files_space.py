"""Zeroing, freeing and truncating what is bad, the quarantine, and who owns what (R29-R32, R42)."""

import errno
import json
import os
import re
import select

import pytest
from filemount import Files
from rawmount import NEW, PAGE, SECTOR, cli, pattern, wait_until
from test_files_data import KEEP_SIZE, PUNCH, ZERO_RANGE, errno_of, fallocate
from test_files_heal import BUS_ADRERR, fails, next_events

from daxmend.host import fileioctl

pytestmark = pytest.mark.timeout(60, method="signal")
DIAGONAL = True


def ranges(files: Files) -> list[tuple[int, int, str, str]]:
    """The lines of `ranges`."""
    found = []
    for line in files.read_control("ranges").splitlines():
        offset, length, kind, owner = line.split(" ")
        found.append((int(offset), int(length), kind, owner))
    return found


def with_stubborn_medium(files: Files) -> None:
    """Again, on a medium that clears nothing: what is in quarantine stays there."""
    files.must_umount()
    files.pool.unlink()
    files.create("--durability", "process", "--medium", "refuses")
    files.must_mount()


@pytest.mark.parametrize("how", ["zero_range", "zeroinit"])
def test_zeroing_heals_in_place_r29(files: Files, how: str) -> None:
    path = files.make("file")
    before = files.placed(path)
    files.damage(path, 2 * PAGE, 3 * PAGE)
    with files.opened_file(path) as fd, files.mapped_file(path, "ro") as mapping:
        assert mapping.load(3 * PAGE) == (3 * PAGE, BUS_ADRERR)
        if how == "zeroinit":
            fileioctl.zeroinit(fd, PAGE + 100, 4 * PAGE)
        else:
            assert fallocate(fd, ZERO_RANGE, PAGE + 100, 4 * PAGE) == 0
        assert mapping.load(3 * PAGE, 8) == bytes(8)
        expected = pattern(1)[:100] + bytes(4 * PAGE) + pattern(5)[100:]
        assert os.pread(fd, 5 * PAGE, PAGE) == expected
    assert files.badblocks == ""
    assert files.placed(path) == before


@pytest.mark.parametrize("how", ["zero_range", "zeroinit"])
def test_zeroing_with_an_edge_that_cannot_heal_is_eio_and_changes_nothing_r30(
    files: Files, how: str
) -> None:
    path = files.make("file")
    files.damage(path, 2 * PAGE, PAGE)
    record = files.badblocks
    with files.opened_file(path) as fd:
        if how == "zeroinit":
            assert errno_of(fileioctl.zeroinit, fd, PAGE, PAGE + 100) == errno.EIO
        else:
            assert fallocate(fd, ZERO_RANGE, PAGE, PAGE + 100) == errno.EIO
        assert os.pread(fd, PAGE, PAGE) == pattern(1)
    assert files.badblocks == record


def test_zeroinit_leaves_holes_and_unwritten_parts_and_zero_range_fills_holes_r29(
    files: Files,
) -> None:
    path = files.path("file")
    with files.opened_file(path, os.O_RDWR | os.O_CREAT) as fd:
        os.ftruncate(fd, 8 * PAGE)
        os.pwrite(fd, NEW, 2 * PAGE)
        fallocate(fd, KEEP_SIZE, 4 * PAGE, PAGE)
        before = files.placed(path)
        fileioctl.zeroinit(fd, 0, 8 * PAGE)
        assert files.placed(path) == before
        assert fallocate(fd, ZERO_RANGE, 0, 8 * PAGE) == 0
        assert sum(length for _, _, length, _ in files.placed(path)) == 8 * PAGE
        assert os.pread(fd, 8 * PAGE, 0) == bytes(8 * PAGE)


@pytest.mark.parametrize("how", ["unlink", "punch", "truncate", "replace", "close"])
def test_freed_bad_pages_are_cleared_in_the_background_r31(files: Files, how: str) -> None:
    path = files.make("file", 16)
    free = os.statvfs(files.mountpoint).f_bavail
    files.damage(path, 4 * PAGE, 4 * PAGE)

    def free_it() -> None:
        if how == "unlink":
            path.unlink()
        elif how == "replace":
            files.make("other", 1).rename(path)
        elif how == "close":
            fd = os.open(path, os.O_RDONLY)
            path.unlink()
            os.close(fd)
        else:
            with files.opened_file(path) as fd:
                if how == "punch":
                    assert fallocate(fd, PUNCH, 0, 16 * PAGE) == 0
                    assert os.pread(fd, 16 * PAGE, 0) == bytes(16 * PAGE)
                else:
                    os.ftruncate(fd, 0)
        files.wait_until_clean()

    found = next_events(files, free_it)
    assert "space_cleared" in {each["event"] for each in found}
    assert files.read_control("poison") == ""
    assert os.statvfs(files.mountpoint).f_bavail >= free + 14


def test_what_does_not_clear_stays_in_quarantine_and_reaches_no_file_r31(files: Files) -> None:
    with_stubborn_medium(files)
    path = files.make("file", 64)
    place = files.place(path, 8 * PAGE)
    files.damage(path, 8 * PAGE, 16 * PAGE)
    assert {kind for _, _, kind, _ in ranges(files)} == {"recorded", "poison"}
    path.unlink()
    status = json.loads(files.read_control("status"))
    for _ in range(1000):  # the janitor comes at its own time
        if status["quarantined"]:
            break
        status = json.loads(files.read_control("status"))
    assert status["quarantined"] == 16 * PAGE
    assert "daxmend_quarantined_bytes 65536\n" in files.read_control("metrics")
    assert (place, 16 * PAGE, "quarantined", "free") in ranges(files)

    def fill() -> None:
        for number in range(10000):
            files.path(f"{number}").write_bytes(pattern(1) * 256)

    assert errno_of(fill) == errno.ENOSPC
    assert not any(owner.startswith("file") for *_, owner in ranges(files))
    for each in os.scandir(files.mountpoint):
        data = files.path(each.name).read_bytes()
        assert data == (pattern(1) * 256)[: len(data)]
    files.remount()
    assert (place, 16 * PAGE, "quarantined", "free") in ranges(files)


def test_truncation_into_a_bad_page_never_fails_and_turns_no_bad_sector_good_r32(
    files: Files,
) -> None:
    path = files.make("file")
    files.damage(path, 2 * PAGE + SECTOR, SECTOR)
    files.damage(path, 2 * PAGE + 5 * SECTOR, SECTOR)
    sector = files.place(path, 2 * PAGE) // SECTOR
    os.truncate(path, 2 * PAGE + 3 * SECTOR)
    assert files.badblocks == f"{sector + 1} 1\n"
    os.truncate(path, 3 * PAGE)
    assert fails(files.read_at, path, 1, 2 * PAGE + SECTOR)
    if files.is_direct:
        assert files.read_at(path, PAGE, 2 * PAGE + 2 * SECTOR) == (
            pattern(2)[2 * SECTOR : 3 * SECTOR] + bytes(5 * SECTOR)
        )
    os.truncate(path, 2 * PAGE + SECTOR)
    assert files.badblocks == ""
    os.truncate(path, 3 * PAGE)
    assert files.read_at(path, PAGE, 2 * PAGE) == pattern(2)[:SECTOR] + bytes(PAGE - SECTOR)


def test_ranges_name_owners_in_one_field_whatever_the_path_r42(files: Files) -> None:
    directory = files.path("with blank")
    directory.mkdir()
    names = {
        os.fsencode(directory) + b"/a\nb%": b"file:/with%20blank/a%0Ab%25",
        os.fsencode(files.mountpoint) + b"/\xff\xc3\xa4": b"file:/%FF%C3%A4",
        os.fsencode(files.mountpoint) + b"/plain,:#name": b"file:/plain,:#name",
    }
    expected = set()
    for name, owner in names.items():
        with open(name, "wb") as file:
            file.write(NEW)
        place = int(os.getxattr(name, "user.daxmend.extents").split()[1])
        files.write_control("badblocks", f"{place // SECTOR} 2\n")
        expected |= {
            (place, 2 * SECTOR, "recorded", owner.decode()),
            (place, 2 * SECTOR, "poison", owner.decode()),
        }
    assert set(ranges(files)) == expected
    listed = cli("list", "--json", files.mountpoint)
    assert listed.status == 4
    assert json.loads(listed.out)["badblock_count"] == 6


def test_a_range_with_several_owners_is_split(files: Files) -> None:
    one = files.make("one", 4)
    start = files.place(one, 3 * PAGE)
    free = files.size // 2
    files.write_control("badblocks", f"{start // SECTOR} 16\n")
    owners = {owner for offset, _, _, owner in ranges(files) if offset < start + PAGE}
    assert owners == {"file:/one"}
    assert {owner for *_, owner in ranges(files)} <= {"file:/one", "free"}
    files.write_control("poison", f"{free} 64\n")
    assert (free, 64, "poison", "free") in ranges(files)


def test_metadata_that_goes_bad_heals_itself_r43(files: Files) -> None:
    files.make("file")

    def damage() -> None:
        files.write_control("badblocks", "0 16\n")
        files.wait_until_clean()

    found = next_events(files, damage)
    assert "metadata_healed" in {each["event"] for each in found}
    files.remount()
    assert files.path("file").read_bytes() == b"".join(map(pattern, range(8)))


# -- the device beside its files -----------------------------------------------------------


def test_the_device_and_the_files_on_it_show_each_others_bytes(files: Files) -> None:
    path = files.make("file")
    place = files.place(path, 2 * PAGE)
    with (
        files.opened() as device,
        files.opened_file(path) as fd,
        files.mapped_file(path) as mapping,
        files.mapped() as whole,
    ):
        assert os.pread(device, PAGE, place) == pattern(2)
        assert mapping.load(2 * PAGE, 8) == pattern(2)[:8]
        assert os.pwrite(device, NEW, place) == PAGE
        assert mapping.load(2 * PAGE, 8) == NEW[:8]
        assert os.pread(fd, PAGE, 2 * PAGE) == NEW
        assert whole.load(place, 8) == NEW[:8]
        assert os.pwrite(fd, b"from file", 2 * PAGE) == 9
        wait_until(lambda: whole.load(place, 9) == b"from file", "a mapping of the device follows")
        assert mapping.store(2 * PAGE, 0x58) == "ok"
        assert mapping.sync() == "ok"
        wait_until(lambda: whole.load(place, 9) == b"Xrom file", "a mapping of the device follows")
        assert whole.store(place, 0x59) == "ok"
        assert whole.sync() == "ok"
        wait_until(lambda: os.pread(fd, 1, 2 * PAGE) == b"Y", "the file follows")
        files.damage(path, 2 * PAGE)
        assert whole.load(place) == (place, BUS_ADRERR)
        assert os.pwrite(device, NEW, place) == PAGE
        assert os.pread(fd, PAGE, 2 * PAGE) == NEW
    assert files.badblocks == ""


def test_metadata_cannot_be_written_through_the_device(files: Files) -> None:
    path = files.make("file")
    place = files.place(path, 0)
    with files.opened() as device:
        for offset in (0, PAGE, place % PAGE):
            assert errno_of(os.pwrite, device, NEW, offset) == errno.EPERM
            assert fallocate(device, PUNCH, offset, PAGE) == errno.EPERM
        assert os.pread(device, PAGE, 0) != NEW
        assert fallocate(device, PUNCH, place, PAGE) == 0
    assert path.read_bytes()[:PAGE] == bytes(PAGE)
    with files.mapped() as whole:
        assert whole.store(100, 0x41) == "ok"
        assert whole.fsync() == f"errno {errno.EIO}"
    files.remount()
    assert path.read_bytes()[PAGE:] == b"".join(map(pattern, range(1, 8)))


def test_polling_a_file_does_not_end_polling_for_events(files: Files) -> None:
    path = files.make("file")
    with files.opened_file(path) as fd, files.opened() as device:
        ready = select.select([fd, device], [fd], [], 0)
        assert ready == ([fd, device], [fd], [])
    events = os.open(files.control / "events", os.O_RDONLY | os.O_NONBLOCK)
    assert select.select([events], [], [], 0)[0] == []
    files.damage(path, 0)
    assert select.select([events], [], [], 5)[0] == [events]
    os.close(events)


def test_status_and_metrics_tell_of_the_file_system(files: Files) -> None:
    status = json.loads(files.read_control("status"))
    count = status["files"]
    assert (status["content"], status["read_only"], status["quarantined"]) == ("fs", False, 0)
    files.make("file", 100)
    later = json.loads(files.read_control("status"))
    assert later["files"] == count + 1
    assert later["free"] <= status["free"] - 100 * PAGE
    metrics = files.read_control("metrics")
    for name in ("files", "free_bytes", "quarantined_bytes", "read_only"):
        assert re.search(rf"^daxmend_{name} \d+$", metrics, re.M)
    assert cli("status", files.mountpoint).status == 0


def test_a_pool_is_mounted_as_what_it_is(files: Files) -> None:
    files.must_umount()
    refused = cli("mount", "--raw", files.pool, files.mountpoint)
    assert refused.status == 16
    assert f"daxmend mount {files.pool} {files.mountpoint}" in refused.complaint
    raw = files.base / "raw"
    assert cli("create", raw, "--size", "4M", "--raw").status == 0
    refused = cli("mount", raw, files.mountpoint)
    assert refused.status == 16
    assert f"daxmend mount --raw {raw} {files.mountpoint}" in refused.complaint
    files.must_mount()
