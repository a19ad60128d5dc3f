"""docs/testing.md: its examples run as they stand in the page."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from page import ROOT, blocks

_PAGE = blocks(ROOT / "docs/testing.md")
_EXAMPLES = [body for language, _, body in _PAGE if language == "python"]

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 and not os.access("/dev/fuse", os.R_OK | os.W_OK),
    reason="/dev/fuse may not be opened by this user",
)


def run_pytest(directory: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    """As a user of the kit runs it: the plugin is found by its entry point."""
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *words],
        cwd=directory, capture_output=True, text=True, check=False, timeout=100,
    )  # fmt: skip


def test_there_are_three() -> None:
    assert len(_EXAMPLES) == 3


@pytest.mark.parametrize("example", _EXAMPLES, ids=("sqlite", "memmap", "lmdb"))
def test_an_example_runs_as_it_stands(tmp_path: Path, example: str) -> None:
    (tmp_path / "test_example.py").write_text(example)
    done = run_pytest(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^1 passed", done.stdout, re.M), done.stdout


_SCATTERED = """
def test_scattered(shadow_dir):
    path = shadow_dir.path / "file"
    path.write_bytes(bytes(1 << 20))
    print("bad:", [bad.offset for bad in shadow_dir.scatter("file", 5)])
    path.write_bytes(bytes(1 << 20))  # heals: the plan is told all the same
    assert False
"""


def test_a_failing_test_prints_the_plan_that_replays_it(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(_SCATTERED)
    first = run_pytest(tmp_path)
    assert first.returncode == 1, first.stdout + first.stderr
    assert "- fault plan -" in first.stdout
    plan = re.findall(r"^/file \d+ 4096 until-written$", first.stdout, re.M)
    assert len(plan) == 5
    (tmp_path / "plan").write_text("\n".join(plan))
    bad = re.findall(r"^bad: .*$", first.stdout, re.M)
    again = run_pytest(tmp_path, "--fault-plan", "plan")
    assert re.findall(r"^bad: .*$", again.stdout, re.M) == bad
    seed = re.findall(r"# seed (\d+);", first.stdout)[0]
    assert re.findall(r"^bad: .*$", run_pytest(tmp_path, "--fault-seed", seed).stdout, re.M) == bad
    assert re.findall(r"^bad: .*$", run_pytest(tmp_path).stdout, re.M) != bad


def test_a_passing_test_prints_nothing(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(_SCATTERED.replace("assert False", ""))
    done = run_pytest(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "fault plan" not in done.stdout
