"""The pytest plugin: fixtures for tests of other people's recovery code (docs/testing.md)."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from daxmend import testing

if TYPE_CHECKING:
    from daxmend.faults import FaultKind
    from daxmend.testing import FaultPlan, MountedPool, ShadowDirectory

_PLAN: pytest.StashKey[FaultPlan] = pytest.StashKey()
_TITLE = "fault plan"

PoisonedFile = Callable[..., Path]


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--fault-plan FILE` replays a plan, `--fault-seed N` chooses the same random faults again."""
    group = parser.getgroup("daxmend")
    group.addoption("--fault-plan", metavar="FILE", help="Make the random faults that FILE says.")
    group.addoption("--fault-seed", metavar="N", type=int, help="Choose random faults by N.")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A test that failed prints the plan that replays it."""
    report = yield
    plan = item.stash.get(_PLAN, None)
    if report.failed and plan is not None and plan.faults:
        again = f"# seed {plan.seed}; again: pytest '{item.nodeid}' --fault-plan FILE with\n{plan}"
        report.sections.append((_TITLE, again))
    return report


@pytest.fixture
def fault_plan(request: pytest.FixtureRequest) -> FaultPlan:
    """The faults of this test; a failing test prints it."""
    file = request.config.getoption("--fault-plan")
    replay = Path(file).read_text(encoding="utf-8") if file else ""
    plan = testing.FaultPlan(replay, request.config.getoption("--fault-seed"))
    request.node.stash[_PLAN] = plan
    return plan


@pytest.fixture
def shadow_dir(tmp_path: Path, fault_plan: FaultPlan) -> Iterator[ShadowDirectory]:
    """An empty directory in which bytes of files can be made bad, at any time."""
    _need_mounts()
    source, path = tmp_path / "source", tmp_path / "shadow"
    source.mkdir()
    path.mkdir()
    with testing.ShadowDirectory(source, path, fault_plan) as shadow:
        yield shadow


@pytest.fixture
def poisoned_file(shadow_dir: ShadowDirectory) -> PoisonedFile:
    """`poisoned_file(data, offset, length, kind="until-written", name="poisoned")` → its path."""

    def make(
        data: bytes,
        offset: int,
        length: int,
        kind: FaultKind | str = "until-written",
        name: str = "poisoned",
    ) -> Path:
        path = shadow_dir.path / name
        path.write_bytes(data)
        shadow_dir.inject(name, offset, length, kind)
        return path

    return make


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[MountedPool]:
    """An empty file system on an emulated persistent-memory device, mounted."""
    _need_mounts()
    path = tmp_path / "mounted"
    path.mkdir()
    with testing.MountedPool(tmp_path / "pool", path) as mounted:
        yield mounted


def _need_mounts() -> None:
    why = testing.why_no_mounts()
    if why is not None:
        pytest.skip(why)
