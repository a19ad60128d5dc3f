"""`daxmend repair FILE`: bad pages get new bytes in place, and the good ones are kept."""

import contextlib
import errno
import json
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from filemount import Files
from rawmount import PAGE, SECTOR, Ran, cli, in_child, loop_device, ordinary_user, program, wait

from daxmend.extent import Extent
from daxmend.host import zeroing
from daxmend.host.fiemap import file_extents
from daxmend.host.zeroing import ZeroVerb, zeroout_below
from daxmend.rescue.hostfile import HostFile
from daxmend.rescue.reader import Reader

pytestmark = pytest.mark.timeout(90, method="signal")
DIAGONAL = True

SIZE = 40 * PAGE + 700  # ends inside a page, and a sector
DATA = random.Random(7).randbytes(SIZE)
TAIL = 40 * PAGE


def make(files: Files) -> tuple[Path, Path]:
    """A file, and a copy of it elsewhere."""
    copy = files.base / "copy"
    copy.write_bytes(DATA)
    path = files.path("file")
    path.write_bytes(DATA)
    return path, copy


def damage(files: Files, path: Path) -> None:
    """A sector, a page, two sectors across pages, and the tail."""
    files.damage(path, 2 * PAGE + SECTOR, SECTOR)
    files.damage(path, 5 * PAGE)
    files.damage(path, 8 * PAGE - SECTOR, 2 * SECTOR)
    files.damage(path, TAIL + SECTOR, 100)


LOST = [(2 * PAGE + SECTOR, SECTOR), (5 * PAGE, PAGE), (8 * PAGE - SECTOR, 2 * SECTOR),
        (TAIL + SECTOR, 700 - SECTOR)]  # fmt: skip
PAGES = [2 * PAGE, 5 * PAGE, 7 * PAGE, 8 * PAGE, TAIL]


def zeroed() -> bytes:
    rest = bytearray(DATA)
    for offset, length in LOST:
        rest[offset : offset + length] = bytes(length)
    return bytes(rest)


def repair(name: object, *options: object, status: int = 0) -> dict[str, Any]:
    ran = cli("repair", name, *options, "--json")
    assert ran.status == status, ran
    found = json.loads(ran.out)
    assert isinstance(found, dict)
    return found


def pairs(found: dict[str, Any]) -> list[tuple[int, int]]:
    return [(run["offset"], run["length"]) for run in found["ranges"]]


def states(found: dict[str, Any]) -> dict[int, str]:
    return {page["offset"]: page["state"] for page in found["pages"]}


def refused(ran: Ran, status: int, *words: str) -> None:
    assert ran.status == status, ran
    for word in words:
        assert word in ran.err, ran


def journals(directory: Path) -> list[Path]:
    return sorted(path for path in directory.iterdir() if ".daxmend-repair." in path.name)


# -- on a mount ----------------------------------------------------------------------------


def test_the_plan_says_what_is_bad_and_changes_nothing(files: Files) -> None:
    path, copy = make(files)
    damage(files, path)
    before = files.badblocks, path.stat().st_mtime_ns, sorted(os.listdir(files.mountpoint))
    found = repair(path, "--from", copy, status=4)
    assert pairs(found) == LOST
    assert states(found) == dict.fromkeys(PAGES, "planned")
    after = files.badblocks, path.stat().st_mtime_ns, sorted(os.listdir(files.mountpoint))
    assert before == after
    ran = cli("repair", path, "--from", copy)
    assert "nothing was changed" in ran.out
    assert "--apply" in ran.out


def test_repair_from_a_copy_heals_in_place_r14(files: Files) -> None:
    path, copy = make(files)
    damage(files, path)
    placed = files.placed(path)
    found = repair(path, "--from", copy, "--apply")
    assert states(found) == dict.fromkeys(PAGES, "healed")
    assert found["extents_changed"] is False
    assert found["ranges"] == []
    assert path.read_bytes() == DATA
    assert files.placed(path) == placed
    assert files.badblocks == ""
    assert cli("list", path).status == 0
    assert repair(path, "--from", copy)["pages"] == []  # a second one has nothing to do


