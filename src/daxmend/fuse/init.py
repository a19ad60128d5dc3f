"""The INIT message: what this side and the running kernel agree on."""

from typing import Final, NamedTuple

from daxmend.errors import UnsupportedError
from daxmend.fuse import protocol as p
from daxmend.fuse.handler import Handler

MAX_PAGES: Final = 256
MAX_WRITE: Final = MAX_PAGES * 4096
# Not asked for: WRITEBACK_CACHE (reads before a sub-page write), AUTO_INVAL_DATA (this side
# invalidates), ASYNC_DIO (the pieces of one O_DIRECT read would be under way at once, and any of
# them may be answered short), EXPORT_SUPPORT, SPLICE_*.
_WANTED: Final = (
    p.FUSE_ASYNC_READ
    | p.FUSE_BIG_WRITES
    | p.FUSE_PARALLEL_DIROPS
    | p.FUSE_MAX_PAGES
    | p.FUSE_INIT_EXT
    | p.FUSE_DIRECT_IO_ALLOW_MMAP
)
# The file system of a passthrough file may itself be stacked once (overlayfs).
_MAX_STACK_DEPTH: Final = 2


class Kernel(NamedTuple):
    """What was agreed on with the running kernel: protocol version 7.`minor`, INIT `flags`."""

    minor: int
    flags: int

    @property
    def direct_mmap(self) -> bool:
        """Whether files opened with FOPEN_DIRECT_IO can be mapped shared (Linux 6.6)."""
        return bool(self.flags & p.FUSE_DIRECT_IO_ALLOW_MMAP)

    @property
    def passthrough(self) -> bool:
        """Whether `Session.open_backing` may be tried (Linux 6.9, asked for, root)."""
        return bool(self.flags & p.FUSE_PASSTHROUGH)


def wanted_flags(handler: Handler, passthrough: bool) -> int:
    """The INIT flags to ask for, given what `handler` overrides and declares."""
    flags = _WANTED
    if type(handler).readdirplus is not Handler.readdirplus:
        flags |= p.FUSE_DO_READDIRPLUS | p.FUSE_READDIRPLUS_AUTO
    if handler.truncates_on_open:
        flags |= p.FUSE_ATOMIC_O_TRUNC
    if handler.kills_suidgid:
        flags |= p.FUSE_HANDLE_KILLPRIV_V2
    if handler.posix_acls:
        flags |= p.FUSE_POSIX_ACL | p.FUSE_DONT_MASK
    if passthrough:
        flags |= p.FUSE_PASSTHROUGH
    return flags


def negotiate(body: memoryview, wanted: int) -> tuple[Kernel | None, bytes]:
    """What the INIT request `body` and the flags `wanted` come to, and the reply to send.

    No `Kernel` means that the kernel speaks a newer major version: it will ask again with ours.
    Raises UnsupportedError for a kernel before Linux 4.20.
    """
    major, minor, max_readahead, offered = p.INIT_IN.unpack_from(body)
    if major > p.FUSE_KERNEL_VERSION:
        return None, pack_init_out(p.FUSE_KERNEL_MINOR_VERSION, 0, 0)
    if major < p.FUSE_KERNEL_VERSION or minor < p.OLDEST_MINOR_VERSION:
        raise UnsupportedError(
            f"the kernel speaks FUSE {major}.{minor}, but daxmend needs at least"
            f" {p.FUSE_KERNEL_VERSION}.{p.OLDEST_MINOR_VERSION}: use Linux 4.20 or newer"
        )
    if offered & p.FUSE_INIT_EXT and len(body) >= p.INIT_IN.size + p.INIT_IN_FLAGS2.size:
        (flags2,) = p.INIT_IN_FLAGS2.unpack_from(body, p.INIT_IN.size)
        offered |= flags2 << 32
    kernel = Kernel(min(minor, p.FUSE_KERNEL_MINOR_VERSION), offered & wanted)
    return kernel, pack_init_out(kernel.minor, kernel.flags, max_readahead)


def pack_init_out(minor: int, flags: int, max_readahead: int) -> bytes:
    """`struct fuse_init_out`; `max_background` 0 leaves the kernel its own limits."""
    return p.INIT_OUT.pack(
        p.FUSE_KERNEL_VERSION,
        minor,
        max_readahead,
        flags & 0xFFFFFFFF,
        0,
        0,
        MAX_WRITE,
        1,  # time_gran: a nanosecond
        MAX_PAGES,
        0,
        flags >> 32,
        _MAX_STACK_DEPTH if flags & p.FUSE_PASSTHROUGH else 0,
    )
