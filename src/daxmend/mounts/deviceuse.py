"""What a mounted device is used for: who owns its ranges, and what a mount says of that (R42).

An owner is one field of a line of the control directory's `ranges`:

`file:/PATH`       a file; bytes of its path that are not printable ASCII, blanks and `%` are
                   written `%XX`, so that it stays one field of one line
`file:#INO`        a file that has no name any more, but somebody who uses it
`metadata`, `free` the file system's own, and nobody's
`-`                not known: there is no file system
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple, NoReturn, Protocol
from urllib.parse import quote_from_bytes

from daxmend.extent import Extent
from daxmend.fs import FileSystem, OwnerKind
from daxmend.units import PAGE

if TYPE_CHECKING:
    from daxmend.fs import Finding, Owner

FREE = "free"
METADATA = "metadata"
UNKNOWN = "-"

_FILE = "file:"
_PRINTABLE = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) != "%")


class OwnedRange(NamedTuple):
    """A part of a device range, the text of its owner, and where in a file it begins."""

    extent: Extent
    owner: str
    file_offset: int | None = None


class DeviceUse(Protocol):
    """What lies on a device."""

    def iter_owned(self, extent: Extent) -> Iterator[OwnedRange]:
        """The parts of the range by who owns them, ascending and without gaps."""

    def check(self) -> list[Finding]:
        """What is wrong with the file system. EOPNOTSUPP if there is none."""

    def status(self) -> dict[str, object]:
        """More fields for the `status` file."""

    def gauges(self) -> dict[str, int]:
        """More gauges for the `metrics` file."""


class RawUse:
    """Of a device without a file system nothing is known (implements `DeviceUse`)."""

    def iter_owned(self, extent: Extent) -> Iterator[OwnedRange]:
        """See `DeviceUse`."""
        yield OwnedRange(extent, UNKNOWN)

    def check(self) -> NoReturn:
        """See `DeviceUse`."""
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    def status(self) -> dict[str, object]:
        """See `DeviceUse`."""
        return {"content": "raw"}

    def gauges(self) -> dict[str, int]:
        """See `DeviceUse`."""
        return {}


class FileSystemUse:
    """Asks a file system (implements `DeviceUse`)."""

    def __init__(self, fs: FileSystem) -> None:
        self._fs = fs

    def iter_owned(self, extent: Extent) -> Iterator[OwnedRange]:
        """See `DeviceUse`."""
        for owner in self._fs.owners(extent):
            is_file = owner.kind is OwnerKind.FILE
            offset = owner.offset if is_file else None
            yield OwnedRange(owner.extent, format_owner(owner), offset)

    def check(self) -> list[Finding]:
        """See `DeviceUse`."""
        return self._fs.check()

    def status(self) -> dict[str, object]:
        """See `DeviceUse`; bytes, and a count of files."""
        statfs = self._fs.statfs()
        return {
            "content": "fs",
            "files": statfs.files,
            "free": statfs.bfree * PAGE,
            "quarantined": self._quarantined(),
            "read_only": self._fs.is_read_only,
            "notices": list(self._fs.notices),
        }

    def gauges(self) -> dict[str, int]:
        """See `DeviceUse`."""
        statfs = self._fs.statfs()
        return {
            "daxmend_files": statfs.files,
            "daxmend_free_bytes": statfs.bfree * PAGE,
            "daxmend_quarantined_bytes": self._quarantined(),
            "daxmend_read_only": int(self._fs.is_read_only),
        }

    def _quarantined(self) -> int:
        """Bytes of free pages that are bad and wait to be cleared (R31)."""
        return sum(extent.length for extent in self._fs.quarantined())


def format_owner(owner: Owner) -> str:
    """The owner as one field."""
    if owner.kind is OwnerKind.FILE:
        return format_file(owner.path, owner.ino)
    return METADATA if owner.kind is OwnerKind.METADATA else FREE


def format_file(path: bytes, ino: int) -> str:
    """A file as one field; without a path it has no name."""
    return _FILE + (quote_from_bytes(path, _PRINTABLE) if path else f"#{ino}")
