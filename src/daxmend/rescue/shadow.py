"""A shadow mount, or a file on it, as a target: through the plain files of its control directory.

There is no device below: offsets are a file's own; of a whole mount each range says whose it is.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import quote_from_bytes, unquote_to_bytes

from daxmend.errors import UnsupportedError, UsageError
from daxmend.extent import Extent, merged
from daxmend.faults import NO_FILES, Fault, format_pattern
from daxmend.rescue.controlreader import ControlReader
from daxmend.rescue.target import CONTROL_DIRECTORY, Range
from daxmend.units import CACHELINE

SHADOW_PREFIX = "shadow:"  # begins the source of such a mount, in the table of mounts

_OWNED_BY_FILE = "file:"
_WRITE_LENGTH = 512 * 1024  # well below the size of one request, which is done as a whole
_PRINTABLE = "".join(map(chr, range(0x21, 0x7F)))


class ShadowTarget(ControlReader):
    """Implements `Target`. `path` is a file's, absolute in the mount; None is all of it."""

    def __init__(self, mountpoint: Path, path: bytes | None, name: str) -> None:
        self.name = name
        self.notices: list[str] = []
        self.unknown: list[str] = []
        self.path = path
        self.content = "shadow" if path is None else "shadow-file"
        self._mountpoint = mountpoint
        self._control = mountpoint / CONTROL_DIRECTORY
        self._size = 0
        if path is not None:
            found = os.stat(os.fsencode(mountpoint) + path, follow_symlinks=False)
            if not stat.S_ISREG(found.st_mode):
                raise UsageError(f"{name} is no regular file: it has no bytes that could go bad")
            self._size = found.st_size

    def badblocks(self) -> list[Extent]:
        """See `Target`; of a whole mount, one file's after another's."""
        recorded = [found.extent for found in self.ranges() if found.is_recorded]
        return recorded if self.path is None else merged(recorded)

    def ranges(self) -> list[Range]:
        """See `Target`."""
        found = map(_parse_range, self._lines("ranges"))
        return sorted(
            (each for each in found if self.path is None or each.path == self.path),
            key=lambda each: (each.path, each.extent, each.kind),
        )

    def inject(self, faults: Iterable[Fault]) -> None:
        """See `Target`. Of a whole mount, each fault's pattern says in which files."""
        lines = []
        for fault in faults:
            if self.path is not None and fault.pattern != NO_FILES:
                raise UsageError(f"'{fault}': {self.name} is one file; the pattern must be -")
            lines.append(str(fault._replace(pattern=self._word(fault.pattern))))
        self._change(lines)
        self._tell_of_passthrough()

    def inject_numbered(self, faults: Iterable[tuple[int, Fault]]) -> None:
        """As `inject`, for the faults of a text with the numbers of their lines: errors name them.

        A text of up to half a MiB is injected as a whole, or not at all.
        """
        lines: list[str] = []
        for number, fault in faults:
            lines += [""] * (number - 1 - len(lines))
            lines.append(str(fault._replace(pattern=self._word(fault.pattern))))
        self._change(lines)
        self._tell_of_passthrough()

    def _word(self, pattern: str) -> str:
        """The pattern as the server takes it: one word of ASCII."""
        if pattern != NO_FILES:
            return quote_from_bytes(os.fsencode(pattern), _PRINTABLE)
        if self.path is None:
            raise UsageError(
                f"{self.name} is a whole directory: name a file, or give a plan whose lines begin "
                "with a pattern for file names"
            )
        return format_pattern(self.path)

    def uninject(self, extent: Extent) -> Extent:
        """See `Target`; the record goes, too: what is below was good all the time."""
        lines = extent.widened(CACHELINE)
        self._change([f"-{self._word(NO_FILES)} {lines.offset} {lines.length}"])
        return lines

    def scrub(self, extent: Extent | None) -> Iterator[Extent]:
        """See `Target`; of the whole mount, at once, whatever part of it is named."""
        self._write("scrub", "1\n")
        yield Extent(0, self._size) if extent is None else extent

    def status(self) -> dict[str, object]:
        """See `Target`."""
        document = self._read_status()
        mounted = {"mounted": str(self._mountpoint)}
        if self.path is None:
            space = os.statvfs(self._mountpoint)
            return {**mounted, "size": space.f_blocks * space.f_frsize, **document}
        sums = {"recorded": 0, "poison": 0}
        for found in self.ranges():
            sums[found.kind] += found.extent.length
        return {
            "file": self.name,
            "size": self._size,
            **sums,
            "passthrough": self._passing().get(self.path, 0),
            "source": document["source"],
            **mounted,
        }

    def events(self) -> list[dict[str, object]] | None:
        """See `Target`."""
        found = [json.loads(line) for line in self._lines("history")]
        if self.path is None:
            return found
        return [each for each in found if os.fsencode(each.get("path") or "") == self.path]

    def send_message(self, text: str) -> str:
        """There is no table in a directory."""
        raise UnsupportedError(f"{self.name} is a directory's shadow: nothing in it takes messages")

    def close(self) -> None:
        """Nothing is held."""

    def _passing(self) -> dict[bytes, int]:
        """How often which file is open in passthrough."""
        rows = (line.split(" ") for line in self._lines("passthrough"))
        return {_parse_owner(owner): int(opens) for opens, owner in rows}

    def _tell_of_passthrough(self) -> None:
        bad = {found.path for found in self.ranges()}
        for path, opens in sorted(self._passing().items()):
            if path in bad:
                self.notices.append(
                    f"{os.fsdecode(path)} is open in passthrough, {opens} times: these opens, and "
                    "every mapping made before they are closed, do not see the fault; reads and "
                    "writes of later opens do. To have it seen at once, close the file, or mount "
                    "with --arm PATTERN"
                )

    def _change(self, lines: list[str]) -> None:
        """What the server refuses is a `UsageError` in its words."""
        start = 0
        while start < len(lines):
            end, length = start, 0
            while end < len(lines) and length + len(lines[end]) < _WRITE_LENGTH:
                length += len(lines[end]) + 1
                end += 1
            text = "".join(f"{line}\n" for line in lines[start:end])
            try:
                self._write("faults", text)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                before = f"after {start} lines that were done, " if start else ""
                said = str(self._read_status()["refused"]).removeprefix("faults: ")
                raise UsageError(f"{self.name}: {before}{said}") from None
            start = end

    def _write(self, name: str, text: str) -> None:
        fd = os.open(self._control / name, os.O_WRONLY)
        try:
            os.write(fd, text.encode("ascii"))
        finally:
            os.close(fd)


def _parse_owner(owner: str) -> bytes:
    """The path in an owner's field; empty for a file without a name."""
    name = owner.removeprefix(_OWNED_BY_FILE)
    return b"" if name.startswith("#") else unquote_to_bytes(name)


def _parse_range(line: str) -> Range:
    """A line of `ranges`: `OFFSET LENGTH STATE OWNER`."""
    offset, length, kind, owner = line.split(" ")
    extent = Extent(int(offset), int(length))
    return Range(extent, kind, extent.offset, "file", _parse_owner(owner), extent.offset)
