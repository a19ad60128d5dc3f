"""A pool that holds a table: created, opened, damaged, refused (docs/format.md §7)."""

import fcntl
import os
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from daxmend.dax import io
from daxmend.errors import BusyError, CorruptionError, DaxmendError, TableError, UsageError
from daxmend.events import CopyHealed, Event, EventHub
from daxmend.extent import Extent
from daxmend.fs import FileSystem
from daxmend.media.pool import Content
from daxmend.pmem.device import PmemDevice
from daxmend.rescue.opening import open_device_target, open_target
from daxmend.stack.device import open_device, send_message, validate_length
from daxmend.stack.filesystem import has_filesystem, make_volatile_filesystem, open_filesystem
from daxmend.stack.member import TableDevice
from daxmend.stack.pool import create, create_table
from daxmend.stack.summary import summarize
from daxmend.units import MIB, PAGE
from fswalk import bad_owners


@pytest.fixture
def pools(shm: Path) -> Path:
    """A directory with the raw pools `a` and `b`, and the file `w`."""
    for name in "ab":
        create(shm / name, MIB)
    (shm / "w").write_bytes(bytes(MIB + 100))
    return shm


STRIPED = "0 4096 striped 2 8 a 0 b 0\n"


def opened(path: Path) -> TableDevice:
    device = open_device(path)
    assert isinstance(device, TableDevice)
    return device


def test_a_file_system_on_a_table_is_there_the_next_time(pools: Path) -> None:
    made = create_table(pools / "t", STRIPED)
    assert made == (2 * MIB, False)
    with closing(opened(pools / "t")) as device:
        assert has_filesystem(device)
        with closing(open_filesystem(device)) as fs:
            assert isinstance(fs, FileSystem)
            ino = fs.make(fs.root, b"f", 0o100644, 0, 0)
            fs.write(ino, 0, b"x" * 100_000)
    with closing(opened(pools / "t")) as device, closing(open_filesystem(device)) as fs:
        assert fs.read(fs.lookup(fs.root, b"f"), 0, 200_000) == b"x" * 100_000


