"""Real memory over a range of a file, in which chosen pages really fault (R24, R28).

Code that knows nothing of daxmend dies of SIGBUS at such a page, as it would on hardware; nothing
else sees it: other mappings of the file, and read(2) and write(2) on it, work as before.
"""

import errno
import fcntl
import mmap
import os
import stat
import struct
import weakref
from collections.abc import Iterable
from contextlib import closing
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple, Self

from daxmend import _native
from daxmend.errors import UnsupportedError, UsageError
from daxmend.extent import Extent, ExtentSet, check_bounds

PAGE = mmap.PAGESIZE  # what the MMU can make fault; 4096 wherever there is persistent memory

# linux/userfaultfd.h and asm-generic/mman-common.h; the headers of Debian 12 lack half of these.
UFFD_USER_MODE_ONLY = 1
_UFFD_API = 0xAA
_UFFD_FEATURE_WP_HUGETLBFS_SHMEM = 1 << 12
_UFFD_FEATURE_POISON = 1 << 14
_UFFDIO_API = 0xC018AA3F
_UFFDIO_REGISTER = 0xC020AA00
_UFFDIO_REGISTER_MODE_WP = 2
_UFFDIO_POISON = 0xC020AA08
_MADV_GUARD_INSTALL = 102
_MADV_GUARD_REMOVE = 103
_MAP_FIXED = 0x10

_MAX_MAP_COUNT = Path("/proc/sys/vm/max_map_count")


class Mechanism(StrEnum):
    """How a page is made to fault, in the order of preference."""

    UFFD_POISON = "uffd-poison"  # tmpfs and memfd, opened for writing; Linux 6.6
    GUARD_REGION = "guard-region"  # any file; Linux 6.15
    EMPTY_MEMFD = "empty-memfd"  # anywhere, but every page can cost the kernel two mappings


class _Place(NamedTuple):
    """The mapping: which file, from where, and at which address."""

    fd: int
    offset: int
    length: int
    protection: int
    address: int

    def show_file(self, offset: int, length: int) -> None:
        """Map the file into `[offset, offset + length)` of the mapping, whatever was there."""
        _native.map_file(
            self.fd,
            self.offset + offset,
            length,
            self.protection,
            mmap.MAP_SHARED | _MAP_FIXED,
            self.address + offset,
        )


class _Trap:
    """One mechanism over one place. Offsets count from the start of the mapping."""

    def __init__(self, place: _Place) -> None:
        self._place = place

    def install(self, extent: Extent) -> None:
        """Make pages fault that do not fault yet."""
        raise NotImplementedError

    def remove(self, extent: Extent) -> None:
        """Let pages that fault show the file again."""
        raise NotImplementedError

    def close(self) -> None:
        """Give back what is not the mapping's own."""
        raise NotImplementedError

    def admit(self, length: int) -> None:
        """Raise `UnsupportedError` if `length` bytes more are too many; markers have no limit."""

    def after_fork(self, faulting: Iterable[Extent]) -> None:
        """In a forked child: restore what it did not inherit."""


class _UffdPoison(_Trap):
    """A poison marker in the page table: a load of it is a memory error, for this mapping alone.

    Registered in write-protect mode, in which a page that is missing is still filled from the file;
    in missing mode a load of a hole would wait for an answer from user space for ever. A fork
    loses the markers and the registration, and the child would read poisoned pages; so the kernel
    leaves the mapping out of the child (MADV_DONTFORK), and `after_fork` makes it anew.
    """

    def __init__(self, place: _Place) -> None:
        super().__init__(place)
        self._uffd = self._register()

    def _register(self) -> int:
        _native.madvise(self._place.address, self._place.length, mmap.MADV_DONTFORK)
        uffd = _native.userfaultfd(UFFD_USER_MODE_ONLY | os.O_CLOEXEC)
        features = _UFFD_FEATURE_WP_HUGETLBFS_SHMEM | _UFFD_FEATURE_POISON
        span = (self._place.address, self._place.length)
        try:
            fcntl.ioctl(uffd, _UFFDIO_API, bytearray(struct.pack("=3Q", _UFFD_API, features, 0)))
            request = bytearray(struct.pack("=4Q", *span, _UFFDIO_REGISTER_MODE_WP, 0))
            fcntl.ioctl(uffd, _UFFDIO_REGISTER, request)
        except OSError:
            os.close(uffd)
            raise
        return uffd

    def install(self, extent: Extent) -> None:
        rest = extent
        while rest.length:
            # Only an absent page can be poisoned, and another thread may bring it back in between.
            self.remove(rest)
            try:
                done = self._poison(rest)
            except OSError:
                self.remove(extent)
                raise
            rest = Extent.between(rest.offset + done, rest.end)

    def _poison(self, extent: Extent) -> int:
        """Bytes done: up to the first page that is present, or fewer."""
        address = self._place.address + extent.offset
        request = bytearray(struct.pack("=3Qq", address, extent.length, 0, 0))
        try:
            fcntl.ioctl(self._uffd, _UFFDIO_POISON, request)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.EAGAIN):
                raise
        updated: int = struct.unpack_from("=q", request, 24)[0]
        return max(updated, 0)

    def remove(self, extent: Extent) -> None:
        _native.madvise(self._place.address + extent.offset, extent.length, mmap.MADV_DONTNEED)

    def after_fork(self, faulting: Iterable[Extent]) -> None:
        os.close(self._uffd)  # it is the parent's address space
        self._place.show_file(0, self._place.length)
        self._uffd = self._register()
        for extent in faulting:
            self.install(extent)

    def close(self) -> None:
        os.close(self._uffd)


