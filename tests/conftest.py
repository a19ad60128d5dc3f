"""Fixtures that every suite shares: a fast directory, pools in it, devices that get closed."""

import gc
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from daxmend.events import Event
from daxmend.media.backing import Durability
from daxmend.media.pool import create_memory_pool, create_pool, open_pool
from daxmend.pmem.device import PmemDevice
from daxmend.units import MIB

settings.register_profile("untimed", deadline=None)  # a busy machine fails no test
settings.load_profile("untimed")

OpenPool = Callable[[], PmemDevice]


@pytest.fixture(autouse=True, scope="module")
def collected() -> Iterator[None]:
    """No module inherits what another left to the garbage collector, such as open files."""
    yield
    gc.collect()


@pytest.fixture
def shm() -> Iterator[Path]:
    """A directory on tmpfs, where pools are quick to make and windows really fault."""
    path = Path(tempfile.mkdtemp(prefix="daxmend-test-", dir="/dev/shm"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def pool_path(shm: Path) -> Path:
    """An empty pool of 1 MiB that nobody has open."""
    path = shm / "test.pool"
    create_pool(path, MIB, durability=Durability.PROCESS)
    return path


@pytest.fixture
def open_device(pool_path: Path) -> Iterator[OpenPool]:
    """Opens the device on `pool_path`; opening again closes it first, as a restart does."""
    opened: list[PmemDevice] = []

    def restart() -> PmemDevice:
        while opened:
            opened.pop().close()
        opened.append(PmemDevice(open_pool(pool_path)))
        return opened[0]

    yield restart
    while opened:
        opened.pop().close()


@pytest.fixture
def device() -> Iterator[PmemDevice]:
    """A device of 1 MiB of memory alone."""
    made = PmemDevice(create_memory_pool(MIB))
    yield made
    made.close()


@pytest.fixture
def events(device: PmemDevice) -> list[Event]:
    """What `device` publishes from now on."""
    seen: list[Event] = []
    device.events.subscribe(seen.append)
    return seen


@pytest.fixture
def need_root() -> None:
    """Skips, loudly, where the test is not run by root."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