def test_good_bytes_are_kept_where_the_copy_has_others(files: Files) -> None:
    path, copy = make(files)
    damage(files, path)
    copy.write_bytes(bytes(byte ^ 0xFF for byte in DATA))
    ran = cli("repair", path, "--from", copy, "--apply")
    assert ran.status == 0, ran
    assert "same version" in ran.err
    expected = bytearray(DATA)
    for offset, length in LOST:
        for at in range(offset, offset + length):
            expected[at] ^= 0xFF
    assert path.read_bytes() == expected


def test_zero_says_which_verb_and_keeps_what_is_good_r29_r34(files: Files) -> None:
    path, _ = make(files)
    damage(files, path)
    placed = files.placed(path)
    found = repair(path, "--zero", "--apply")
    hows = {page["offset"]: page["how"] for page in found["pages"]}
    assert hows == {**dict.fromkeys(PAGES, "write"), 5 * PAGE: "zeroinit"}
    assert path.read_bytes() == zeroed()
    assert files.placed(path) == placed
    assert files.badblocks == ""


def test_punch_warns_and_tells_where_the_file_lies_now_r35(files: Files) -> None:
    path, copy = make(files)
    damage(files, path)
    ran = cli("repair", path, "--punch", "--from", copy, "--apply")
    assert ran.status == 0, ran
    assert "fragmented" in ran.err
    assert "extents before" in ran.out
    assert path.read_bytes() == DATA
    files.damage(path, 5 * PAGE)
    found = repair(path, "--punch", "--apply")
    assert found["extents_changed"] is True
    assert path.read_bytes() == DATA[: 5 * PAGE] + bytes(PAGE) + DATA[6 * PAGE :]


def test_latent_poison_is_found_and_heals(files: Files) -> None:
    path, copy = make(files)
    files.poison(path, 3 * PAGE + 64, 64)
    assert states(repair(path, "--from", copy, "--apply")) == {3 * PAGE: "healed"}
    assert path.read_bytes() == DATA


def test_undo_puts_the_good_bytes_back_and_removes_the_journal(files: Files) -> None:
    path, copy = make(files)
    damage(files, path)
    found = repair(path, "--from", copy, "--apply")
    assert [str(name) for name in journals(files.mountpoint)] == [found["journal"]]
    with files.opened_file(path) as fd:
        os.pwrite(fd, b"new", 20 * PAGE)  # elsewhere: no matter
    assert states(repair(path, "--undo")) == dict.fromkeys(PAGES, "undone")
    expected = bytearray(zeroed())
    expected[20 * PAGE : 20 * PAGE + 3] = b"new"
    assert path.read_bytes() == expected
    assert journals(files.mountpoint) == []
    refused(cli("repair", path, "--undo"), 16, "no journal")


def test_undo_leaves_what_was_written_since(files: Files) -> None:
    path, copy = make(files)
    damage(files, path)
    repair(path, "--from", copy, "--apply")
    files.write_at(path, b"since", 5 * PAGE)
    found = repair(path, "--undo", status=8)
    assert states(found)[5 * PAGE] == "changed"
    assert states(found)[2 * PAGE] == "undone"
    assert path.read_bytes()[5 * PAGE : 5 * PAGE + 5] == b"since"
    assert len(journals(files.mountpoint)) == 1


def test_repairs_stack_and_are_taken_back_one_by_one(files: Files) -> None:
    path, copy = make(files)
    files.damage(path, 0, SECTOR)
    repair(path, "--from", copy, "--apply")
    files.damage(path, PAGE, SECTOR)
    repair(path, "--from", copy, "--apply")
    assert len(journals(files.mountpoint)) == 2
    repair(path, "--undo")
    assert path.read_bytes() == DATA[:PAGE] + bytes(SECTOR) + DATA[PAGE + SECTOR :]
    repair(path, "--undo")
    assert path.read_bytes()[:SECTOR] == bytes(SECTOR)


