"""What the driver has recorded, through a file of our own."""

from pathlib import Path

import pytest

from daxmend.extent import Extent
from daxmend.host.badblocks import Recorded, read_badblocks_file
from daxmend.host.unknown import Unknown


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "badblocks"


def read(file: Path, content: str | bytes) -> Recorded | Unknown:
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_badblocks_file(file, "pmem0")


def test_a_record_is_in_bytes_of_the_device(file: Path) -> None:
    found = read(file, "8 2\n100 1\n")
    assert found == Recorded([Extent(4096, 1024), Extent(51200, 512)], True)


def test_an_empty_record_is_clean_and_a_missing_one_unknown_r44(file: Path) -> None:
    assert isinstance(read_badblocks_file(file, "pmem0"), Unknown)
    assert read(file, "") == Recorded([], True)
    # What the kernel shows of a disk whose driver keeps none:
    assert isinstance(read(file, "\n"), Unknown)


def test_a_record_that_fills_the_page_is_said_to_be_cut(file: Path) -> None:
    found = read(file, "".join(f"{sector} 1\n" for sector in range(1000, 9000, 10))[:4095])
    assert isinstance(found, Recorded)
    assert not found.is_complete
    assert found.extents[0] == Extent.of_sectors(1000, 1)
    assert all(extent.length == 512 for extent in found.extents)


def test_nonsense_is_unknown_and_not_clean(file: Path) -> None:
    assert isinstance(read(file, "eight two\n"), Unknown)
    assert isinstance(read(file, b"\xff\xff\n"), Unknown)
