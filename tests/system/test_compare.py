"""`daxmend compare` on real mounts: what is measured, what cannot be had, and that all is gone."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from filemount import Files
from rawmount import PAGE, User, abort_mounts, cli, loop_device, program, wait_until

from daxmend.fuse import iter_mounts

pytestmark = pytest.mark.timeout(170, method="signal")

as_root = pytest.mark.parametrize("user", ["root"], indirect=True)
as_user = pytest.mark.parametrize("user", ["user"], indirect=True)


@pytest.fixture(autouse=True)
def scratch(user: User, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where compare works, in memory; nothing may be left there."""
    path = Path(tempfile.mkdtemp(prefix="daxmend-test-", dir="/dev/shm"))
    path.chmod(0o777)
    monkeypatch.setenv("TMPDIR", str(path))
    yield path
    left = [*os.listdir(path), *left_over(path)]
    abort_mounts(path)
    shutil.rmtree(path)
    assert left == []


def left_over(path: Path) -> list[str]:
    """Mounts and loop devices of a comparison below the path."""
    mounts = [each.mount_point for each in iter_mounts() if each.mount_point.startswith(str(path))]
    loops = program("losetup", "--list", "--noheadings", "--output", "BACK-FILE").out
    return mounts + [line for line in loops.splitlines() if str(path) in line]


def ask(*words: object, status: int = 0) -> dict[str, Any]:
    ran = cli("compare", "--size", "1M", "--json", *words)
    assert ran.status == status, ran
    found = json.loads(ran.out)
    assert isinstance(found, dict)
    return found


def measures(document: dict[str, Any], system: str) -> dict[str, dict[str, Any]]:
    """The first round of each strategy, of a document with one damage."""
    (found,) = [each for each in document["systems"] if each["name"] == system]
    return {case["strategy"]: case["rounds"][0] for case in found["cases"]}


@as_user
def test_any_user_can_compare_on_a_daxmend_mount_r14(user: User, base: Path) -> None:
    found = ask("--pages", 5, "--pattern", "scattered", "--fs", "ext4")
    assert_own(found, 5)
    assert found["left_out"] == [
        {"name": "ext4 on a loop device", "why": "only root can make loop devices and mount them"}
    ]


def assert_own(document: dict[str, Any], pages: int) -> None:
    """A write heals in place and loses nothing; what gives blocks up leaves none bad."""
    own = measures(document, "daxmend")
    for strategy in ("pwrite", "zeroinit", "zero-range"):
        each = own[strategy]
        assert (each["outcome"], each["lost"], each["left"]) == ("healed", 0, 0), strategy
        assert (each["moved"], each["extents_after"], each["privilege"]) == (0, 1, "none")
    assert (own["pwrite"]["requests"], own["pwrite"]["written"]) == (pages, pages * PAGE)
    assert own["punch"]["outcome"] == own["copy"]["outcome"] == "healed"
    assert own["punch"]["left"] == own["copy"]["left"] == 0  # R31
    assert own["copy"]["moved"] == 1 << 20
    assert own["zeroout"]["outcome"] == "cannot"


@as_root
@pytest.mark.parametrize("fstype", ["ext4", "xfs"])
def test_on_a_loop_device_the_other_strategies_pay(user: User, fstype: str) -> None:
    if not os.path.exists("/dev/loop-control") or shutil.which(f"mkfs.{fstype}") is None:
        pytest.skip(f"loop devices and mkfs.{fstype} are needed")
    found = ask("--pages", 20, "--pattern", "scattered", "--fs", fstype, "--rounds", 2)
    assert found["left_out"] == []
    assert_own(found, 20)
    other = measures(found, fstype)
    write = other["pwrite"]
    assert (write["outcome"], write["moved"], write["left"]) == ("healed", 0, 0)
    assert write["privilege"] == "none"
    assert other["zeroinit"]["outcome"] == "cannot"
    assert other["zeroinit"]["why"] == "it has no zeroinit (ENOTTY)"
    below = other["zeroout"]
    assert (below["outcome"], below["lost"], below["privilege"]) == ("healed", 0, "root")
    for strategy in ("punch", "copy"):
        assert other[strategy]["left"] == 20 * 512, strategy  # 6.1, R31
    assert other["punch"]["extents_after"] > 10


@as_user
def test_the_text_ends_with_what_to_use_and_the_plot_is_one_svg(user: User, base: Path) -> None:
    plot = base / "plot.svg"
    words = ("--size", "1M", "--pages", 3, "--strategy", "pwrite", "--strategy", "punch")
    ran = cli("compare", *words, "--fs", "ext4", "--plot", plot)
    assert ran.status == 0, ran
    assert "daxmend: aligned pwrite heals all, loses nothing, moves nothing" in ran.out
    assert ElementTree.parse(plot).getroot().tag.endswith("svg")


def test_a_directory_on_a_mount_is_left_as_it_was(files: Files) -> None:
    kept = files.make("kept")
    before = kept.read_bytes()
    found = ask(files.mountpoint, "--pages", 5, "--strategy", "pwrite", "--strategy", "copy")
    assert [each["name"] for each in found["systems"]] == ["daxmend", str(files.mountpoint)]
    for case in found["systems"][1]["cases"]:
        (each,) = case["rounds"]
        assert (each["outcome"], each["lost"], each["left"]) == ("healed", 0, 0)
    assert kept.read_bytes() == before
    assert sorted(os.listdir(files.mountpoint)) == ["kept"]
    files.wait_until_clean()


@as_root
def test_what_cannot_be_compared_on_is_refused_with_what_to_do(user: User, base: Path) -> None:
    plain = base / "plain"
    plain.touch()
    for words, status, said in (
        ((base,), 8, "is on no daxmend mount: nothing there can be made bad"),
        (("/dev/null", "--yes"), 16, "/dev/null is no block device"),
        ((plain, "--yes"), 16, f"{plain} is no block device"),
        ((base / "none", "--yes"), 16, "is no block device"),
        ((plain,), 16, "say --yes"),
        (("--pages", "0"), 16, "whole numbers above 0"),
        (("--pages", "600", "--size", "1M"), 16, "do not fit"),
        (("--size", "1000"), 16, "whole pages"),
    ):
        ran = cli("compare", *words)
        assert (ran.status, said in ran.err) == (status, True), ran
        assert ran.out == ""


@as_root
def test_a_disk_that_keeps_no_record_is_not_touched(user: User, base: Path) -> None:
    image = base / "image"
    image.write_bytes(b"mine" * 1024)
    with loop_device(image) as loop:
        ran = cli("compare", loop, "--yes")
        assert ran.status == 8, ran
        assert "keeps no bad-block record" in ran.err
    assert image.read_bytes() == b"mine" * 1024


@as_root
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("where", ["own/mnt", "ext4"])
def test_an_interrupted_comparison_leaves_nothing(
    user: User, scratch: Path, number: signal.Signals, where: str
) -> None:
    if where == "ext4" and not os.path.exists("/dev/loop-control"):
        pytest.skip("there are no loop devices")
    words = ["compare", "--pages", "1", "--fs", "ext4", "--rounds", "1000"]
    words += ["--strategy", "zeroout" if where == "ext4" else "pwrite"]
    with subprocess.Popen(
        [sys.executable, "-c", "from daxmend.cli import main; main()", *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as running:
        try:
            wait_until(
                lambda: any(mount.endswith(f"/{where}") for mount in left_over(scratch)),
                f"{where} is mounted",
            )
            os.killpg(running.pid, number)
            _, err = running.communicate(timeout=60)
        finally:
            running.kill()
    assert running.returncode == 130
    assert err.strip() == b"daxmend: interrupted"