class _GuardRegions(_Trap):
    """Guard markers in the page table. They raise SIGSEGV, which the core passes on as SIGBUS."""

    def __init__(self, place: _Place) -> None:
        super().__init__(place)
        _native.forward_segv(place.address, place.length)

    def install(self, extent: Extent) -> None:
        _native.madvise(self._place.address + extent.offset, extent.length, _MADV_GUARD_INSTALL)

    def remove(self, extent: Extent) -> None:
        _native.madvise(self._place.address + extent.offset, extent.length, _MADV_GUARD_REMOVE)

    def close(self) -> None:
        _native.forget_segv(self._place.address, self._place.length)


class _EmptyMemfd(_Trap):
    """Pages of a file without bytes, mapped over the real ones: beyond its end, so a SIGBUS.

    Scattered pages split the mapping in two more pieces each, and a process that has used up
    vm.max_map_count cannot even map the file back; hence the limit, for all places together.
    """

    used = 0  # bytes made to fault in this process

    def __init__(self, place: _Place) -> None:
        super().__init__(place)
        self._own = 0
        self._fd = os.memfd_create("daxmend-empty", os.MFD_CLOEXEC)

    def admit(self, length: int) -> None:
        limit = int(_MAX_MAP_COUNT.read_text()) // 4
        if _EmptyMemfd.used + length > limit * PAGE:
            raise UnsupportedError(
                f"{length // PAGE} more faulting pages refused: this process has "
                f"{_EmptyMemfd.used // PAGE}, and {limit} is the limit, a quarter of "
                f"vm.max_map_count; raise that, or use a Linux with guard regions (6.15)"
            )

    def install(self, extent: Extent) -> None:
        # At its own offset in the empty file, so that neighbours become one mapping.
        self._place._replace(fd=self._fd, offset=0).show_file(*extent)
        self._count(extent.length)

    def remove(self, extent: Extent) -> None:
        self._place.show_file(*extent)
        self._count(-extent.length)

    def _count(self, length: int) -> None:
        self._own += length
        _EmptyMemfd.used += length

    def close(self) -> None:
        os.close(self._fd)
        self._count(-self._own)


_TRAPS: dict[Mechanism, type[_Trap]] = {
    Mechanism.UFFD_POISON: _UffdPoison,
    Mechanism.GUARD_REGION: _GuardRegions,
    Mechanism.EMPTY_MEMFD: _EmptyMemfd,
}


def _protection(*, writable: bool) -> int:
    return mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)


def _works(mechanism: Mechanism, fd: int) -> bool:
    """Tries it on one page of the file, without touching a byte of it."""
    protection = _protection(writable=_is_writable(fd))
    try:
        address = _native.map_file(fd, 0, PAGE, protection, mmap.MAP_SHARED)
    except OSError:
        return False
    try:
        with closing(_TRAPS[mechanism](_Place(fd, 0, PAGE, protection, address))) as trap:
            trap.install(Extent(0, PAGE))
    except OSError:
        return False
    finally:
        _native.unmap(address, PAGE)
    return True


def _is_writable(fd: int) -> bool:
    return (fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE) == os.O_RDWR


_chosen: dict[tuple[int, bool], Mechanism] = {}


def choose_mechanism(fd: int) -> Mechanism:
    """The first mechanism that works for this open file; tried once for each file system.

    Raises `UnsupportedError` where none does: the file cannot be mapped.
    """
    key = (os.fstat(fd).st_dev, _is_writable(fd))
    if key not in _chosen:
        for mechanism in Mechanism:
            if _works(mechanism, fd):
                _chosen[key] = mechanism
                break
        else:
            raise UnsupportedError("no page of this file can be mapped and made to fault")
    return _chosen[key]


