"""What attaching a device repairs, decides and tells (R18, R43, R48)."""

from pathlib import Path

import pytest

from daxmend.events import CopyHealed, Event, EventHub, IntentReplayed
from daxmend.extent import Extent
from daxmend.media.pool import Layout, open_pool
from daxmend.pmem.device import PmemDevice
from daxmend.pmem.intent import Intent, Request
from daxmend.units import MIB, PAGE, SECTOR

LAYOUT = Layout.of_size(MIB)


def attach(path: Path) -> list[Event]:
    """Attach and close; what subscribers heard."""
    hub, heard = EventHub(), []
    hub.subscribe(heard.append)
    PmemDevice(open_pool(path), hub).close()
    return heard


def flip(path: Path, offset: int) -> None:
    with open(path, "r+b") as file:
        file.seek(offset)
        (byte,) = file.read(1)
        file.seek(offset)
        file.write(bytes([byte ^ 0xFF]))


@pytest.mark.parametrize(
    ("structure", "offset"),
    [
        ("header", 100),
        ("record", LAYOUT.record[0].offset + 70),
        ("poison", LAYOUT.poison[0].offset + 70),
    ],
)
def test_a_healed_copy_is_told_once(pool_path: Path, structure: str, offset: int) -> None:
    device = PmemDevice(open_pool(pool_path))
    device.inject(Extent(0, SECTOR))
    device.close()
    assert attach(pool_path) == []
    flip(pool_path, offset)
    (event,) = attach(pool_path)
    assert isinstance(event, CopyHealed)
    assert (event.structure, event.copy) == (structure, 0)
    assert event.reason
    assert attach(pool_path) == []


def test_the_outcome_of_every_interrupted_recovery_is_told(pool_path: Path) -> None:
    """R18, R48: complete, untouched, and neither; page by page of one intent."""
    device = PmemDevice(open_pool(pool_path))
    pages = Extent(PAGE, 3 * PAGE)
    data = b"n" * pages.length
    device.inject(pages)
    healer = device._healer
    before = healer._checksums_before(pages, PAGE)
    request = Request(pages, memoryview(data), (), PAGE)
    device._record.begin(Intent.to_write(7, request, (pages,), before))
    device._medium.clear(PAGE, 2 * PAGE)
    device._medium.store(PAGE, data[:PAGE])
    device.fence()
    device.close()
    assert attach(pool_path) == [
        IntentReplayed(Extent(PAGE, PAGE), "complete"),
        IntentReplayed(Extent(2 * PAGE, PAGE), "lost"),
        IntentReplayed(Extent(3 * PAGE, PAGE), "bad"),
    ]
    assert attach(pool_path) == [], "judged once"
    device = PmemDevice(open_pool(pool_path))
    assert [(run, state.value) for run, state in device.badblocks(Extent(0, MIB))] == [
        (Extent(2 * PAGE, PAGE), "lost"),
        (Extent(3 * PAGE, PAGE), "bad"),
    ]
    device.close()


def test_an_orderly_restart_tells_nothing(pool_path: Path) -> None:
    device = PmemDevice(open_pool(pool_path))
    device.inject(Extent(0, PAGE))
    device.recovery_write(0, bytes(PAGE))
    device.close()
    assert attach(pool_path) == []
