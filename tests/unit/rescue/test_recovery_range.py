"""One function from an event to the range to recover, and its narrowing (R26)."""

import signal
from collections.abc import Iterator

import pytest

from daxmend import _native
from daxmend.dax import io
from daxmend.dax.api import AccessMode, ExposedMemory
from daxmend.errors import UsageError
from daxmend.events import Event, PoisonConsumed
from daxmend.extent import Extent
from daxmend.host.siginfo import BusCode
from daxmend.pmem.device import PmemDevice
from daxmend.rescue.recovery_range import (
    BusError,
    IoFailure,
    MappedRange,
    consume_fault,
    narrow_range,
    recovery_range,
)
from daxmend.units import KIB, MIB, PAGE, SECTOR

MAPPING = MappedRange(address=0x7F0000200000, length=8 * MIB, offset=16 * PAGE)


def bus_error(code: int, into: int, lsb: int = 0, mapping: MappedRange = MAPPING) -> BusError:
    return BusError(code, mapping.address + into, lsb, mapping)


@pytest.mark.parametrize("lsb", [0, 12, 21, 63])
def test_an_address_error_is_the_mappings_page_r26(lsb: int) -> None:
    """Whatever `si_addr_lsb` holds then: the kernel sets it for machine checks alone."""
    event = bus_error(BusCode.BUS_ADRERR, 3 * PAGE + 17, lsb)
    assert recovery_range(event) == Extent(19 * PAGE, PAGE)


@pytest.mark.parametrize(("lsb", "length"), [(6, PAGE), (12, PAGE), (13, 2 * PAGE), (21, 2 * MIB)])
def test_a_machine_check_is_as_wide_as_it_says_and_never_less_than_a_page_r26(
    lsb: int, length: int
) -> None:
    found = recovery_range(bus_error(BusCode.BUS_MCEERR_AR, 2 * MIB + 5 * PAGE + 1, lsb))
    start = (2 * MIB + 5 * PAGE) // length * length
    assert found == Extent(start + MAPPING.offset, length)


def test_the_range_ends_where_the_mapping_ends_r26() -> None:
    mapping = MappedRange(address=0x7F0000000000 + PAGE, length=3 * PAGE, offset=0)
    found = recovery_range(bus_error(BusCode.BUS_MCEERR_AR, 0, 21, mapping))
    assert found == Extent(0, 3 * PAGE)


def test_an_io_failure_is_its_blocks_widened_to_pages_r26() -> None:
    found = recovery_range(IoFailure(Extent(PAGE + SECTOR, PAGE)))
    assert found == Extent(PAGE, 2 * PAGE)


@pytest.mark.parametrize(
    "event",
    [
        bus_error(BusCode.BUS_ADRERR, -1),
        bus_error(BusCode.BUS_ADRERR, MAPPING.length),
        bus_error(1, 0),
        bus_error(BusCode.BUS_MCEERR_AR, 0, 0),
        bus_error(BusCode.BUS_MCEERR_AR, 0, 63),
    ],
)
def test_what_tells_of_no_memory_in_the_mapping_is_refused(event: BusError) -> None:
    with pytest.raises(UsageError):
        recovery_range(event)


def test_a_wide_range_is_narrowed_to_the_pages_that_are_bad_r26(device: PmemDevice) -> None:
    io.write(device, 0, b"good" * (64 * KIB))
    device.inject(Extent(3 * PAGE + SECTOR, SECTOR))
    device.inject(Extent(4 * PAGE, 1))
    device.inject(Extent(9 * PAGE + 100, 1), latent=True)
    assert narrow_range(device, Extent(0, 256 * KIB)) == [
        Extent(3 * PAGE, 2 * PAGE),
        Extent(9 * PAGE, PAGE),
    ]
    assert narrow_range(device, Extent(16 * PAGE, 16 * PAGE)) == []


# -- a fault of memory that was handed out (R3, R25) -------------------------------------------

SHOWN = Extent(8 * PAGE, 8 * PAGE)


@pytest.fixture
def exposed(device: PmemDevice) -> Iterator[ExposedMemory]:
    """Real memory over `SHOWN`."""
    io.write(device, 0, bytes(range(256)) * 16 * 32)
    memory = device.direct_access(SHOWN, AccessMode.NORMAL).expose()
    yield memory
    memory.close()


def fault_at(exposed: ExposedMemory, offset: int) -> _native.MemoryFault:
    with pytest.raises(_native.MemoryFault) as caught:
        _native.read(exposed.memory, offset, 8)
    return caught.value


@pytest.mark.parametrize("at", [3 * PAGE + 1000, 3 * PAGE, 4 * PAGE - 8])
def test_a_load_of_exposed_latent_poison_enters_its_true_sectors_into_the_record_r3_r25(
    device: PmemDevice, exposed: ExposedMemory, events: list[Event], at: int
) -> None:
    """Whichever byte of the page was loaded: all of it faults, and not all of it is bad."""
    line = Extent(11 * PAGE + SECTOR + 64, 64)
    device.inject(line, latent=True)
    assert list(device.badblocks(Extent(0, device.size))) == []
    events.clear()
    fault = fault_at(exposed, at)
    assert fault.signal == signal.SIGBUS
    mapping = MappedRange(exposed.address, SHOWN.length, SHOWN.offset)
    assert consume_fault(device, fault, mapping) == [Extent(11 * PAGE, PAGE)]
    bad = line.widened(SECTOR)
    assert [run for run, _ in device.badblocks(Extent(0, device.size))] == [bad]
    assert events == [PoisonConsumed(bad)]
    device.recovery_write(11 * PAGE, b"n" * PAGE)
    assert _native.read(exposed.memory, 3 * PAGE, PAGE) == b"n" * PAGE
    assert consume_fault(device, fault, mapping) == []


def test_a_fault_that_no_medium_made_is_no_range_to_recover(
    device: PmemDevice, exposed: ExposedMemory
) -> None:
    mapping = MappedRange(exposed.address, SHOWN.length, SHOWN.offset)
    segv = _native.MemoryFault(0, exposed.address, signal.SIGSEGV, 2)
    with pytest.raises(UsageError, match="no failure of a medium"):
        consume_fault(device, segv, mapping)
    elsewhere = _native.MemoryFault(0, exposed.address - 1, signal.SIGBUS, BusCode.BUS_ADRERR)
    with pytest.raises(UsageError, match="is not in the"):
        consume_fault(device, elsewhere, mapping)
