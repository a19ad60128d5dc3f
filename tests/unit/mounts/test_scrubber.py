"""A mount's scrub: in slices, one at a time, polled (R4)."""

from collections.abc import Iterator
from threading import Event

import pytest

from daxmend.errors import BusyError
from daxmend.extent import Extent
from daxmend.mounts.scrub import Scrubber
from daxmend.pmem.device import PmemDevice
from daxmend.units import SECTOR

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
