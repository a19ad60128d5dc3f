"""`daxmend.testing`: plans that are made, printed and replayed; the fixtures themselves."""

import os
from pathlib import Path

import pytest

from daxmend.errors import UsageError
from daxmend.extent import Extent
from daxmend.faults import FaultKind
from daxmend.testing import FaultPlan, MountedPool, ShadowDirectory, why_no_mounts

UNTIL = FaultKind.UNTIL_WRITTEN
needs_mounts = pytest.mark.skipif(why_no_mounts() is not None, reason=str(why_no_mounts()))


def test_the_same_seed_chooses_the_same_faults() -> None:
    first, second = (FaultPlan(seed=7).choose("f", 1 << 20, 5, UNTIL) for _ in range(2))
    assert first == second
    assert first != FaultPlan(seed=8).choose("f", 1 << 20, 5, UNTIL)


def test_a_plan_replays_itself() -> None:
    plan = FaultPlan()
    plan.faults += plan.choose("f", 1 << 20, 5, UNTIL)
    again = FaultPlan(str(plan))
    assert again.choose("f", 1 << 20, 5, UNTIL) == plan.faults


def test_a_short_file_has_no_more_pages_than_it_has() -> None:
    assert [fault.extent for fault in FaultPlan().choose("f", 5000, 9, UNTIL)] == [
        Extent(0, 4096),
        Extent(4096, 1024),
    ]


@needs_mounts
def test_a_shadow_directory_injects_and_clears(tmp_path: Path) -> None:
    source, path = tmp_path / "source", tmp_path / "shadow"
    source.mkdir()
    path.mkdir()
    with ShadowDirectory(source, path) as shadow:
        (path / "f").write_bytes(bytes(8192))
        shadow.inject("f", 0, 10)
        shadow.inject(path / "f", 4096, 64, "latent")
        assert shadow.bad_ranges("f") == [Extent(0, 512)]
        assert str(shadow.plan) == "/f 0 512 until-written\n/f 4096 64 latent\n"
        with pytest.raises(OSError, match="Input/output"):
            (path / "f").read_bytes()
        shadow.clear()
        assert (path / "f").read_bytes() == bytes(8192)
        for name, offset in (("f", 1 << 20), ("g", 0), ("../g", 0)):
            with pytest.raises(UsageError):
                shadow.inject(name, offset, 512)
    assert not os.path.ismount(path)


@needs_mounts
def test_what_cannot_be_mounted_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is the directory itself"):
        ShadowDirectory(tmp_path, tmp_path)


@needs_mounts
def test_the_fixtures(poisoned_file, fault_plan) -> None:  # type: ignore[no-untyped-def]
    path = poisoned_file(bytes(8192), 4096, 512)
    with open(path, "rb", buffering=0) as file:
        assert file.read(4096) == bytes(4096)
    with pytest.raises(OSError, match="Input/output"):
        path.read_bytes()
    assert str(fault_plan) == "/poisoned 4096 512 until-written\n"


@needs_mounts
def test_a_mounted_pool_goes_bad_and_heals(tmp_path: Path) -> None:
    path = tmp_path / "mnt"
    path.mkdir()
    with MountedPool(tmp_path / "pool", path) as pool:
        file = pool.path / "f"
        file.write_bytes(bytes(8192))
        pool.inject("f", 0, 512)
        with pytest.raises(OSError, match="Input/output"):
            file.read_bytes()
        with open(file, "r+b", buffering=0) as opened:
            opened.write(b"n" * 4096)
        assert file.read_bytes()[:4096] == b"n" * 4096
