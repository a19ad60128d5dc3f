"""A pool that nobody has open, as a target."""

import os
from pathlib import Path

import pytest

from daxmend.errors import TruncatedError
from daxmend.events import CopyHealed, Event, EventHub
from daxmend.extent import Extent
from daxmend.faults import Fault, FaultKind
from daxmend.rescue.opening import open_target
from daxmend.stack.device import open_device
from daxmend.stack.pool import create

MIB = 1 << 20


def test_a_pool_may_be_called_what_open_device_takes_for_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = Path("ram:1M")
    create(path, MIB)
    target = open_target(path, writable=True)
    target.inject([Fault.of(Extent(0, 512), FaultKind.UNTIL_WRITTEN)])
    target.close()
    target = open_target(path)
    assert target.badblocks() == [Extent(0, 512)]
    target.close()


def test_a_scrub_of_a_pool_that_is_cut_short_meanwhile_is_an_error_r44(pool_path: Path) -> None:
    target = open_target(pool_path, writable=True)
    size = pool_path.stat().st_size
    os.truncate(pool_path, size - 4096)
    with pytest.raises(TruncatedError, match="cut short"):
        list(target.scrub(None))
    os.truncate(pool_path, size)
    target.close()


def test_who_subscribes_before_a_device_is_opened_hears_of_its_attaching(pool_path: Path) -> None:
    with open(pool_path, "r+b") as file:
        file.seek(40)
        file.write(b"????")
    events: list[Event] = []
    hub = EventHub()
    hub.subscribe(events.append)
    device = open_device(pool_path, events=hub)
    assert device.events is hub
    assert [(event.structure, event.copy) for event in events if isinstance(event, CopyHealed)] == [
        ("header", 0)
    ]
    device.close()
