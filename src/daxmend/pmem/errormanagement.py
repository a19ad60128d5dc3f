"""What the driver registers for its device: what a range can do about errors, and why not (R41)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from daxmend.dax.api import Capability
from daxmend.media.pool import MediumKind

if TYPE_CHECKING:
    from daxmend.extent import Extent
    from daxmend.pmem.badblocks import BadBlocks
    from daxmend.pmem.device import PmemDevice


class PmemErrorManagement:
    """Answers for a pool (implements `ErrorManagement`)."""

    def __init__(self, device: PmemDevice, badblocks: BadBlocks) -> None:
        self._device = device
        self._badblocks = badblocks

    def capabilities(self, extent: Extent) -> list[Capability]:
        """See `ErrorManagement`. What is good can be zeroed also where nothing can be healed."""
        if not self._device.pool.is_writable:
            return [Capability(extent, False, False, False, "the pool is open read-only")]
        reason = self._why_no_recovery()
        can_zero = not reason or not self._badblocks.check(extent)
        return [Capability(extent, not reason, can_zero, True, reason)]

    def _why_no_recovery(self) -> str:
        if not self._device.allows_recovery:
            return "recovery is switched off"
        if self._device.pool.header.medium is MediumKind.REFUSES:
            return "the medium refuses to clear"
        return ""
