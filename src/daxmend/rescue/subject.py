"""A file that is to be saved or repaired, wherever it lies.

A *subject* reads past caches and around what cannot be read, and writes so that what it wrote is
on the medium. There are two: a file of the running system (`hostfile.py`), which may lie on a
daxmend mount, and a file in a pool that nobody has open (`poolfile.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

from daxmend.units import MIB

if TYPE_CHECKING:
    from pathlib import Path

    from daxmend.dax.api import Salvage
    from daxmend.extent import Extent
    from daxmend.host.unknown import Unknown
    from daxmend.rescue.target import FileExtent

CHUNK = 4 * MIB  # what is asked for at once where nothing is known to be bad


class Subject(Protocol):
    """Offsets and lengths are bytes of the file. Closed by who opened it."""

    name: str  # as the operator called it
    size: int  # when it was opened
    grain: int  # the bytes that are lost together, at least
    notices: list[str]  # what the operator should know; some come late
    location: tuple[Path, bytes]  # the file, or a pool and the path in it

    def data(self) -> Iterator[Extent]:
        """Where the file is no hole, ascending; holes and unwritten extents are zeros (R13)."""

    def salvage(self, extent: Extent) -> Salvage:
        """Everything readable of a range inside the file, and what is lost (R12), in its offsets.

        Read from the medium, not from a cache. Never raises for what is bad; `ChangedError` if the
        file has become shorter, `OSError` if it cannot be asked at all.
        """

    def validate(self) -> None:
        """Raise `ChangedError` if the size has changed, or another file has taken the name."""

    def is_same(self, other: Subject) -> bool:
        """Whether both are one file."""

    @property
    def is_touched(self) -> bool:
        """Whether the file was written to since it was opened, by its times."""

    @property
    def mtime_ns(self) -> int:
        """When it was last written to, as it was when it was opened."""

    @property
    def identity(self) -> int:
        """A number that the file keeps while it lives, on its own file system."""

    def extents(self) -> list[FileExtent] | Unknown:
        """Where the file lies, ascending."""

    def shared(self, extent: Extent) -> bool:
        """Whether other files have the same blocks in the range, as far as that can be known."""

    # Of a subject that was opened for writing. What they do is durable after `sync`.

    def write(self, offset: int, data: bytes) -> int:
        """Write whole pages, the last up to the end of the file; returns the bytes written.

        Fewer than asked where a page cannot be written; raises `OSError` if that is the first
        (R17). The size stays; if the machine stops meanwhile, it may be that of the whole last
        page: `restore_size`.
        """

    def zero(self, extent: Extent) -> str:
        """Zeros in place, by the best way there is (R29, R34); returns which. Raises `OSError`."""

    def punch(self, extent: Extent) -> None:
        """Give the pages of the range back to the file system (R35). Raises `OSError`."""

    def restore_size(self, size: int) -> None:
        """Cut off what a stopped `write` added, if that is all: else `ChangedError`."""

    def sync(self) -> None:
        """Everything written is durable on return; raises `OSError` if it is not."""

    def close(self) -> None:
        """Let go of it."""
