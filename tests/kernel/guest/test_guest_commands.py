"""What the other commands do on a real kernel, a small case each."""

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from mountpoint import Mounted, open_mount
from place import Place
from pmem import PAGE, SECTOR, Pmem
from program import DAXMEND, Daxmend, program

NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
DATA = random.Random(23).randbytes(16 * PAGE)


@pytest.fixture(scope="module")
def mapped(pmems: list[Pmem]) -> Iterator[Mounted]:
    """XFS with a reverse map and shared extents."""
    place = Place("one", pmems[0].path, pmems[:1])
    with open_mount("xfs", place, Path("/mnt/mapped"), "-m", "rmapbt=1,reflink=1") as mounted:
        yield mounted


@pytest.fixture
def files(mapped: Mounted) -> Iterator[list[Path]]:
    """Two files in a directory, and the copies of them in another one."""
    for name in ("files", "backup"):
        (mapped.directory / name).mkdir()
    paths = [mapped.write(f"files/{name}", DATA) for name in ("one", "two")]
    for path in paths:
        mapped.write(f"backup/{path.name}", DATA)
    yield paths
    mapped.place.clear()
    program("rm", "-r", mapped.directory / "files", mapped.directory / "backup")


def test_xfs_with_a_reverse_map_names_every_owner_of_a_shared_block(
    mapped: Mounted, files: list[Path], daxmend: Daxmend
) -> None:
    second = files[0].with_name("second")
    program("cp", "--reflink=always", files[0], second)
    mapped.inject(files[0], 3 * PAGE)
    found = daxmend("locate", mapped.directory, "--json", status=4).json["ranges"]
    assert sorted((each["path"], each["file_offset"]) for each in found) == [
        (str(files[0]), 3 * PAGE),
        (str(second), 3 * PAGE),
    ]
    plan = daxmend("repair", files[0], "--zero", status=4)
    assert str(second) in plan.err  # before anything is written


def test_a_directory_is_repaired_from_one_of_its_shape(
    mapped: Mounted, files: list[Path], daxmend: Daxmend
) -> None:
    for path in files:
        mapped.inject(path, 5 * PAGE + SECTOR)
    before = [mapped.runs(path) for path in files]
    directory, backup = files[0].parent, mapped.directory / "backup"
    daxmend("repair", directory, "--from", backup, "--apply")
    assert [path.read_bytes() for path in files] == [DATA, DATA]
    assert [mapped.runs(path) for path in files] == before
    assert mapped.place.bad_sectors() == mapped.place.ndctl_bad_sectors() == []


def test_a_scrub_reads_what_has_no_scrub_of_its_own(
    mapped: Mounted, files: list[Path], tmp_path: Path, daxmend: Daxmend
) -> None:
    """The emulated bus has none. By reading, a DAX file fails by pages."""
    mapped.inject(files[0], 7 * PAGE)
    mapfile = tmp_path / "map"
    daxmend("scrub", files[0], "--mapfile", mapfile, status=4)
    assert f"0x{7 * PAGE:08X}  0x{PAGE:08X}  -" in mapfile.read_text()
    daxmend("scrub", files[1])


def test_a_plain_user_is_told_the_same_or_that_it_is_unknown_r44(
    mapped: Mounted, files: list[Path], tmp_path: Path
) -> None:
    mapped.inject(files[0], 9 * PAGE)
    os.chmod(tmp_path, 0o755)
    pmem = mapped.place.members[0]
    (theirs,) = program(*NOBODY, "ndctl", "list", "-M", "-n", pmem.namespace).json
    ours = program(*NOBODY, DAXMEND, "list", "--json", pmem.path, status=4).json
    assert ours["badblocks"] == theirs["badblocks"]
    assert ours["badblock_count"] == 1
