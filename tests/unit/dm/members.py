"""Members for tables in tests: by name, made when they are asked for."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from daxmend.dax.api import DaxDevice
from daxmend.dm import MappedDevice
from daxmend.errors import UsageError
from daxmend.extent import Extent
from daxmend.media.pool import MediumKind, create_memory_pool
from daxmend.pmem.device import PmemDevice
from daxmend.stack.plain import open_ram
from daxmend.units import MIB, PAGE


class Members:
    """A `dm.Context`: `a`, `b` … are pmem devices, `refusing…` clear nothing, `ram…` is RAM."""

    def __init__(self, size: int = MIB) -> None:
        self.size = size
        self.devices: dict[str, Any] = {}
        self.texts: dict[str, str] = {}

    def open_member(self, spec: str) -> DaxDevice:
        if spec == "gone":
            raise FileNotFoundError(2, "No such file or directory", spec)
        if "/" in spec:
            raise UsageError(f"{spec} is not a daxmend pool")
        if spec not in self.devices:
            self.devices[spec] = self._make(spec)
        return self.devices[spec]  # type: ignore[no-any-return]

    def _make(self, spec: str) -> Any:
        if spec.startswith("ram"):
            return open_ram(self.size, spec)
        kind = MediumKind.REFUSES if spec.startswith("refusing") else MediumKind.PLAIN
        device = PmemDevice(create_memory_pool(self.size, kind))
        device.name = spec
        return device

    def read_text(self, path: str) -> str:
        return self.texts[path]

    def close(self) -> None:
        for device in self.devices.values():
            device.close()


@contextmanager
def mapped(table: str, members: Members | None = None) -> Iterator[tuple[MappedDevice, Members]]:
    """The device of a table, called `top`; numbers in braces are pages: `{4}` is 32 sectors."""
    members = members or Members()
    device = MappedDevice.from_table("top", in_pages(table), members)
    try:
        yield device, members
    finally:
        device.close()
        members.close()


def in_pages(table: str) -> str:
    """The table with `{N}` replaced by the sectors of N pages."""
    words = table.split("{")
    return words[0] + "".join(
        f"{int(number) * PAGE // 512}{rest}"
        for number, _, rest in (word.partition("}") for word in words[1:])
    )


def pages(first: int, count: int = 1) -> Extent:
    """Whole pages as a range."""
    return Extent(first * PAGE, count * PAGE)
