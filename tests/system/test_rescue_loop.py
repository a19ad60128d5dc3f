"""Salvage and repair of real ext4 and XFS on a loop device whose disk is a raw mount: EIO comes
through a real file system, and goes when a repair writes."""

import contextlib
import json
import os
import pty
import random
import shutil
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from filemount import Files
from rawmount import PAGE, SECTOR, Ran, cli, in_child, loop_device, program, wait

import daxmend.cli
from daxmend.errors import ChangedError
from daxmend.host.fiemap import file_extents
from daxmend.host.unknown import Unknown
from daxmend.rescue import hostfile, repairrun
from daxmend.rescue.repairjournal import JournalPlace
from daxmend.rescue.repairplan import Strategy
from daxmend.rescue.subjectopening import open_subject

pytestmark = [
    pytest.mark.timeout(150, method="signal"),
    pytest.mark.skipif(os.geteuid() != 0, reason="losetup and mount need root"),
]

SIZE = 40 * PAGE + 700
DATA = random.Random(9).randbytes(SIZE)
BAD = [(2 * PAGE + SECTOR, SECTOR), (5 * PAGE, PAGE), (40 * PAGE, SECTOR)]


class Disk(NamedTuple):
    """A mounted file system, its loop device, and the mount of the disk below."""

    files: Files
    loop: Path
    directory: Path

    def make(self, name: str) -> Path:
        path = self.directory / name
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_bytes(DATA)
        os.sync()
        return path

    def hurt(
        self, path: Path, bad: list[tuple[int, int]] = BAD, *, is_cached: bool = False
    ) -> None:
        """Make ranges of the file bad on the disk; its page cache keeps them or not."""
        fd = os.open(path, os.O_RDONLY)
        extents = file_extents(fd)
        if not is_cached:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)
        assert isinstance(extents, list)
        for offset, length in bad:
            place = next(e for e in extents if e.offset <= offset < e.offset + e.length)
            sector = (place.device_offset + offset - place.offset) // SECTOR
            self.files.write_control("badblocks", f"{sector} {length // SECTOR}\n")

    def umount(self) -> None:
        assert program("umount", self.directory).status == 0


@contextlib.contextmanager
def loop_disk(files: Files, fstype: str, *options: str) -> Iterator[Disk]:
    if not os.path.exists("/dev/loop-control") or shutil.which(f"mkfs.{fstype}") is None:
        pytest.skip(f"loop devices and mkfs.{fstype} are needed")
    files.must_umount()
    files.pool.unlink()
    size = "320M" if fstype == "xfs" else "32M"  # what mkfs.xfs wants at least
    made = cli("create", files.pool, "--size", size, "--raw", "--durability", "process")
    assert made.status == 0, made
    mounted = cli("mount", "--raw", "-o", "open=direct", files.pool, files.mountpoint)
    assert mounted.status == 0, mounted
    directory = files.base / "fs"
    directory.mkdir()
    with loop_device(files.mountpoint / "device", "--direct-io=on") as loop:
        done = program(f"mkfs.{fstype}", "-q", *options, loop)
        assert done.status == 0, done
        done = program("mount", "-t", fstype, loop, directory)
        if done.status:
            pytest.skip(f"{fstype} cannot be mounted here: {done.err.strip()}")
        try:
            yield Disk(files, Path(loop), directory)
        finally:
            program("umount", "-l", directory)


@pytest.fixture(params=["ext4", "xfs"])
def disk(files: Files, request: pytest.FixtureRequest) -> Iterator[Disk]:
    with loop_disk(files, request.param) as made:
        yield made


as_root = pytest.mark.parametrize(("user", "open_mode"), [("root", "direct")], indirect=True)


def ask(*arguments: object, status: int = 0) -> dict[str, Any]:
    ran = cli(*arguments, "--json")
    assert ran.status == status, ran
    found = json.loads(ran.out)
    assert isinstance(found, dict)
    return found


def refused(ran: Ran, status: int, *words: str) -> None:
    assert ran.status == status, ran
    for word in words:
        assert word in ran.err, ran


def states(found: dict[str, Any]) -> dict[int, str]:
    return {page["offset"]: page["state"] for page in found["pages"]}


def without(found: dict[str, Any]) -> bytes:
    rest = bytearray(DATA)
    for run in found["ranges"]:
        rest[run["offset"] : run["offset"] + run["length"]] = bytes(run["length"])
    return bytes(rest)


