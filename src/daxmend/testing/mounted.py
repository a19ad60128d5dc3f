"""What every mount in a test is: a context manager that unmounts."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Self

from daxmend.fuse import find_mount, unmount, unmount_dead


class Mounted:
    """A mount at `path`."""

    path: Path

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Unmount; a mount that is still in use is aborted, and its users get an error."""
        if find_mount(self.path) is None:
            return
        try:
            unmount(self.path)
        except Exception:
            unmount_dead(self.path)
            raise
