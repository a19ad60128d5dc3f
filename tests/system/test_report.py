"""`daxmend report` on mounts: the same facts as `locate`, with commands that do what they say."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from filemount import Files
from rawmount import PAGE, SECTOR, Mounted, cli, in_child, ordinary_user, pattern, wait
from shadowmount import Shadowed

from filepool import STRANGE
from pagecheck import Page

pytestmark = pytest.mark.timeout(60, method="signal")
DIAGONAL = True


def document(target: object, status: int) -> dict[str, Any]:
    """The facts as JSON; `locate` exits alike."""
    ran = cli("report", target, "--json")
    assert (ran.status, ran.err) == (status, ""), ran
    found = json.loads(ran.out)
    assert isinstance(found, dict)
    return found


def page(target: object, status: int, out: Path) -> Page:
    ran = cli("report", target, "-o", out, "--overwrite")
    assert (ran.status, ran.err) == (status, ""), ran
    return Page(out.read_bytes())


def arguments(command: str, **variables: object) -> list[str]:
    """What a shell makes of a command line of the page, without the program's name."""
    ran = subprocess.run(
        ["bash", "-c", f'printf "%s\\0" {command}'],
        env={**os.environ, **{name: str(value) for name, value in variables.items()}},
        capture_output=True,
        check=True,
    )
    program, *words = ran.stdout.decode(errors="surrogateescape").split("\0")[:-1]
    assert program == "daxmend"
    return words


def damaged(files: Files) -> Path:
    """A file of a strange name, with bad pages; more is bad that is no file's."""
    path = Path(os.fsdecode(os.fsencode(files.mountpoint) + b"/" + STRANGE))
    path.write_bytes(b"".join(map(pattern, range(8))))
    files.damage(path, PAGE, SECTOR)
    files.damage(path, 5 * PAGE + SECTOR, 2 * SECTOR)
    return path


def test_a_mount_and_its_pool_have_one_report(files: Files) -> None:
    path = damaged(files)
    found = document(files.mountpoint, 4)
    assert document(files.pool, 4)["files"] == found["files"]
    (file,) = found["files"]
    assert file["name"] == str(path)
    located = json.loads(cli("locate", path, "--json").out)["ranges"]
    assert [(r["offset"], r["length"], r["device_offset"]) for r in file["bad"]] == [
        (r["offset"], r["length"], r["device_offset"]) for r in located
    ]
    extents = json.loads(cli("locate", path, "--extents", "--json").out)["extents"]
    assert (file["extents"], file["size"]) == (len(extents), 8 * PAGE)
    files.must_umount()
    again = document(files.pool, 4)
    assert again["files"][0]["name"] == f"{files.pool}:/{os.fsdecode(STRANGE)}"
    for key in ("bad", "extents_shown", "bytes", "size"):
        assert again["files"][0][key] == file[key]
    assert [lane["bars"] for lane in again["map"]] == [lane["bars"] for lane in found["map"]]


def test_the_commands_of_the_page_save_and_repair_each_file_in_place(files: Files) -> None:
    path = damaged(files)
    whole = b"".join(map(pattern, range(8)))
    before = files.placed(path)
    (files.base / "copy").write_bytes(whole)
    safe = files.base / "safe"
    safe.mkdir()
    shown = page(files.mountpoint, 4, files.base / "a.html")
    commands = [each for each in shown.commands if STRANGE[:8].decode() in each]
    salvage, repair, zero = commands
    assert "--zero" in zero
    words = arguments(salvage, SAFE=safe)
    assert cli(*words).status == 4
    assert len(os.listdir(safe)) == 1
    words = arguments(repair, SAFE=safe, COPY=files.base / "copy")
    assert os.fsencode(words[1]) == os.fsencode(path)
    assert cli(*words).status == 0
    assert path.read_bytes() == whole
    assert files.placed(path) == before
    again = page(files.mountpoint, 0, files.base / "a.html")
    assert "✓ Clean" in again.text
    assert "recovery done" in again.text