def cut_off(path: Path, seconds: int = 0) -> bytes:
    """The bytes of the file, past the page cache."""
    fd = os.open(path, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)
    return path.read_bytes()


@as_root
def test_a_file_is_saved_and_repaired_in_each_way(disk: Disk) -> None:
    path = disk.make("file")
    copy, out = disk.files.base / "copy", disk.files.base / "out"
    copy.write_bytes(DATA)
    disk.hurt(path)
    found = ask("salvage", path, "-o", out, "--mapfile", disk.files.base / "map", status=4)
    assert found["lost"] <= 3 * PAGE
    assert out.read_bytes() == without(found)
    for source in (["--from", copy], ["--zero"], ["--punch", "--from", copy]):
        plan = ask("repair", path, *source, status=4)
        assert set(states(plan)) == {2 * PAGE, 5 * PAGE, 40 * PAGE}
        done = ask("repair", path, *source, "--apply")
        assert set(states(done).values()) == {"healed"}, done
        if source[0] != "--punch":
            assert done["extents_changed"] is False
        assert path.stat().st_size == SIZE
        assert cut_off(path) == (DATA if "--from" in source else without(plan))
        ask("repair", path, "--undo")
        if source[0] == "--punch":
            break  # the bad blocks may be anywhere now
        disk.files.write_control("badblocks", "")
        path.write_bytes(DATA)
        os.sync()
        disk.hurt(path)
    assert not [name for name in os.listdir(disk.directory) if "daxmend-repair" in name]


@as_root
def test_what_the_page_cache_still_has_is_saved_and_put_back_r12_r46(disk: Disk) -> None:
    """Programs still read it: a repair once put zeros there, and the last good bytes were gone."""
    path, out = disk.make("file"), disk.files.base / "out"
    disk.hurt(path, is_cached=True)
    assert path.read_bytes() == DATA
    ran = cli("salvage", path, "-o", out)
    refused(ran, 0, "that the page cache still has")
    assert out.read_bytes() == DATA
    planned = cli("repair", path, "--zero")
    assert planned.status == 4
    assert "nothing is lost, and 3 pages cannot be read" in planned.out
    done = ask("repair", path, "--zero", "--apply")
    assert set(states(done).values()) == {"healed"}
    assert disk.files.badblocks == ""
    assert cut_off(path) == DATA


@as_root
def test_what_is_cached_of_a_block_device_is_saved_and_put_back_r12_r46(files: Files) -> None:
    with loop_disk(files, "ext4") as disk:
        disk.umount()
        with disk.loop.open("rb") as opened:  # its cache lives as long as somebody has it open
            data = opened.read()
            files.write_control("badblocks", f"{5 * PAGE // SECTOR} 1\n")
            image = files.base / "image"
            refused(cli("salvage", disk.loop, "-o", image), 0, "that the page cache still has")
            assert image.read_bytes() == data
            ask("repair", disk.loop, "--zero", "--apply", "--journal", files.base)
        assert files.badblocks == ""
        assert disk.loop.read_bytes() == data


@as_root
def test_every_damaged_file_of_a_mount_is_saved_and_repaired_from_a_backup(disk: Disk) -> None:
    names = ["one", "deep/er/two", "new\nline"]
    paths = [disk.make(name) for name in names]
    disk.make("whole")
    backup = disk.files.base / "backup"
    for name in [*names, "whole"]:
        (backup / name).parent.mkdir(exist_ok=True, parents=True)
        (backup / name).write_bytes(DATA)
    for path in paths:
        disk.hurt(path)
    out = disk.files.base / "saved"
    found = ask(
        "salvage", disk.directory, "-o", out, "--mapfile", disk.files.base / "maps", status=4
    )
    assert sorted(each["target"] for each in found["files"]) == sorted(map(str, paths))
    for each in found["files"]:
        assert Path(each["output"]).read_bytes() == without(each)
        assert Path(each["output"]).relative_to(out) == Path(each["target"]).relative_to(
            disk.directory
        )
    assert not (out / "whole").exists()
    before = {path: path.stat().st_mtime_ns for path in paths}
    found = ask("repair", disk.directory, "--from", backup, status=4)
    assert {path: path.stat().st_mtime_ns for path in paths} == before
    (backup / "one").rename(backup / "gone")
    found = ask("repair", disk.directory, "--from", backup, "--apply", status=8)
    assert sum("error" in each for each in found["files"]) == 1
    assert [cut_off(path) for path in paths[1:]] == [DATA, DATA]
    (backup / "gone").rename(backup / "one")
    found = ask("repair", disk.directory / "deep", "--from", backup / "deep", "--apply")
    assert found["files"] == []
    ran = cli("repair", disk.directory, "--from", backup, "--apply")
    assert ran.status == 0, ran
    assert all(cut_off(path) == DATA for path in paths)
    refused(cli("salvage", disk.directory, "-o", disk.directory / "x"), 16, "is damaged")
    refused(cli("repair", disk.directory, "--from", backup / "one"), 16, "no directory")
    refused(cli("repair", disk.directory, "--undo"), 16, "of one file")


