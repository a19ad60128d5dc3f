"""What a device gives back when it is closed, and what an attach tells about."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from daxmend.dax import io
from daxmend.dax.api import AccessMode
from daxmend.errors import UnsupportedError
from daxmend.extent import Extent
from daxmend.media.pool import open_pool, read_owner
from daxmend.pmem.device import PmemDevice
from daxmend.units import MIB, PAGE, SECTOR

OpenDevice = Callable[[], PmemDevice]


def test_a_closed_device_gives_back_lock_memory_and_files(pool_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    device = PmemDevice(open_pool(pool_path))
    window = device.direct_access(Extent(0, PAGE), AccessMode.NORMAL)
    window.load(0, 8)
    device.close()
    device.close()
    assert len(os.listdir("/proc/self/fd")) == before
    assert read_owner(pool_path) is None
    PmemDevice(open_pool(pool_path)).close()


def test_a_window_of_a_closed_device_reaches_nothing(open_device: OpenDevice) -> None:
    """The pool may be somebody else's by now."""
    window = open_device().direct_access(Extent(0, PAGE), AccessMode.NORMAL)
    open_device()
    for access in (
        lambda: window.load(0, 8),
        lambda: window.view(0, 8),
        lambda: window.store(0, b"x"),
    ):
        with pytest.raises(ValueError):
            access()


def test_a_view_that_is_still_held_does_not_keep_the_pool(
    open_device: OpenDevice, pool_path: Path
) -> None:
    device = open_device()
    device.direct_access(Extent(0, PAGE), AccessMode.NORMAL).store(0, b"held")
    view = device.direct_access(Extent(0, PAGE), AccessMode.NORMAL).view(0, 4)
    device.close()
    assert read_owner(pool_path) is None
    assert view == b"held"
    view.release()


def test_a_device_of_a_pool_open_for_reading_answers_and_changes_nothing(
    open_device: OpenDevice, pool_path: Path
) -> None:
    device = open_device()
    device.inject(Extent(PAGE, 1))
    device.inject(Extent(2 * PAGE + 1000, 1), latent=True)
    device.close()
    before = pool_path.read_bytes()
    reader = PmemDevice(open_pool(pool_path, writable=False))
    whole = Extent(0, MIB)
    assert [run for run, _ in reader.badblocks(whole)] == [Extent(PAGE, 512)]
    salvage = reader.recovery_read(Extent(2 * PAGE, PAGE))
    assert salvage.lost == [Extent(2 * PAGE + 960, 64)]
    assert not reader.capabilities(whole)[0].can_recover
    for change in (
        lambda: reader.recovery_write(PAGE, bytes(PAGE)),
        lambda: reader.write_sectors(PAGE // SECTOR, bytes(SECTOR)),
        lambda: reader.zeroinit(Extent(PAGE, PAGE)),
        lambda: reader.hold(PAGE, b"x", PAGE),
        lambda: reader.inject(Extent(0, 1)),
        lambda: reader.inject_once(Extent(0, 1)),
        lambda: reader.uninject(Extent(PAGE, 1)),
    ):
        with pytest.raises(UnsupportedError, match="read-only"):
            change()
    with pytest.raises(OSError, match="read-only") as caught:
        io.write(reader, 5 * PAGE, b"x")
    assert caught.value.errno == errno.EROFS
    reader.close()
    assert pool_path.read_bytes() == before