def test_members_are_found_beside_the_pool_wherever_one_stands(
    pools: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir("/")
    create_table(pools / "t", STRIPED, content=Content.RAW)
    monkeypatch.chdir(pools)
    with closing(opened(Path("t"))) as device:
        assert device.table == STRIPED
        assert [member.name for member in device.members] == [str(pools / n) for n in "ab"]


def test_every_kind_of_member_and_a_table_in_a_table(pools: Path) -> None:
    """R37, R40."""
    create_table(pools / "inner", "0 2048 linear window:w 0\n", content=Content.RAW)
    lines = "0 2048 linear a 0\n2048 2048 linear inner 0\n4096 8 linear ram:4K 0\n4104 8 zero\n"
    made = create_table(pools / "t", lines, content=Content.RAW)
    assert made == (2 * MIB + 2 * PAGE, True)
    with closing(opened(pools / "t")) as device:
        data = os.urandom(device.size - PAGE)
        assert io.write(device, 0, data) == len(data)
        assert io.read(device, Extent(0, len(data))) == data
        said = summarize(device)
    assert (pools / "w").read_bytes()[:MIB] == data[MIB : 2 * MIB]
    assert said["content"] == "raw"
    assert said["table"] == lines.splitlines()
    members = said["members"]
    assert isinstance(members, list)
    assert [(m["recovers"], m["recorded"]) for m in members] == [
        ("yes", 0),
        ("no", 0),
        ("no", None),
    ], "R44: of RAM nothing is known"
    with closing(open_device(pools / "t", writable=False)) as device:
        members = summarize(device)["members"]
        assert isinstance(members, list)
        assert [m["recovers"] for m in members] == [None, "no", "no"], "who only reads cannot say"


@pytest.fixture
def loop(pools: Path, need_root: None) -> Iterator[str]:
    """A block device over the file `disk`."""
    (pools / "disk").write_bytes(bytes(2 * MIB))
    made = subprocess.run(
        ["losetup", "--find", "--show", str(pools / "disk")],
        capture_output=True,
        text=True,
        check=False,
    )
    if made.returncode:
        pytest.skip(f"losetup: {made.stderr.strip()}")
    name = made.stdout.strip()
    yield name
    subprocess.run(["losetup", "--detach", name], check=True)


def test_a_block_device_is_a_member_without_error_management(pools: Path, loop: str) -> None:
    """R40: alone a window; behind `faulty` it is damaged and heals, and holds a file system."""
    lines = f"0 2048 linear a 0\n2048 4096 faulty - {loop} 0\n"
    made = create_table(pools / "t", lines)
    assert made == (3 * MIB, False)
    with closing(opened(pools / "t")) as device:
        with pytest.raises(OSError, match="busy"):  # nobody else may have it meanwhile
            os.close(os.open(loop, os.O_RDWR | os.O_EXCL))
        with closing(open_filesystem(device)) as fs:
            ino = fs.make(fs.root, b"f", 0o100644, 0, 0)
            assert fs.write(ino, 0, b"x" * 2 * MIB) == 2 * MIB
            fs.sync()
            place = next(run for run in fs.device_extents(ino, Extent(0, 2 * MIB)))[1]
            bad = Extent(max(place.offset, MIB), PAGE)
            device.inject(bad)
            assert [owner.path for owner in bad_owners(fs)] == [b"/f"]
            assert fs.write(ino, bad.offset - place.offset, b"y" * PAGE) == PAGE
            assert bad_owners(fs) == []
    with closing(opened(pools / "t")) as device, closing(open_filesystem(device)) as fs:
        assert set(fs.read(fs.lookup(fs.root, b"f"), 0, 2 * MIB)) == set(b"xy")


def test_a_block_device_that_is_in_use_or_too_small_is_refused(pools: Path, loop: str) -> None:
    with pytest.raises(TableError, match=f"line 1: {loop} is too small: it ends at sector 4096"):
        create_table(pools / "t", f"0 4104 linear {loop} 0\n")
    with open(loop, "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(BusyError, match="in use by another daxmend"):
            create_table(pools / "t", f"0 4096 linear {loop} 0\n")
    fd = os.open(loop, os.O_RDONLY | os.O_EXCL)
    with pytest.raises(OSError, match="busy"):
        create_table(pools / "t", f"0 4096 linear {loop} 0\n")
    os.close(fd)
    assert not (pools / "t").exists()


def test_a_member_that_has_two_names_is_not_used_twice(pools: Path) -> None:
    """Paths are resolved; what a hard link hides, the member's own lock shows."""
    (pools / "same").symlink_to("a")
    with pytest.raises(TableError, match=r"line 2: .*used by line 1 too"):
        create_table(pools / "t", "0 8 linear a 0\n8 8 linear same 0\n")
    for name, member in (("a", "again"), ("w", "window:again")):
        (pools / "again").unlink(missing_ok=True)
        (pools / "again").hardlink_to(pools / name)
        first = member.replace("again", name)
        with pytest.raises(BusyError, match="in use"):
            create_table(pools / "t", f"0 8 linear {first} 0\n8 8 linear {member} 8\n")


def test_a_message_reaches_the_line_of_its_sector(pools: Path) -> None:
    lines = "0 8 zero\n8 8 faulty 0:512:until-written a 0\n"
    create_table(pools / "t", lines, content=Content.RAW)
    with closing(opened(pools / "t")) as device:
        assert send_message(device, "8 plan") == "- 0 512 until-written\n"
        assert send_message(device, " 15  plan ") == "- 0 512 until-written\n"
        with pytest.raises(DaxmendError, match="zero takes no messages"):
            send_message(device, "7 plan")
        for text in ("", "8", "plan", "-8 plan", "8.0 plan", "٨ plan", "16 plan", f"{10**30} plan"):
            with pytest.raises(UsageError):
                send_message(device, text)
    with (
        closing(open_device(pools / "a")) as device,
        pytest.raises(UsageError, match="not made by a table"),
    ):
        send_message(device, "0 plan")


def test_each_ram_member_is_its_own(pools: Path) -> None:
    create_table(pools / "t", "0 16 striped 2 8 ram:4K 0 ram:4K 0\n", content=Content.RAW)
    with closing(opened(pools / "t")) as device:
        assert [member.name for member in device.members] == ["ram:4K", "ram:4K#2"]


def test_a_table_with_ram_has_a_new_file_system_each_time(pools: Path) -> None:
    made = create_table(pools / "t", "0 2048 linear a 0\n2048 2048 linear ram:1M 0\n")
    assert made.is_volatile
    with closing(opened(pools / "t")) as device:
        assert not has_filesystem(device)
        with pytest.raises(UsageError):
            open_filesystem(device)
        make_volatile_filesystem(device)
        assert has_filesystem(device)
        assert "RAM members" in device.notices[-1]
        open_filesystem(device).close()
    with (
        closing(open_device_target(pools / "t")) as target,
        pytest.raises(UsageError, match="RAM members, which begin empty"),
    ):
        target.check()


def test_what_members_found_while_they_were_attached_is_told(pools: Path) -> None:
    create_table(pools / "t", STRIPED, content=Content.RAW)
    with open(pools / "a", "r+b") as file:
        file.write(b"damaged")
    heard: list[Event] = []
    hub = EventHub()
    hub.subscribe(heard.append)
    with closing(open_device(pools / "t", events=hub)) as device:
        assert heard == [CopyHealed(f"{pools}/a: header", 0, "its magic is wrong")]
        assert any("header" in notice for notice in device.notices)


def test_a_command_on_the_pool_sees_the_mapped_device(pools: Path) -> None:
    create_table(pools / "t", STRIPED, content=Content.RAW)
    with closing(open_device(pools / "t")) as device:
        device.inject(Extent(PAGE, 2 * PAGE))
    with closing(open_device(pools / "a")) as a, closing(open_device(pools / "b")) as b:
        assert [run for run, _ in a.badblocks(Extent(0, MIB))] == [Extent(PAGE, PAGE)]
        assert [run for run, _ in b.badblocks(Extent(0, MIB))] == [Extent(0, PAGE)]
    with closing(open_target(pools / "t")) as target:
        assert target.content == "raw"
        assert target.badblocks() == [Extent(PAGE, 2 * PAGE)]
        assert target.status()["recorded"] == 2 * PAGE


def test_a_member_that_was_cut_short_is_not_called_clean(pools: Path) -> None:
    create_table(pools / "t", STRIPED, content=Content.RAW)
    with closing(opened(pools / "t")) as device:
        validate_length(device)
        os.truncate(pools / "b", 4 * MIB)
        with pytest.raises(OSError, match="cut short"):
            validate_length(device)


# -- refused -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        ("0 2048 linear t 0\n", "line 1: .*/t would be a member of itself"),
        ("0 2048 linear c 0\n", "line 1: .*No such file"),
        ("0 2048 linear w 0\n", "line 1: .*window:w"),
        ("0 2048 linear . 0\n", "line 1: .* is not a daxmend pool"),
        ("0 2048 linear /dev/null 0\n", "not a devdax device"),
        ("0 2048 linear window:. 0\n", "neither a file nor a device"),
        ("0 8 linear window:b 0\n", "/b is a pool"),
        ("0 8 linear window:empty 0\n", "smaller than the page"),
        ("0 2056 linear window:w 0\n", "too small"),
        ("0 2056 linear a 0\n", "too small"),
        ("0 8 linear ram:5000 0\n", "positive multiple of 4096"),
        ("0 8 linear ram:much 0\n", "not a size"),
        ("0 2048 linear a 0\n2048 8 linear ./a 0\n", "used by line 1 too"),
        ("0 8 faulty nowhere a 0\n", "No such file"),
        ("0 2048 linear fs 0\n", "holds a file system of its own"),
        ("0 16 linear a 0\n", "a file system needs"),
    ],
)
def test_what_cannot_be_a_member_is_refused_and_leaves_nothing(
    pools: Path, table: str, reason: str
) -> None:
    create(pools / "fs", MIB, content=Content.FS)
    (pools / "empty").touch()
    with pytest.raises(UsageError, match=reason):
        create_table(pools / "t", table)
    assert not (pools / "t").exists()
    for name in ("a", "b", "fs"):  # and nothing is left locked
        open_device(pools / name).close()


