"""The implementations of `DaxDevice` that the contract is checked on.

A new one adds a line to `FACTORIES`: a function that makes a fresh device of `SIZE` bytes, all
zeros, with nothing bad, that can be made bad (`FaultInjection`) and can heal.
"""

from collections.abc import Callable
from pathlib import Path

from daxmend.dax.api import DaxDevice, FaultInjection
from daxmend.media.backing import Durability
from daxmend.media.pool import create_pool, open_pool
from daxmend.pmem.device import PmemDevice
from daxmend.stack import open_device
from daxmend.units import PAGE

SIZE = 16 * PAGE


class FaultyDevice(DaxDevice, FaultInjection):
    """What the checks need; `close` ends it."""

    def close(self) -> None: ...


def on_disk(directory: Path) -> PmemDevice:
    """A pool in the test's directory, whose fences sync."""
    create_pool(directory / "p", SIZE, durability=Durability.MACHINE)
    return PmemDevice(open_pool(directory / "p"))


def in_memory_file(directory: Path) -> PmemDevice:
    """A pool on tmpfs."""
    create_pool(directory / "p", SIZE, durability=Durability.PROCESS)
    return PmemDevice(open_pool(directory / "p"))


def ram(directory: Path) -> PmemDevice:
    """Memory alone, through the spec that commands and tables use."""
    return open_device(f"ram:{SIZE}")


# name → factory, and whether its directory is on tmpfs
FACTORIES: dict[str, tuple[Callable[[Path], PmemDevice], bool]] = {
    "pool-on-disk": (on_disk, False),
    "pool-on-tmpfs": (in_memory_file, True),
    "ram": (ram, True),
}
