"""Attempts to make a repair lose a good byte, or claim a success that is none."""

import fcntl
import json
import os
import random
import signal
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import xxhash
from filemount import Files
from rawmount import PAGE, SECTOR, Ran, cli, in_child, program, wait

from daxmend.extent import Extent
from daxmend.rescue import repairrun
from daxmend.rescue.repairjournal import JournalPlace
from daxmend.rescue.repairplan import Strategy
from daxmend.rescue.subjectopening import open_subject

pytestmark = pytest.mark.timeout(120, method="signal")
DIAGONAL = True

SIZE = 20 * PAGE + 700
DATA = random.Random(11).randbytes(SIZE)
BAD = [(2 * PAGE + SECTOR, SECTOR), (5 * PAGE, PAGE), (20 * PAGE, SECTOR)]
CALLS = ("fsync", "fdatasync", "rename", "pwrite", "pwritev", "unlink", "open", "setxattr",
         "removexattr", "ftruncate")  # fmt: skip


def make(files: Files, name: str = "file") -> tuple[Path, Path]:
    copy = files.base / "copy"
    copy.write_bytes(DATA)
    path = files.path(name)
    path.write_bytes(DATA)
    for offset, length in BAD:
        files.damage(path, offset, length)
    return path, copy


def refused(ran: Ran, status: int, *words: str) -> None:
    assert ran.status == status, ran
    for word in words:
        assert word in ran.err, ran
    assert "Traceback" not in ran.err


def salvaged(path: Path, extent: Extent) -> bytes | None:
    """The range, if all of it can be read."""
    subject = open_subject(path)
    now = subject.salvage(extent)
    subject.close()
    return None if now.lost else bytes(now.data)


def good_bytes_are_there(path: Path) -> None:
    """Every byte that was good can be read, and is as it was."""
    subject = open_subject(path)
    now = subject.salvage(Extent(0, SIZE))
    subject.close()
    bad = [Extent(*run) for run in BAD]
    for at in range(0, SIZE, 64):
        if any(run.overlaps(Extent(at, 1)) for run in bad):
            continue
        assert not any(run.overlaps(Extent(at, 1)) for run in now.lost), at
        assert now.data[at] == DATA[at], at


def killed_at(path: Path, copy: Path, strategy: Strategy, step: int, journal: Path | None) -> bool:
    """Apply in a process that is killed before its call number `step`; whether it was."""

    def body() -> None:
        count = 0

        def counted(function: Callable[..., Any]) -> Callable[..., Any]:
            def call(*arguments: Any, **options: Any) -> Any:
                nonlocal count
                if count == step:
                    os.kill(os.getpid(), signal.SIGKILL)
                count += 1
                return function(*arguments, **options)

            return call

        subject, source = open_subject(path, writable=True), open_subject(copy)
        for name in CALLS:
            setattr(os, name, counted(getattr(os, name)))
        place = JournalPlace(subject, journal)
        repairrun.apply(subject, source, strategy, place, lambda _: None, lambda _: None)
        os._exit(0)

    return wait(in_child(body)) != 0


@pytest.mark.parametrize(("user", "open_mode"), [("root", "direct")], indirect=True)
@pytest.mark.parametrize("strategy", [Strategy.WRITE, Strategy.PUNCH])
def test_a_repair_that_is_killed_before_any_call_keeps_every_good_byte_and_is_finished(
    files: Files, strategy: Strategy
) -> None:
    step = 0
    while True:
        path, copy = make(files, f"file{step}")
        if not killed_at(path, copy, strategy, step, None):
            break
        option = ["--punch"] if strategy is Strategy.PUNCH else []
        if strategy is Strategy.WRITE:
            good_bytes_are_there(path)  # a write in place never takes them, not even for a moment
        ran = cli("repair", path, "--from", copy, *option, "--apply", "--json")
        assert ran.status == 0, (step, ran)
        assert path.read_bytes() == DATA, step
        assert cli("list", path).status == 0, step
        assert "user.daxmend-repair" not in os.listxattr(path)
        for left in files.mountpoint.iterdir():
            left.unlink()
        step += 1
    assert step > 10


