"""A pool and its mount in a test."""

from __future__ import annotations

import os
from pathlib import Path

from daxmend.extent import Extent
from daxmend.faults import Fault, FaultKind
from daxmend.media.backing import Durability
from daxmend.media.pool import Content
from daxmend.rescue.opening import open_target
from daxmend.stack.pool import create
from daxmend.testing.mounted import Mounted
from daxmend.testing.process import run_daxmend
from daxmend.units import MIB


class MountedPool(Mounted):
    """An empty file system on an emulated device, mounted at `path`. A context manager.

    `device` is the pool's file. `size` is in bytes.
    """

    def __init__(self, device: Path, path: Path, size: int = 64 * MIB) -> None:
        self.device = device
        self.path = path
        create(device, size, durability=Durability.PROCESS, content=Content.FS)
        run_daxmend("mount", device, path)

    def inject(
        self,
        name: str | os.PathLike[str],
        offset: int,
        length: int,
        kind: FaultKind | str = FaultKind.UNTIL_WRITTEN,
    ) -> None:
        """Make bytes of a file bad on the device; its bytes are overwritten (R2)."""
        target = open_target(self.path / os.fspath(name), writable=True)
        try:
            target.inject([Fault.of(Extent(offset, length), FaultKind(kind))])
        finally:
            target.close()