def test_the_journal_can_lie_elsewhere_and_a_bad_place_changes_nothing(files: Files) -> None:
    path, copy = make(files)
    damage(files, path)
    elsewhere = files.base / "journals"
    bad = files.badblocks
    refused(cli("repair", path, "--zero", "--apply", "--journal", elsewhere), 16, "does not exist")
    elsewhere.mkdir()
    if os.geteuid():
        elsewhere.chmod(0o500)
        ran = cli("repair", path, "--zero", "--apply", "--journal", elsewhere)
        refused(ran, 8, "cannot be written", "--journal")
        elsewhere.chmod(0o700)
    assert files.badblocks == bad
    repair(path, "--from", copy, "--apply", "--journal", elsewhere)
    assert journals(files.mountpoint) == []
    assert len(journals(elsewhere)) == 1
    repair(path, "--undo", "--journal", elsewhere)
    assert path.read_bytes() == zeroed()


# -- a directory, a mount ------------------------------------------------------------------


def test_a_mount_is_repaired_from_a_backup_of_its_shape(files: Files) -> None:
    backup = files.base / "backup"
    for name in ("a", "below/b", "whole"):
        for top in (backup, files.mountpoint):
            (top / name).parent.mkdir(exist_ok=True, parents=True)
            (top / name).write_bytes(DATA)
    for name in ("a", "below/b"):
        damage(files, files.path(name))
    ran = cli("repair", files.mountpoint, "--from", backup)
    assert ran.status == 4, ran
    assert ran.out.count("nothing was changed") == 2
    found = repair(files.path("below"), "--from", backup / "below", "--apply")
    assert [each["target"] for each in found["files"]] == [str(files.path("below/b"))]
    assert found["found_by"] == "record"
    assert files.path("below/b").read_bytes() == DATA
    found = repair(files.mountpoint, "--from", backup, "--apply")
    assert [each["target"] for each in found["files"]] == [str(files.path("a"))]
    assert found["others"] == []
    assert files.path("a").read_bytes() == DATA
    assert files.badblocks == ""
    assert "no file is damaged" in cli("repair", files.mountpoint, "--zero", "--apply").out


def test_a_journal_is_a_file_like_others_when_a_mount_is_repaired(files: Files) -> None:
    path, copy = make(files)
    damage(files, path)
    repair(path, "--from", copy, "--apply")
    (journal,) = journals(files.mountpoint)
    files.damage(journal, 0, SECTOR)
    ran = cli("repair", path, "--undo")
    assert ran.status == 8, ran
    assert "Traceback" not in ran.err
    assert str(journal) in ran.err
    assert path.read_bytes() == DATA


@pytest.mark.parametrize(("user", "open_mode"), [("root", "direct")], indirect=True)
def test_what_may_not_be_read_below_a_directory_is_unknown_r44(files: Files) -> None:
    top = files.base / "tree"
    top.mkdir(mode=0o755)
    (top / "open").write_bytes(DATA)
    (top / "secret").write_bytes(DATA)
    (top / "secret").chmod(0)

    def ask() -> None:
        ordinary_user().become()
        ran = cli("repair", top, "--zero", "--json")
        assert ran.status == 2, ran
        found = json.loads(ran.out)
        assert [each["target"] for each in found["files"]] == [str(top / "secret")]
        assert "Permission denied" in found["files"][0]["error"]
        assert cli("repair", top / "secret", "--zero", "--apply").status == 2

    assert wait(in_child(ask)) == 0


# -- copies that are none ------------------------------------------------------------------


def test_a_copy_that_is_none_is_refused_and_nothing_changes_r46(files: Files) -> None:
    path, copy = make(files)
    damage(files, path)
    bad = files.badblocks
    os.link(path, files.path("link"))
    for name, word in ((path, "itself"), (files.path("link"), "itself")):
        refused(cli("repair", path, "--from", name, "--apply"), 16, word)
    copy.write_bytes(DATA[:-1])
    refused(cli("repair", path, "--from", copy, "--apply"), 16, "no copy of all of it")
    refused(cli("repair", path, "--from", files.base / "no", "--apply"), 8, "No such file")
    assert files.badblocks == bad
    assert journals(files.mountpoint) == []


