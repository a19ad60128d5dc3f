"""Images of each released format: they open and hold what they should, or are refused by name.

Version 1 of the pool was that of the commits before it: with the same number they wrote other
entries into the journals. Its images were made by 02e61ff (raw, with an entry of kind 7) and by
3cfa4cc (raw, and with a file system).
"""

import lzma
import shutil
from pathlib import Path

import make_images
import pytest

from daxmend.cli import run
from daxmend.dax import io
from daxmend.dax.api import SectorState
from daxmend.errors import BadBlockError, UnsupportedError
from daxmend.extent import Extent
from daxmend.fs import FileSystem, check
from daxmend.fs.superblock import FS_VERSION
from daxmend.media.pool import POOL_VERSION, open_pool
from daxmend.pmem.device import PmemDevice
from daxmend.units import KIB, PAGE
from fswalk import content, tree, walk

DATA = Path(__file__).parent / "data"
CURRENT_RAW = ["pool-2-raw"]
CURRENT_FILES = ["pool-2-fs-1"]
REFUSED = ["pool-1-raw-02e61ff", "pool-1-raw-3cfa4cc", "pool-1-fs-1-3cfa4cc"]


def unpack(name: str, directory: Path) -> Path:
    path = directory / f"{name}.pool"
    with lzma.open(DATA / f"{name}.pool.xz") as image, path.open("wb") as target:
        shutil.copyfileobj(image, target)
    return path


def test_every_format_of_today_has_an_image_and_every_image_a_test() -> None:
    names = {path.name.removesuffix(".pool.xz") for path in DATA.glob("*.xz")}
    assert names == {*CURRENT_RAW, *CURRENT_FILES, *REFUSED}
    assert f"pool-{POOL_VERSION}-raw" in CURRENT_RAW
    assert f"pool-{POOL_VERSION}-fs-{FS_VERSION}" in CURRENT_FILES
    assert all(path.stat().st_size < 64 * KIB for path in DATA.iterdir())


@pytest.mark.parametrize("name", CURRENT_RAW)
def test_a_raw_image_holds_what_was_put_there(name: str, shm: Path) -> None:
    device = PmemDevice(open_pool(unpack(name, shm)))
    whole = Extent(0, device.size)
    assert io.read(device, Extent(PAGE, PAGE)) == make_images.TEXT * 512
    assert list(device.badblocks(whole)) == [(make_images.RECORDED, SectorState.BAD)]
    assert list(device.poison(whole)) == [make_images.RECORDED, make_images.LATENT]
    assert "the half of a write was acknowledged" in device.notices[0]
    assert io.write(device, make_images.RECORDED.offset, b"n" * PAGE) == PAGE
    device.close()


@pytest.mark.parametrize("name", CURRENT_FILES)
def test_a_file_system_image_holds_what_was_put_there(name: str, shm: Path) -> None:
    device = PmemDevice(open_pool(unpack(name, shm)))
    assert list(check(device)) == []
    fs = FileSystem(device, commits_each=True)
    assert fs.notices == []
    paths = tree(fs)
    assert paths.keys() == {
        b"/",
        b"/directory",
        b"/directory/file",
        b"/hard link",
        b"/symbolic link",
        b"/device",
        b"/bad",
    }
    file = paths[b"/directory/file"]
    text = (make_images.TEXT * 1000).ljust(100 * PAGE, b"\0") + make_images.TEXT
    assert content(fs, file) == text.ljust(201 * PAGE, b"\0")
    found = fs.stat(file)
    assert (found.mode, found.nlink, found.uid, found.gid) == (make_images.FILE, 2, 3, 4)
    assert found.mtime_ns == make_images.TIME_NS
    assert [mapping.is_written for mapping in fs.extents(file)] == [True, True, False]
    assert fs.getxattr(file, b"user.golden") == b"yes"
    assert fs.readlink(paths[b"/symbolic link"]) == b"directory/file"
    assert fs.stat(paths[b"/device"]).rdev == 0x103
    root = fs.stat(fs.root)
    assert (root.mode & 0o7777, root.uid, root.gid, root.nlink) == (0o751, 7, 8, 3)
    with pytest.raises(BadBlockError):
        fs.read(paths[b"/bad"], 0, PAGE)
    assert fs.read(paths[b"/bad"], 512, 100) == b"b" * 100
    walk(fs)
    fs.close()
    device.close()


@pytest.mark.parametrize("name", REFUSED)
def test_a_pool_of_an_older_format_is_refused_by_name_and_left_alone(
    name: str, shm: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = unpack(name, shm)
    before = path.read_bytes()
    with pytest.raises(UnsupportedError, match=f"version 1; .*knows version {POOL_VERSION}; use"):
        open_pool(path)
    assert run(["check", str(path)]) == 8
    assert "pool format version 1" in capsys.readouterr().err
    assert path.read_bytes() == before
