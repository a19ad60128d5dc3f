"""A mapped file whose every access raises an exception where plain `mmap` dies of "Bus error"."""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import stat
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, NoReturn, Self

from daxmend import _native
from daxmend.errors import FaultError, UsageError
from daxmend.extent import Extent
from daxmend.guard.cause import error_of, mark_beyond
from daxmend.guard.probe import EHWPOISON, probe
from daxmend.guard.region import Source
from daxmend.guard.trap import Fault
from daxmend.host.memorymap import find_maps
from daxmend.host.siginfo import BusCode, code_name
from daxmend.rescue.recovery_range import BusError, MappedRange, recovery_range
from daxmend.units import MIB, PAGE

if TYPE_CHECKING:
    from typing_extensions import Buffer

# What each mode opens, and maps.
_MODES: Final = {
    "r": (os.O_RDONLY, mmap.MAP_SHARED, mmap.PROT_READ),
    "r+": (os.O_RDWR, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE),
    "c": (os.O_RDONLY, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE),
}
_REFUSED: Final = frozenset({errno.EFAULT, errno.EIO, EHWPOISON})


class Mapping(mmap.mmap):
    """`length` bytes of a file from `offset` on, mapped; used like `mmap.mmap`.

    Each of its own methods that meets a fault raises `MediaError`, or `TruncatedError` past the end
    of a file that shrank; with `filename`, and `offset` and `length` in bytes of the file. A method
    that writes has stored everything before the first bad page. What takes its buffer
    (`memoryview(m)`, `np.frombuffer(m)`, `os.write(fd, m)`) is not guarded: see `Watch`.

    Accesses release the GIL, and copy. As in `mmap`, nothing is durable before `flush`. Works in
    any thread, and after a fork.
    """

    filename: str
    mode: str
    file_offset: int
    _source: Source

    def __new__(
        cls,
        path: str | os.PathLike[str],
        mode: str = "r+",
        *,
        offset: int = 0,
        length: int | None = None,
    ) -> Self:
        """Map a regular file or a block device that exists; all of it unless `length` is given.

        `mode`: `r` reads, `r+` also writes, `c` writes to private copies of pages. `offset` is
        page-aligned. `UsageError` for what cannot be mapped so, `OSError` as open(2) and mmap(2).
        """
        if mode not in _MODES:
            raise UsageError(f"mode {mode!r}: it is one of {', '.join(map(repr, _MODES))}")
        access, flags, protection = _MODES[mode]
        name = os.fspath(path)
        fd = _open(name, access)
        try:
            size = _mappable_size(fd, name)
            extent = Extent(offset, size - offset if length is None else length)
            _check_extent(extent, size, name)
            self = super().__new__(
                cls, fd, extent.length, flags=flags, prot=protection, offset=offset
            )
        finally:
            os.close(fd)
        self.filename, self.mode, self.file_offset = name, mode, offset
        (shown,) = find_maps(_native.address_of(self), 1)
        self._source = Source(name, os.path.abspath(name), shown.device, shown.inode)
        return self

    # -- faults ----------------------------------------------------------------------------

    def _raise(self, fault: _native.MemoryFault) -> NoReturn:
        """What a guarded copy met, in bytes of the file it belongs to."""
        shown = MappedRange(_native.address_of(self), len(self), self.file_offset)
        if not 0 <= fault.address - shown.address < shown.length:
            _raise_of_other(fault)
        code = code_name(fault.signal, fault.code)
        extent = Extent(fault.address - shown.address + self.file_offset, 1).widened(PAGE)
        if code in (BusCode.BUS_ADRERR.name, BusCode.BUS_MCEERR_AR.name):
            extent = recovery_range(BusError(fault.code, fault.address, fault.lsb, shown))
        end = self.file_offset + len(self)
        found = mark_beyond(self._source, [Fault(*extent, code)])[0]
        if found.is_beyond:
            found = found._replace(length=end - found.offset)
        raise error_of(self._source, [found]) from fault

    @contextlib.contextmanager
    def _asking(self, extent: Extent) -> Iterator[None]:
        """A system call on the memory, which says EFAULT or EIO: in bytes of the mapping."""
        try:
            yield
        except OSError as error:
            if error.errno not in _REFUSED or isinstance(error, FaultError):
                raise
            where = extent.shifted(self.file_offset)
            bad = [f for f in probe(self) if f.extent.overlaps(where)]
            code = errno.errorcode.get(error.errno, "EHWPOISON")
            raise error_of(self._source, bad or [Fault(*where, code)]) from error

    def _load(self, offset: int, length: int) -> bytes:
        try:
            return _native.read(self, offset, length)
        except _native.MemoryFault as fault:
            self._raise(fault)

    def _store(self, offset: int, data: Buffer) -> None:
        if self.mode == "r":
            raise TypeError(f"{self.filename} is mapped to be read only; open it with mode 'r+'")
        try:
            _native.write(self, offset, data)
        except _native.MemoryFault as fault:
            self._raise(fault)

    # -- as mmap has them ------------------------------------------------------------------

    def __getitem__(self, key: int | slice) -> bytes | int:  # type: ignore[override]  # as mmap's
        """One byte as a number, or a slice as bytes."""
        if not isinstance(key, slice):
            return self._load(self._index(key), 1)[0]
        start, stop, step = key.indices(len(self))
        if step == 1:
            return self._load(start, max(stop - start, 0))
        places = range(start, stop, step)
        if abs(step) < PAGE and places:
            low, high = min(places[0], places[-1]), max(places[0], places[-1])
            return self._load(low, high - low + 1)[:: abs(step)][:: 1 if step > 0 else -1]
        return b"".join(self._load(place, 1) for place in places)

    def __setitem__(self, key: int | slice, value: int | Buffer) -> None:  # type: ignore[override]
        """As in `mmap`: the length cannot change."""
        if not isinstance(key, slice):
            self._store(self._index(key), bytes([value]))  # type: ignore[list-item]  # mmap's own
            return
        data = memoryview(value).cast("B")  # type: ignore[arg-type]  # a buffer, or TypeError
        places = range(*key.indices(len(self)))
        if len(data) != len(places):
            raise IndexError(f"{len(data)} bytes do not fit in a slice of {len(places)}")
        if places.step == 1:
            self._store(places.start, data)
            return
        for place, byte in zip(places, data, strict=True):
            self._store(place, bytes([byte]))

    def _index(self, key: int) -> int:
        index = key.__index__()
        if index < 0:
            index += len(self)
        if not 0 <= index < len(self):
            raise IndexError(f"index {key} is outside {len(self)} bytes")
        return index

    def read(self, n: int | None = None) -> bytes:
        """At most `n` bytes from the position on, which moves behind them."""
        at = self.tell()
        left = len(self) - at
        data = self._load(at, left if n is None or n < 0 else min(n, left))
        self.seek(at + len(data))
        return data

    def read_byte(self) -> int:
        """One byte; `ValueError` at the end."""
        data = self.read(1)
        if not data:
            raise ValueError("read byte out of range")
        return data[0]

    def readline(self) -> bytes:
        """Up to the next newline, or the end."""
        at = self.tell()
        found = self.find(b"\n", at)
        return self.read((len(self) if found < 0 else found + 1) - at)

    def write(self, data: Buffer) -> int:
        """Store at the position, which moves behind it; `ValueError` where it does not fit."""
        at = self.tell()
        view = memoryview(data).cast("B")
        if len(view) > len(self) - at:
            raise ValueError(f"{len(view)} bytes do not fit in {len(self) - at}")
        self._store(at, view)
        self.seek(at + len(view))
        return len(view)

    def write_byte(self, byte: int) -> None:
        """Store one byte at the position."""
        self.write(bytes([byte]))

    def find(self, sub: Buffer, start: int | None = None, end: int | None = None) -> int:
        """The lowest place of `sub` in `[start, end)`, or -1; from the position on by default.

        What lies behind the first one found is not touched.
        """
        wanted, (at, stop) = bytes(sub), self._span(start, end)
        while at + len(wanted) <= stop:
            length = min(MIB - at % MIB + len(wanted), stop - at)
            try:
                found = _native.read(self, at, length).find(wanted)
            except _native.MemoryFault as fault:
                found = fault.partial.find(wanted)
                if found < 0:
                    self._raise(fault)
            if found >= 0:
                return at + found
            at += max(length - len(wanted) + 1, 1)
        return -1

    def rfind(self, sub: Buffer, start: int | None = None, end: int | None = None) -> int:
        """The highest place of `sub` in `[start, end)`, or -1."""
        wanted, (first, stop) = bytes(sub), self._span(start, end)
        step = MIB
        while first + len(wanted) <= stop:
            at = max(first, stop - step - len(wanted))
            try:
                found = self._load(at, stop - at).rfind(wanted)
            except FaultError:
                if step == 1:
                    raise
                step = PAGE if step > PAGE else 1  # up to the bad page, from behind
                continue
            if found >= 0:
                return at + found
            if at == first:
                break
            stop = at + len(wanted) - 1
        return -1

    def _span(self, start: int | None, end: int | None) -> tuple[int, int]:
        at = self.tell() if start is None else start
        return slice(at, end).indices(len(self))[:2]

    def move(self, dest: int, src: int, count: int) -> None:
        """Copy `count` bytes from `src` to `dest`; they may overlap."""
        if min(dest, src, count) < 0 or max(dest, src) + count > len(self):
            raise ValueError("source, destination, or count out of range")
        places = range(0, count, MIB)
        for at in places if dest <= src else reversed(places):
            length = min(MIB, count - at)
            self._store(dest + at, self._load(src + at, length))

    def flush(self, offset: int = 0, size: int | None = None) -> None:
        """Durable on return (msync(2)); `offset` is page-aligned.

        `MediaError` (EIO) if the file system could not store it (R27).
        """
        length = len(self) - offset if size is None else size
        with self._asking(Extent(offset, length)):
            super().flush(offset, length)

    def resize(self, newsize: int) -> None:
        """Change the length of file and mapping; `BufferError` while a view is in use."""
        with self._asking(Extent(0, len(self))):
            super().resize(newsize)

    def madvise(self, option: int, start: int = 0, length: int | None = None) -> None:
        """madvise(2) for pages of the mapping."""
        count = len(self) - start if length is None else length
        with self._asking(Extent(start, count)):
            super().madvise(option, start, count)

    def __repr__(self) -> str:
        if self.closed:
            return f"<guard.Mapping of {self.filename!r}, closed>"
        return f"<guard.Mapping of {self.filename!r}, {len(self)} bytes from {self.file_offset}>"