def test_where_the_copy_is_bad_itself_the_page_stays_bad_r46(files: Files) -> None:
    path, _ = make(files)
    copy = files.path("copy")
    copy.write_bytes(DATA)
    damage(files, path)
    files.damage(copy, 5 * PAGE + SECTOR, SECTOR)
    files.damage(copy, 2 * PAGE, SECTOR)  # where the file is good: no matter
    found = repair(path, "--from", copy, "--apply", status=4)
    assert states(found) == {**dict.fromkeys(PAGES, "healed"), 5 * PAGE: "refused"}
    assert pairs(found) == [(5 * PAGE, PAGE)]
    assert cli("list", path).status == 4


def test_what_does_not_go_together_is_a_usage_error(files: Files) -> None:
    path, copy = make(files)
    for options in ([], ["--apply"], ["--zero", "--punch"], ["--zero", "--from", copy],
                    ["--undo", "--zero"]):  # fmt: skip
        assert cli("repair", path, *options).status == 16


# -- a medium that does not heal -----------------------------------------------------------


def test_what_the_medium_refuses_stays_bad_and_is_said_r45(files: Files) -> None:
    files.must_umount()
    files.pool.unlink()
    files.create("--durability", "process", "--medium", "refuses")
    files.must_mount()
    path, copy = make(files)
    damage(files, path)
    for source in (["--from", copy], ["--zero"]):
        found = repair(path, *source, "--apply", status=4)
        assert set(states(found).values()) == {"bad"}
        assert all(page["how"] for page in found["pages"])
        assert pairs(found) == LOST
    assert cli("repair", path, "--zero", "--apply").status == 4


# -- a pool that is not mounted ------------------------------------------------------------


@pytest.mark.parametrize("source", ["from", "zero", "punch"])
@pytest.mark.parametrize(("user", "open_mode"), [("user", "cached")], indirect=True)
def test_a_file_in_a_pool_is_repaired_by_cachelines(files: Files, source: str) -> None:
    path, copy = make(files)
    damage(files, path)
    files.poison(path, 12 * PAGE + 64, 64)
    files.must_umount()
    name = f"{files.pool}:/file"
    options = ["--from", copy] if source == "from" else [f"--{source}"]
    found = repair(name, *options, status=4)
    assert pairs(found) == sorted([*LOST, (12 * PAGE + 64, 64)])
    found = repair(name, *options, "--apply")
    assert set(states(found).values()) == {"healed"}
    assert found["extents_changed"] is (source == "punch")
    assert "is whole" in cli("check", files.pool).out
    files.must_mount()
    expected = bytearray(DATA if source == "from" else zeroed())
    if source != "from":
        expected[12 * PAGE + 64 : 12 * PAGE + 128] = bytes(64)
    assert path.read_bytes() == expected
    files.must_umount()
    repair(name, "--undo")
    expected = bytearray(zeroed())
    expected[12 * PAGE + 64 : 12 * PAGE + 128] = bytes(64)
    assert cli("salvage", name, "-o", files.base / "out").status == 0
    assert (files.base / "out").read_bytes() == expected
    assert journals(files.base) == []
    files.must_mount()


@pytest.mark.parametrize("is_mounted", [True, False])
def test_a_page_of_which_all_is_kept_is_repaired_without_a_loss_r18_r44(
    files: Files, is_mounted: bool
) -> None:
    """Programs get EIO: a plan once said that nothing was bad, and through a mount a repair filled
    it with zeros."""
    path, _ = make(files)
    files.lose(path, Extent(3 * PAGE, PAGE), PAGE)
    name = str(path) if is_mounted else f"{files.pool}:/file"
    with files.opened_file(path) as fd, pytest.raises(OSError, match="Input/output"):
        os.pread(fd, SECTOR, 3 * PAGE)
    if not is_mounted:
        files.must_umount()
    found = repair(name, "--zero", status=4)
    assert [(page["offset"], page["lost"]) for page in found["pages"]] == [(3 * PAGE, [])]
    found = repair(name, "--zero", "--apply")
    assert set(states(found).values()) == {"healed"}
    if not is_mounted:
        files.must_mount()
    assert path.read_bytes() == DATA
    assert files.badblocks == ""


