"""Files whose mapped pages fault: by truncation, by guard regions, by userfaultfd poison."""

import contextlib
import fcntl
import mmap
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from daxmend import _native

PAGE = 4096
MADV_GUARD_INSTALL = 102
HERE = Path(__file__).parent


def content(pages: int) -> bytes:
    """Pages that can be told from each other, and from zeros."""
    return b"".join(struct.pack("=Q", page + 1) * (PAGE // 8) for page in range(pages))


def make_file(path: Path, pages: int) -> Path:
    path.write_bytes(content(pages))
    return path


def has_guard_regions() -> bool:
    """Whether file mappings can have them (Linux 6.15)."""
    fd = os.memfd_create("guard")
    os.ftruncate(fd, PAGE)
    try:
        with mmap.mmap(fd, PAGE) as memory:
            _native.madvise(_native.address_of(memory), PAGE, MADV_GUARD_INSTALL)
    except OSError:
        return False
    finally:
        os.close(fd)
    return True


@contextlib.contextmanager
def poisoned(memory: object, *pages: int) -> Iterator[None]:
    """Pages that raise BUS_MCEERR_AR, as a memory error does, until they are mapped anew."""
    with memoryview(memory) as view:  # type: ignore[arg-type]  # a buffer
        address, length = _native.address_of(view), view.nbytes
    for page in pages:
        _native.madvise(address + page * PAGE, PAGE, MADV_GUARD_INSTALL)
    _native.forward_segv(address, length)
    try:
        yield
    finally:
        _native.forget_segv(address, length)


def poison_by_userfaultfd(memory: mmap.mmap, page: int) -> int:
    """The same through UFFDIO_POISON; returns the descriptor, which keeps it. Raises `OSError`."""
    address = _native.address_of(memory)
    uffd = _native.userfaultfd(1 | os.O_CLOEXEC)
    try:
        fcntl.ioctl(uffd, 0xC018AA3F, bytearray(struct.pack("=3Q", 0xAA, 1 << 14 | 1 << 12, 0)))
        span = struct.pack("=4Q", address, len(memory), 2, 0)
        fcntl.ioctl(uffd, 0xC020AA00, bytearray(span))
        place = address + page * PAGE
        _native.madvise(place, PAGE, mmap.MADV_DONTNEED)
        fcntl.ioctl(uffd, 0xC020AA08, bytearray(struct.pack("=3Qq", place, PAGE, 0, 0)))
    except OSError:
        os.close(uffd)
        raise
    return uffd


class Ending(NamedTuple):
    """How a program ended: an exit status, or minus the signal; and what it said."""

    status: int
    output: str
    errors: str


PRELUDE = """
import ctypes, faulthandler, mmap, os, resource, signal, sys, threading
from pathlib import Path
from daxmend import _native, guard
from daxmend.errors import MediaError, TruncatedError
from guardmemory import *
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
path = Path(sys.argv[1])
"""


def run_program(program: str, path: Path, *options: str, timeout: float = 90) -> Ending:
    """Run `program` after the prelude, in a Python of its own."""
    done = subprocess.run(
        [sys.executable, *options, "-c", PRELUDE + program, str(path)],
        capture_output=True,
        text=True,
        timeout=timeout,
        env=os.environ | {"PYTHONPATH": f"{HERE}:{os.environ.get('PYTHONPATH', '')}"},
        check=False,
    )
    return Ending(done.returncode, done.stdout, done.stderr)
