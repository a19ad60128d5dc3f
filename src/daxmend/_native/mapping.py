"""The calls on mappings that Python has no name for; each is one system call, without the GIL.

Addresses and lengths are bytes; `prot`, `flags` and `advice` as in the `mmap` module. All raise
`OSError` with the call's errno, and `ValueError` for what is no range of memory.
"""

import ctypes
import os
import platform

_MREMAP_MAYMOVE_FIXED = 1 | 2
_SYS_USERFAULTFD = 323 if platform.machine() == "x86_64" else 282
_LIMIT = 1 << 8 * ctypes.sizeof(ctypes.c_void_p)

_libc = ctypes.CDLL(None, use_errno=True)
_pointer, _size, _int = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
_libc.mmap.argtypes = (_pointer, _size, _int, _int, _int, ctypes.c_longlong)
_libc.mremap.argtypes = (_pointer, _size, _size, _int, _pointer)
_libc.munmap.argtypes = (_pointer, _size)
_libc.madvise.argtypes = (_pointer, _size, _int)
_libc.syscall.argtypes = (ctypes.c_long, ctypes.c_long)
_libc.mmap.restype = _libc.mremap.restype = _libc.syscall.restype = ctypes.c_ssize_t


def _checked(result: int) -> int:
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def _validate_range(address: int, length: int) -> None:
    if not 0 < address < address + length <= _LIMIT:
        raise ValueError(f"address {address} and length {length} are no range of memory")


def map_file(fd: int, offset: int, length: int, prot: int, flags: int, address: int = 0) -> int:
    """mmap(2): the address.

    With MAP_FIXED (16) it replaces whatever is at `address`, also under somebody's buffer.
    """
    return _checked(_libc.mmap(address, length, prot, flags, fd, offset))


def map_again(source: int, length: int, address: int = 0) -> int:
    """A second mapping of what a shared mapping shows at `source`: its address (mremap(2)).

    It needs no file: also what was deleted or replaced can be mapped again. With `address`, it
    replaces whatever is there.
    """
    flags = _MREMAP_MAYMOVE_FIXED if address else 1
    return _checked(_libc.mremap(source, 0, length, flags, address))


def unmap(address: int, length: int) -> None:
    """munmap(2). Whoever still uses it gets a SIGSEGV."""
    _validate_range(address, length)
    _checked(_libc.munmap(address, length))


def madvise(address: int, length: int, advice: int) -> None:
    """madvise(2), any advice, also those that the `mmap` module does not know."""
    _validate_range(address, length)
    _checked(_libc.madvise(address, length, advice))


def userfaultfd(flags: int) -> int:
    """userfaultfd(2): a new file descriptor; without O_CLOEXEC in `flags` it survives an exec.

    ENOSYS, or EPERM without UFFD_USER_MODE_ONLY (1). It belongs to this address space: a forked
    child has to open its own.
    """
    return _checked(_libc.syscall(_SYS_USERFAULTFD, flags))
