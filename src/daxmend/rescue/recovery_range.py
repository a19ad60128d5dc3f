"""From what went wrong to the range to recover (R26): one function, whatever reported it."""

import signal
from typing import NamedTuple

from daxmend._native import MemoryFault
from daxmend.dax.api import DaxDevice
from daxmend.errors import UsageError
from daxmend.extent import Extent, ExtentSet
from daxmend.host.siginfo import BusCode, failed_width, has_width
from daxmend.units import PAGE


class MappedRange(NamedTuple):
    """A mapping: `length` bytes at `address` show a file from `offset` on."""

    address: int
    length: int
    offset: int


class BusError(NamedTuple):
    """A SIGBUS as its siginfo tells it, and the mapping in which it happened."""

    si_code: int
    si_addr: int
    si_addr_lsb: int
    mapping: MappedRange


class IoFailure(NamedTuple):
    """A read or write that failed: the blocks that it asked for, in bytes of the file."""

    extent: Extent


def recovery_range(event: BusError | IoFailure) -> Extent:
    """File offset and length to recover: whole pages, inside the mapping if there is one.

    `BUS_MCEERR_*`: `2**si_addr_lsb` bytes around `si_addr`; `BUS_ADRERR`: its page; an I/O failure:
    its blocks, widened to pages. Raises `UsageError` for an address outside the mapping, or a code
    that tells of no memory.
    """
    if isinstance(event, IoFailure):
        return event.extent.widened(PAGE)
    mapping = event.mapping
    if not mapping.address <= event.si_addr < mapping.address + mapping.length:
        raise UsageError(
            f"address {event.si_addr:#x} is not in the {mapping.length} bytes at "
            f"{mapping.address:#x}"
        )
    failed = Extent(event.si_addr, 1).widened(_width(event)).widened(PAGE)
    inside = failed.intersection(Extent(mapping.address, mapping.length).widened(PAGE))
    return inside.shifted(mapping.offset - mapping.address)


def _width(event: BusError) -> int:
    """Bytes that the kernel says have failed."""
    if event.si_code == BusCode.BUS_ADRERR:
        return PAGE
    if not has_width(event.si_code):
        raise UsageError(f"si_code {event.si_code} of SIGBUS tells of no failed memory")
    width = failed_width(event.si_addr_lsb)
    if width is None:
        raise UsageError(f"si_addr_lsb {event.si_addr_lsb} is no width of failed memory")
    return width


def narrow_range(device: DaxDevice, extent: Extent) -> list[Extent]:
    """The pages of a wide range that record and salvage show to be bad, merged and ascending.

    For the 2 MiB of a huge page: nothing that is good may be overwritten (R26). Latent poison that
    the salvage meets enters the record (R3).
    """
    pages = ExtentSet(PAGE)
    whole = extent.widened(PAGE)
    pages.update(lost.widened(PAGE) for lost in device.recovery_read(whole).lost)
    pages.update(run.widened(PAGE) for run, _ in device.badblocks(whole))
    return list(pages)


def consume_fault(device: DaxDevice, fault: MemoryFault, mapping: MappedRange) -> list[Extent]:
    """What follows a fault in exposed memory of a device (`Window.expose`): the pages to recover.

    `mapping` is that memory, and its offset the device's. The poison that made the page fault
    enters the record, and its holder is told (R3, R25): the kernel tells whom the signal hits, and
    nobody else. Raises like `recovery_range`, and for a signal that no medium sends.
    """
    if fault.signal != signal.SIGBUS:
        raise UsageError(f"{fault}: that is no failure of a medium")
    event = BusError(fault.code, fault.address, fault.lsb, mapping)
    return narrow_range(device, recovery_range(event))
