"""The file system's own pages go bad under a mount that is in use (R43): nobody but the log knows.

And files of very many extents, as programs see them.
"""

import json
import os
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from filemount import Files
from rawmount import DURABILITY, NEW, PAGE, cli, pattern, wait_until

from daxmend.extent import Extent, format_badblocks
from daxmend.fs.superblock import Superblock
from daxmend.host import fileioctl

pytestmark = pytest.mark.timeout(90, method="signal")
DIAGONAL = True

TRIES = int(os.environ.get("DAXMEND_METADATA_PAGES", "10"))  # pages of each structure


def superblock(files: Files) -> Superblock:
    """As it is on the device now."""
    with files.opened_file(files.device, os.O_RDONLY) as fd:
        for offset in (0, os.fstat(fd).st_size - PAGE):
            try:
                return Superblock.unpack(os.pread(fd, PAGE, offset), offset)
            except OSError:
                continue
    raise AssertionError("no superblock can be read")


def places(files: Files, structure: str) -> tuple[list[int], list[int]]:
    """The device offsets of the pages of both copies."""
    found = superblock(files)
    extents: tuple[tuple[Extent, ...], tuple[Extent, ...]] = {
        "superblock": ((Extent(0, PAGE),), (Extent(found.size - PAGE, PAGE),)),
        "journal": ((found.journal[0],), (found.journal[1],)),
        "checkpoint": found.checkpoint,
    }[structure]
    first, second = (
        [offset for extent in copy for offset in range(extent.offset, extent.end, PAGE)]
        for copy in extents
    )
    return first, second


@contextmanager
def busy(files: Files) -> Iterator[None]:
    """Somebody works on the file system all the time, and nothing that he does may fail."""
    is_over = threading.Event()
    failures: list[str] = []
    rounds = 0

    def work() -> None:
        nonlocal rounds
        number = 0
        try:
            while not is_over.is_set():
                path = files.path(f"work{number % 7}")
                data = pattern(number) * 3
                with files.opened_file(path, os.O_RDWR | os.O_CREAT) as fd:
                    assert os.pwrite(fd, data, 0) == len(data)
                    os.fsync(fd)
                    assert os.pread(fd, len(data), 0) == data
                os.setxattr(path, "user.round", b"%d" % number)
                os.rename(path, files.path(f"work{(number + 3) % 7}"))
                assert files.path("kept").read_bytes() == NEW * 3
                os.statvfs(files.mountpoint)
                number += 1
                rounds += 1
        except (OSError, AssertionError) as error:
            failures.append(repr(error))

    worker = threading.Thread(target=work)
    worker.start()
    try:
        yield
    finally:
        is_over.set()
        worker.join()
    assert failures == []
    assert rounds > 0


def events_of(files: Files, fd: int) -> list[dict[str, object]]:
    text = b""
    while True:
        try:
            text += os.read(fd, 1 << 20)
        except BlockingIOError:
            return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize("copies", [(0,), (1,), (0, 1)], ids=["first", "second", "both"])
@pytest.mark.parametrize("structure", ["superblock", "journal", "checkpoint"])
@pytest.mark.parametrize("latent", [False, True], ids=["recorded", "latent"])
def test_metadata_that_goes_bad_in_use_heals_and_no_user_sees_it_r43(
    files: Files, structure: str, copies: tuple[int, ...], latent: bool
) -> None:
    rng = random.Random(structure)
    files.path("kept").write_bytes(NEW * 3)
    fd = os.open(files.control / "events", os.O_RDONLY | os.O_NONBLOCK)
    with busy(files):
        numbers = range(len(places(files, structure)[0]))
        chosen = sorted({0, *rng.sample(numbers, min(TRIES, len(numbers)))})
        for number in chosen:
            for copy in copies:
                pages = places(files, structure)[copy]
                bad = Extent(pages[number % len(pages)], PAGE)
                if latent:
                    files.write_control("poison", f"{bad.offset} 64\n")
                else:
                    files.write_control("badblocks", format_badblocks([bad]))
            if latent:
                files.write_control("scrub", "1\n")
                wait_until(lambda: "+" not in files.read_control("scrub"), "the scrub ends")
            files.wait_until_clean()
    names = {str(event["event"]) for event in events_of(files, fd)}
    os.close(fd)
    assert names & {"metadata_healed", "space_cleared"}, names
    assert structure != "superblock" or "metadata_healed" in names
    assert not names & {"file_damaged", "recovery_refused"}
    assert files.read_control("ranges") == ""
    assert files.path("kept").read_bytes() == NEW * 3
    checked = cli("check", files.mountpoint)
    assert checked.status == 0, checked
    files.must_umount()
    checked = cli("check", files.pool)
    assert checked.status == 0, checked
    files.must_mount()
    assert files.path("kept").read_bytes() == NEW * 3
    files.path("kept").write_bytes(b"still writable")


