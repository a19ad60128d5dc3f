"""zeroinit: zeros in place, poison cleared, edges looked at first (R29, R30)."""

import pytest

from daxmend.dax import io
from daxmend.errors import BadBlockError
from daxmend.events import Event, RecoveryRefused, ZeroinitDone
from daxmend.extent import Extent
from daxmend.pmem.device import PmemDevice
from daxmend.units import PAGE, SECTOR

CONTENT = bytes(range(1, 251)) * 200  # 50,000 bytes, none of them zero


@pytest.fixture(autouse=True)
def content(device: PmemDevice) -> None:
    io.write(device, 0, CONTENT)


def record(device: PmemDevice) -> list[Extent]:
    return [run for run, _ in device.badblocks(Extent(0, device.size))]


def expected(extent: Extent) -> bytes:
    return CONTENT[: extent.offset] + bytes(extent.length) + CONTENT[extent.end :]


@pytest.mark.parametrize(
    "extent",
    [
        Extent(PAGE, 2 * PAGE),
        Extent(PAGE + 100, 2 * PAGE),
        Extent(PAGE + 100, 50),
        Extent(2 * PAGE - 10, 20),
        Extent(100, PAGE),
    ],
    ids=str,
)
def test_exactly_the_range_becomes_zero_at_any_alignment(
    device: PmemDevice, extent: Extent
) -> None:
    io.zeroinit(device, extent)
    assert io.read(device, Extent(0, len(CONTENT))) == expected(extent)


def test_bad_pages_inside_heal_and_the_record_is_empty_r29(
    device: PmemDevice, events: list[Event]
) -> None:
    device.inject(Extent(2 * PAGE, SECTOR))
    device.inject(Extent(3 * PAGE + 64, 64), latent=True)
    extent = Extent(PAGE + 100, 4 * PAGE)
    io.zeroinit(device, extent)
    assert record(device) == []
    assert io.read(device, Extent(0, len(CONTENT))) == expected(extent)
    assert any(isinstance(event, ZeroinitDone) for event in events)


@pytest.mark.parametrize("bad", [Extent(PAGE, SECTOR), Extent(4 * PAGE + 3584, SECTOR)], ids=str)
def test_an_edge_that_cannot_heal_fails_the_call_and_nothing_changed_r30(
    device: PmemDevice, events: list[Event], bad: Extent
) -> None:
    device.inject(bad)
    before = [bytes(device.recovery_read(Extent(page * PAGE, PAGE)).data) for page in range(6)]
    with pytest.raises(BadBlockError):
        io.zeroinit(device, Extent(PAGE + 1000, 3 * PAGE))
    after = [bytes(device.recovery_read(Extent(page * PAGE, PAGE)).data) for page in range(6)]
    assert before == after
    assert record(device) == [bad]
    assert events[-1] == RecoveryRefused(bad.widened(PAGE), events[-1].reason)  # type: ignore[attr-defined]


def test_an_edge_that_covers_all_that_is_bad_in_its_page_heals_r16(device: PmemDevice) -> None:
    device.inject(Extent(PAGE + 2048, SECTOR))
    extent = Extent(PAGE + 1000, 3 * PAGE)
    io.zeroinit(device, extent)
    assert record(device) == []
    assert io.read(device, Extent(0, len(CONTENT))) == expected(extent)


def test_latent_poison_in_the_range_goes_too_r29(device: PmemDevice) -> None:
    """A store clears nothing (R5): what nobody has met yet is looked for first."""
    device.inject(Extent(2 * PAGE + 3 * SECTOR + 64, 64), latent=True)
    extent = Extent(PAGE, 2 * PAGE)
    io.zeroinit(device, extent)
    assert list(device.poison(Extent(0, device.size))) == []
    assert record(device) == []
    assert io.read(device, Extent(0, len(CONTENT))) == expected(extent)
