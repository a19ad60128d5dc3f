"""`daxmend report` of what is no daxmend's: ext4 and XFS on a loop device, and a disk without a
record (R42, R44)."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hoststack import SIZES, HostStack, host_stack, must
from rawmount import PAGE, SECTOR, Mounted, cli

from pagecheck import Page

pytestmark = [
    pytest.mark.timeout(90, method="signal"),
    pytest.mark.skipif(os.geteuid() != 0, reason="losetup and mount need root"),
    pytest.mark.skipif(not os.path.exists("/dev/loop-control"), reason="no loop devices here"),
    pytest.mark.parametrize("user", ["root"], indirect=True),
    pytest.mark.parametrize("open_mode", ["direct"], indirect=True),
]


@pytest.fixture(params=["ext4", "xfs"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def stack(pool: Mounted, kind: str) -> Iterator[HostStack]:
    pool.pool.unlink()
    pool.size = SIZES[kind]
    pool.create()
    with host_stack(pool, kind) as made:
        yield made


def document(target: object, status: int) -> dict[str, Any]:
    ran = cli("report", target, "--json")
    assert (ran.status, ran.err) == (status, ""), ran
    found = json.loads(ran.out)
    assert isinstance(found, dict)
    return found


def test_a_bad_sector_is_reported_from_device_mount_point_directory_and_file(
    stack: HostStack, base: Path
) -> None:
    hit = stack.make("dir/a file", 1 << 20)
    stack.make("dir/other")
    place = stack.damage_file(hit, 5 * PAGE + SECTOR, 2 * SECTOR)
    kinds = {}
    for target in (stack.loop, stack.fs, stack.fs / "dir", hit):
        found = document(target, 4)
        kinds[str(target)] = found["kind"]
        (file,) = found["files"]
        assert (file["name"], file["size"]) == (str(hit), 1 << 20)
        (bad,) = file["bad"]
        assert (bad["offset"], bad["length"]) == (5 * PAGE + SECTOR, 2 * SECTOR)
        assert bad["device_offset"] == place
        assert bad["stack"][-1] == {"device": stack.loop, "offset": place}
        assert file["extents"] >= 1
        assert any(
            each["device_offset"] <= place < each["device_offset"] + each["length"]
            for each in file["extents_shown"]
        )
        assert found["left_out"]["files"] == 0
    assert list(kinds.values()) == ["block device", "mount point", "directory", "file"]
    assert cli("report", stack.fs, "-o", base / "a.html").status == 4
    page = Page((base / "a.html").read_bytes())
    assert f"{stack.raw.device} {place}, {stack.loop} {place}" in page.text
    assert any(f"repair '{hit}' --from" in command for command in page.commands)
    assert "a scrub looks for it" in page.text


def test_metadata_and_free_space_have_their_own_advice(stack: HostStack) -> None:
    stack.make("file")
    stack.damage(0, 2 * SECTOR)
    found = document(stack.fs, 4)
    assert [group["title"] for group in found["others"]] == ["Metadata of the file system"]
    commands = [each["command"] for each in found["others"][0]["commands"]]
    assert commands == [
        f"umount {stack.fs}",
        f"e2fsck -f {stack.loop}",
        f"xfs_repair {stack.loop}",
    ]
    assert found["files"] == []


@pytest.mark.parametrize("kind", ["xfs"], indirect=True)
def test_a_block_that_two_files_share_is_counted_once(stack: HostStack) -> None:
    first = stack.make("first")
    must("cp", "--reflink=always", first, stack.fs / "second")
    must("sync", stack.fs / "second")
    stack.damage_file(first, PAGE, SECTOR)
    found = document(stack.fs, 4)
    assert found["recorded"] == {"ranges": 1, "bytes": SECTOR}
    assert [Path(each["name"]).name for each in found["files"]] == ["first", "second"]
    assert found["headline"].startswith(f"{SECTOR} bytes in 1 range cannot be read: 2 files")


def test_a_device_that_nobody_mounted_says_how_to_learn_more(stack: HostStack) -> None:
    must("umount", stack.fs)
    stack.damage(1 << 20)
    found = document(stack.loop, 4)
    (group,) = found["others"]
    assert group["title"] == "The device itself"
    assert "mounted" in group["commands"][0]["what"]
    assert "mount it read-only" in found["notices"][0]


def test_a_server_that_died_below_makes_the_report_unknown_r44(
    stack: HostStack, base: Path
) -> None:
    path = stack.make("file")
    stack.raw.kill_server()
    for target in (stack.loop, stack.fs, path):
        found = document(target, 2)
        assert (found["verdict"], found["map"]) == ("unknown", [])
        assert found["unknown"]
    assert cli("report", stack.loop, "-o", base / "a.html").status == 2
    assert "? Unknown" in Page((base / "a.html").read_bytes()).text


def test_a_clean_stack_is_clean(stack: HostStack) -> None:
    path = stack.make("file")
    for target in (stack.loop, stack.fs, stack.fs / "lost+found", path):
        if os.path.exists(target):
            assert document(target, 0)["verdict"] == "clean"
