"""A mount's scrub: in slices, one at a time, polled (R4)."""

import os
from collections.abc import Iterator
from pathlib import Path
from threading import Event

import pytest

from daxmend.errors import BusyError
from daxmend.extent import Extent
from daxmend.mounts.scrub import Scrubber
from daxmend.pmem.device import PmemDevice
from daxmend.stack.device import open_device
from daxmend.units import MIB, PAGE, SECTOR

_SECONDS = 10


class SlowDevice(PmemDevice):
    """A device whose second slice waits until it may go on."""

    def scrub(self, extent: Extent) -> Iterator[Extent]:
        self.may_go_on = Event()
        self.has_begun = Event()
        half = extent.length // 2
        yield Extent(extent.offset, half)
        self.has_begun.set()
        assert self.may_go_on.wait(_SECONDS)
        yield from super().scrub(extent)


def test_a_scrub_finds_latent_poison_and_counts_itself_r4(device: PmemDevice) -> None:
    device.inject(Extent(1000, 1), latent=True)
    ended = Event()
    scrubber = Scrubber(device, print)
    assert scrubber.state == "0"
    scrubber.start(Extent(0, device.size), ended.set)
    assert ended.wait(_SECONDS)
    assert scrubber.state == "1"
    assert [run for run, _ in device.badblocks(Extent(0, device.size))] == [Extent(SECTOR, SECTOR)]
    assert scrubber.scrubbed == scrubber.total == device.size


def test_a_running_scrub_says_so_and_lets_no_other_begin(device: PmemDevice) -> None:
    device.__class__ = SlowDevice
    assert isinstance(device, SlowDevice)
    scrubber = Scrubber(device, print)
    ended = Event()
    scrubber.start(Extent(0, device.size), ended.set)
    try:
        with pytest.raises(BusyError, match="running"):
            scrubber.start(Extent(0, device.size), ended.set)
        assert device.has_begun.wait(_SECONDS)
        assert scrubber.state == "0+"
        assert scrubber.scrubbed == device.size // 2
    finally:
        device.may_go_on.set()
    assert ended.wait(_SECONDS)
    assert scrubber.state == "1"


def test_a_scrub_that_is_stopped_does_not_count(device: PmemDevice) -> None:
    device.__class__ = SlowDevice
    assert isinstance(device, SlowDevice)
    scrubber = Scrubber(device, print)
    scrubber.start(Extent(0, device.size), lambda: None)
    assert device.has_begun.wait(_SECONDS)
    device.may_go_on.set()
    scrubber.stop()
    assert not scrubber.is_running


@pytest.mark.parametrize("cut", [1, PAGE, MIB])
def test_a_file_that_was_cut_short_ends_a_scrub_with_an_error_r44(
    pool_path: Path, cut: int
) -> None:
    device = open_device(pool_path)
    os.truncate(pool_path, pool_path.stat().st_size - cut)
    complaints: list[str] = []
    ended = Event()
    scrubber = Scrubber(device, complaints.append)
    scrubber.start(Extent(0, PAGE), ended.set)  # what is left of it, or not: the pool is not whole
    assert ended.wait(_SECONDS)
    assert "cut short" in scrubber.error
    assert len(complaints) == 1
    assert scrubber.state == "0"
    os.truncate(pool_path, pool_path.stat().st_size + cut)
    device.close()