def use_everything(files: Files, wanted: dict[str, bytes]) -> None:
    """Real system calls on all that is there; none may fail."""
    assert sorted(os.listdir(files.mountpoint)) == sorted(wanted)
    for name, data in wanted.items():
        assert os.lstat(files.path(name)).st_size == len(data)
        assert files.path(name).read_bytes() == data
        assert os.getxattr(files.path(name), "user.name") == name.encode()


def fill_several_pages(files: Files) -> dict[str, bytes]:
    """Checkpoint and, after a kill, journal have several pages; returns what files hold."""
    wanted = {}
    for number in range(12):
        name = f"file{number}"
        wanted[name] = pattern(number) * 2
        files.path(name).write_bytes(wanted[name])
        os.setxattr(files.path(name), "user.name", name.encode())
        os.setxattr(files.path(name), "user.more", bytes([number]) * 1500)
    return wanted


@pytest.mark.parametrize("latent", [False, True], ids=["recorded", "latent"])
@pytest.mark.parametrize("structure", ["superblock", "journal", "checkpoint"])
def test_one_bad_copy_of_any_metadata_costs_a_mount_nothing_r43(
    files: Files, structure: str, latent: bool
) -> None:
    """It goes bad while nobody is there; mounting heals it and says so."""
    rng = random.Random(structure)
    fill_several_pages(files)
    files.remount()
    wanted = fill_several_pages(files)  # again: these are in the journal, those in the checkpoint
    copies = places(files, structure)
    used = {"superblock": 1, "journal": 4, "checkpoint": 4}[structure]
    for number in rng.sample(range(used), min(used, 2)):
        for copy in (0, 1):
            kill_and_forget(files)
            options = ["--latent"] if latent else []
            where = ("--offset", copies[copy][number], "--length", 64 if latent else PAGE)
            assert cli("inject", files.pool, *where, *options).status == 0
            ran = files.mount()
            assert ran.status == 0, ran
            use_everything(files, wanted)
            events = (files.control / "events").open("rb", buffering=0)
            os.set_blocking(events.fileno(), False)
            names = {str(each["event"]) for each in events_of(files, events.fileno())}
            events.close()
            assert "copy_healed" in names, names
            files.wait_until_clean()
            assert cli("check", files.pool).status == 0


def kill_and_forget(files: Files) -> None:
    """As a crash of the server does: the journal stays as it is."""
    files.kill_server()
    assert files.umount().status == 0