def test_the_steps_of_the_summary_repair_all_files_at_once(files: Files) -> None:
    whole = b"".join(map(pattern, range(8)))
    safe, copies = files.base / "safe", files.base / "copies"
    for directory in (safe, copies / "dir", files.path("dir")):
        directory.mkdir(parents=True)
    for name in ("dir/one", "dir/two"):
        files.damage(files.make(name), PAGE)
        (copies / name).write_bytes(whole)
    steps = [step["command"] for step in document(files.mountpoint, 4)["steps"]]
    lines = [line for line in steps if line is not None]
    assert [arguments(line, SAFE=safe, COPY=copies)[0] for line in lines] == [
        "salvage", "repair", "locate",
    ]  # fmt: skip
    statuses = [cli(*arguments(line, SAFE=safe, COPY=copies)).status for line in lines]
    assert statuses == [4, 0, 0]
    assert files.path("dir/two").read_bytes() == whole


def test_events_are_those_that_the_server_still_has(files: Files) -> None:
    path = damaged(files)
    other = files.make("other")
    files.damage(other, 0)
    events = document(files.mountpoint, 4)["events"]
    assert [each["event"] for each in events].count("file_damaged") == 3
    history = [json.loads(line) for line in files.read_control("history").splitlines()]
    assert events == history[-len(events) :]
    place = files.place(other, 0)
    own = document(other, 4)["events"]
    assert {each["offset"] for each in own} == {place}
    assert {each["event"] for each in own} == {"fault_injected", "file_damaged"}
    assert document(path, 4)["kind"] == "file"


def test_a_directory_is_what_is_recorded_of_its_files(files: Files) -> None:
    for name in ("one", "two", "two/deep"):
        files.path(name).mkdir()
    for name in ("one/a", "two/deep/b", "clean"):
        files.make(name)
    files.damage(files.path("two/deep/b"), 0)
    assert document(files.path("one"), 0)["verdict"] == "clean"
    found = document(files.path("two"), 4)
    assert (found["kind"], found["size"]) == ("directory", None)
    assert [each["name"] for each in found["files"]] == [str(files.path("two/deep/b"))]
    left = found["left_out"]["command"]
    assert cli(*arguments(left)).status == 4


def test_a_raw_mount_is_repaired_through_its_device(raw: Mounted) -> None:
    raw.write_control("badblocks", "8 1\n")
    found = document(raw.mountpoint, 4)
    assert (found["kind"], found["files"]) == ("raw device", [])
    (group,) = found["others"]
    zero = group["commands"][-1]["command"]
    (raw.base / "safe").mkdir()
    assert cli(*arguments(zero, SAFE=raw.base / "safe")).status == 0
    assert document(raw.mountpoint, 0)["verdict"] == "clean"


def test_a_shadow_names_its_source_as_the_copy(shadow: Shadowed) -> None:
    path = shadow.make("file")
    shadow.make("other")
    shadow.inject("file", PAGE, PAGE)
    shadow.inject("other", 0, 64, "--latent")
    found = document(shadow.mountpoint, 4)
    assert (found["kind"], found["size"], found["map"]) == ("shadow mount", None, [])
    assert found["latent"] == {"ranges": 1, "bytes": 64}
    file = found["files"][0]
    assert (file["name"], file["extents"]) == (str(path), None)
    repair = file["commands"][1]["command"]
    (shadow.base / "safe").mkdir()
    words = arguments(repair, SAFE=shadow.base / "safe")
    assert words[words.index("--from") + 1] == str(shadow.below("file"))
    assert document(path, 4)["files"][0]["commands"][1]["command"] == repair
    assert cli(*words).status == 0
    assert document(path, 0)["events"][-1]["event"] == "recovery_done"
    assert "no device below" in page(shadow.mountpoint, 0, shadow.base / "a.html").text


def test_a_mount_that_cannot_be_asked_is_unknown_and_has_a_page_r44(files: Files) -> None:
    files.kill_server()
    found = document(files.mountpoint, 2)
    assert found["verdict"] == "unknown"
    assert "daxmend umount" in found["unknown"][0]
    text = page(files.mountpoint, 2, files.base / "a.html").text
    assert "? Unknown" in text
    assert "none" not in text


@pytest.mark.parametrize(("user", "open_mode"), [("root", "direct")], indirect=True)
def test_who_may_not_ask_gets_unknown_and_never_clean_r44(files: Files) -> None:
    path = files.make("file")
    path.chmod(0o644)

    def ask() -> None:
        ordinary_user().become()
        for name in (path, files.mountpoint, files.pool):
            found = document(name, 2)
            assert found["verdict"] == "unknown"
            assert "Permission denied" in found["headline"]

    files.pool.chmod(0o600)
    assert wait(in_child(ask)) == 0
