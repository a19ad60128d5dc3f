"""A raw pmem disk: list, salvage, and repair of what is on it without a file system."""

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from pmem import PAGE, SECTOR, Pmem
from program import Daxmend, program

SIZE = 16 << 20  # of the copy; the disk is cut to it by a partition of dm


@pytest.fixture
def disk(pmems: list[Pmem]) -> Iterator[Path]:
    """16 MiB of a pmem disk, by dm-linear."""
    text = f"0 {SIZE // SECTOR} linear {pmems[1].path} 0"
    program("dmsetup", "create", "ring-raw", text=text)
    yield Path("/dev/mapper/ring-raw")
    program("dmsetup", "remove", "ring-raw")
    pmems[1].clear()


@pytest.fixture
def data(disk: Path) -> bytes:
    """What is on it."""
    data = random.Random(11).randbytes(SIZE)
    with disk.open("wb") as file:
        file.write(data)
        os.fsync(file.fileno())
    return data


def without(data: bytes, *sectors: int) -> bytes:
    """The data with zeros in these sectors."""
    out = bytearray(data)
    for sector in sectors:
        out[sector * SECTOR : (sector + 1) * SECTOR] = bytes(SECTOR)
    return bytes(out)


def test_a_disk_is_salvaged_by_the_sector(
    disk: Path, data: bytes, pmems: list[Pmem], tmp_path: Path, daxmend: Daxmend
) -> None:
    pmems[1].inject(17, 2)
    saved = tmp_path / "saved"
    found = daxmend("salvage", disk, "-o", saved, "--json", status=4).json
    assert found["ranges"] == [{"offset": 17 * SECTOR, "length": 2 * SECTOR}]
    assert saved.read_bytes() == without(data, 17, 18)
    assert pmems[1].bad_sectors() == [17, 18]


@pytest.mark.parametrize("by", ["copy", "zero"])
def test_a_disk_is_repaired(
    by: str, disk: Path, data: bytes, pmems: list[Pmem], tmp_path: Path, daxmend: Daxmend
) -> None:
    copy = tmp_path / "copy"
    copy.write_bytes(data)
    pmems[1].inject(17, 2)
    source = ("--from", copy) if by == "copy" else ("--zero",)
    daxmend("repair", disk, *source, "--apply", "--journal", tmp_path)
    with disk.open("rb") as file:
        assert file.read() == (data if by == "copy" else without(data, 17, 18))
    assert pmems[1].bad_sectors() == pmems[1].ndctl_bad_sectors() == []


def test_list_of_the_whole_disk_is_ndctls(pmems: list[Pmem], daxmend: Daxmend) -> None:
    pmem = pmems[1]
    pmem.inject(5)
    pmem.inject(4096, 3)
    try:
        found = daxmend("list", pmem.path, "--json", status=4).json
        (told,) = program("ndctl", "list", "-M", "-n", pmem.namespace).json
        assert found["badblocks"] == told["badblocks"]
        assert found["badblock_count"] == told["badblock_count"] == 4
        assert found["ranges"][0]["offset"] == 5 * SECTOR
        assert found["ranges"][1]["length"] == 3 * SECTOR < PAGE
    finally:
        pmem.clear()
    assert daxmend("list", pmem.path, "--json").json["badblock_count"] == 0
