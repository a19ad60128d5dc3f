"""The page of a pool that nobody has mounted: what it says, and what it leaves out."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from daxmend.cli import run
from daxmend.errors import CorruptionError, UsageError
from daxmend.events import IntentReplayed
from daxmend.extent import Extent
from daxmend.report.page import describe, render
from daxmend.report.pagefacts import Facts, Sum, Verdict
from daxmend.report.pagegather import gather
from daxmend.stack.device import open_device
from daxmend.units import MIB, PAGE, SECTOR
from filepool import STRANGE, FilePool
from pagecheck import Page

_DAXMEND = f"{sys.executable} -c 'import daxmend.cli; daxmend.cli.main()'"


@pytest.fixture
def fs(shm: Path) -> FilePool:
    return FilePool(shm / "pool")


def page(target: object) -> Page:
    return Page(render(gather(str(target))))


def document(target: object) -> dict[str, Any]:
    """As JSON has it."""
    found = json.loads(json.dumps(describe(gather(str(target)))))
    assert isinstance(found, dict)
    return found


def test_a_clean_pool_is_called_clean(fs: FilePool) -> None:
    facts = gather(str(fs.path))
    assert (facts.verdict, facts.verdict.exit_status) == (Verdict.CLEAN, 0)
    text = page(fs.path).text
    assert "✓ Clean. Nothing is recorded as bad." in text
    assert "Damaged files" not in text
    assert [lane.ranges for lane in facts.lanes] == [0] * 7


def test_bad_files_come_with_their_ranges_extents_and_commands(fs: FilePool) -> None:
    fs.make(b"a", b"b")
    fs.inject(b"a", PAGE, SECTOR)
    fs.inject(b"a", 3 * PAGE + SECTOR, 2 * SECTOR)
    found = document(fs.path)
    assert found["verdict"] == "bad"
    assert found["headline"] == "1536 bytes in 2 ranges cannot be read: 1 file (1.5 KiB)."
    (file,) = found["files"]
    assert (file["name"], file["size"]) == (f"{fs.path}:/a", 4 * PAGE)
    assert [(each["offset"], each["length"], each["state"]) for each in file["bad"]] == [
        (PAGE, SECTOR, "recorded"),
        (3 * PAGE + SECTOR, 2 * SECTOR, "recorded"),
    ]
    assert (file["extents"], file["extents_hit"]) == (1, 1)
    place = file["extents_shown"][0]["device_offset"]
    assert file["bad"][0]["device_offset"] == place + PAGE
    shown = page(fs.path)
    assert "✗ Bad." in shown.text
    repair = f'daxmend repair {fs.path}:/a --zero --apply --journal "${{SAFE:?}}"'
    assert repair in shown.commands
    assert str(place + PAGE) in shown.text


def test_each_command_of_a_file_does_what_the_page_says(fs: FilePool, shm: Path) -> None:
    """Pasted into a shell, whatever the file is called."""
    fs.make(STRANGE, pages=2)
    fs.inject(STRANGE, PAGE, SECTOR)
    (shm / "copy").write_bytes(b"x" * (2 * PAGE))
    safe = shm / "a safe place"
    safe.mkdir()
    shown = page(fs.path)
    salvage, repair, zero = (
        next(each for each in shown.commands if each.startswith(f"daxmend {word}") and mark in each)
        for word, mark in (("salvage", ""), ("repair", "--from"), ("repair", "--zero"))
    )
    assert "--zero" in zero
    environment = {**os.environ, "SAFE": str(safe), "COPY": str(shm / "copy")}
    for command, status in ((salvage, 4), (repair, 0)):
        line = ["bash", "-c", command.replace("daxmend", _DAXMEND, 1)]
        ran = subprocess.run(line, check=False, env=environment, capture_output=True)
        assert ran.returncode == status, ran
    saved = os.listdir(os.fsencode(safe))
    assert STRANGE in saved
    assert gather(str(fs.path)).verdict is Verdict.CLEAN
    unset = {name: value for name, value in environment.items() if name != "SAFE"}
    ran = subprocess.run(["bash", "-c", zero], check=False, env=unset, capture_output=True)
    assert ran.returncode != 0
    assert b"SAFE" in ran.stderr


def test_no_name_breaks_the_page(fs: FilePool) -> None:
    names = [STRANGE, b'"><img src=x onerror=alert(1)>', b"{{ 7 * 7 }}{% raw %}", b"&lt;b&gt;"]
    fs.make(*names)
    for name in names:
        fs.inject(name, 0, SECTOR)
    shown = page(fs.path)
    assert '"><img src=x onerror=alert(1)>' in shown.text
    assert "{{ 7 * 7 }}{% raw %}" in shown.text
    assert "&lt;b&gt;" in shown.text
    assert "<script \\" not in shown.source


def test_metadata_free_space_and_latent_poison_are_told_from_files_r42(fs: FilePool) -> None:
    fs.make(b"a")
    fs.inject(None, 2 * PAGE, SECTOR)
    fs.inject(None, 6 * MIB, SECTOR)
    fs.inject(b"a", 0, 64, "--latent")
    found = document(fs.path)
    assert [group["title"] for group in found["others"]] == [
        "Metadata of the file system",
        "Quarantined free space",
    ]
    assert (found["recorded"]["ranges"], found["latent"]) == (2, {"ranges": 1, "bytes": 64})
    assert "But 64 bytes are poisoned that nobody has met yet" in found["headline"]
    assert found["files"][0]["bad"][0]["state"] == "latent"
    lanes = {lane["name"]: lane["ranges"] for lane in found["map"]}
    assert lanes == {
        "recorded": 1, "lost": 0, "quarantined": 1, "latent": 1,
        "file": 1, "metadata": 1, "free": 1, "places": 1,
    }  # fmt: skip
    assert page(fs.path).commands[-2:] == [
        f'daxmend mount {fs.path} "${{DIR:?}}"',
        f"daxmend check {fs.path}",
    ]


def test_latent_poison_alone_is_no_bad_block_and_is_not_passed_over_r1(fs: FilePool) -> None:
    fs.make(b"a")
    fs.inject(b"a", 0, 64, "--latent")
    facts = gather(str(fs.path))
    assert facts.verdict is Verdict.CLEAN
    assert "But 64 bytes are poisoned" in facts.headline
    assert facts.steps[0].line == f"daxmend scrub {fs.path}"


def test_a_file_is_a_target_of_its_own(fs: FilePool) -> None:
    fs.make(b"a", b"b")
    fs.inject(b"a", PAGE, SECTOR)
    fs.inject(b"b", PAGE, SECTOR)
    found = document(f"{fs.path}:/a")
    assert (found["kind"], found["size"]) == ("file", 4 * PAGE)
    assert [file["name"] for file in found["files"]] == [f"{fs.path}:/a"]
    assert found["recorded"] == {"ranges": 1, "bytes": SECTOR}
    assert [lane["name"] for lane in found["map"]] == ["recorded", "lost", "latent", "places"]
    assert found["map"][0]["bars"] == [[64, 8]]


def test_what_nobody_can_name_the_owner_of_is_no_matter_for_a_repair(
    fs: FilePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: object) -> object:
        raise CorruptionError("the journal", 0, "checksum", 1, 2)

    fs.inject(None, 2 * PAGE, SECTOR)
    monkeypatch.setattr("daxmend.rescue.pool.load", broken)
    found = document(fs.path)
    (group,) = found["others"]
    assert group["title"] == "Whose they are is not known"
    assert [each["command"] for each in group["commands"]] == [f"daxmend check {fs.path}"]
    assert "who owns a range cannot be told" in found["notices"][0]
    assert found["headline"].endswith("cannot be read: whose they are is not known (512 B).")


def test_a_raw_pool_is_repaired_through_a_mount(shm: Path) -> None:
    assert run(["create", str(shm / "raw"), "--raw", "--size", "1M"]) == 0
    assert run(["inject", str(shm / "raw"), "--offset", "0", "--length", "512"]) == 0
    found = document(shm / "raw")
    assert (found["kind"], found["files"]) == ("raw device", [])
    (group,) = found["others"]
    assert group["commands"][0]["command"] == f'daxmend mount --raw {shm / "raw"} "${{DIR:?}}"'


def test_a_mapped_device_shows_its_members_and_which_of_them_keep_no_record(shm: Path) -> None:
    for name in ("a", "b"):
        words = ["create", str(shm / name), "--raw", "--size", "4M", "--durability", "process"]
        assert run([*words, "--medium", "refuses"] if name == "b" else words) == 0
    (shm / "table").write_text(
        "0 8192 linear a 0\n8192 8192 linear b 0\n16384 8192 linear ram:4M 0"
    )
    words = ["create", str(shm / "pool"), "--raw", "--table", str(shm / "table")]
    assert run(words) == 0
    assert run(["inject", str(shm / "pool"), "--offset", "5M", "--length", "512"]) == 0
    found = document(shm / "pool")
    members = {each["name"]: each["recorded"] for each in found["status"]["members"]}
    assert members == {str(shm / "a"): 0, str(shm / "b"): 512, "ram:4M": None}
    assert any("ram:4M" in each and "keeps no record" in each for each in found["not_asked"])
    text = page(shm / "pool").text
    assert f"{shm / 'b'} 4 MiB (4194304 bytes) 512 bytes" in text
    assert "linear" in "".join(page(shm / "pool").commands)


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page with room for little."""
    for name in ("FILES", "RANGES", "EVENTS"):
        monkeypatch.setattr(f"daxmend.report.pagegather.{name}", 2)