@as_root
@pytest.mark.parametrize("rmapbt", [0, 1])
def test_the_other_owners_of_shared_blocks_are_named_before_anything_is_written(
    files: Files, rmapbt: int
) -> None:
    with loop_disk(files, "xfs", "-m", f"reflink=1,rmapbt={rmapbt}") as disk:
        path = disk.make("file")
        other = disk.directory / "other"
        ran = program("cp", "--reflink=always", path, other)
        if ran.status:
            pytest.skip(f"no reflink: {ran.err}")
        disk.make("apart")
        os.sync()
        copy = files.base / "copy"
        copy.write_bytes(DATA)
        disk.hurt(path)
        ran = cli("repair", path, "--from", copy)
        refused(ran, 4, "reflink", str(other), "repair each of them")
        assert "apart" not in ran.err
        done = ask("repair", path, "--from", copy, "--apply")
        assert done["extents_changed"] is True
        assert str(other) in " ".join(done["warnings"])
        assert cut_off(path) == DATA
        found = ask("repair", other, "--from", path, "--apply")
        assert set(states(found).values()) == {"healed"}
        assert cut_off(other) == DATA


@as_root
def test_a_block_device_is_saved_and_repaired_when_nobody_has_it(files: Files) -> None:
    with loop_disk(files, "ext4") as disk:
        path = disk.make("file")
        disk.hurt(path, BAD[:2])
        for words in ((), ("--apply",), ("--undo",)):  # a plan, too, would be none
            source = () if "--undo" in words else ("--zero",)
            ran = cli("repair", disk.loop, *source, *words)
            refused(ran, 8, f"is mounted at {disk.directory}", "repair the files", "locate")
        disk.umount()
        second = program("losetup", "--find", "--show", disk.loop).out.strip()
        refused(cli("repair", disk.loop, "--zero"), 8, f"is below {second}")
        assert program("mount", second, disk.directory).status == 0
        refused(cli("repair", disk.loop, "--zero", "--apply"), 8, f"below {second}, which is moun")
        disk.umount()
        assert program("losetup", "--detach", second).status == 0
        image = files.base / "image"
        found = ask("salvage", disk.loop, "-o", image, status=4)
        assert found["lost"] == SECTOR + PAGE
        assert image.stat().st_mode & 0o777 == 0o600
        assert image.stat().st_size == found["size"]
        refused(
            cli("repair", disk.loop, "--punch", "--apply", "--journal", files.base), 16, "device"
        )
        for words in ((), ("--apply",)):  # R46: /dev is in memory
            ran = cli("repair", disk.loop, "--zero", *words)
            refused(ran, 16, "in /dev, which is in memory", "--journal")
        ran = cli("repair", disk.loop, "--zero", "--journal", "/dev/shm")
        refused(ran, 4, "in /dev/shm, which is in memory (tmpfs): if the machine stops")
        assert len(files.badblocks.split()) == 4, "nothing was changed"
        done = ask("repair", disk.loop, "--zero", "--apply", "--journal", files.base)
        assert set(states(done).values()) == {"healed"}
        assert files.badblocks == ""
        assert ask("salvage", disk.loop, "-o", files.base / "again")["lost"] == 0
        assert (files.base / "again").read_bytes() == image.read_bytes()
        ask("repair", disk.loop, "--undo", "--journal", files.base)


REPAIRS = (("--zero",), ("--zero", "--apply"), ("--from", "/dev/zero", "--apply"), ("--undo",))


def refused_in_each_way(name: object, *words: str) -> None:
    """Also as a plan."""
    for how in REPAIRS[:2] if os.path.isfile(str(name)) else REPAIRS:
        refused(cli("repair", name, *how), 8, *words)


