"""One function from an event to the range to recover, and its narrowing (R26)."""

import pytest

from daxmend.dax import io
from daxmend.errors import UsageError
from daxmend.extent import Extent
from daxmend.pmem.device import PmemDevice
from daxmend.rescue import BusError, IoFailure, MappedRange, narrow_range, recovery_range
from daxmend.rescue.recovery_range import BUS_ADRERR, BUS_MCEERR_AR
from daxmend.units import KIB, MIB, PAGE, SECTOR

MAPPING = MappedRange(address=0x7F0000200000, length=8 * MIB, offset=16 * PAGE)


def bus_error(code: int, into: int, lsb: int = 0, mapping: MappedRange = MAPPING) -> BusError:
    return BusError(code, mapping.address + into, lsb, mapping)


def test_an_address_error_is_the_mappings_page_r26() -> None:
    assert recovery_range(bus_error(BUS_ADRERR, 3 * PAGE + 17)) == Extent(19 * PAGE, PAGE)


@pytest.mark.parametrize(("lsb", "length"), [(6, PAGE), (12, PAGE), (13, 2 * PAGE), (21, 2 * MIB)])
def test_a_machine_check_is_as_wide_as_it_says_and_never_less_than_a_page_r26(
    lsb: int, length: int
) -> None:
    found = recovery_range(bus_error(BUS_MCEERR_AR, 2 * MIB + 5 * PAGE + 1, lsb))
    start = (2 * MIB + 5 * PAGE) // length * length
    assert found == Extent(start + MAPPING.offset, length)


def test_the_range_ends_where_the_mapping_ends_r26() -> None:
    mapping = MappedRange(address=0x7F0000000000 + PAGE, length=3 * PAGE, offset=0)
    found = recovery_range(bus_error(BUS_MCEERR_AR, 0, 21, mapping))
    assert found == Extent(0, 3 * PAGE)


def test_an_io_failure_is_its_blocks_widened_to_pages_r26() -> None:
    found = recovery_range(IoFailure(Extent(PAGE + SECTOR, PAGE)))
    assert found == Extent(PAGE, 2 * PAGE)


@pytest.mark.parametrize(
    "event",
    [
        bus_error(BUS_ADRERR, -1),
        bus_error(BUS_ADRERR, MAPPING.length),
        bus_error(1, 0),
        bus_error(BUS_MCEERR_AR, 0, 0),
        bus_error(BUS_MCEERR_AR, 0, 63),
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
