"""A pool and its mount in a test."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import Self

from daxmend.extent import Extent
from daxmend.faults import Fault, FaultKind
from daxmend.fuse import find_mount, unmount, unmount_dead
from daxmend.media.backing import Durability
from daxmend.media.pool import Content
from daxmend.rescue.opening import open_target
from daxmend.stack.pool import create
from daxmend.testing.process import run_daxmend
from daxmend.units import MIB


class MountedPool:
    """An empty file system on an emulated device, mounted at `path`. A context manager.

    `device` is the pool's file. `size` is in bytes.
    """

    def __init__(self, device: Path, path: Path, size: int = 64 * MIB) -> None:
        self.device = device
        self.path = path
        create(device, size, durability=Durability.PROCESS, content=Content.FS)
        run_daxmend("mount", device, path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

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

    def close(self) -> None:
        """Unmount; a mount that is still in use is aborted, and its users get an error."""
        if find_mount(self.path) is None:
            return
        try:
            unmount(self.path)
        except Exception:
            unmount_dead(self.path)
            raise
