"""error: everything in it fails (`error`): it is bad, it stands in the record, nothing heals it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, NoReturn, Self

from daxmend.dax.api import AccessMode, Capability, Salvage, SectorState
from daxmend.dm.line import Line
from daxmend.dm.target import Context, Target
from daxmend.errors import BadBlockError, NoRecoveryError, UnsupportedError
from daxmend.events import RecoveryRefused
from daxmend.extent import Extent

if TYPE_CHECKING:
    from typing_extensions import Buffer

_REASON = "the table has an error target there"


class Error(Target):
    """Bytes that nobody has. Writes are refused with EOPNOTSUPP (R37), reads with EIO."""

    name = "error"
    usage = ()

    @classmethod
    def parse(cls, line: Line, context: Context) -> Self:
        """See `Target`."""
        line.check_count(cls.usage)
        return cls(line.extent.length)

    def _refuse(self, extent: Extent) -> NoReturn:
        self.tell(RecoveryRefused(extent, _REASON))
        raise NoRecoveryError(self.name, *extent, "EOPNOTSUPP", _REASON)

    def direct_access(self, extent: Extent, mode: AccessMode) -> NoReturn:
        """See `Target`: there is no memory in either mode."""
        raise BadBlockError(self.name, *extent, hint=_REASON)

    def recovery_read(self, extent: Extent) -> Salvage:
        """See `Target`."""
        return Salvage(bytearray(extent.length), [extent] if extent.length else [])

    def recovery_write(self, offset: int, data: Buffer, keep: Iterable[Extent] = ()) -> NoReturn:
        """See `Target`."""
        self._refuse(Extent(offset, memoryview(data).nbytes))

    def zeroinit(self, extent: Extent) -> NoReturn:
        """See `Target`."""
        self._refuse(extent)

    def hold(self, offset: int, data: bytes, unit: int) -> NoReturn:
        """See `Target`."""
        self._refuse(Extent(offset, len(data)))

    def drop_hold(self, extent: Extent) -> None:
        """See `Target`."""

    def keep_zeros(self, extent: Extent) -> None:
        """See `Target`; nothing is kept here."""

    def read_sectors(self, extent: Extent) -> NoReturn:
        """See `Target`."""
        raise BadBlockError(self.name, *extent, hint=_REASON)

    def write_sectors(self, offset: int, data: Buffer) -> NoReturn:
        """See `Target`."""
        self._refuse(Extent(offset, memoryview(data).nbytes))

    def capabilities(self, extent: Extent) -> list[Capability]:
        """See `Target`."""
        return [Capability(extent, False, False, False, _REASON)]

    def badblocks(self, extent: Extent) -> list[tuple[Extent, SectorState]]:
        """See `Target`."""
        return [(extent, SectorState.BAD)] if extent.length else []

    def check_injectable(self, extent: Extent) -> None:
        """See `Target`."""
        raise UnsupportedError(f"{self.name}: {extent}: is bad already, and takes no faults")
