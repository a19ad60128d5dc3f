"""A mapping of a file, whoever made it: what it shows, and how to map that back."""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import weakref
from typing import NamedTuple

from daxmend import _native
from daxmend.errors import UnsupportedError, UsageError
from daxmend.extent import Extent
from daxmend.host.memorymap import MappedFile, find_maps
from daxmend.units import PAGE


class Source(NamedTuple):
    """The file behind a mapping: what people call it, and what it is."""

    name: str
    path: str | None  # None: it has no name any more
    device: int
    inode: int

    def open(self) -> int | None:
        """The same file, opened to be read; None where it has gone, or may not be read."""
        if self.path is None:
            return None
        try:
            fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        except OSError:
            return None
        with contextlib.suppress(OSError):
            if self._is(fd):
                return fd
        os.close(fd)
        return None

    def _is(self, fd: int) -> bool:
        """Whether that is the file. Some file systems give a mapping another device than stat."""
        status = os.fstat(fd)
        if status.st_ino != self.inode:
            return False
        if status.st_dev == self.device:
            return True
        address = _native.map_file(fd, 0, PAGE, mmap.PROT_READ, mmap.MAP_SHARED)
        try:
            (shown,) = find_maps(address, PAGE)
        finally:
            _native.unmap(address, PAGE)
        return (shown.device, shown.inode) == (self.device, self.inode)


class Region:
    """Whole pages of one mapping. `owner` is whose memory it is.

    `address` and `length` are bytes of memory, `offset` the place in the file. A shared mapping is
    mapped back from a twin of it, which needs no file; a private one from its file. `users` are the
    guards that are active, and keep it mapped: what it is cannot change then.
    """

    def __init__(self, owner: object, shown: MappedFile, name: str | None = None) -> None:
        """`UnsupportedError` for a private mapping whose file cannot be opened (any more)."""
        self.owner = owner
        self.users = 0
        self.pin: memoryview | None = None  # who sets it keeps the memory mapped
        self.address, self.length = shown.address, shown.length
        self.protection, self.offset = shown.protection, shown.offset
        found = shown.path if shown.path is not None else f"inode {shown.inode} (deleted)"
        self.source = Source(name or found, shown.path, shown.device, shown.inode)
        self._fd = self._twin = 0
        if shown.is_shared:
            self._twin = _native.map_again(self.address, self.length)
        else:
            self._fd = self._open()
        weakref.finalize(self, _release, self._fd, self._twin, self.length)
        _known.add(self)

    def _open(self) -> int:
        fd = self.source.open()
        if fd is None:
            raise UnsupportedError(
                f"{self.source.name}: a private mapping can be mapped back only from its file, and "
                "that cannot be opened; map it shared, or keep its name"
            )
        return fd

    def holds(self, address: int, length: int) -> bool:
        """Whether the memory is in it."""
        return self.address <= address and address + length <= self.address + self.length

    def is_of(self, shown: list[MappedFile]) -> bool:
        """Whether that can be its memory still: its own file, and zeros in between."""
        own = (self.source.device, self.source.inode)
        return all((each.device, each.inode) == own for each in shown if each.is_file)

    def watch(self, within: Extent) -> _native.Watch:
        """Of pages of the region."""
        return _native.Watch(
            self.address + within.offset,
            within.length,
            self.protection,
            self._twin and self._twin + within.offset,
            self._fd,
            self.offset + within.offset,
        )


_known: weakref.WeakSet[Region] = weakref.WeakSet()


def _release(fd: int, twin: int, length: int) -> None:
    if twin:
        _native.unmap(twin, length)
    else:
        os.close(fd)


def bounds(buffer: object) -> tuple[int, int]:
    """Address and length of the bytes from the first element to the last, strides included."""
    interface = getattr(buffer, "__array_interface__", None)
    if interface is None:
        try:
            with memoryview(buffer) as view:  # type: ignore[arg-type]  # that is what is asked
                return (_native.address_of(view), view.nbytes) if view.nbytes else (0, 0)
        except TypeError:
            raise UsageError(
                f"{type(buffer).__name__} is no buffer; give an array, a mapping, or a memoryview "
                "(guard.open and guard.memmap map a file by its name)"
            ) from None
    address, _ = interface["data"]
    kind, size = _item(interface["typestr"])
    if kind == "U":
        size *= 4
    shape = interface["shape"]
    if 0 in shape:
        return 0, 0
    strides = interface.get("strides") or _packed(shape, size)
    steps = [(count - 1) * stride for count, stride in zip(shape, strides, strict=True)]
    low = sum(step for step in steps if step < 0)
    high = sum(step for step in steps if step > 0)
    return address + low, high - low + size


def _item(typestr: str) -> tuple[str, int]:
    """Kind and size of numpy's `<f8`, `|V16`, `<M8[s]`."""
    digits = typestr[2:].partition("[")[0]
    return typestr[1], int(digits)


def _packed(shape: tuple[int, ...], size: int) -> tuple[int, ...]:
    """The strides of an array without gaps, in C's order."""
    strides = []
    for count in reversed(shape):
        strides.append(size)
        size *= count
    return tuple(reversed(strides))


def pages_of(buffer: object) -> tuple[int, int]:
    """Address and length of the whole pages that a buffer touches. `UsageError` if it is empty."""
    address, length = bounds(buffer)
    if length == 0:
        raise UsageError("a buffer of 0 bytes has no pages to guard")
    pages = Extent(address, length).widened(PAGE)
    return pages.offset, pages.length


def find_region(buffer: object, address: int, length: int, name: str | None = None) -> Region:
    """The region of these pages of `buffer`: one that is in use, else a new one.

    Raises `UsageError` for memory without a file, and for pages of several mappings.
    """
    for _ in range(_ATTEMPTS):
        shown = find_maps(address, length)
        for region in list(_known):
            if region.users and region.holds(address, length) and region.is_of(shown):
                return region
        if len(shown) == 1 and shown[0].is_file:
            break  # else another thread may have begun to guard it meanwhile
    return _new_region(buffer, shown, address, length, name)


_ATTEMPTS = 3


def _new_region(
    buffer: object, shown: list[MappedFile], address: int, length: int, name: str | None
) -> Region:
    """Of the whole mapping around the pages: so every guard of it has the same."""
    if not shown or not all(each.is_file for each in shown):
        raise UsageError("this memory has no file behind it: only mappings of files can be guarded")
    if len(shown) > 1 or not (shown[0].address <= address and address + length <= shown[0].end):
        raise UsageError(
            f"these {length} bytes are spread over {len(shown)} mappings; guard each by itself"
        )
    try:
        return Region(buffer, shown[0], name)
    except OSError as error:
        if error.errno != errno.ENOMEM:
            raise
        raise UnsupportedError(
            "no mapping is left for this process; raise vm.max_map_count, or close some"
        ) from None