@pytest.mark.parametrize(("user", "open_mode"), [("root", "direct")], indirect=True)
@pytest.mark.parametrize("how", ["renamed", "linked", "another journal"])
def test_a_stopped_repair_is_found_by_another_name_and_without_its_journal_option(
    files: Files, how: str
) -> None:
    """Punched, and killed before the write: the good bytes are in the journal alone."""
    elsewhere = files.base / "journals"
    elsewhere.mkdir()
    journal = elsewhere if how == "another journal" else None
    for step in range(8, 60):
        path, copy = make(files, f"file{step}")
        assert killed_at(path, copy, Strategy.PUNCH, step, journal)
        if salvaged(path, Extent(2 * PAGE, PAGE)) == bytes(PAGE):
            break
        for left in [*files.mountpoint.iterdir(), *elsewhere.iterdir()]:
            left.unlink()
    name = files.path("new name")
    if how == "renamed":
        path.rename(name)
    elif how == "linked":
        os.link(path, name)
    else:
        name = path
    ran = cli("repair", name, "--zero", "--apply")
    assert ran.status == 0, ran
    assert "was finished first" in ran.out
    assert name.read_bytes() == DATA


def test_a_lost_journal_of_a_stopped_repair_is_said(files: Files) -> None:
    path, _ = make(files)
    os.setxattr(path, "user.daxmend-repair", b"/nowhere/journal")
    ran = cli("repair", path, "--zero", "--apply")
    refused(ran, 0, "/nowhere/journal", "not there any more")


