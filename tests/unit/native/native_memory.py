"""Memory for the tests: pages of a file, some of which fault, made without `daxmend.media`."""

import contextlib
import mmap
import os
from array import array
from collections.abc import Iterator
from typing import NamedTuple

from daxmend import _native

PAGE = 4096
MAP_FIXED = 0x10
BUS_ADRERR = 2
BUS_MCEERR_AR = 4
SEGV_ACCERR = 2
MADV_GUARD_INSTALL = 102


class Pages(NamedTuple):
    """Shared pages whose every byte is known, at a known address."""

    memory: mmap.mmap
    address: int
    content: bytes
    fd: int
    empty_fd: int

    def _replace_page(self, page: int, prot: int, fd: int) -> None:
        address = self.address + page * PAGE
        _native.map_file(fd, page * PAGE, PAGE, prot, mmap.MAP_SHARED | MAP_FIXED, address)

    def break_page(self, page: int) -> None:
        """An access is beyond the end of a file: SIGBUS, BUS_ADRERR."""
        self._replace_page(page, mmap.PROT_READ | mmap.PROT_WRITE, self.empty_fd)

    def forbid_page(self, page: int) -> None:
        """An access is not allowed: SIGSEGV, SEGV_ACCERR."""
        self._replace_page(page, 0, self.fd)

    def mend_page(self, page: int) -> None:
        """The file again."""
        self._replace_page(page, mmap.PROT_READ | mmap.PROT_WRITE, self.fd)


def pattern(length: int) -> bytes:
    """Bytes in which no two aligned words are alike."""
    return array("I", range(length // 4)).tobytes()


@contextlib.contextmanager
def open_pages(count: int) -> Iterator[Pages]:
    """`count` good pages; the mapping goes with the last view of it."""
    content = pattern(count * PAGE)
    fd, empty_fd = os.memfd_create("pages"), os.memfd_create("empty")
    try:
        os.pwrite(fd, content, 0)
        memory = mmap.mmap(fd, len(content))
        yield Pages(memory, _native.address_of(memory), content, fd, empty_fd)
    finally:
        os.close(fd)
        os.close(empty_fd)
