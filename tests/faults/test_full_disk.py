"""A file system that runs full under a pool: a clear error, and nothing is lost."""

import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from daxmend.dax import io
from daxmend.dax.api import AccessMode
from daxmend.extent import Extent, ExtentSet
from daxmend.media.backing import Durability
from daxmend.media.pool import create_pool, open_pool
from daxmend.pmem.device import PmemDevice
from daxmend.units import KIB, MIB, PAGE, SECTOR

ALL = Extent(0, MIB)


@pytest.fixture
def small_disk(shm: Path, need_root: None) -> Iterator[Path]:
    """A tmpfs of 640 KiB."""
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=640k", "tmpfs", shm],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"a tmpfs cannot be mounted here: {done.stderr}")
    yield shm
    subprocess.run(["umount", "--lazy", shm], check=True)


class SmallPool:
    """A pool of 1 MiB on a disk of less, with old data in its first pages."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "p"
        self.ballast = directory / "ballast"
        create_pool(self.path, MIB, durability=Durability.PROCESS)
        self.device = PmemDevice(open_pool(self.path))
        io.write(self.device, 0, b"old" * (8 * PAGE // 3))
        self.device.inject(Extent(PAGE, SECTOR))

    def fill(self, leave: int = 0) -> None:
        """Take all the space there is, but for some pages."""
        with open(self.ballast, "wb", buffering=0) as file:
            while shutil.disk_usage(self.ballast).free:
                file.write(bytes(PAGE))
            file.truncate(os.fstat(file.fileno()).st_size - leave * PAGE)

    def free(self) -> None:
        self.ballast.unlink(missing_ok=True)

    def restart(self) -> PmemDevice:
        """Open again; where judging an interrupted recovery needs space, after that was freed."""
        self.device.close()
        pool = open_pool(self.path)
        try:
            self.device = PmemDevice(pool)
        except OSError as error:
            assert_no_space(error, self.path)
            pool.close()
            self.free()
            self.device = PmemDevice(open_pool(self.path))
        return self.device

    def record(self) -> list[Extent]:
        return [run for run, _ in self.device.badblocks(ALL)]


@pytest.fixture
def pool(small_disk: Path) -> Iterator[SmallPool]:
    made = SmallPool(small_disk)
    yield made
    made.device.close()


def assert_no_space(error: OSError, path: Path) -> None:
    """The error says what, where, and what to do."""
    assert error.errno == errno.ENOSPC
    assert str(path) in str(error)
    assert "free space" in str(error)


def test_a_write_without_space_says_so(pool: SmallPool) -> None:
    pool.fill()
    with pytest.raises(OSError) as caught:
        io.write(pool.device, MIB // 2, bytes(64 * KIB))
    assert_no_space(caught.value, pool.path)
    assert io.read(pool.device, Extent(0, PAGE)) == (b"old" * PAGE)[:PAGE]
    pool.free()
    assert io.write(pool.device, MIB // 2, b"new" * PAGE) == 3 * PAGE


def test_a_full_disk_does_not_keep_a_pool_from_being_opened(pool: SmallPool) -> None:
    pool.device.close()
    pool.fill()
    pool.device = PmemDevice(open_pool(pool.path))
    assert pool.record() == [Extent(PAGE, SECTOR)]
    assert io.read(pool.device, Extent(0, PAGE)) == (b"old" * PAGE)[:PAGE]


def test_a_record_that_has_no_space_to_grow_forgets_nothing(pool: SmallPool) -> None:
    """R8: faults are added until the disk is full; what was acknowledged is there for ever."""
    pool.fill(leave=1)
    acknowledged = [Extent(PAGE, SECTOR)]
    refused = False
    for sector in range(64, 512, 2):
        try:
            pool.device._record.set([Extent.of_sectors(sector, 1)])
            pool.device.fence()
        except OSError as error:
            assert_no_space(error, pool.path)
            refused = True
            break
        acknowledged.append(Extent.of_sectors(sector, 1))
    assert refused, "the disk was not full"
    assert set(acknowledged) <= set(pool.record())
    pool.free()
    pool.device._record.set([Extent.of_sectors(1000, 1)])
    pool.device.fence()
    acknowledged.append(Extent.of_sectors(1000, 1))
    pool.restart()
    assert set(acknowledged) <= set(pool.record())
    assert pool.device._record.repairs == []


@pytest.mark.parametrize("leave", [0, 1, 2, 3])
def test_an_injection_without_space_leaves_no_poison_that_the_record_does_not_know(
    pool: SmallPool, leave: int
) -> None:
    """R4, R8: poisoned bytes take space in the pool, and so does what says that they are bad."""
    pool.fill(leave)
    refused: list[tuple[Extent, OSError]] = []
    for sector in range(64, 512, 9):
        extent = Extent.of_sectors(sector, 1)
        try:
            pool.device.inject(extent)
        except OSError as error:
            refused.append((extent, error))
    assert refused, "the disk was not full"
    for extent, error in refused:
        assert_no_space(error, pool.path)
        assert f"{extent} is not injected" in str(error)
        assert "inject it again" in str(error)
    pool.free()
    for _ in range(2):
        known = ExtentSet(SECTOR, pool.record())
        assert all(known.covers(lines) for lines in pool.device.poison(ALL))
        assert list(pool.device.scrub(ALL))
        assert pool.record() == list(known)
        pool.restart()


@pytest.mark.parametrize("leave", [0, 1, 2, 3])
def test_a_recovery_without_space_leaves_the_page_bad_and_salvageable(
    pool: SmallPool, leave: int
) -> None:
    """R21, R46. The journal is near the end of its page, so that the next entry needs space."""
    kept = (b"old" * PAGE)[:PAGE]
    for _ in range(200):  # to where the disk's last pages decide
        pool.device.inject(Extent(PAGE, SECTOR))
        if pool.device._record._journal._end % PAGE > PAGE - 200:
            break
    pool.fill(leave)
    window = pool.device.direct_access(Extent(0, PAGE), AccessMode.NORMAL)
    try:
        count = io.write(pool.device, PAGE, b"N" * PAGE)
    except OSError as error:
        assert_no_space(error, pool.path)
        count = 0
    for _ in range(2):
        if count:
            assert io.read(pool.device, Extent(PAGE, PAGE)) == b"N" * PAGE
        else:
            assert pool.record()[0].offset == PAGE
            salvage = pool.device.recovery_read(Extent(PAGE, PAGE))
            good = bytearray((b"old" * 4 * PAGE)[PAGE : 2 * PAGE])
            for lost in salvage.lost:
                good[lost.offset - PAGE : lost.end - PAGE] = bytes(lost.length)
            assert salvage.data == good
        assert io.read(pool.device, Extent(0, PAGE)) == kept
        pool.restart()
    assert window.length == PAGE
    pool.free()
    assert io.write(pool.device, PAGE, b"N" * PAGE) == PAGE
    assert pool.record() == []


def test_a_pool_that_cannot_be_made_leaves_no_file(small_disk: Path) -> None:
    (small_disk / "ballast").write_bytes(bytes(620 * KIB))
    with pytest.raises(OSError) as caught:
        create_pool(small_disk / "p", MIB, durability=Durability.PROCESS)
    assert caught.value.errno == errno.ENOSPC
    assert not (small_disk / "p").exists()
