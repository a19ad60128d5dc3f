"""Cases of repair that dm below cannot change: on file systems straight on their device."""

import mmap
import os
from pathlib import Path

import pytest
from damage import PAGES, blanked
from mountpoint import Mounted
from pmem import PAGE, SECTOR
from program import Daxmend

pytestmark = pytest.mark.parametrize("place", ["one"], indirect=True)


def test_a_plan_changes_nothing(
    mounted: Mounted, damaged: Path, original: Path, daxmend: Daxmend
) -> None:
    before = mounted.place.bad_sectors(), mounted.runs(damaged)
    daxmend("repair", damaged, "--from", original, status=4)
    assert (mounted.place.bad_sectors(), mounted.runs(damaged)) == before


def test_undo_puts_the_good_bytes_back(
    mounted: Mounted, damaged: Path, original: Path, daxmend: Daxmend
) -> None:
    daxmend("repair", damaged, "--from", original, "--apply")
    daxmend("repair", damaged, "--undo")
    assert damaged.read_bytes() == blanked(original.read_bytes())


def test_a_mapping_that_was_open_sees_the_repaired_bytes_r27(
    mounted: Mounted, damaged: Path, original: Path, daxmend: Daxmend
) -> None:
    fd = os.open(damaged, os.O_RDWR)
    try:
        with mmap.mmap(fd, PAGES * PAGE) as memory:
            assert memory[0] == original.read_bytes()[0]
            daxmend("repair", damaged, "--from", original, "--apply")
            assert memory[:] == original.read_bytes()
    finally:
        os.close(fd)


@pytest.mark.usefixtures("no_bad_blocks")
@pytest.mark.parametrize("sector", [-1, 0, 3])
def test_a_bad_tail_page_is_repaired_and_the_size_kept(
    mounted: Mounted, original: Path, sector: int, daxmend: Daxmend
) -> None:
    """A sector of the last page, of which the file has 2.5; -1 is in the page before."""
    data = original.read_bytes()[: 5 * PAGE + 1280]
    original.write_bytes(data)
    path = mounted.write(f"tail{sector}", data)
    before = mounted.runs(path)
    mounted.place.inject(mounted.device_offset(path, 5 * PAGE) + sector * SECTOR, SECTOR)
    daxmend("repair", path, "--from", original, "--apply")
    assert path.read_bytes() == data
    assert mounted.runs(path) == before
    assert path.stat().st_size == len(data)
    assert mounted.place.bad_sectors() == mounted.place.ndctl_bad_sectors() == []
