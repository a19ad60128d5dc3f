"""`scrub` of what has no scrub of its own: everything is read, past the caches (R4, R44)."""

import json
import os
import shutil
from collections.abc import Iterator

import pytest
from hoststack import FILE_SIZE, SIZES, HostStack, host_stack, must
from rawmount import PAGE, SECTOR, Mounted, cli

pytestmark = [
    pytest.mark.timeout(90, method="signal"),
    pytest.mark.skipif(os.geteuid() != 0, reason="losetup and mount need root"),
    pytest.mark.skipif(not os.path.exists("/dev/loop-control"), reason="no loop devices here"),
    pytest.mark.parametrize("user", ["root"], indirect=True),
    pytest.mark.parametrize("open_mode", ["direct"], indirect=True),
]


@pytest.fixture
def stack(pool: Mounted) -> Iterator[HostStack]:
    pool.pool.unlink()
    pool.size = SIZES["ext4"]
    pool.create()
    with host_stack(pool, "ext4") as made:
        yield made


def test_reading_finds_every_bad_sector_and_no_other(stack: HostStack) -> None:
    path = stack.make("file")
    assert cli("scrub", path).status == 0
    for page, length in ((1, SECTOR), (9, PAGE), (100, 3 * SECTOR)):
        stack.damage_file(path, page * PAGE + SECTOR, length)
    wanted = [(PAGE + SECTOR, SECTOR), (9 * PAGE + SECTOR, PAGE), (100 * PAGE + SECTOR, 1536)]
    ran = cli("scrub", path, "--json")
    assert (ran.status, ran.err) == (4, "")
    found = json.loads(ran.out)
    assert [(r["offset"], r["length"]) for r in found["ranges"]] == wanted
    assert (found["read"], found["unreadable"]) == (FILE_SIZE, SECTOR + PAGE + 1536)
    assert found["badblock_count"] == 12
    for name in (stack.loop, stack.fs):
        found = json.loads(cli("scrub", name, "--json").out)
        assert [(r["offset"], r["length"]) for r in found["ranges"]] == [
            (stack.place(path, offset), length) for offset, length in wanted
        ]


def test_latent_poison_that_no_record_has_is_found_by_reading(stack: HostStack) -> None:
    path = stack.make("file")
    place = stack.place(path, 5 * PAGE)
    stack.raw.write_control("poison", f"{place} 64\n")
    assert cli("list", path).status == 0
    ran = cli("scrub", path)
    assert ran.status == 4
    assert str(5 * PAGE) in ran.out
    assert cli("list", path).status == 4  # reading consumed it: now it is recorded (R3)


def test_a_range_is_all_that_is_read(stack: HostStack) -> None:
    path = stack.make("file")
    stack.damage_file(path, 9 * PAGE)
    words = ["scrub", path, "--offset"]
    assert cli(*words, 0, "--length", 9 * PAGE).status == 0
    assert cli(*words, 9 * PAGE, "--length", 100).status == 4
    ran = cli(*words, FILE_SIZE, "--length", 1)
    assert (ran.status, ran.out) == (16, "")


def test_a_scrub_goes_on_with_its_mapfile_and_tries_again_what_was_bad(stack: HostStack) -> None:
    path = stack.make("file")
    stack.damage_file(path, 9 * PAGE, PAGE)
    mapfile = stack.raw.base / "map"
    half = FILE_SIZE // 2
    assert cli("scrub", path, "--mapfile", mapfile, "--offset", 0, "--length", half).status == 4
    text = mapfile.read_text()
    assert f"0x{half:08X}  0x{FILE_SIZE - half:08X}  ?" in text
    stack.damage_file(path, 20 * PAGE)  # in what was read: it is not read again
    stack.damage_file(path, half + PAGE)
    ran = cli("scrub", path, "--mapfile", mapfile, "--json")
    assert [each["offset"] for each in json.loads(ran.out)["ranges"]] == [9 * PAGE, half + PAGE]
    with open(path, "r+b") as file:
        file.seek(9 * PAGE)
        file.write(bytes(PAGE))
        os.fsync(file.fileno())
    ran = cli("scrub", path, "--mapfile", mapfile, "--json")
    assert [each["offset"] for each in json.loads(ran.out)["ranges"]] == [half + PAGE]


def test_gnu_ddrescue_takes_the_mapfile(stack: HostStack) -> None:
    tool = shutil.which("ddrescuelog")
    if tool is None:
        pytest.skip("ddrescuelog is missing")
    path = stack.make("file")
    stack.damage_file(path, 9 * PAGE, PAGE)
    mapfile = stack.raw.base / "map"
    cli("scrub", path, "--mapfile", mapfile)
    bad = must(tool, "--list-blocks=-", "--block-size=512", mapfile).split()
    assert bad == [str(9 * 8 + n) for n in range(8)]


def test_a_mapfile_of_something_else_is_refused(stack: HostStack) -> None:
    path = stack.make("file")
    mapfile = stack.raw.base / "map"
    mapfile.write_text("nonsense\n")
    ran = cli("scrub", path, "--mapfile", mapfile)
    assert ran.status == 16
    assert "no mapfile" in ran.err
    mapfile.write_bytes(b"\xff\xfe")
    assert cli("scrub", path, "--mapfile", mapfile).status == 16
    assert cli("scrub", stack.loop, "--mapfile", stack.raw.base / "device.map").status == 0
    ran = cli("scrub", path, "--mapfile", stack.raw.base / "device.map")
    assert ran.status == 16
    assert "another file's map" in ran.err


def test_what_reads_goes_for_no_pool_and_a_rate_of_nothing_is_refused(stack: HostStack) -> None:
    for options in (["--read"], ["--rate", "1M"], ["--mapfile", "map"]):
        ran = cli("scrub", stack.raw.mountpoint, *options)
        assert ran.status == 16
        assert "by its device" in ran.err
    assert cli("scrub", stack.make("file"), "--rate", 0).status == 16
