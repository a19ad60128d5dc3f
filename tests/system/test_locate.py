"""Which bytes of which files are bad: one answer, whether the pool is mounted or not (R42, R47)."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from filemount import Files
from rawmount import PAGE, SECTOR, Mounted, Ran, cli, in_child, ordinary_user, pattern, wait

pytestmark = pytest.mark.timeout(60, method="signal")
DIAGONAL = True

STRANGE = b"new\nline \xff\\\xc3\xa4"


def document(*arguments: object, status: int = 4) -> dict[str, Any]:
    """The JSON of a command that ended with `status` and complained of nothing."""
    ran = cli(*arguments, "--json")
    assert (ran.status, ran.err) == (status, ""), ran
    found = json.loads(ran.out)
    assert isinstance(found, dict)
    return found


def ranges(*arguments: object, status: int = 4) -> list[dict[str, Any]]:
    found = document(*arguments, status=status)["ranges"]
    assert isinstance(found, list)
    return found


def refused(ran: Ran, status: int, *words: str) -> None:
    assert ran.status == status, ran
    assert ran.out == ""
    for word in words:
        assert word in ran.complaint, ran


def inner(files: Files, path: Path) -> str:
    """`POOL:/PATH` of a file on the mount."""
    return f"{files.pool}:/{path.relative_to(files.mountpoint)}"


def mounted_and_not(files: Files, *arguments: object, status: int = 4) -> Any:
    """The one document that a command prints with the pool mounted, and without; `target` apart."""
    found = document(*arguments, status=status)
    files.must_umount()
    again = document(*arguments, status=status)
    files.must_mount()
    assert found == again
    return found


# -- targets -------------------------------------------------------------------------------


def test_a_device_has_many_names_and_one_answer(files: Files) -> None:
    path = files.make("file")
    files.damage(path, 2 * PAGE)
    answers = []
    for name in (files.pool, files.mountpoint, files.control, files.control / "badblocks"):
        found = document("locate", name)
        assert found.pop("target") == str(name)
        answers.append(found)
    assert answers == [answers[0]] * 4
    assert answers[0]["ranges"][0]["path"] == "/file"
    files.must_umount()
    found = document("locate", files.pool)
    found.pop("target")
    assert found == answers[0]


def test_a_file_has_many_names_and_one_answer(files: Files) -> None:
    path = files.make("file")
    files.path("link").symlink_to("file")
    (files.base / "outside").symlink_to(path)
    files.damage(path, 2 * PAGE, 700)
    place = files.place(path, 2 * PAGE)
    expected = [{"offset": 2 * PAGE, "length": 1024, "state": "recorded", "device_offset": place}]
    names = [path, files.path("link"), files.base / "outside", inner(files, path)]
    names += [f"{files.pool}:/../x/..//file", f"{files.pool}:/file/"]
    for name in names:
        found = document("locate", name)
        assert found["target"] == str(name)
        assert found["ranges"] == expected
        assert (found["badblock_count"], found["badblocks"]) == (2, [{"offset": 16, "length": 2}])
        assert [r for r in ranges("list", name) if r["state"] != "poison"] == expected
    files.must_umount()
    for name in names[3:]:
        assert ranges("locate", name) == expected


def test_what_is_no_file_is_refused(files: Files) -> None:
    files.make("file")
    files.path("dir").mkdir()
    files.path("link").symlink_to("file")
    os.mkfifo(files.path("fifo"))
    refused(cli("locate", files.path("dir")), 16, "directory", str(files.mountpoint))
    refused(cli("locate", files.path("fifo")), 16, "no regular file")
    refused(cli("locate", f"{files.pool}:file"), 8, "No such file", f"{files.pool}:/file")
    refused(cli("locate", f"{files.pool}:"), 8, "No such file", f"{files.pool}:/PATH")
    refused(cli("locate", files.path("nothing")), 8, "No such file")
    for _ in ("mounted", "unmounted"):
        for name, status, word in (
            ("", 16, "is a directory; name a file"),
            ("dir", 16, "is a directory; name a file"),
            ("link", 16, "is a symbolic link"),
            ("fifo", 16, "no regular file"),
            ("nothing", 8, "No such file"),
            ("file/below", 8, "Not a directory"),
        ):
            refused(cli("locate", f"{files.pool}:/{name}"), status, word)
        refused(cli("locate", files.pool, "--extents"), 16, "no file")
        refused(cli("locate", f"{files.base}/nothing:/file"), 8, "No such file")
        if _ == "mounted":
            files.must_umount()


def test_a_name_with_a_colon_is_a_pool_like_any_other(files: Files) -> None:
    files.make("a")
    files.path("x:").mkdir()
    files.make("x:/b")
    files.must_umount()
    odd = files.base / "odd:"
    odd.mkdir()
    pool = odd / "pool"
    files.pool.rename(pool)
    for name, status in ((pool, 0), (f"{pool}:/a", 0), (f"{pool}:/x:/b", 0), (f"{pool}:/x:/c", 8)):
        assert cli("locate", name).status == status, name
    pool.rename(files.pool)


@pytest.mark.parametrize(("user", "open_mode"), [("root", "direct")], indirect=True)
def test_only_who_may_ask_the_mount_gets_an_answer_r44(files: Files) -> None:
    path = files.make("file")
    path.chmod(0o644)

    def ask() -> None:
        ordinary_user().become()
        for command, *options in (
            ["list"],
            ["locate"],
            ["status"],
            ["inject", "--offset", "0", "--length", "1"],
        ):
            ran = cli(command, path, *options)
            assert ran.status == (8 if command == "inject" else 2), ran
            assert "Permission denied" in ran.complaint

    assert wait(in_child(ask)) == 0
    assert files.badblocks == ""


# -- list and locate -----------------------------------------------------------------------


def with_stubborn_medium(files: Files) -> None:
    """Again, on a medium that clears nothing: what is bad stays bad."""
    files.must_umount()
    files.pool.unlink()
    files.create("--durability", "process", "--medium", "refuses")
    files.must_mount()


def test_every_bad_range_has_an_owner_r42(files: Files) -> None:
    with_stubborn_medium(files)
    path = files.make("file", 4)
    place = files.place(path, 0)
    free, journal = files.size // 2, 40 * PAGE
    files.write_control("badblocks", f"{free // SECTOR} 8\n{journal // SECTOR} 1\n")
    files.damage(path, PAGE, 2 * PAGE)
    found = mounted_and_not(files, "list", files.pool)
    said = [r for r in found["ranges"] if r["state"] != "poison"]
    assert said == [
        {
            "offset": journal,
            "length": SECTOR,
            "state": "recorded",
            "owner": "metadata",
            "path": None,
            "file_offset": None,
        },
        {
            "offset": place + PAGE,
            "length": 2 * PAGE,
            "state": "recorded",
            "owner": "file",
            "path": "/file",
            "file_offset": PAGE,
        },
        {
            "offset": free,
            "length": PAGE,
            "state": "quarantined",
            "owner": "free",
            "path": None,
            "file_offset": None,
        },
    ]
    assert ranges("locate", files.pool) == said
    table = cli("locate", files.pool).out.splitlines()
    assert table[0] == f"{files.pool}: {SECTOR + 3 * PAGE} bytes are bad"
    assert table[2].split() == [str(journal), "512", "recorded", "-", "(metadata)"]
    assert table[3].split() == [str(place + PAGE), str(2 * PAGE), "recorded", str(PAGE), "/file"]
    assert table[4].split() == [str(free), str(PAGE), "quarantined", "-", "(free", "space)"]
    assert "OWNER" in cli("list", files.pool).out.splitlines()[1]


def test_ranges_are_merged_where_they_go_on_in_file_and_device(files: Files) -> None:
    one, two = files.make("one", 4), files.make("two", 4)
    for path in (one, two):
        for page in (0, 1, 3):
            files.damage(path, page * PAGE)
    found = mounted_and_not(files, "locate", files.pool)["ranges"]
    assert [(r["path"], r["file_offset"], r["length"]) for r in found] == [
        (f"/{path.name}", at, length)
        for path in sorted((one, two), key=lambda path: files.place(path, 0))
        for at, length in ((0, 2 * PAGE), (3 * PAGE, PAGE))
    ]
    assert [(r["offset"], r["length"]) for r in ranges("locate", one)] == [
        (0, 2 * PAGE),
        (3 * PAGE, PAGE),
    ]


def test_bad_bytes_behind_the_end_are_not_the_files(files: Files) -> None:
    path = files.path("file")
    path.write_bytes(b"x" * 1000)
    files.damage(path, 0)
    for _ in range(2):
        name = inner(files, path)
        assert [(r["offset"], r["length"]) for r in ranges("locate", name)] == [(0, 1000)]
        assert document("list", name)["badblocks"] == [{"offset": 0, "length": 2}]
        assert document("list", files.pool)["badblock_count"] == 8
        if files.mountpoint.joinpath("file").exists():
            files.must_umount()


def test_a_file_of_many_pieces_is_told_in_its_own_order(files: Files) -> None:
    first, path = files.make("first", 1), files.make("file", 1)
    for page in (1, 2, 3):  # in turns, so that no file lies in one piece
        for each in (first, path):
            with files.opened_file(each) as fd:
                os.pwrite(fd, pattern(page), page * PAGE)
                os.fsync(fd)
    files.damage(path, 0, 4 * PAGE)
    extents = document("locate", path, "--extents")["extents"]
    found = ranges("locate", inner(files, path))
    assert sum(r["length"] for r in found) == 4 * PAGE
    for each in found:
        assert each["device_offset"] == files.place(path, each["offset"])
    assert [e["offset"] for e in extents] == sorted(e["offset"] for e in extents)


def test_names_that_are_no_text_stay_on_one_line(files: Files) -> None:
    path = Path(os.fsdecode(os.fsencode(files.mountpoint) + b"/" + STRANGE))
    path.write_bytes(pattern(0))
    files.damage(path, 0, SECTOR)
    found = mounted_and_not(files, "list", files.pool)["ranges"]
    assert {r["path"] for r in found} == {os.fsdecode(b"/" + STRANGE)}
    for _ in range(2):
        for command in ("list", "locate"):
            lines = cli(command, files.pool).out.splitlines()
            assert lines[-1].endswith("   /new\\nline \\xff\\\\ä") or lines[-1].endswith(
                " /new\\nline \\xff\\\\ä"
            )
            name = f"{files.pool}:/{os.fsdecode(STRANGE)}"
            lines = cli(command, name).out.splitlines()
            assert lines[0].startswith(f"{files.pool}:/new\\nline \\xff\\\\ä: 512 bytes ")
            assert len(lines) == (4 if command == "list" else 3)
            assert document(command, name)["target"] == name
        if files.mountpoint.joinpath(".daxmend").exists():
            files.must_umount()


def test_an_open_file_without_a_name_owns_its_bytes_all_the_same(files: Files) -> None:
    path = files.make("file", 2)
    with files.opened_file(path) as fd:
        files.damage(path, PAGE)
        path.unlink()
        (found,) = ranges("locate", files.pool)
        assert (found["owner"], found["path"], found["file_offset"]) == ("file", None, PAGE)
        assert "(a file without a name)" in cli("locate", files.pool).out
        assert os.pwrite(fd, pattern(1), PAGE) == PAGE
    assert ranges("locate", files.pool, status=0) == []


def test_a_raw_device_has_no_owners(raw: Mounted) -> None:
    raw.make_bad(3)
    expected = [{"offset": 3 * PAGE, "length": PAGE, "state": "recorded"}]
    assert ranges("locate", raw.pool) == ranges("locate", raw.device) == expected
    refused(cli("check", raw.mountpoint), 16, "raw device")
    refused(cli("locate", f"{raw.pool}:/file"), 16, "raw device")
    raw.must_umount()
    assert ranges("locate", raw.pool) == expected
    refused(cli("check", raw.pool), 16, "raw device")
    refused(cli("check", raw.pool, "--repair"), 16, "raw device")
    refused(cli("locate", f"{raw.pool}:/file"), 16, "raw device")


# -- extents -------------------------------------------------------------------------------


def test_all_extents_of_a_file_are_told_however_many(files: Files) -> None:
    path = files.path("file")
    with files.opened_file(path, os.O_RDWR | os.O_CREAT) as fd:
        for page in range(0, 2 * 1200, 2):
            os.pwrite(fd, b"x", page * PAGE)
        os.posix_fallocate(fd, 2400 * PAGE, 2 * PAGE)
        os.fsync(fd)
    found = mounted_and_not(files, "locate", inner(files, path), "--extents", status=0)
    extents = found["extents"]
    assert len(extents) == 1201  # the ioctl gives 511 at a time
    assert [e["offset"] for e in extents] == [page * PAGE for page in range(0, 2402, 2)]
    assert {e["length"] for e in extents[:-1]} == {PAGE}
    assert {e["state"] for e in extents[:-1]} == {"written"}
    assert (extents[-1]["length"], extents[-1]["state"]) == (2 * PAGE, "unwritten")
    lines = cli("locate", path, "--extents").out.splitlines()
    assert lines[0].split() == ["FILE_OFFSET", "DEVICE_OFFSET", "LENGTH", "STATE"]
    assert len(lines) == 1202
    first = extents[0]
    assert lines[1].split() == ["0", str(first["device_offset"]), str(PAGE), "written"]


def test_an_empty_file_has_no_extents(files: Files) -> None:
    path = files.path("empty")
    path.touch()
    found = mounted_and_not(files, "locate", inner(files, path), "--extents", status=0)
    assert (found["extents"], found["ranges"]) == ([], [])


# -- inject, scrub, status -----------------------------------------------------------------


@pytest.mark.parametrize("is_mounted", [True, False])
def test_offsets_of_an_injection_into_a_file_are_the_files_r47(
    files: Files, is_mounted: bool
) -> None:
    path = files.make("file")
    name = inner(files, path)
    place = files.place(path, 0)
    if not is_mounted:
        files.must_umount()
    assert cli("inject", name, "--offset", 5 * PAGE + 600, "--length", 10).status == 0
    (found,) = ranges("locate", name)
    assert (found["offset"], found["length"]) == (5 * PAGE + SECTOR, SECTOR)
    assert found["device_offset"] == place + 5 * PAGE + SECTOR
    assert cli("inject", name, "--latent", "--offset", 130, "--length", 1).status == 0
    latent = [r for r in ranges("list", name) if r["offset"] == 128]
    assert [(r["length"], r["state"]) for r in latent] == [(64, "poison")]
    assert len(ranges("locate", name)) == 1  # it is not recorded
    ran = cli("scrub", name, "--offset", 0, "--length", PAGE)
    assert (ran.status, ran.out) == (
        4,
        f"{name}: 512 bytes found bad, 1024 bytes recorded in all\n",
    )
    assert cli("inject", name, "--uninject", "--offset", 0, "--length", PAGE).status == 0
    kinds = [r["state"] for r in ranges("list", name) if r["offset"] < PAGE]
    assert kinds == ["recorded"]


@pytest.mark.parametrize("is_mounted", [True, False])
def test_an_injection_that_meets_a_hole_or_the_end_changes_nothing(
    files: Files, is_mounted: bool
) -> None:
    path = files.path("file")
    with files.opened_file(path, os.O_RDWR | os.O_CREAT) as fd:
        os.pwrite(fd, pattern(0) * 2, 0)
        os.pwrite(fd, pattern(0) + b"end", 4 * PAGE)
        os.posix_fallocate(fd, 6 * PAGE, PAGE)  # unwritten: it lies on the device all the same
    name = inner(files, path)
    plan = files.base / "plan"
    plan.write_text(f"- 0 512 until-written\n- {2 * PAGE} 512 latent\n")
    if not is_mounted:
        files.must_umount()
    for words in (
        ["--offset", PAGE, "--length", PAGE + 1],
        ["--offset", 3 * PAGE, "--length", 1, "--latent"],
        ["--offset", 2 * PAGE, "--length", 4 * PAGE, "--once"],
        ["--offset", 0, "--length", 3 * PAGE, "--uninject"],
        ["--plan", plan],
    ):
        refused(cli("inject", name, *words), 16, "hole", "nothing was changed")
    refused(cli("inject", name, "--offset", 7 * PAGE, "--length", 1), 16, "beyond its end")
    assert ranges("list", name, status=0) == []
    assert ranges("list", files.pool, status=0) == []
    assert cli("inject", name, "--offset", 6 * PAGE, "--length", PAGE).status == 0
    assert [r["offset"] for r in ranges("locate", name)] == [6 * PAGE]


def test_the_end_of_a_file_is_widened_to_its_sector(files: Files) -> None:
    path = files.path("file")
    path.write_bytes(b"x" * 700)
    assert cli("inject", path, "--offset", 690, "--length", 10).status == 0
    (found,) = ranges("locate", path)
    assert (found["offset"], found["length"]) == (SECTOR, 700 - SECTOR)
    assert document("locate", files.pool)["ranges"][0]["length"] == SECTOR


def test_a_program_meets_what_was_injected_into_its_file_and_heals_it(files: Files) -> None:
    path = files.make("file")
    assert cli("inject", path, "--offset", 2 * PAGE, "--length", PAGE).status == 0
    with pytest.raises(OSError, match="Input/output error"):
        files.read_at(path, PAGE, 2 * PAGE)
    assert files.write_at(path, pattern(2), 2 * PAGE) == PAGE
    assert cli("locate", path) == Ran(0, f"{path}: nothing is recorded as bad\n", "")
    assert cli("list", path) == Ran(0, f"{path}: no bad blocks recorded\n", "")


def test_the_status_of_a_file_is_about_the_file(files: Files) -> None:
    path, other = files.make("file"), files.make("other")
    files.damage(path, PAGE)
    files.damage(other, 0, 2 * PAGE)
    name = inner(files, path)
    found = document("status", name)
    expected = {"file": name, "size": 8 * PAGE, "recorded": PAGE, "lost": 0, "poison": PAGE}
    assert expected.items() <= found.items()
    assert (found["device"], found["mounted"]) == (str(files.pool), str(files.mountpoint))
    files.must_umount()
    found = document("status", name)
    assert expected.items() <= found.items()
    assert (found["device"], found["mounted"]) == (str(files.pool), None)


def test_a_scrub_of_a_file_looks_at_that_file_alone(files: Files) -> None:
    path, other = files.make("file"), files.make("other")
    files.poison(path, PAGE)
    files.poison(other, PAGE)
    ran = cli("scrub", path)
    assert (ran.status, ran.out) == (4, f"{path}: 512 bytes found bad, 512 bytes recorded in all\n")
    assert [r["path"] for r in ranges("locate", files.pool)] == ["/file"]


# -- check ---------------------------------------------------------------------------------


def test_check_of_a_mounted_pool_asks_its_mount(files: Files) -> None:
    path = files.make("file")
    whole = f"{files.pool}: the file system is whole\n"
    assert cli("check", files.pool) == Ran(0, whole, "")
    found = document("check", files.mountpoint, status=0)
    assert (found["findings"], found["badblock_count"]) == ([], 0)
    files.damage(path, 0, SECTOR)
    ran = cli("check", files.pool)
    assert (ran.status, ran.err) == (4, "")
    assert ran.out.startswith(whole + f"{files.pool}: 512 bytes are recorded as bad; see: ")
    for words in (["--repair"], ["--repair", "--apply"]):
        for name in (files.pool, files.mountpoint):
            refused(cli("check", name, *words), 8, "mounted", f"umount {files.mountpoint}")
    refused(cli("check", path), 16, "is a file")
    files.must_umount()
    refused(cli("check", inner(files, path), "--repair"), 16, "is a file")
    assert cli("check", files.pool).status == 4


def test_check_of_a_mount_finds_what_is_bad_on_the_medium_r43(files: Files) -> None:
    with_stubborn_medium(files)
    files.write_control("badblocks", "0 8\n")  # the first superblock
    found = document("check", files.pool, status=8)
    (finding,) = found["findings"]
    assert (finding["invariant"], finding["is_healed"], finding["path"]) == ("F1", True, None)
    files.must_umount()
    assert document("check", files.pool, status=8)["findings"] == [finding]