def test_two_repairs_at_once_are_one_and_a_refusal(files: Files) -> None:
    path, copy = make(files)
    with open(path, "rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        refused(cli("repair", path, "--from", copy, "--apply"), 8, "locked", "another repair")
        assert cli("repair", path, "--from", copy).status == 4  # a plan needs no lock
    pids = []
    for _ in range(4):

        def body() -> None:
            os._exit(cli("repair", path, "--from", copy, "--apply").status)

        pids.append(in_child(body))
    outcomes = {wait(pid) for pid in pids}
    assert 0 in outcomes
    assert path.read_bytes() == DATA


def forge(files: Files, path: Path, copy: Path) -> Path:
    """A journal of a stopped repair that would write other bytes, with the right checksums."""
    assert cli("repair", path, "--from", copy, "--apply").status == 0
    (journal,) = [each for each in files.mountpoint.iterdir() if "daxmend-repair" in each.name]
    raw = bytearray(journal.read_bytes())
    struct.pack_into("<I", raw, 12, 1)
    body, index = struct.unpack_from("<QQ", raw, 16)
    head = 48
    raw[head : head + body] = b"\x66" * body
    sums = xxhash.xxh3_64_intdigest(bytes(raw[head : head + body]))
    struct.pack_into("<Q", raw, 32, sums)
    journal.write_bytes(raw)
    assert len(raw) == head + body + index
    return journal


def test_a_forged_journal_changes_no_page_that_is_not_bad(files: Files) -> None:
    path, copy = make(files)
    journal = forge(files, path, copy)
    ran = cli("repair", path, "--zero", "--apply")
    assert ran.status == 8, ran
    assert "somebody else wrote to it" in ran.out
    assert path.read_bytes() == DATA
    journal.chmod(0o666)
    refused(cli("repair", path, "--zero", "--apply"), 8, "somebody else made or can change")
    assert path.read_bytes() == DATA


@pytest.mark.parametrize(("user", "open_mode"), [("root", "direct")], indirect=True)
def test_a_journal_of_somebody_else_is_not_used(files: Files) -> None:
    path, copy = make(files)
    journal = forge(files, path, copy)
    os.chown(journal, 12345, 12345)
    refused(cli("repair", path, "--zero", "--apply"), 8, "user 12345")
    journal.unlink()
    os.mkfifo(journal)
    refused(cli("repair", path, "--zero", "--apply"), 8, "no regular file")
    journal.unlink()
    journal.symlink_to("/etc/passwd")
    ran = cli("repair", path, "--zero", "--apply")
    refused(ran, 8)
    assert path.read_bytes() == DATA


def test_an_index_that_makes_no_sense_is_refused_without_a_traceback(files: Files) -> None:
    path, copy = make(files)
    journal = forge(files, path, copy)
    raw = journal.read_bytes()
    body, _ = struct.unpack_from("<QQ", raw, 16)
    good = json.loads(raw[48 + body :])
    strange: list[object] = [[], 7, {}, {**good, "pages": 3}, {**good, "more": 1}]
    strange += [{**good, "size": "x"}, {**good, "strategy": "burn"}]
    strange += [{**good, "pages": [[1, PAGE, []]]}, {**good, "pages": good["pages"][:1]}]
    strange += [{**good, "pages": good["pages"][::-1]}]
    strange += [
        {**good, "pages": [[at, length, [[0, 1 << 40]]] for at, length, _ in good["pages"]]}
    ]
    for index in strange:
        text = json.dumps(index).encode()
        head = bytearray(raw[:48])
        struct.pack_into("<Q", head, 24, len(text))
        struct.pack_into("<Q", head, 40, xxhash.xxh3_64_intdigest(text))
        journal.write_bytes(bytes(head) + raw[48 : 48 + body] + text)
        refused(cli("repair", path, "--zero", "--apply"), 8, "move it away")
    assert path.read_bytes() == DATA


def test_names_with_newlines_stay_on_one_line(files: Files) -> None:
    path, copy = make(files, "a\nb\x1b[31m")
    copy.write_bytes(bytes(SIZE))
    ran = cli("repair", path, "--from", copy, "--apply")
    assert ran.status == 0, ran
    assert "\x1b" not in ran.out + ran.err
    assert all(line.startswith(("daxmend: ", " ", "the file")) or "a\\nb" in line
               for line in (ran.out + ran.err).splitlines())  # fmt: skip
    assert cli("repair", path, "--undo").status == 0


def test_a_symbolic_link_repairs_what_it_leads_to_with_the_journal_there(files: Files) -> None:
    path, copy = make(files)
    link = files.base / "link"
    link.symlink_to(path)
    assert cli("repair", link, "--from", copy, "--apply").status == 0
    assert path.read_bytes() == DATA
    assert link.is_symlink()
    assert [each.name for each in files.mountpoint.iterdir() if "daxmend-repair" in each.name]


def test_a_copy_that_was_salvaged_from_the_bad_file_is_doubted(files: Files) -> None:
    path, copy = make(files)
    assert cli("salvage", path, "-o", copy, "--overwrite").status == 4
    ran = cli("repair", path, "--from", copy)
    refused(ran, 4, "nothing but zeros for 3 of 3 bad pages")


def test_an_older_copy_is_doubted_wherever_it_differs(files: Files) -> None:
    path, copy = make(files)
    with open(copy, "r+b") as file:
        file.seek(12 * PAGE)
        file.write(b"older")
    os.utime(copy, (1, 1))
    refused(cli("repair", path, "--from", copy), 4, "in 1 pages", str(12 * PAGE), "same version")


@pytest.mark.parametrize(("user", "open_mode"), [("root", "direct")], indirect=True)
def test_a_full_journal_directory_changes_nothing(files: Files) -> None:
    path, copy = make(files)
    small = files.base / "small"
    small.mkdir()
    assert program("mount", "-t", "tmpfs", "-o", "size=4k", "none", small).status == 0
    try:
        bad = files.badblocks
        ran = cli("repair", path, "--from", copy, "--apply", "--journal", small)
        refused(ran, 8, "No space left", "nothing was changed")
        assert files.badblocks == bad
        assert list(small.iterdir()) == []
        assert "user.daxmend-repair" not in os.listxattr(path)
    finally:
        program("umount", small)


def test_a_copy_that_was_cut_is_not_taken_for_what_the_map_says(files: Files) -> None:
    path, _ = make(files)
    out, mapfile = files.base / "out", files.base / "map"
    assert cli("salvage", path, "-o", out, "--mapfile", mapfile).status == 4
    os.truncate(out, 3 * PAGE)
    refused(cli("salvage", path, "-o", out, "--mapfile", mapfile), 16, "another copy's map")


def test_what_became_a_hole_is_a_hole_in_a_copy_that_goes_on(files: Files) -> None:
    path = files.path("sparse")
    os.truncate(os.open(path, os.O_CREAT | os.O_WRONLY), 4 * PAGE)
    out, mapfile = files.base / "out", files.base / "map"
    out.write_bytes(b"x" * 4 * PAGE)
    mapfile.write_text(f"0 ? 1\n0 {4 * PAGE} ?\n")
    assert cli("salvage", path, "-o", out, "--mapfile", mapfile).status == 0
    assert out.read_bytes() == bytes(4 * PAGE)
