"""zero: reads as zeros, and forgets what is written (`zero`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, NoReturn, Self

from daxmend.dax.api import AccessMode, Capability, Salvage, Window
from daxmend.dm.line import Line
from daxmend.dm.target import Context, Target
from daxmend.errors import UnsupportedError
from daxmend.extent import Extent

if TYPE_CHECKING:
    from typing_extensions import Buffer


class Zero(Target):
    """Nothing in it can be bad, so that everything heals."""

    name = "zero"
    usage = ()

    @classmethod
    def parse(cls, line: Line, context: Context) -> Self:
        """See `Target`."""
        line.check_count(cls.usage)
        return cls(line.extent.length)

    def direct_access(self, extent: Extent, mode: AccessMode) -> Window:
        """See `Target`."""
        return Window(_MEMORY, extent.offset, extent.length)

    def recovery_read(self, extent: Extent) -> Salvage:
        """See `Target`."""
        return Salvage(bytearray(extent.length), [])

    def recovery_write(self, offset: int, data: Buffer, keep: Iterable[Extent] = ()) -> int:
        """See `Target`."""
        return memoryview(data).nbytes

    def zeroinit(self, extent: Extent) -> int:
        """See `Target`."""
        return extent.length

    def hold(self, offset: int, data: bytes, unit: int) -> NoReturn:
        """See `Target`."""
        raise UnsupportedError(f"{self.name}: keeps nothing")

    def drop_hold(self, extent: Extent) -> None:
        """See `Target`."""

    def keep_zeros(self, extent: Extent) -> None:
        """See `Target`; nothing is kept here."""

    def read_sectors(self, extent: Extent) -> bytes:
        """See `Target`."""
        return bytes(extent.length)

    def write_sectors(self, offset: int, data: Buffer) -> int:
        """See `Target`."""
        return memoryview(data).nbytes

    def capabilities(self, extent: Extent) -> list[Capability]:
        """See `Target`."""
        return [Capability(extent, True, True, True, "")]

    def check_injectable(self, extent: Extent) -> None:
        """See `Target`."""
        raise UnsupportedError(f"{self.name}: {extent}: takes no injected faults")


class _ZeroMemory:
    """Implements `WindowMemory`."""

    settle: Callable[[Extent], None] | None = None

    def load(self, offset: int, length: int) -> bytes:
        return bytes(length)

    def view(self, offset: int, length: int) -> memoryview:
        return memoryview(bytes(length))

    def store(self, offset: int, data: Buffer) -> None:
        """Forgotten."""

    def store_line(self, offset: int, line: Buffer) -> None:
        """Forgotten."""

    def flush(self, offset: int, length: int) -> None:
        """There is nothing that could become durable."""

    def expose(self, extent: Extent, *, writable: bool = True) -> NoReturn:
        raise UnsupportedError(f"{Zero.name}: {extent}: there is no memory to hand out")


_MEMORY = _ZeroMemory()