def _raise_of_other(fault: _native.MemoryFault) -> NoReturn:
    """The other side of a copy is bad: somebody else's memory, perhaps another mapped file."""
    for shown in find_maps(fault.address, 1):
        if shown.is_file:
            source = Source(shown.path or "a deleted file", shown.path, shown.device, shown.inode)
            page = Extent(fault.address - shown.address + shown.offset, 1).widened(PAGE)
            found = [Fault(*page, code_name(fault.signal, fault.code))]
            raise error_of(source, mark_beyond(source, found)) from fault
    raise fault


def _open(name: str, access: int) -> int:
    try:
        return os.open(name, access | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except IsADirectoryError:  # opened to be written
        raise _directory(name) from None


def _directory(name: str) -> UsageError:
    return UsageError(f"{name} is a directory; name a file in it")


def _mappable_size(fd: int, name: str) -> int:
    """Bytes of a file that can be mapped, at least one."""
    mode = os.fstat(fd).st_mode
    if stat.S_ISDIR(mode):
        raise _directory(name)
    if not stat.S_ISREG(mode) and not stat.S_ISBLK(mode):
        raise UsageError(f"{name} is no regular file and no block device: it cannot be mapped")
    size = os.lseek(fd, 0, os.SEEK_END)
    if size == 0:
        raise UsageError(f"{name} is empty: there is nothing to map; give it a length first")
    return size


def _check_extent(extent: Extent, size: int, name: str) -> None:
    if extent.offset % PAGE:
        raise UsageError(f"offset {extent.offset} is not aligned to pages of {PAGE} bytes")
    if not 0 <= extent.offset < size:
        raise UsageError(f"{name}: offset {extent.offset} is not in its {size} bytes")
    if extent.length < 1 or extent.end > size:
        raise UsageError(
            f"{name}: {extent} is not a part of its {size} bytes; a mapping cannot be longer than "
            "the file"
        )


def open(path: str | os.PathLike[str], mode: str = "r+") -> Mapping:
    """Map all of a file; see `Mapping`."""
    return Mapping(path, mode)
