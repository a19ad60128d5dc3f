"""What the driver has recorded, through a sysfs of our own."""

import os
from pathlib import Path

import pytest

from daxmend.extent import Extent
from daxmend.host.badblocks import Recorded, device_number, read_badblocks
from daxmend.host.unknown import Unknown

DISK, PARTITION = os.makedev(259, 0), os.makedev(259, 1)


@pytest.fixture
def sysfs(tmp_path: Path) -> Path:
    disk = tmp_path / "devices" / "pmem0"
    partition = disk / "pmem0p1"
    partition.mkdir(parents=True)
    (disk / "badblocks").write_text("")
    (partition / "partition").write_text("1\n")
    (partition / "start").write_text("2048\n")
    (partition / "size").write_text("1000\n")
    numbers = tmp_path / "dev" / "block"
    numbers.mkdir(parents=True)
    (numbers / "259:0").symlink_to(disk)
    (numbers / "259:1").symlink_to(partition)
    return tmp_path


def write(sysfs: Path, text: str) -> None:
    (sysfs / "devices" / "pmem0" / "badblocks").write_text(text)


def test_a_record_is_in_bytes_of_the_device(sysfs: Path) -> None:
    write(sysfs, "8 2\n100 1\n")
    assert read_badblocks(DISK, sysfs) == Recorded([Extent(4096, 1024), Extent(51200, 512)], True)


def test_an_empty_record_is_clean_and_a_missing_one_unknown_r44(sysfs: Path) -> None:
    assert read_badblocks(DISK, sysfs) == Recorded([], True)
    write(sysfs, "\n")  # what the kernel shows of a disk whose driver keeps none
    assert isinstance(read_badblocks(DISK, sysfs), Unknown)
    (sysfs / "devices" / "pmem0" / "badblocks").unlink()
    assert isinstance(read_badblocks(DISK, sysfs), Unknown)
    assert isinstance(read_badblocks(os.makedev(7, 7), sysfs), Unknown)
    assert isinstance(read_badblocks(os.makedev(0, 40), sysfs), Unknown)


def test_of_a_partition_what_lies_in_it_is_told_from_its_start(sysfs: Path) -> None:
    write(sysfs, "0 10\n2040 16\n2100 1\n3040 100\n9000 5\n")
    assert read_badblocks(PARTITION, sysfs) == Recorded(
        [Extent.of_sectors(0, 8), Extent.of_sectors(52, 1), Extent.of_sectors(992, 8)], True
    )


def test_a_record_that_fills_the_page_is_said_to_be_cut(sysfs: Path) -> None:
    lines = "".join(f"{sector} 1\n" for sector in range(1000, 9000, 10))[:4095]
    write(sysfs, lines)
    found = read_badblocks(DISK, sysfs)
    assert isinstance(found, Recorded)
    assert not found.is_complete
    assert found.extents[0] == Extent.of_sectors(1000, 1)
    assert all(extent.length == 512 for extent in found.extents)


def test_nonsense_is_unknown_and_not_clean(sysfs: Path) -> None:
    write(sysfs, "eight two\n")
    assert isinstance(read_badblocks(DISK, sysfs), Unknown)
    (sysfs / "devices" / "pmem0" / "badblocks").write_bytes(b"\xff\xff\n")
    assert isinstance(read_badblocks(DISK, sysfs), Unknown)


def test_the_device_of_a_file_is_that_of_its_file_system(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"")
    assert device_number(path) == path.stat().st_dev


def test_the_running_system_answers_one_or_the_other(tmp_path: Path) -> None:
    assert isinstance(read_badblocks(device_number(tmp_path)), Recorded | Unknown)
