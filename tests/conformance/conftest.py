"""Fixtures of the conformance suite, and the score at the end of the run."""

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "system"))  # rawmount: children, commands, aborts

from mount import build_helper, refusal
from own import SEED
from score import Score

SCORES = pytest.StashKey[dict[str, Score]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[SCORES] = {}


@pytest.fixture(scope="session")
def scores(request: pytest.FixtureRequest) -> dict[str, Score]:
    """By title, what the run's scenarios scored."""
    return request.config.stash[SCORES]


@pytest.fixture(scope="session")
def helper() -> Iterator[Path]:
    """The compiled touch.c."""
    if not shutil.which("cc"):
        pytest.skip("there is no C compiler")
    with tempfile.TemporaryDirectory(prefix="daxmend-touch-", dir="/tmp") as name:
        yield build_helper(Path(name))


@pytest.fixture(scope="session")
def mounts() -> None:
    """File system mounts work here."""
    if not os.path.exists("/dev/fuse"):
        pytest.skip("there is no /dev/fuse")
    if (reason := refusal()) is not None:
        pytest.skip(f"CONFORMANCE NOT TESTED, no file system pool can be made: {reason}")


@pytest.fixture(params=["direct", "cached"])
def mode(request: pytest.FixtureRequest) -> str:
    """The mount's `-o open=`."""
    release = tuple(int(part) for part in os.uname().release.split(".")[:2])
    if request.param == "direct" and release < (6, 6):
        pytest.skip("direct opens can be mapped from Linux 6.6 on")
    return str(request.param)


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Print the score."""
    scores = config.stash[SCORES]
    if not scores:
        return
    terminalreporter.section(f"conformance (generated scenarios: seed {SEED})")
    for title in sorted(scores):
        for line in scores[title].lines(title):
            terminalreporter.write_line(line)
