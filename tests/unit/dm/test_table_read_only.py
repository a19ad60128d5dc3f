"""A pool with a table that is only looked at: it opens whatever its members hold, and stays so."""

from contextlib import closing
from pathlib import Path

import pytest

from daxmend.dax import io
from daxmend.errors import UsageError
from daxmend.extent import Extent
from daxmend.media.pool import Content
from daxmend.stack.device import open_device
from daxmend.stack.member import TableDevice
from daxmend.stack.pool import create, create_table
from daxmend.units import MIB, PAGE

PAGES = 256
OLD, NEW = b"o" * PAGE, b"n" * PAGE


@pytest.fixture
def cached(shm: Path) -> Path:
    """A write cache over the pools `cache` and `origin`; page 3 is dirty."""
    for name in ("cache", "origin"):
        create(shm / name, MIB)
    create_table(shm / "t", f"0 {PAGES * 8} writecache cache origin 8\n", content=Content.RAW)
    with closing(open_device(shm / "t")) as device:
        io.write(device, 3 * PAGE, OLD)
        device.fence()
        assert isinstance(device, TableDevice)
        device.message(0, ["flush"])
        io.write(device, 3 * PAGE, NEW)
        device.fence()
    return shm / "t"


def damage(pool: Path, *extents: Extent, latent: bool = False) -> None:
    with closing(open_device(pool)) as device:
        for extent in extents:
            device.inject(extent, latent=latent)


def recorded(pool: Path) -> list[Extent]:
    with closing(open_device(pool, writable=False)) as device:
        return [run for run, _ in device.badblocks(Extent(0, device.size))]


def page_of_the_dirty_slot(pool: Path) -> Extent:
    """Where page 3 lies in the cache."""
    with closing(open_device(pool, writable=False)) as device:
        for offset in range(0, device.size, PAGE):
            if io.read(device, Extent(offset, PAGE)) == NEW:
                return Extent(offset, PAGE)
    raise AssertionError("it is nowhere")


@pytest.mark.parametrize("latent", [False, True])
def test_a_cache_whose_metadata_is_bad_can_be_read_and_stays_as_it_is(  # R38
    cached: Path, latent: bool
) -> None:
    bad = Extent(0, 2 * PAGE)  # the superblock and the first entries, copy 0
    damage(cached.parent / "cache", bad, latent=latent)
    for _ in range(2):
        with closing(open_device(cached, writable=False)) as device:
            assert io.read(device, Extent(3 * PAGE, PAGE)) == NEW
            assert any("cache superblock, copy 0" in said for said in device.notices)
            device.fence()
    assert recorded(cached.parent / "cache") == ([] if latent else [bad])


def test_a_cache_that_was_never_begun_can_be_read(cached: Path) -> None:
    for offset in (0, MIB - PAGE):  # as if it were new
        with closing(open_device(cached.parent / "cache")) as device:
            io.write(device, offset, bytes(PAGE))
            device.fence()
    with closing(open_device(cached, writable=False)) as device:
        assert io.read(device, Extent(3 * PAGE, PAGE)) == OLD
    with closing(open_device(cached.parent / "cache", writable=False)) as device:
        assert io.read(device, Extent(0, PAGE)) == bytes(PAGE)


def test_latent_poison_that_is_met_while_only_reading_is_no_failure_to_close(cached: Path) -> None:
    damage(cached.parent / "cache", Extent(PAGE, PAGE), latent=True)
    with closing(open_device(cached, writable=False)) as device:
        for _ in device.scrub(Extent(0, device.size)):
            pass
        assert io.read(device, Extent(3 * PAGE, PAGE)) == NEW


def test_what_was_dirty_and_is_lost_is_said_to_whoever_opens_the_pool(cached: Path) -> None:  # R38
    damage(cached.parent / "cache", page_of_the_dirty_slot(cached.parent / "cache"))
    for writable in (False, True):
        with closing(open_device(cached, writable=writable)) as device:
            said = [notice for notice in device.notices if "lost" in notice]
            assert len(said) == 1
            assert str(Extent(3 * PAGE, PAGE)) in said[0]


def test_a_log_that_its_session_did_not_end_can_be_read_and_stays_as_it_is(shm: Path) -> None:
    for name in ("data", "log"):
        create(shm / name, MIB)
    create_table(shm / "t", f"0 {PAGES * 8} log-writes data log\n", content=Content.RAW)
    with closing(open_device(shm / "t")) as device:
        assert isinstance(device, TableDevice)
        device.message(0, ["mark", "here"])
        stopped = (shm / "log").read_bytes()
    (shm / "log").write_bytes(stopped)
    with closing(open_device(shm / "t", writable=False)) as device:
        assert isinstance(device, TableDevice)
        assert "logging_disabled" not in device.status()
        with pytest.raises(UsageError, match="read-only"):
            device.message(0, ["mark", "there"])
    assert (shm / "log").read_bytes() == stopped