def test_a_circle_of_tables_is_refused(pools: Path) -> None:
    create_table(pools / "one", "0 8 linear a 0\n", content=Content.RAW)
    create_table(pools / "two", "0 8 linear one 0\n", content=Content.RAW)
    (pools / "one").rename(pools / "old")
    (pools / "two").rename(pools / "one")
    with pytest.raises(TableError, match="member of itself"):
        open_device(pools / "one")


def test_a_member_in_use_is_refused(pools: Path) -> None:
    with closing(open_device(pools / "a")), pytest.raises(BusyError, match="/a is in use"):
        create_table(pools / "t", STRIPED)
    create_table(pools / "t", STRIPED, content=Content.RAW)
    with closing(open_device(pools / "t")), pytest.raises(BusyError, match="/b is in use"):
        open_device(pools / "b")


def test_a_member_that_vanished_is_named_with_its_line(pools: Path) -> None:
    create_table(pools / "t", STRIPED, content=Content.RAW)
    (pools / "b").unlink()
    with pytest.raises(TableError, match=r"line 1: .*/b"):
        open_device(pools / "t")
    open_device(pools / "a").close()


@pytest.mark.parametrize("copy", [0, 1])
def test_a_damaged_copy_of_the_table_is_rewritten_from_the_other(pools: Path, copy: int) -> None:
    create_table(pools / "t", STRIPED, content=Content.RAW)
    offset = data_offset(pools / "t") + copy * PAGE + 40
    damage(pools / "t", offset)
    with closing(open_device(pools / "t", writable=False)) as device:
        assert any(f"table, copy {copy}" in n and "is used" in n for n in device.notices)
    with closing(open_device(pools / "t")) as device:
        assert any(f"table, copy {copy}" in n and "rewritten" in n for n in device.notices)
    with closing(open_device(pools / "t")) as device:
        assert device.notices == []