@pytest.mark.parametrize("latent", [False, True], ids=["recorded", "latent"])
@pytest.mark.parametrize("structure", ["journal", "checkpoint"])
def test_what_both_copies_have_lost_is_named_and_a_mount_shows_the_rest_r43(
    files: Files, structure: str, latent: bool
) -> None:
    """Read-only; and a repair, on request, makes a file system of what is left."""
    fill_several_pages(files)
    files.remount()
    os.setxattr(files.path("file3"), "user.more", b"in the journal")
    copies = places(files, structure)
    number = 1 if structure == "checkpoint" else 0
    kill_and_forget(files)
    for copy in (0, 1):
        options = ["--latent"] if latent else []
        where = ("--offset", copies[copy][number], "--length", 64 if latent else PAGE)
        assert cli("inject", files.pool, *where, *options).status == 0
    checked = cli("check", files.pool)
    assert checked.status == 8
    assert ("F2: lost: both copies of page 1" if number else "F3: both copies have lost") in (
        checked.out
    )
    ran = files.mount()
    assert ran.status == 0, ran
    assert "lost" in ran.err + files.log.read_text()
    contents = {pattern(number) * 2 for number in range(12)}
    whole = {path for path in files.mountpoint.rglob("*") if path.is_file()}
    assert len(whole) >= 6
    assert all(path.read_bytes() in contents for path in whole)
    if structure == "journal":
        assert {path.name for path in whole} == {f"file{number}" for number in range(12)}
    else:  # with the name or without, nobody's content is gone but that of lost inodes
        assert any(files.mountpoint.glob("lost+found/#*")) or len(whole) < 12
    with pytest.raises(OSError, match="Read-only"):
        files.path("new").touch()
    files.must_umount()
    assert cli("check", files.pool, "--repair", "--apply").status == 1
    assert cli("check", files.pool, "--repair", "--apply").status == 0
    files.must_mount()
    files.path("new").write_bytes(b"writable again")


def test_both_superblocks_lost_while_unmounted_mount_read_only_and_say_what_helps(
    files: Files,
) -> None:
    """R43, R46: the data can be had at once; a repair, on request, makes the pool as it was."""
    files.path("kept").write_bytes(NEW * 3)
    files.must_umount()
    for offset in (0, files.size - PAGE):
        ran = cli("inject", files.pool, "--offset", offset, "--length", PAGE)
        assert ran.status == 0, ran
    checked = cli("check", files.pool)
    assert checked.status == 8
    assert "F1: no superblock counts" in checked.out
    ran = files.mount()
    assert ran.status == 0, ran
    assert f"daxmend check {files.pool} --repair" in ran.err + files.log.read_text()
    assert files.path("kept").read_bytes() == NEW * 3
    with pytest.raises(OSError, match="Read-only"):
        files.path("new").touch()
    files.must_umount()
    planned = cli("check", files.pool, "--repair")
    assert "write both superblocks anew" in planned.out
    assert planned.status == 8
    repaired = cli("check", files.pool, "--repair", "--apply")
    assert repaired.status == 1, repaired
    assert cli("check", files.pool, "--repair", "--apply").status == 0
    files.must_mount()
    assert files.path("kept").read_bytes() == NEW * 3
    files.path("kept").write_bytes(b"writable again")


EXTENTS = 10_400


def test_a_file_of_ten_thousand_extents_shows_them_page_by_page(files: Files) -> None:
    """The xattr says that there are more; the ioctl has them all."""
    files.must_umount()
    files.pool.unlink()
    assert cli("create", files.pool, "--size", 96 << 20, *DURABILITY).status == 0
    files.must_mount()
    path = files.path("many")
    with files.opened_file(path, os.O_RDWR | os.O_CREAT) as fd:
        os.posix_fallocate(fd, 0, EXTENTS * PAGE)
        for number in range(0, EXTENTS, 2):
            assert os.pwrite(fd, NEW, number * PAGE) == PAGE
        extents = list(fileioctl.iter_extents(fd))
        assert len(extents) == EXTENTS
        assert [extent.offset for extent in extents] == list(range(0, EXTENTS * PAGE, PAGE))
        assert [extent.is_written for extent in extents] == [True, False] * (EXTENTS // 2)
        middle = list(fileioctl.iter_extents(fd, 5000 * PAGE))
        assert middle == extents[5000:]
        value = os.getxattr(fd, "user.daxmend.extents")
        lines = value.decode().splitlines()
        assert len(value) <= 64 << 10
        assert lines.pop() == "more"
        assert len(lines) > 1000
        said = [line.split() for line in lines]
        assert [tuple(map(int, words[:3])) for words in said] == [
            extent[:3] for extent in extents[: len(said)]
        ]
    located = cli("locate", "--extents", "--json", path)
    assert located.status == 0, located
    assert located.out.count("device_offset") >= EXTENTS
