"""Fixtures of the guest: namespaces, places on them, file systems on those, the command."""

import random
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "conformance"))  # the replay
sys.path.append(str(Path(__file__).parents[2] / "system"))  # what the replay needs

from damage import BAD, PAGES
from mountpoint import Mounted, is_dax, open_mount
from place import KINDS, Place, open_place
from pmem import PAGE, SECTOR, Pmem, make_fsdax
from program import Daxmend


@pytest.fixture(scope="session")
def pmems() -> list[Pmem]:
    """Two namespaces in fsdax mode."""
    return make_fsdax()


@pytest.fixture(scope="module", params=KINDS)
def place(request: pytest.FixtureRequest, pmems: list[Pmem]) -> Iterator[Place]:
    """A namespace, or dm over both."""
    with open_place(request.param, pmems) as place:
        place.clear()
        yield place
        place.clear()


@pytest.fixture(scope="module", params=["ext4", "xfs"])
def mounted(request: pytest.FixtureRequest, place: Place) -> Iterator[Mounted]:
    """A new file system on the place, mounted -o dax; it serves all tests of a module."""
    with open_mount(request.param, place, Path("/mnt/ring")) as mounted:
        assert is_dax(mounted.write("probe", b"probe"))
        yield mounted


@pytest.fixture
def daxmend(capsys: pytest.CaptureFixture[str]) -> Daxmend:
    """The command, in this process."""
    return Daxmend(capsys)


@pytest.fixture
def no_bad_blocks(mounted: Mounted) -> Iterator[None]:
    """What a test left bad does not trouble the next."""
    yield
    mounted.place.clear()


@pytest.fixture
def original(tmp_path: Path) -> Path:
    """Random bytes, the copy to repair from."""
    path = tmp_path / "original"
    path.write_bytes(random.Random(7).randbytes(PAGES * PAGE))
    return path


@pytest.fixture
def damaged(
    mounted: Mounted, no_bad_blocks: None, original: Path, request: pytest.FixtureRequest
) -> Path:
    """The same bytes in a file of the file system, with the bad sectors of `damage`."""
    name = "".join(char if char.isalnum() else "-" for char in request.node.name)
    path = mounted.write(name, original.read_bytes())
    mounted.inject(path, *(sector * SECTOR for sector in BAD))
    assert len(mounted.place.bad_sectors()) == len(BAD)
    return path