# -- files that cannot be written ----------------------------------------------------------


@pytest.mark.parametrize(("user", "open_mode"), [("user", "direct")], indirect=True)
def test_a_file_that_may_not_be_written_is_refused_before_anything(files: Files) -> None:
    path, copy = make(files)
    damage(files, path)
    path.chmod(0o400)
    refused(cli("repair", path, "--from", copy, "--apply"), 8, "Permission denied", "owner")
    assert cli("repair", path, "--from", copy).status == 4  # the plan only reads
    assert journals(files.mountpoint) == []


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mount, chattr and losetup need root")


@contextlib.contextmanager
def ext4(device: Path, directory: Path, *options: str) -> Iterator[Path]:
    """A real ext4 on a loop device on a file."""
    if not os.path.exists("/dev/loop-control"):
        pytest.skip("no loop devices here")
    directory.mkdir(exist_ok=True)
    with loop_device(device, *options) as loop:
        if program("blkid", loop).status:
            assert program("mkfs.ext4", "-q", "-b", "4096", loop).status == 0
        assert program("mount", "-t", "ext4", loop, directory).status == 0
        try:
            yield directory
        finally:
            program("umount", "-l", directory)


def first_block(path: Path) -> int:
    """The 4096-byte block of the file's first page on its device."""
    out = program("filefrag", "-v", "-b4096", path).out
    row = next(line for line in out.splitlines() if line.strip().startswith("0:"))
    return int(row.split(":")[2].split("..")[0])


@needs_root
@pytest.mark.parametrize(
    ("user", "open_mode", "loop_mode"),
    [("root", "direct", "--direct-io=off"), ("root", "direct", "--direct-io=on"),
     ("root", "cached", "--direct-io=off")],
    indirect=["user", "open_mode"],
)  # fmt: skip
def test_a_file_on_ext4_above_a_bad_device_is_saved_and_repaired(
    files: Files, loop_mode: str
) -> None:
    files.must_umount()
    files.pool.unlink()
    assert (
        cli("create", files.pool, "--size", "32M", "--raw", "--durability", "process").status == 0
    )
    options = f"open={files.open_mode}"
    assert cli("mount", "--raw", "-o", options, files.pool, files.mountpoint).status == 0
    with ext4(files.mountpoint / "device", files.base / "ext4", loop_mode) as directory:
        path, copy = directory / "file", files.base / "copy"
        for each in (path, copy):
            each.write_bytes(DATA)
        os.sync()
        block = first_block(path)
        first = block * 8

        def hurt() -> None:
            lines = [f"{first + 16 + 1} 1", f"{first + 40} 8", f"{first + 320 + 1} 1"]
            files.write_control("badblocks", "\n".join(lines) + "\n")
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

        hurt()
        out = files.base / "out"
        ran = cli("salvage", path, "-o", out, "--json")
        assert ran.status == 4, ran
        lost = pairs(json.loads(ran.out))
        assert (5 * PAGE, PAGE) in lost
        rest = bytearray(DATA)
        for offset, length in lost:
            rest[offset : offset + length] = bytes(length)
        assert out.read_bytes() == rest

        found = repair(path, "--from", copy, "--apply")
        assert set(states(found)) == {2 * PAGE, 5 * PAGE, TAIL}
        assert set(states(found).values()) == {"healed"}, found
        assert found["extents_changed"] is False
        assert path.stat().st_size == SIZE
        assert path.read_bytes() == DATA
        assert files.badblocks == ""
        hurt()
        found = repair(path, "--zero", "--apply")
        assert set(states(found).values()) == {"healed"}, found
        assert found["extents_changed"] is False
        assert path.stat().st_size == SIZE
        assert files.badblocks == ""
        repair(path, "--undo")
        hurt()
        found = repair(path, "--punch", "--from", copy, "--apply")
        assert set(states(found).values()) == {"healed"}, found
        assert path.read_bytes() == DATA
    assert cli("umount", files.mountpoint).status == 0


