"""`list`, `locate` and `status` of devices, mount points and files of the running system: through
loop devices to the record, and up to the files (R9, R42, R44, R47)."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hoststack import SIZES, HostStack, host_stack, must
from rawmount import PAGE, SECTOR, Mounted, Ran, cli, in_child, ordinary_user, program, wait

pytestmark = [
    pytest.mark.timeout(90, method="signal"),
    pytest.mark.skipif(os.geteuid() != 0, reason="losetup and mount need root"),
    pytest.mark.skipif(not os.path.exists("/dev/loop-control"), reason="no loop devices here"),
    pytest.mark.parametrize("user", ["root"], indirect=True),
    pytest.mark.parametrize("open_mode", ["direct"], indirect=True),
]


@pytest.fixture(params=list(SIZES))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def stack(pool: Mounted, kind: str) -> Iterator[HostStack]:
    pool.pool.unlink()
    pool.size = SIZES[kind]
    pool.create()
    with host_stack(pool, kind) as made:
        yield made


def document(*arguments: object, status: int = 4) -> dict[str, Any]:
    ran = cli(*arguments, "--json")
    assert ran.status == status, ran
    found = json.loads(ran.out)
    assert isinstance(found, dict)
    return found


def owners(found: dict[str, Any]) -> list[tuple[object, ...]]:
    keys = ("offset", "length", "owner", "path", "file_offset")
    return [tuple(each[key] for key in keys) for each in found["ranges"]]


def test_a_clean_stack_is_clean_whatever_is_named(stack: HostStack) -> None:
    path = stack.make("file")
    for name in (stack.loop, stack.fs, path):
        for command in ("list", "locate", "status"):
            ran = cli(command, name)
            assert (ran.status, ran.err) == (0, ""), ran
        assert document("list", name, status=0)["badblock_count"] == 0


def test_a_bad_sector_is_followed_to_its_file_from_device_and_mount_point(
    stack: HostStack,
) -> None:
    files = [stack.make(f"dir/file {n}") for n in range(3)]
    hit = files[1]
    place = stack.damage_file(hit, 5 * PAGE + SECTOR, 2 * SECTOR)
    for name in (stack.loop, stack.fs):
        found = document("locate", name)
        assert owners(found) == [(place, 2 * SECTOR, "file", str(hit), 5 * PAGE + SECTOR)]
        assert found["badblocks"] == [{"offset": place // SECTOR, "length": 2}]
        assert found["unknown"] == []
        assert found["ranges"][0]["stack"] == [
            {"device": str(stack.raw.device), "offset": place},
            {"device": stack.loop, "offset": place},
        ]
    listed = document("list", stack.fs)
    assert listed["badblock_count"] == 2
    said = cli("locate", stack.fs)
    assert said.status == 4
    assert str(hit) in said.out
    for clean in (files[0], files[2]):
        assert document("list", clean, status=0)["ranges"] == []


def test_a_file_has_its_own_bad_ranges_in_its_own_bytes(stack: HostStack) -> None:
    path = stack.make("file")
    place = stack.damage_file(path, 3 * PAGE, PAGE)
    stack.damage_file(path, 7 * PAGE)
    for command in ("list", "locate"):
        found = document(command, path)
        assert [(r["offset"], r["length"]) for r in found["ranges"]] == [
            (3 * PAGE, PAGE),
            (7 * PAGE, SECTOR),
        ]
        assert found["ranges"][0]["device_offset"] == place
        assert found["badblocks"][0] == {"offset": 3 * PAGE // SECTOR, "length": 8}
    extents = document("locate", "--extents", path)["extents"]
    assert extents[0]["device_offset"] == stack.place(path)
    status = document("status", path)
    assert (status["recorded"], status["device"]) == (PAGE + SECTOR, stack.loop)


def test_metadata_and_free_space_are_told_from_files_r42(stack: HostStack) -> None:
    stack.make("file")
    free = SIZES[stack.kind] - 4 * PAGE if stack.kind == "ext4" else SIZES["xfs"] // 2 - 8 * PAGE
    superblock = PAGE if stack.kind == "ext4" else 0
    stack.damage(superblock)
    stack.damage(free)
    found = document("locate", stack.fs)
    kinds = {each["offset"]: each["owner"] for each in found["ranges"]}
    assert kinds[free] == "free"
    assert kinds[superblock] == "metadata"


@pytest.mark.parametrize("kind", ["ext4", "xfs"], indirect=True)
def test_every_name_of_the_owner_is_true_among_many_files(stack: HostStack) -> None:
    files = [stack.make(f"d{n % 7}/{n}", PAGE * (1 + n % 3)) for n in range(200)]
    must("sync")
    hit = files[::20]
    for path in hit:
        stack.damage_file(path, 0)
    found = document("locate", stack.fs)
    assert {each["path"] for each in found["ranges"]} == {str(path) for path in hit}
    assert {each["file_offset"] for each in found["ranges"]} == {0}


@pytest.mark.parametrize("kind", ["xfs", "xfs-plain"], indirect=True)
def test_all_owners_of_a_shared_block_are_named(stack: HostStack) -> None:
    one = stack.make("one")
    must("cp", "--reflink=always", one, stack.fs / "two")
    must("sync")
    place = stack.damage_file(one, 2 * PAGE)
    found = document("locate", stack.fs)
    assert owners(found) == [
        (place, SECTOR, "file", str(stack.fs / name), 2 * PAGE) for name in ("one", "two")
    ]
    assert found["badblock_count"] == 1


@pytest.mark.parametrize("kind", ["ext4"], indirect=True)
def test_a_directory_that_is_hit_is_metadata_with_its_name(stack: HostStack) -> None:
    stack.make("dir/file")
    must("sync")
    block = must("debugfs", "-R", "blocks /dir", stack.loop).split()[0]
    stack.damage(int(block) * PAGE)
    (found,) = document("locate", stack.fs)["ranges"]
    assert (found["owner"], found["path"]) == ("metadata", str(stack.fs / "dir"))
    assert "(metadata of " in cli("locate", stack.fs).out


@pytest.mark.parametrize("kind", ["ext4", "xfs"], indirect=True)
def test_a_file_without_a_name_is_said_to_have_none(stack: HostStack) -> None:
    path = stack.make("file")
    place = stack.damage_file(path, 0)
    with open(path, "rb"):
        path.unlink()
        must("sync")
        ran = cli("locate", stack.fs, "--json")
        assert ran.status == 4
        (found,) = json.loads(ran.out)["ranges"]
        assert (found["offset"], found["path"]) == (place, None)
        assert found["owner"] == ("file" if stack.kind == "xfs" else None)
        assert stack.kind == "xfs" or "no file that has a name" in ran.err


@pytest.mark.parametrize("kind", ["ext4"], indirect=True)
def test_a_partition_and_a_loop_on_it_are_followed(stack: HostStack) -> None:
    """A partition of the loop device, and a second loop device on a file of the file system."""
    image = stack.make("image", 8 << 20)
    second = must("losetup", "--find", "--show", "--offset", str(PAGE), image).strip()
    try:
        stack.damage_file(image, 10 * PAGE)
        (found,) = document("list", second)["ranges"]
        assert (found["offset"], found["length"]) == (9 * PAGE, SECTOR)
        assert [place["device"] for place in found["stack"]] == [
            str(stack.raw.device), stack.loop, str(image), second,
        ]  # fmt: skip
        assert found["stack"][2]["offset"] == 10 * PAGE
    finally:
        must("losetup", "--detach", second)


@pytest.mark.parametrize("kind", ["ext4"], indirect=True)
def test_a_partition_has_what_lies_in_it_and_is_climbed_to_from_its_disk(
    stack: HostStack,
) -> None:
    must("umount", stack.fs)
    partition = f"{stack.loop}p1"
    made = program("addpart", stack.loop, 1, 2048, 65536)
    if made.status or not os.path.exists(partition):
        program("delpart", stack.loop, 1)
        pytest.skip(f"partitions of loop devices: {made.err.strip()}")
    try:
        must("mkfs.ext4", "-q", "-F", "-b", "4096", partition)
        must("mount", partition, stack.fs)
        path = stack.make("file")
        place = stack.place(path, PAGE)
        stack.damage((2048 * SECTOR) + place)
        (found,) = document("locate", partition)["ranges"]
        assert (found["offset"], found["path"]) == (place, str(path))
        (found,) = document("locate", stack.loop)["ranges"]
        assert (found["offset"], found["path"]) == (2048 * SECTOR + place, str(path))
        assert found["stack"][-1] == {"device": partition, "offset": place}
        must("umount", stack.fs)
    finally:
        program("umount", "-l", stack.fs)
        must("delpart", stack.loop, 1)


@pytest.mark.parametrize("kind", ["ext4", "xfs"], indirect=True)
def test_what_a_scrub_could_not_read_is_located_without_a_record(
    stack: HostStack, base: Path
) -> None:
    path = stack.make("file")
    place = stack.damage_file(path, 6 * PAGE, PAGE)
    assert cli("scrub", stack.loop, "--mapfile", base / "map").status == 4
    for name in (stack.loop, stack.fs):
        (found,) = document("locate", name, "--mapfile", base / "map")["ranges"]
        assert (found["offset"], found["length"], found["state"]) == (place, PAGE, "unreadable")
        assert (found["path"], found["file_offset"]) == (str(path), 6 * PAGE)
    refused(cli("locate", path, "--mapfile", base / "map"), 16)
    refused(cli("locate", stack.raw.pool, "--mapfile", base / "map"), 16, "record of its own")


# -- what cannot be known, and what is none --------------------------------------------------


def refused(ran: Ran, status: int, *words: str) -> None:
    assert ran.status == status, ran
    assert ran.out == ""
    for word in words:
        assert word in ran.err, ran


@pytest.mark.parametrize("kind", ["ext4"], indirect=True)
def test_without_permission_the_answer_is_unknown_and_never_clean_r44(stack: HostStack) -> None:
    path = stack.make("file")
    path.chmod(0)

    def ask() -> None:
        ordinary_user().become()
        for name in (stack.loop, stack.fs, path):
            for command in ("list", "locate"):
                refused(cli(command, name), 2, "ermission denied")
        ran = cli("list", stack.loop, "--json")
        assert ran.status == 2
        found = json.loads(ran.out)
        assert (found["badblock_count"], found["badblocks"], found["ranges"]) == (None, None, [])
        assert found["unknown"]
        refused(cli("scrub", path), 2)

    assert wait(in_child(ask)) == 0


@pytest.mark.parametrize("kind", ["ext4"], indirect=True)
def test_a_server_that_died_below_makes_all_above_unknown(stack: HostStack) -> None:
    path = stack.make("file")
    stack.raw.kill_server()
    refused(cli("list", stack.loop), 2, "died")
    refused(cli("list", path), 2, "died")


@pytest.mark.parametrize("kind", ["ext4"], indirect=True)
def test_what_is_no_target_is_refused_by_name(stack: HostStack, base: Path) -> None:
    refused(cli("list", "/dev/nosuch"), 8, "/dev/nosuch", "No such file")
    refused(cli("list", "/dev/null"), 16, "/dev/null", "no dax device")
    refused(cli("list", base), 16, "mount point")
    refused(cli("list", "/proc"), 2, "proc")
    os.mkfifo(base / "fifo")
    refused(cli("list", base / "fifo"), 16, "fifo")
    refused(cli("locate", "--extents", stack.loop), 16, "no file")
    refused(cli("inject", stack.loop, "--offset", 0, "--length", 512), 8, "/sys/block")


@pytest.mark.parametrize("kind", ["ext4"], indirect=True)
def test_a_disk_whose_driver_keeps_no_record_is_unknown_with_what_to_do(
    stack: HostStack, base: Path
) -> None:
    (base / "image").write_bytes(bytes(1 << 20))
    loop = must("losetup", "--find", "--show", base / "image").strip()
    try:
        ran = cli("list", loop)
        if ran.status == 0:
            pytest.skip("the disk below /tmp keeps a record")
        refused(ran, 2, "daxmend scrub")
        assert cli("scrub", loop).status == 0
        (base / "hole").touch()
        os.truncate(base / "hole", 1 << 20)
        assert cli("list", base / "hole").status == 0  # nothing of it lies anywhere
    finally:
        must("losetup", "--detach", loop)
