"""`open_device`: from a spec, as a command line or a table writes it, to a device."""

from pathlib import Path

from daxmend.media.pool import create_memory_pool, open_pool
from daxmend.pmem.device import PmemDevice
from daxmend.units import parse_size

_RAM = "ram:"


def open_device(spec: str) -> PmemDevice:
    """The device that `spec` names: the path of a pool, or `ram:SIZE` for one of memory alone.

    The caller closes it. Raises what `open_pool` raises; leftover recoveries are judged and
    damaged copies healed before it returns.
    """
    if spec.startswith(_RAM):
        return PmemDevice(create_memory_pool(parse_size(spec.removeprefix(_RAM))))
    pool = open_pool(Path(spec))
    try:
        return PmemDevice(pool)
    except BaseException:
        pool.close()
        raise