class Exposure:
    """A shared mapping of `[offset, offset + length)` of the open file `fd`.

    Offset and length are page-aligned and, in a regular file, inside it (`UsageError`). The file
    stays open as long as the mapping. `memory` is the mapping as bytes, `address` where it is;
    they live until `close`, or, if nobody calls that, as long as any view of `memory`, whose pages
    keep faulting. In a child made by `os.fork` they fault too; a child forked by C code has them
    too, or (`UFFD_POISON`) has no mapping there at all.

    Not locked: one thread at a time changes an exposure; any number may use its memory meanwhile.
    """

    def __init__(
        self,
        fd: int,
        offset: int,
        length: int,
        *,
        writable: bool = True,
        mechanism: Mechanism | None = None,
    ) -> None:
        """Map, with no page faulting; `UnsupportedError` if the named mechanism cannot do it."""
        _check_range(fd, Extent(offset, length))
        if mechanism is not None and not _works(mechanism, fd):
            raise UnsupportedError(f"{mechanism} does not work on this file")
        self.mechanism = mechanism or choose_mechanism(fd)
        self.length = length
        protection = _protection(writable=writable)
        self._map = _Mapping(fd, length, mmap.MAP_SHARED, protection, offset=offset)
        self.memory = memoryview(self._map)
        self.address = _native.address_of(self._map)
        self._faulting = ExtentSet(PAGE)
        own_fd = os.dup(fd)
        try:
            self._trap: _Trap = _TRAPS[self.mechanism](
                _Place(own_fd, offset, length, protection, self.address)
            )
        except OSError:
            os.close(own_fd)
            raise
        self._release = weakref.finalize(self, _release, self._trap, own_fd)
        self._release.atexit = False  # code that runs at exit must not see poisoned bytes either
        self._map.exposure = self
        _forkable.add(self)

    @property
    def faulting(self) -> list[Extent]:
        """The ranges that fault now, ascending and merged, relative to the exposure."""
        return list(self._faulting)

    def make_faulting(self, offset: int, length: int) -> None:
        """From now on every load and store in these whole pages raises SIGBUS, for every thread.

        `UnsupportedError` if it would pass the limit of `EMPTY_MEMFD`; then nothing has changed.
        `OSError` (EFAULT) where `UFFD_POISON` meets the end of a file that shrank; the ranges that
        `faulting` names then fault. After `close` nothing happens.
        """
        extent = self._checked(offset, length)
        if self._map.closed:
            return
        fresh = list(self._faulting.gaps(extent))
        self._trap.admit(sum(piece.length for piece in fresh))
        for piece in fresh:
            self._trap.install(piece)
            self._faulting.add(piece)

    def make_accessible(self, offset: int, length: int) -> None:
        """From now on these whole pages show the file, with the bytes it has by now.

        After `close` nothing happens.
        """
        extent = self._checked(offset, length)
        if self._map.closed:
            return
        for piece in list(self._faulting.extents(extent)):
            self._trap.remove(piece)
            self._faulting.discard(piece)

    def _checked(self, offset: int, length: int) -> Extent:
        extent = Extent(offset, length)
        check_bounds(extent, self.length, "exposure")
        _check_aligned(extent)
        return extent

    def close(self) -> None:
        """Unmap. `BufferError`, and nothing has changed, while a view of the memory is in use."""
        if self._map.closed:
            return
        self.memory.release()
        try:
            self._map.close()
        except BufferError:
            self.memory = memoryview(self._map)
            raise
        self._release()
        _forkable.discard(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class _Mapping(mmap.mmap):
    """Counts its views, and keeps the exposure alive as long as there is one."""

    exposure: Exposure


def _release(trap: _Trap, fd: int) -> None:
    trap.close()
    os.close(fd)


def _check_aligned(extent: Extent) -> None:
    if extent.offset % PAGE or extent.length % PAGE:
        raise UsageError(f"{extent} is not aligned to pages of {PAGE} bytes")


def _check_range(fd: int, extent: Extent) -> None:
    _check_aligned(extent)
    if extent.length == 0:
        raise UsageError("an exposure of 0 bytes has no memory")
    status = os.fstat(fd)
    if stat.S_ISREG(status.st_mode):
        check_bounds(extent, status.st_size, "file")


_forkable: weakref.WeakSet[Exposure] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for exposure in _forkable:
        exposure._trap.after_fork(exposure._faulting)


os.register_at_fork(after_in_child=_after_fork_in_child)
