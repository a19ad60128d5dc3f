"""The implementations of `DaxDevice` that the contract is checked on.

A new one adds a line to `FACTORIES`: a function that makes a fresh device of `SIZE` bytes, all
zeros, with nothing bad, that can be made bad (`FaultInjection`) and can heal.

A target that maps adds a line to `TARGETS`: a function from members to a target of `SIZE` bytes.
Every target is then checked alone, and every pair of targets, one on the other.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from daxmend.dax.api import DaxDevice, FaultInjection
from daxmend.dm import MappedDevice, Target
from daxmend.dm.faulty import Faulty
from daxmend.dm.linear import Linear
from daxmend.dm.log_writes import LogWrites
from daxmend.dm.striped import Striped
from daxmend.dm.writecache import Writecache
from daxmend.media.backing import Durability
from daxmend.media.pool import create_memory_pool, create_pool, open_pool
from daxmend.pmem.device import PmemDevice
from daxmend.stack.device import open_device
from daxmend.stack.plain import open_ram, open_window
from daxmend.units import MIB, PAGE

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


def ram(directory: Path) -> Any:
    """Memory alone, through the spec that commands use."""
    return open_device(f"ram:{SIZE}")


class Closing(MappedDevice):
    """A mapped device that owns its members."""

    def close(self) -> None:
        super().close()
        for member in self.members:
            member.close()  # type: ignore[attr-defined]


# Makes the members of a target: a device of at least so many bytes.
MakeMember = Callable[[int], Any]


def _pmem(size: int) -> PmemDevice:
    return PmemDevice(create_memory_pool(size))


def _linear(member: MakeMember) -> list[Target]:
    """Not from the member's start, and in two lines that come the other way round."""
    below = member(SIZE + 4 * PAGE)
    return [
        Linear(6 * PAGE, below, 12 * PAGE),
        Linear(10 * PAGE, below, PAGE),
    ]


def _one_linear(member: MakeMember) -> list[Target]:
    return [Linear(SIZE, member(SIZE + PAGE), PAGE)]


def _striped(member: MakeMember) -> list[Target]:
    half = SIZE // 2
    return [Striped(SIZE, PAGE, [(member(half + PAGE), PAGE), (member(half), 0)])]


def _wide(member: MakeMember) -> list[Target]:
    quarter = SIZE // 4
    return [Striped(SIZE, 2 * PAGE, [(member(quarter), 0) for _ in range(4)])]


def _faulty(member: MakeMember) -> list[Target]:
    return [Faulty(SIZE, member(SIZE + 2 * PAGE), 2 * PAGE)]


def _log_writes(member: MakeMember) -> list[Target]:
    return [LogWrites(SIZE, member(SIZE), _pmem(4 * MIB))]


def _writecache(member: MakeMember) -> list[Target]:
    """So large that what the checks write stays in the cache."""
    return [Writecache(SIZE, _pmem(4 * SIZE), member(SIZE))]


def _small_writecache(member: MakeMember) -> list[Target]:
    """So small that blocks come and go, in a cache that is itself of targets."""
    return [Writecache(SIZE, member(SIZE), _pmem(SIZE))]


TARGETS: dict[str, Callable[[MakeMember], list[Target]]] = {
    "linear": _one_linear,
    "two-linear": _linear,
    "striped": _striped,
    "wide": _wide,
    "faulty": _faulty,
    "log-writes": _log_writes,
    "writecache": _writecache,
    "small-writecache": _small_writecache,
}


def _sized(name: str) -> MakeMember:
    """Members that are the target `name` over pmem devices, of any size."""

    def make(size: int) -> Closing:
        whole = -(-size // SIZE)
        lines = [line for _ in range(whole) for line in TARGETS[name](_pmem)]
        return Closing(name, lines)

    return make


def _mapped(name: str, member: MakeMember) -> Callable[[Path], Closing]:
    return lambda directory: Closing(name, TARGETS[name](member))


def over_ram(directory: Path) -> Closing:
    """A member without error management, behind faults (R40)."""
    return Closing("over-ram", [Faulty(SIZE, open_ram(SIZE, "ram"), 0)])


def over_window(directory: Path) -> Closing:
    """A window of an ordinary file, behind faults (R40)."""
    (directory / "w").write_bytes(bytes(SIZE))
    return Closing("over-window", [Faulty(SIZE, open_window(directory / "w", "w"), 0)])


def three_deep(directory: Path) -> Closing:
    """linear over striped over a pool, a RAM device and a window behind faults (R37)."""
    (directory / "w").write_bytes(bytes(SIZE))
    create_pool(directory / "a", SIZE, durability=Durability.PROCESS)
    ram_member = Closing("r", [Faulty(SIZE, open_ram(SIZE, "ram"), 0)])
    window = Closing("w", [Faulty(SIZE, open_window(directory / "w", "w"), 0)])
    pool = PmemDevice(open_pool(directory / "a"))
    stripes = [(pool, 0), (ram_member, PAGE), (window, 2 * PAGE)]
    striped = Closing("s", [Striped(12 * 3 * PAGE, 2 * PAGE, stripes)])
    return Closing("top", [Linear(4 * PAGE, striped, 0), Linear(12 * PAGE, striped, 5 * PAGE)])


# Each target once: what else is in `TARGETS` is the same in simpler, or in more pieces.
PAIRED = [name for name in TARGETS if name not in ("linear", "wide")]

# name → factory, and whether its directory is on tmpfs
FACTORIES: dict[str, tuple[Callable[[Path], Any], bool]] = {
    "pool-on-disk": (on_disk, False),
    "pool-on-tmpfs": (in_memory_file, True),
    "ram": (ram, True),
    **{name: (_mapped(name, _pmem), True) for name in TARGETS},
    **{
        f"{upper}-over-{lower}": (_mapped(upper, _sized(lower)), True)
        for upper in PAIRED
        for lower in PAIRED
    },
    "faulty-over-ram": (over_ram, True),
    "faulty-over-window": (over_window, True),
    "three-deep": (three_deep, True),
}
