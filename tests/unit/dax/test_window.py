"""A window: bytes of a device, checked at every access, that may be kept (R24, R28, R49)."""

from collections.abc import Callable

import pytest

from daxmend import _native
from daxmend.dax import io
from daxmend.dax.api import AccessMode, Window
from daxmend.errors import UsageError
from daxmend.extent import Extent
from daxmend.media.exposure import Exposure
from daxmend.pmem.device import PmemDevice
from daxmend.units import CACHELINE, PAGE, SECTOR

PAGE_1 = Extent(PAGE, PAGE)
AROUND = Extent(0, 3 * PAGE)

Store = Callable[[Window], object]


@pytest.fixture
def fences(device: PmemDevice, monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """One entry for each fence of the device."""
    seen: list[None] = []
    fence = device._record.fence

    def counted() -> None:
        seen.append(None)
        fence()

    monkeypatch.setattr(device._record, "fence", counted)
    return seen


@pytest.mark.parametrize(
    ("offset", "length"), [(-1, 1), (-64, 64), (PAGE, 1), (PAGE - 1, 2), (0, PAGE + 1), (PAGE, 64)]
)
def test_no_access_leaves_the_window(device: PmemDevice, offset: int, length: int) -> None:
    """Its neighbours may be somebody else's, or not be asked for recovery."""
    window = device.direct_access(PAGE_1, AccessMode.NORMAL)
    before = io.read(device, AROUND)
    for access in (
        lambda: window.load(offset, length),
        lambda: window.view(offset, length),
        lambda: window.store(offset, b"x" * length),
        lambda: window.store_line(offset, b"x" * length),
    ):
        with pytest.raises(UsageError, match="outside a window of 4096 bytes"):
            access()
    assert io.read(device, AROUND) == before


def test_a_window_may_be_used_up_to_its_last_byte(device: PmemDevice) -> None:
    window = device.direct_access(PAGE_1, AccessMode.NORMAL)
    window.store(PAGE - 3, b"end")
    window.store(PAGE, b"")
    assert window.load(PAGE - 3, 3) == bytes(window.view(PAGE - 3, 3)) == b"end"
    assert window.load(PAGE, 0) == b""


def test_memory_over_a_recorded_page_faults_though_its_poison_is_gone_and_its_neighbours_do_not(
    device: PmemDevice,
) -> None:
    """R24, R28: not present is what the record says, and the page is its unit."""
    device.inject(Extent(PAGE + SECTOR, SECTOR))
    device.uninject(AROUND)
    exposed = device.direct_access(AROUND, AccessMode.RECOVERY).expose()
    assert isinstance(exposed, Exposure)
    with exposed:
        assert exposed.faulting == [PAGE_1]
        for at in (PAGE, 2 * PAGE - 1):
            with pytest.raises(_native.MemoryFault) as caught:
                _native.read(exposed.memory, at, 1)
            assert caught.value.address == exposed.address + at
        for good in (0, PAGE - 1, 2 * PAGE, 3 * PAGE - 1):
            assert _native.read(exposed.memory, good, 1) == b"\0"
        device.recovery_write(PAGE, b"n" * PAGE)
        assert _native.read(exposed.memory, PAGE, PAGE) == b"n" * PAGE


STORES: dict[str, Store] = {
    "store": lambda window: window.store(PAGE + 5, b"newer"),
    "line": lambda window: window.store_line(PAGE, b"n" * CACHELINE),
    "memory": lambda window: window.expose().close(),
}


@pytest.mark.parametrize("how", STORES)
def test_a_store_through_a_window_older_than_a_recovery_waits_for_its_last_step(
    device: PmemDevice, fences: list[None], how: str
) -> None:
    """R18, R49: else a crash would take the store for an unfinished recovery."""
    window = device.direct_access(AROUND, AccessMode.NORMAL)
    device.inject(Extent(PAGE, SECTOR))
    device.recovery_write(PAGE, bytes(PAGE))
    assert list(device._healer.unfenced) == [PAGE_1]
    fences.clear()
    STORES[how](window)
    assert len(fences) == 1
    assert not device._healer.unfenced
    STORES[how](window)
    assert len(fences) == 1, "only the first one waits"


def test_neither_loads_nor_stores_elsewhere_wait_for_anything(
    device: PmemDevice, fences: list[None]
) -> None:
    """R22: the normal path pays a comparison."""
    device.inject(Extent(PAGE, SECTOR))
    device.recovery_write(PAGE, b"d" * PAGE)
    fences.clear()
    window = device.direct_access(AROUND, AccessMode.NORMAL)
    assert window.load(PAGE, PAGE) == b"d" * PAGE
    window.store(0, b"x" * PAGE)
    window.store(2 * PAGE, b"x")
    assert fences == []