def test_what_is_left_out_is_counted_and_the_worst_is_named(fs: FilePool, few: None) -> None:
    fs.make(*(b"f%d" % n for n in range(5)), pages=8)
    for n in range(5):
        for page_number in range(n + 1):
            fs.inject(b"f%d" % n, page_number * PAGE, SECTOR)
    found = document(fs.path)
    assert [file["name"][-2:] for file in found["files"]] == ["f4", "f3"]
    assert [(file["ranges"], len(file["bad"])) for file in found["files"]] == [(5, 2), (4, 2)]
    left = found["left_out"]
    assert (left["files"], left["ranges_of_files"]) == (3, 5)
    assert left["command"] == f"daxmend locate {fs.path}"
    assert found["headline"].endswith("5 files (7.5 KiB).")
    shown = page(fs.path)
    assert "The 2 with the most bad bytes; 3 more files left out." in shown.text
    assert "3 more ranges left out." in shown.text
    assert left["command"] in shown.commands
    assert "4 more extents left out" not in shown.text


def test_what_attaching_told_stands_among_the_events(
    fs: FilePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def opened(path: Path, *, writable: bool, events: Any) -> object:
        device = open_device(path, writable=writable, events=events)
        events.publish(IntentReplayed(Extent(8192, PAGE), "lost"))
        return device

    monkeypatch.setattr("daxmend.rescue.pool.open_device", opened)
    found = document(fs.path)
    assert found["events"] == [
        {"event": "intent_replayed", "offset": 8192, "length": PAGE, "outcome": "lost"}
    ]
    assert "just now intent replayed 8192 4096 outcome lost" in page(fs.path).text


def test_events_that_cannot_be_asked_change_no_verdict(
    fs: FilePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: object) -> object:
        raise FileNotFoundError(2, "No such file or directory", "history")

    monkeypatch.setattr("daxmend.rescue.pool.PoolTarget.events", refuse)
    found = document(fs.path)
    assert (found["verdict"], found["events"], found["unknown"]) == ("clean", None, [])
    assert "what happened to it cannot be asked" in found["not_asked"][0]
    assert "Events" not in page(fs.path).text


def test_unknown_is_neither_clean_nor_empty_r44() -> None:
    facts = Facts("/dev/x", "block device", 0, size=1 << 30, unknown=["nobody may ask"])
    assert (facts.verdict, facts.verdict.exit_status) == (Verdict.UNKNOWN, 2)
    facts.recorded = Sum(1, SECTOR)
    assert (facts.verdict, facts.verdict.exit_status) == (Verdict.BAD, 4)
    found = gather("/proc")
    assert found.verdict is Verdict.UNKNOWN
    shown = Page(render(found))
    assert "? Unknown. Whether anything is bad is unknown: /proc" in shown.text
    assert "More may be bad:" in shown.text
    assert "Nothing is recorded" not in shown.text


def test_a_directory_without_a_record_is_unknown_and_no_file_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("daxmend.rescue.tree._read_all", pytest.fail)
    facts = gather(str(tmp_path))
    assert facts.kind == "directory"
    assert facts.verdict is not Verdict.BAD
    assert not facts.lanes


def test_what_is_no_target_is_refused() -> None:
    with pytest.raises(UsageError):
        gather("/dev/null")
    with pytest.raises(FileNotFoundError):
        gather("/nothing/there")


def test_the_command_writes_prints_and_exits_as_locate_does(
    fs: FilePool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, target = str(tmp_path / "a.html"), str(fs.path)
    assert run(["report", target, "-o", out]) == 0
    assert capsys.readouterr().out == f"{out}: {target}: Nothing is recorded as bad.\n"
    assert "✓ Clean" in Page(Path(out).read_bytes()).text
    assert run(["report", target, "-o", out]) == 16
    assert "exists, and is not overwritten" in capsys.readouterr().err
    fs.make(b"a")
    fs.inject(b"a", 0, SECTOR)
    capsys.readouterr()
    assert run(["report", target, "-o", out, "--overwrite", "--json"]) == 4
    assert json.loads(capsys.readouterr().out)["verdict"] == "bad"
    assert "✗ Bad" in Page(Path(out).read_bytes()).text
    for words, said in (
        ([target], "say where the page goes"),
        ([target, "--json", "-o", "-"], "would both print"),
        ([target, "-o", target, "--overwrite"], "itself"),
    ):
        assert run(["report", *words]) == 16
        assert said in capsys.readouterr().err
    assert gather(target).verdict is Verdict.BAD  # still a pool


def test_the_page_can_go_to_standard_output(fs: FilePool, capfdbinary: Any) -> None:
    assert run(["report", str(fs.path), "-o", "-"]) == 0
    assert "✓ Clean" in Page(capfdbinary.readouterr().out).text