@pytest.fixture
def image(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A file and a loop device on it; nobody has that."""
    path = tmp_path / "image"
    with path.open("wb") as file:
        file.truncate(16 << 20)
    ran = program("losetup", "--find", "--show", "--partscan", path)
    if ran.status:
        pytest.skip(f"losetup: {ran.err.strip()}")
    loop = ran.out.strip()
    yield path, loop
    assert program("losetup", "--detach", loop).status == 0


def test_swap_is_not_repaired_and_can_be_saved(image: tuple[Path, str], tmp_path: Path) -> None:
    path, loop = image
    assert program("mkswap", loop).status == 0
    ran = program("swapon", loop)
    if ran.status:
        pytest.skip(f"swapon: {ran.err.strip()}")
    try:
        refused_in_each_way(loop, f"{loop} is used as swap", "first: swapoff")
        refused_in_each_way(path, f"{path} is the disk of {loop}, which is used as swap")
        ran = cli("salvage", loop, "-o", tmp_path / "out")
        refused(ran, 0, "is used as swap", "of several moments")
    finally:
        assert program("swapoff", loop).status == 0


def test_a_device_that_somebody_has_claimed_is_not_repaired(image: tuple[Path, str]) -> None:
    """As a mount in another namespace does, an array, or a program."""
    path, loop = image
    fd = os.open(loop, os.O_RDWR | os.O_EXCL)
    try:
        refused_in_each_way(loop, f"{loop} is claimed by somebody", "end that first")
        refused_in_each_way(path, f"{path} is the disk of {loop}", "claimed by somebody")
    finally:
        os.close(fd)
    assert cli("repair", loop, "--zero").status == 0
    assert cli("repair", path, "--zero").status == 0


def test_the_image_of_a_mounted_disk_is_not_repaired(
    image: tuple[Path, str], tmp_path: Path
) -> None:
    path, loop = image
    directory = tmp_path / "fs"
    directory.mkdir()
    assert program("mkfs.ext4", "-q", loop).status == 0
    second = program("losetup", "--find", "--show", path).out.strip()
    assert program("mount", loop, directory).status == 0
    try:
        mounted = f"{loop}, which is mounted at {directory}"
        refused_in_each_way(path, f"{path} is the disk of {mounted}", "daxmend locate")
        refused_in_each_way(second, f"{second} is on {path}, which is the disk of {mounted}")
        refused(cli("salvage", path, "-o", tmp_path / "out"), 0, mounted, "of several moments")
    finally:
        assert program("umount", directory).status == 0
        assert program("losetup", "--detach", second).status == 0
    assert cli("repair", path, "--zero").status == 0


def test_a_disk_whose_partition_is_mounted_is_not_repaired(
    image: tuple[Path, str], tmp_path: Path
) -> None:
    _, loop = image
    directory = tmp_path / "fs"
    directory.mkdir()
    parts = (struct.pack("<B3xB3xII", 0, 0x83, first, 8192) for first in (2048, 10240))
    with open(loop, "wb") as disk:
        disk.write((bytes(446) + b"".join(parts)).ljust(510, b"\0") + b"\x55\xaa")
    reread = program("blockdev", "--rereadpt", loop)
    one, two = Path(f"{loop}p1"), Path(f"{loop}p2")
    if not one.exists():
        pytest.skip(f"no nodes for partitions here: {reread.err.strip()}")
    assert program("mkfs.ext4", "-q", one).status == 0
    assert program("mount", one, directory).status == 0
    try:
        refused_in_each_way(one, f"{one} is mounted at {directory}")
        refused_in_each_way(loop, f"{loop} is below {one}, which is mounted at {directory}")
        assert cli("repair", two, "--zero").status == 0, "the other partition is nobody's"
    finally:
        assert program("umount", directory).status == 0
    assert cli("repair", loop, "--zero").status == 0


@as_root
def test_a_truncated_file_is_said_to_be_shorter_than_its_copy(disk: Disk) -> None:
    path, copy = disk.make("file"), disk.files.base / "copy"
    copy.write_bytes(DATA)
    os.truncate(path, 10 * PAGE)
    ran = cli("repair", path, "--from", copy)
    refused(ran, 0, "truncated", "does not make it longer")
    mapfile = disk.files.base / "map"
    mapfile.write_text(f"0 + 1\n0 {SIZE} ?\n")
    (disk.files.base / "out").write_bytes(b"")
    ran = cli("salvage", path, "-o", disk.files.base / "out", "--mapfile", mapfile)
    refused(ran, 16, "became shorter")


@as_root
def test_what_a_dax_file_loses_by_pages_is_read_by_sectors_below_r33(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No DAX here: the file is taken for one that is, and gives nothing of a bad page."""
    path = disk.make("file")
    disk.hurt(path, BAD[:2])
    monkeypatch.setattr(hostfile, "is_dax", lambda fd: True)
    out = disk.files.base / "out"
    found = ask("salvage", path, "-o", out, status=4)
    assert [(run["offset"], run["length"]) for run in found["ranges"]] == BAD[:2]
    assert out.read_bytes() == without(found)
    monkeypatch.setattr(hostfile, "open_below", lambda fd, path: Unknown("Permission denied"))
    ran = cli("salvage", path, "-o", out, "--overwrite", "--json")
    refused(ran, 4, "by whole pages", "as root more may be saved")
    pages = [(2 * PAGE, PAGE), (5 * PAGE, PAGE)]
    assert [(run["offset"], run["length"]) for run in json.loads(ran.out)["ranges"]] == pages


@as_root
@pytest.mark.parametrize("dax", [False, True])
def test_a_last_page_that_fails_for_what_is_behind_the_end_is_repaired_r16(
    files: Files, dax: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every byte of the file can be saved, and yet read(2) gives EIO: it is not clean."""
    with loop_disk(files, "ext4", "-b", "4096") as disk:
        path = disk.make("file")
        tail, behind = 40 * PAGE, 40 * PAGE + 3 * SECTOR
        disk.hurt(path, [(behind, SECTOR)])
        monkeypatch.setattr(hostfile, "is_dax", lambda fd: dax)
        with pytest.raises(OSError, match="Input/output"):
            cut_off(path)
        assert ask("locate", path, status=4)["ranges"][0]["offset"] == behind
        for name in (disk.directory, disk.loop):
            (found,) = ask("locate", name, status=4)["ranges"]
            assert (found["path"], found["file_offset"]) == (str(path), behind)
        ran = cli("list", path)
        refused(ran, 4, f"ends at byte {SIZE}", "in its last page")
        assert ask("salvage", path, "-o", files.base / "saved")["lost"] == 0
        assert (files.base / "saved").read_bytes() == DATA
        (found,) = ask("scrub", path, status=4)["ranges"]
        assert found == {"offset": tail, "length": 700}
        plan = ask("repair", path, "--zero", status=4)
        assert states(plan) == {tail: "planned"}
        assert plan["ranges"] == [{"offset": tail, "length": 700}]
        done = ask("repair", path, "--zero", "--apply")
        assert states(done) == {tail: "healed"}
        assert done["extents_changed"] is False
        assert cut_off(path) == DATA
        assert ask("list", path)["badblocks"] == []
        assert states(ask("repair", path, "--undo")) == {tail: "undone"}
        assert cut_off(path) == DATA


@as_root
def test_a_bar_is_shown_on_a_terminal_and_nothing_in_a_pipe(disk: Disk) -> None:
    path, out = disk.make("file"), disk.files.base / "out"
    ran = cli("salvage", path, "-o", out)
    assert (ran.status, ran.err) == (0, "")
    controller, terminal = pty.openpty()

    def body() -> None:
        os.dup2(terminal, 2)
        sys.stderr = os.fdopen(2, "w", closefd=False)
        os._exit(daxmend.cli.run(["salvage", str(path), "-o", str(out), "--overwrite"]))

    assert wait(in_child(body)) == 0
    assert b"100%" in os.read(controller, 4096)


def grow(path: Path) -> None:
    os.truncate(path, SIZE + 1)


def cut(path: Path) -> None:
    os.truncate(path, PAGE)


def replace(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(DATA)
    other.replace(path)


@as_root
@pytest.mark.parametrize("change", [grow, cut, replace])
def test_a_file_that_somebody_changes_while_it_is_repaired_is_left_alone(
    disk: Disk, change: Callable[[Path], None]
) -> None:
    """After the plan and before the journal: nothing is written."""
    path, copy = disk.make("file"), disk.files.base / "copy"
    copy.write_bytes(DATA)
    disk.hurt(path, BAD[:1])
    subject, source = open_subject(path, writable=True), open_subject(copy)
    before = disk.files.badblocks
    place = JournalPlace(subject, None)
    with pytest.raises(ChangedError):
        repairrun.apply(
            subject, source, Strategy.WRITE, place, lambda _: None, lambda _: change(path)
        )
    assert disk.files.badblocks == before
    assert not [name for name in os.listdir(disk.directory) if "daxmend-repair" in name]
    subject.close()
    source.close()
