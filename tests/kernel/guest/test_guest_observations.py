"""The recorded scenarios, recorded again on this kernel, and compared answer by answer.

What was recorded is left in the ring's share as `observed-SERIES-FS.json`.
"""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from mount import build_helper
from place import Place
from pmem import Pmem, kernel_series
from recorder import KernelTarget, Recorder, differences
from scenario import DATA, Scenario

SHARE = Path("/ring")
FILE_SYSTEMS = ("ext4", "xfs")


def recorded(kind: str) -> list[dict[str, Any]]:
    """What was observed on this series and file system."""
    (path,) = DATA.glob(f"linux-{kernel_series()}.*-{kind}.json")
    found: list[dict[str, Any]] = json.loads(path.read_text())
    return found


@pytest.fixture(scope="module")
def helper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """touch.c, compiled."""
    return build_helper(tmp_path_factory.mktemp("helper"))


@pytest.mark.parametrize("kind", FILE_SYSTEMS)
@pytest.mark.timeout(900)
def test_the_kernel_answers_as_it_was_recorded(kind: str, helper: Path, pmems: list[Pmem]) -> None:
    place = Place("one", pmems[0].path, pmems[:1])
    again, found = [], []
    for record in recorded(kind):
        scenario = Scenario(
            record["name"], [each["step"] for each in record["steps"]], record["why"]
        )
        target = KernelTarget(kind, place, Path("/mnt/observed"), helper)
        try:
            noted = Recorder(target).record(scenario)
        finally:
            target.umount()
        again.append({**noted, "fs": kind, "kernel": os.uname().release})
        found += differences(record, noted)
    (SHARE / f"observed-{kernel_series()}-{kind}.json").write_text(json.dumps(again, indent=1))
    assert found == []