@needs_root
@pytest.mark.parametrize(("user", "open_mode"), [("root", "direct")], indirect=True)
def test_the_blocks_below_a_file_are_zeroed_in_place_r34(files: Files) -> None:
    disk = files.base / "disk"
    with open(disk, "wb") as file:
        file.truncate(16 << 20)
    with ext4(disk, files.base / "ext4") as directory:
        path, other = directory / "file", directory / "other"
        path.write_bytes(DATA)
        other.write_bytes(DATA)
        fd = os.open(path, os.O_RDWR)
        before = file_extents(fd)
        try:
            zeroout_below(fd, Extent(3 * PAGE, 2 * PAGE))
        except OSError as error:
            if error.errno not in (
                errno.EBUSY,
                errno.EPERM,
            ):  # a kernel that guards mounted devices
                raise
        else:
            assert path.read_bytes() == DATA[: 3 * PAGE] + bytes(2 * PAGE) + DATA[5 * PAGE :]
        assert file_extents(fd) == before
        assert other.read_bytes() == DATA
        os.close(fd)


@needs_root
@pytest.mark.parametrize(("user", "open_mode"), [("root", "direct")], indirect=True)
def test_immutable_read_only_and_swap_files_are_refused_with_a_hint(files: Files) -> None:
    disk = files.base / "disk"
    with open(disk, "wb") as file:
        file.truncate(16 << 20)
    with ext4(disk, files.base / "ext4") as directory:
        path = directory / "file"
        path.write_bytes(DATA)
        if program("chattr", "+i", path).status == 0:
            refused(cli("repair", path, "--zero", "--apply"), 8, "immutable", "chattr")
            assert program("chattr", "-i", path).status == 0
        assert program("mount", "-o", "remount,ro", directory).status == 0
        refused(cli("repair", path, "--zero", "--apply"), 8, "Read-only", "remount")
        assert program("mount", "-o", "remount,rw", directory).status == 0
        swap = directory / "swap"
        swap.write_bytes(bytes(1 << 20))
        swap.chmod(0o600)
        os.sync()
        if program("mkswap", swap).status == 0 and program("swapon", swap).status == 0:
            try:
                refused(cli("repair", swap, "--zero", "--apply"), 8, "swap")
            finally:
                program("swapoff", swap)


@needs_root
@pytest.mark.parametrize(("user", "open_mode"), [("root", "direct")], indirect=True)
def test_what_takes_no_write_is_zeroed_through_the_blocks_below_r34(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that heals by WRITE ZEROES alone, under a file system that cannot pass that on."""

    def missing(fd: int, extent: Extent) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    def failing(reader: Reader, offset: int, data: bytes) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(zeroing, "write_zeroes", missing)
    monkeypatch.setattr(Reader, "write", failing)
    disk = files.base / "disk"
    with open(disk, "wb") as file:
        file.truncate(16 << 20)
    with ext4(disk, files.base / "ext4") as directory:
        path = directory / "file"
        path.write_bytes(DATA)
        subject = HostFile(path, "file", writable=True)
        before = subject.extents()
        try:
            assert subject.zero(Extent(3 * PAGE, 2 * PAGE)) == ZeroVerb.BLKZEROOUT
        except OSError as error:
            if error.errno in (errno.EBUSY, errno.EPERM):
                pytest.skip("this kernel lets nobody write to a mounted disk")
            raise
        finally:
            subject.close()
        assert path.read_bytes() == DATA[: 3 * PAGE] + bytes(2 * PAGE) + DATA[5 * PAGE :]
        subject = HostFile(path, "file")
        assert subject.extents() == before
        subject.close()
