"""The bytes under a medium: one file, mapped once, with stores, flushes and fences.

The mapping is this process's own alias: nothing ever makes its pages fault on purpose, so the
layers above read through it and the refusal of poison is theirs.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import stat
from enum import StrEnum
from typing import TYPE_CHECKING

from daxmend import _native
from daxmend.errors import MediaError, TruncatedError
from daxmend.extent import Extent
from daxmend.media.checksum import checksum_units
from daxmend.units import KIB, PAGE, align_down

if TYPE_CHECKING:
    from typing_extensions import Buffer


_ZEROS = memoryview(bytes(256 * KIB))


class Durability(StrEnum):
    """What a fence promises (persistence.md §1)."""

    PROCESS = "process"  # ordering only: survives kill -9, not a machine crash
    MACHINE = "machine"  # flushed stores are on stable storage


class Backing:
    """A file of fixed size as byte-addressable memory. Not locked: its owner's lock holds.

    A store may become durable at any time, and is durable once it was flushed and a fence
    returned. Owns `fd`. Raises `TruncatedError`, `MediaError` or `OSError(ENOSPC)` where the file
    below fails; never a signal.
    """

    def __init__(
        self,
        fd: int,
        name: str,
        durability: Durability,
        *,
        writable: bool = True,
        size: int | None = None,  # where the system does not say it: of a character device
    ) -> None:
        self.fd = fd
        self.name = name
        self.is_writable = writable
        self.size = size or os.lseek(fd, 0, os.SEEK_END)
        self.durability = durability
        protection = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
        self.memory = mmap.mmap(fd, self.size, mmap.MAP_SHARED, protection)
        self._is_machine = durability is Durability.MACHINE
        # At first: what an earlier owner stored and was killed before its fence.
        self._is_unsynced = writable
        self._failed_sync: OSError | None = None

    def load(self, offset: int, length: int) -> bytes:
        """A copy of `length` bytes at `offset`."""
        try:
            return _native.read(self.memory, offset, length)
        except _native.MemoryFault as fault:
            raise self.explain(offset + fault.done, length - fault.done) from None

    def load_into(self, offset: int, target: Buffer) -> None:
        """Fill `target` with the bytes at `offset`."""
        try:
            _native.read_into(self.memory, offset, target)
        except _native.MemoryFault as fault:
            raise self.explain(
                offset + fault.done, memoryview(target).nbytes - fault.done
            ) from None

    def checksum(self, offset: int, length: int, grain: int) -> bytes:
        """The checksums of the units of `grain` bytes in the range."""
        try:
            return checksum_units(self.memory, grain, offset, length)
        except _native.MemoryFault as fault:
            raise self.explain(offset + fault.done, length - fault.done) from None

    def store(self, offset: int, data: Buffer) -> None:
        """Write `data` at `offset`; durable after `flush` of the range and a `fence`."""
        try:
            _native.write(self.memory, offset, data)
        except BufferError:
            if self.is_writable:
                raise
            raise OSError(errno.EROFS, f"{self.name}: the file is open read-only") from None
        except _native.MemoryFault as fault:
            raise self.explain(offset + fault.done, memoryview(data).nbytes - fault.done) from None

    def store_flush(self, offset: int, data: Buffer) -> None:
        """`store` and `flush` in one, past the processor's caches: for what nobody reads soon."""
        try:
            _native.write_flush(self.memory, offset, data)
        except _native.MemoryFault as fault:
            raise self.explain(offset + fault.done, memoryview(data).nbytes - fault.done) from None
        finally:
            _native.fence()  # such stores are not ordered by themselves, not even for other threads
            self._is_unsynced = True

    def store_line(self, offset: int, line: Buffer) -> None:
        """A direct store of one aligned 64-byte line; durable like a store."""
        try:
            _native.store_line(self.memory, offset, line)
        except _native.MemoryFault as fault:
            raise self.explain(offset, memoryview(line).nbytes - fault.done) from None

    def poke(self, offset: int, data: Buffer) -> None:
        """Change bytes as the medium itself does, not through the processor's caches.

        For the emulation of poison and of the clear command: no stop of the program undoes it.
        """
        self.store(offset, data)
        self._is_unsynced = True

    def poke_zeros(self, offset: int, length: int) -> None:
        """`poke` zeros: what the clear command leaves."""
        for at in range(0, length, len(_ZEROS)):
            self.poke(offset + at, _ZEROS[: length - at])

    def flush(self, offset: int, length: int) -> None:
        """Send stored bytes on their way; they are durable after the next `fence`."""
        self._is_unsynced = True

    def fence(self) -> None:
        """Every flushed store is durable on return, as far as `durability` promises.

        Once that failed, it fails for good: nobody can say any more what has become durable.
        """
        if self._failed_sync is not None:
            raise self._failed_sync
        if not (self._is_machine and self._is_unsynced):
            return
        self._is_unsynced = False  # before: what another thread flushes meanwhile is not covered
        try:
            os.fdatasync(self.fd)
        except OSError as error:
            # The kernel reports a failed write-back once and then calls the pages clean.
            self._failed_sync = OSError(
                error.errno,
                f"{self.name}: what was stored could not be made durable ({error.strerror}); "
                "stop using the pool, look at its disk, and open it again",
            )
            raise self._failed_sync from error
        except BaseException:  # interrupted: nothing is promised, and the next fence tries again
            self._is_unsynced = True
            raise

    def next_data(self, offset: int, end: int) -> Extent | None:
        """The first stretch of `[offset, end)` that was ever stored to; all else reads as zeros."""
        try:
            start = os.lseek(self.fd, offset, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return None
            raise
        if start >= end:
            return None
        return Extent.between(start, min(os.lseek(self.fd, start, os.SEEK_HOLE), end))

    def explain(self, offset: int, length: int) -> OSError:
        """What to raise for an access to the file's own bytes that faulted."""
        found = os.fstat(self.fd)
        if stat.S_ISREG(found.st_mode) and offset >= found.st_size:
            return TruncatedError(
                self.name, offset, length, hint="the file shrank while it was in use; restore it"
            )
        if self._lacks_space(offset):
            return OSError(
                errno.ENOSPC,
                f"{self.name}: no space for {length} bytes at offset {offset}; "
                "free space on the file system that holds it",
                self.name,
            )
        return MediaError(
            self.name, offset, length, hint="the file system below cannot access its own storage"
        )

    def _lacks_space(self, offset: int) -> bool:
        """Whether an access there failed for want of space (a quota is one too) or of a good disk.

        A hole must be allocated, on tmpfs even to be read; what has its storage and can be read
        needs space only where the file system writes elsewhere.
        """
        page = Extent(align_down(offset, PAGE), PAGE)
        try:
            if self.next_data(page.offset, page.end) != page:
                return True
            os.pread(self.fd, 1, offset)
        except OSError:
            return False
        return os.fstatvfs(self.fd).f_bavail == 0

    def close(self) -> None:
        """Make everything flushed durable, unmap and close; later calls do nothing."""
        if self.fd < 0:
            return
        try:
            self.fence()
        finally:
            os.close(self.fd)
            self.fd = -1
            # A view that somebody still holds keeps the mapping; it goes with the view.
            with contextlib.suppress(BufferError):
                self.memory.close()
