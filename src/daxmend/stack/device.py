"""`open_device`: from a spec, as a command line or a table writes it, to a device."""

import os
from pathlib import Path

from daxmend.dax.api import DaxDevice
from daxmend.errors import TruncatedError
from daxmend.events import EventHub
from daxmend.media.pool import create_memory_pool, open_pool
from daxmend.pmem.device import PmemDevice
from daxmend.units import parse_size

_RAM = "ram:"


def open_device(
    spec: str | Path, *, writable: bool = True, events: EventHub | None = None
) -> PmemDevice:
    """The device that `spec` names: the path of a pool, or `ram:SIZE` for one of memory alone.

    A `Path` always is a pool's. The caller closes it. Raises what `open_pool` raises; leftover
    recoveries are judged and damaged copies healed before it returns, and who has subscribed to
    `events` hears of that.
    """
    if isinstance(spec, str) and spec.startswith(_RAM):
        return PmemDevice(create_memory_pool(parse_size(spec.removeprefix(_RAM))), events)
    pool = open_pool(Path(spec), writable=writable)
    try:
        return PmemDevice(pool, events)
    except BaseException:
        pool.close()
        raise


def validate_length(device: DaxDevice) -> None:
    """Raise `TruncatedError` if the file below the device is shorter than it was made.

    Whoever looks at poison alone would call the missing bytes clean (R44).
    """
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
