"""Makes the golden images of the formats as they are now: small pools, compressed (`*.pool.xz`).

    python tests/golden/make_images.py

writes `pool-N-raw` and `pool-N-fs-M` beside it, N and M being the versions of pool and file system.
Images of released formats are never made again: the script refuses to overwrite. Those of version 1
were made by the commits that test_golden.py names.
"""

import lzma
import stat
import sys
import tempfile
from pathlib import Path

from daxmend.extent import Extent
from daxmend.fs import FileSystem, make_file_system
from daxmend.fs.superblock import FS_VERSION
from daxmend.media.backing import Durability
from daxmend.media.pool import POOL_VERSION, Content, create_pool, open_pool
from daxmend.pmem.device import PmemDevice
from daxmend.units import KIB, MIB, PAGE

DATA = Path(__file__).parent / "data"
RAW_NAME = f"pool-{POOL_VERSION}-raw.pool.xz"
FS_NAME = f"pool-{POOL_VERSION}-fs-{FS_VERSION}.pool.xz"

TEXT = b"golden!\n"
RECORDED = Extent(64 * KIB, PAGE)
LATENT = Extent(128 * KIB, 64)
FILE = stat.S_IFREG | 0o640
TIME_NS = 1_000_000_007_123_456_789


def make_raw(path: Path) -> None:
    """Text at 4 KiB; recorded and latent poison; half of a cut write, which attaching drops."""
    create_pool(path, MIB, durability=Durability.PROCESS)
    device = PmemDevice(open_pool(path))
    device.write_sectors(8, TEXT * 512)
    device.inject(RECORDED)
    device.inject(LATENT, latent=True)
    device.hold(RECORDED.offset, b"h" * KIB, PAGE)
    device.close()


def make_files(path: Path) -> None:
    """One of everything; some of it in the checkpoint, the rest in the journal."""
    create_pool(path, MIB, durability=Durability.PROCESS, content=Content.FS)
    device = PmemDevice(open_pool(path))
    make_file_system(device, uid=7, gid=8, mode=0o751)
    fs = FileSystem(device, commits_each=True)
    directory = fs.make(fs.root, b"directory", stat.S_IFDIR | 0o700, 1, 2)
    file = fs.make(directory, b"file", FILE, 3, 4)
    fs.write(file, 0, TEXT * 1000)
    fs.write(file, 100 * PAGE, TEXT)  # after a hole
    fs.fallocate(file, 200 * PAGE, PAGE)
    fs.setxattr(file, b"user.golden", b"yes")
    fs.link(file, fs.root, b"hard link")
    fs.checkpoint()
    fs.make(fs.root, b"symbolic link", stat.S_IFLNK | 0o777, 0, 0, target=b"directory/file")
    fs.make(fs.root, b"device", stat.S_IFCHR | 0o600, 0, 0, rdev=0x103)
    bad = fs.make(fs.root, b"bad", FILE, 0, 0)
    fs.write(bad, 0, b"b" * 2 * PAGE)
    device.inject(Extent(next(fs.extents(bad)).device_offset, 512))
    fs.set_attributes(file, mtime_ns=TIME_NS)
    fs.sync()
    fs.is_read_only = True  # as a crash does: the journal is not empty
    fs.close()
    device.close()


def main() -> None:
    """Make both, and overwrite none."""
    for name, make in ((RAW_NAME, make_raw), (FS_NAME, make_files)):
        target = DATA / name
        if target.exists():
            sys.exit(f"{target} is there: an image that was released stays as it is")
        with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
            made = Path(directory) / "pool"
            make(made)
            target.write_bytes(lzma.compress(made.read_bytes(), preset=9))
        print(f"{target}: {target.stat().st_size} bytes")


if __name__ == "__main__":
    main()