def test_with_both_copies_damaged_nothing_is_made_up(pools: Path) -> None:
    create_table(pools / "t", STRIPED, content=Content.RAW)
    for copy in (0, 1):
        damage(pools / "t", data_offset(pools / "t") + copy * PAGE + 40)
    with pytest.raises(CorruptionError, match="table"):
        open_device(pools / "t")
    open_device(pools / "a").close()


def data_offset(path: Path) -> int:
    return path.stat().st_size - 2 * PAGE


def damage(path: Path, offset: int) -> None:
    with open(path, "r+b") as file:
        file.seek(offset)
        old = file.read(1)
        file.seek(offset)
        file.write(bytes([old[0] ^ 1]))


def test_a_read_only_device_changes_no_member(pools: Path) -> None:
    create_table(pools / "t", "0 2048 linear a 0\n2048 2048 linear window:w 0\n")
    before = [(pools / name).read_bytes() for name in ("a", "w")]
    with closing(open_device(pools / "t", writable=False)) as device:
        for offset in (0, MIB):
            with pytest.raises((DaxmendError, OSError)):
                device.write_sectors(offset // 512, bytes(512))
    assert [(pools / name).read_bytes() for name in ("a", "w")] == before


def test_one_pool_is_still_a_pmem_device(pools: Path) -> None:
    with closing(open_device(pools / "a")) as device:
        assert isinstance(device, PmemDevice)
