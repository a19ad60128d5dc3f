"""List and locate of real devices and files, against what filefrag and the record say."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mountpoint import Mounted, Run, joined
from pmem import PAGE, SECTOR
from program import Daxmend

pytestmark = pytest.mark.usefixtures("no_bad_blocks")

# XFS without a reverse map, which mkfs makes here, tells only what is free.
METADATA = {"ext4": ["metadata"], "xfs": ["metadata", None]}
LAST = 399 << 20  # bytes; a place near the end, which nobody uses


@pytest.fixture
def damaged(mounted: Mounted) -> Iterator[Path]:
    """A file with three bad sectors, two of them neighbours."""
    path = mounted.write("located", random.Random(5).randbytes(64 * PAGE))
    mounted.inject(path, *(sector * SECTOR for sector in (8, 9, 300)))
    yield path
    path.unlink()


def ranges(document: Any, *names: str) -> list[tuple[Any, ...]]:
    """These fields of a document's ranges."""
    return [tuple(found[name] for name in names) for found in document["ranges"]]


def test_list_says_of_a_file_what_was_injected(
    mounted: Mounted, damaged: Path, daxmend: Daxmend
) -> None:
    found = daxmend("list", damaged, "--json", status=4).json
    assert found["badblock_count"] == 3
    assert found["badblocks"] == [{"offset": 8, "length": 2}, {"offset": 300, "length": 1}]
    assert found["unknown"] == []


def test_list_names_the_sectors_of_the_disks_below(
    mounted: Mounted, damaged: Path, daxmend: Daxmend
) -> None:
    """The first of a range's places is the deepest, the disk whose record it is."""
    found = daxmend("list", mounted.place.path, "--json", status=4).json
    below = [
        (place["device"].removeprefix("/dev/"), place["offset"] // SECTOR + sector)
        for each in found["ranges"]
        for place in each["stack"][:1]
        for sector in range(each["length"] // SECTOR)
    ]
    assert sorted(below) == sorted(mounted.place.bad_sectors())


@pytest.mark.parametrize("target", ["directory", "device"])
def test_locate_names_file_free_space_and_metadata(
    mounted: Mounted, damaged: Path, target: str, daxmend: Daxmend
) -> None:
    mounted.place.inject(LAST, SECTOR)
    mounted.place.inject(0, SECTOR)
    name = mounted.directory if target == "directory" else mounted.place.path
    found = daxmend("locate", name, "--json", status=4).json
    place = mounted.device_offset
    first, *others = sorted(ranges(found, "offset", "length", "owner", "path", "file_offset"))
    assert first in [(0, SECTOR, owner, None, None) for owner in METADATA[mounted.kind]]
    assert others == sorted(
        [
            (place(damaged, 8 * SECTOR), 2 * SECTOR, "file", str(damaged), 8 * SECTOR),
            (place(damaged, 300 * SECTOR), SECTOR, "file", str(damaged), 300 * SECTOR),
            (LAST, SECTOR, "free", None, None),
        ]
    )


def test_locate_of_the_disk_below_leads_up_to_the_file(
    mounted: Mounted, damaged: Path, daxmend: Daxmend
) -> None:
    """Through dm, where there is one."""
    for pmem in mounted.place.members:
        if not pmem.bad_sectors():
            assert daxmend("locate", pmem.path, "--json").json["ranges"] == []
            continue
        found = daxmend("locate", pmem.path, "--json", status=4).json
        assert {path for (path,) in ranges(found, "path")} == {str(damaged)}


def test_extents_are_those_of_filefrag(mounted: Mounted, damaged: Path, daxmend: Daxmend) -> None:
    found = daxmend("locate", "--extents", damaged, "--json", status=4).json
    said = [
        Run(each["offset"], each["device_offset"], each["length"], each["state"] == "unwritten")
        for each in found["extents"]
    ]
    assert joined(said) == mounted.runs(damaged)
