"""`open_device`: from a spec, as a command line or a program writes it, to a device."""

import os
from pathlib import Path

from daxmend.dax.api import DaxDevice
from daxmend.dm import MappedDevice
from daxmend.errors import TruncatedError, UsageError
from daxmend.events import EventHub
from daxmend.media.pool import create_memory_pool
from daxmend.pmem.device import PmemDevice
from daxmend.stack.member import PoolDevice, open_pool_device
from daxmend.units import parse_size

_RAM = "ram:"


def open_device(
    spec: str | Path, *, writable: bool = True, events: EventHub | None = None
) -> PoolDevice:
    """The device that `spec` names: the path of a pool, which may hold a table, or `ram:SIZE`.

    `ram:SIZE` is an emulated pmem device in memory alone, with error management (a table's
    `ram:SIZE` has none, R40). A `Path` always is a pool's. The caller closes it. Raises what
    `open_pool` raises, and `TableError`; leftover recoveries are judged and damaged copies healed
    before it returns, and who has subscribed to `events` hears of that.
    """
    if isinstance(spec, str) and spec.startswith(_RAM):
        return PmemDevice(create_memory_pool(parse_size(spec.removeprefix(_RAM))), events)
    return open_pool_device(Path(spec), writable=writable, events=events)


def send_message(device: DaxDevice, text: str) -> str:
    """Tell a target of a mapped device something: `SECTOR WORDS…`, as `dmsetup message` has it.

    The target is that of the line which holds the sector. Returns its answer, which may be empty.
    Raises `UsageError` for what it does not understand and for a device without a table.
    """
    sector, *words = text.split() or [""]
    if not isinstance(device, MappedDevice):
        raise UsageError(f"{device.name} is not made by a table: it takes no messages")
    if not (sector.isascii() and sector.isdigit() and len(sector) < 20 and words):
        raise UsageError(
            f"'{text}' is not SECTOR MESSAGE…: a number, and words for the target there"
        )
    return device.message(int(sector), words)


def validate_length(device: DaxDevice) -> None:
    """Raise `TruncatedError` if the file below the device is shorter than it was made.

    Whoever looks at poison alone would call the missing bytes clean (R44).
    """
    if isinstance(device, MappedDevice):
        for member in device.members:
            validate_length(member)
    if not isinstance(device, PmemDevice):
        return
    data = device.pool.header.layout.data
    size = os.fstat(device.pool.backing.fd).st_size
    if size < data.end:
        start = max(size - data.offset, 0)
        raise TruncatedError(
            device.name,
            start,
            data.length - start,
            code="EFAULT",
            hint="the file was cut short while it was in use; restore it from a copy",
        )
