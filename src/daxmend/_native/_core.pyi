"""The contract of the C core; its documentation stands here and nowhere else.

Offsets and lengths are bytes. A `Buffer` is anything with a contiguous buffer; it is pinned while
the call runs, so a `mmap` in use cannot be closed or resized. A range outside it is a `ValueError`
that names the numbers, raised before anything is touched. Length 0 is allowed and touches nothing.

*Guarded* means: a SIGBUS or SIGSEGV raised by this thread, inside this call, at an address in one
of the two ranges of the move, becomes `MemoryFault`. Every other fault goes to the handler that was
there before, or kills as it would have. All guarded calls release the GIL, may run in any number of
threads at once, and work in the child of a fork. They need the two signals unblocked: the kernel
kills a thread that faults while it blocks them, and no handler can help.

Handlers: they are put in place by the first guarded call or `forward_segv`. If somebody replaces
them later (`faulthandler.enable()`), the next call puts them on top again and passes on to the
newcomer; it looks at most every 10 to 40 µs, so that a fault in a call within that time of the last
one can still be the newcomer's. `install` looks at once. A handler that was set with Python's
`signal.signal` never runs for a fault: it would return to the same instruction for ever.
"""

from typing_extensions import Buffer

def read(memory: Buffer, offset: int, length: int, /) -> bytes:
    """The bytes of `memory[offset : offset + length]`; guarded.

    Raises `MemoryFault`; `partial` holds the bytes before the first page that failed.
    """

def read_into(memory: Buffer, offset: int, target: Buffer, /) -> None:
    """Fills `target` from `memory[offset : offset + len(target)]`; guarded on both sides.

    `target` must be writable and must not overlap the source (`ValueError`). Raises `MemoryFault`;
    the first `done` bytes of `target` are then valid, what follows is undefined.
    """

def write(memory: Buffer, offset: int, data: Buffer, /) -> None:
    """Stores `data` at `memory[offset:]`; guarded on both sides.

    An ordinary copy: nothing is durable before msync. `data` may be a mapping that faults; the
    `address` of the `MemoryFault` tells which side it was. The first `done` bytes are stored; later
    bytes of the range may hold old or new content. The two must not overlap (`ValueError`).
    """

def write_flush(memory: Buffer, offset: int, data: Buffer, /) -> None:
    """As `write`, and the stores go past the cache: durable on persistent memory after `fence()`.

    Whole 64-byte lines are stored non-temporally; a part of a line at either end is stored and
    written back (clwb, else clflushopt, else clflush). No alignment is needed. After a
    `MemoryFault` the first `done` bytes are as durable as the next `fence` makes them. Other
    machines than x86-64 copy, and leave durability to msync.
    """

def store_line(memory: Buffer, offset: int, line: Buffer, /) -> None:
    """Stores 64 bytes as one line past the cache (R6): movdir64b where the CPU has it; guarded.

    The address, not only the offset, must be aligned to 64 bytes, and `line` must have 64
    (`ValueError`). Without movdir64b four non-temporal stores are made, which a power failure can
    tear. Ordered and durable by the next `fence()`.
    """

def digest(memory: Buffer, offset: int, length: int, grain: int, /) -> bytes:
    """The XXH3-64 of each `grain` bytes of the range, 8 bytes each in the machine's order; guarded.

    `length` is a multiple of `grain` (`ValueError`). Raises `MemoryFault`. Only there if the core
    was built with <xxhash.h>; `daxmend._native.digest` is always there.
    """

def instructions() -> dict[str, str | None]:
    """What this CPU's instructions are that the functions here use, for people.

    `flush`: clwb, clflushopt, clflush, or `a fence` where there is none; `store_line`: movdir64b,
    movntdq or memcpy; `digest`: avx2 or baseline, None if the core was built without <xxhash.h>.
    """

def fence() -> None:
    """Orders this thread's flushes and stores before it against those after it (sfence)."""

def install() -> None:
    """Puts the handlers of SIGBUS and SIGSEGV in place now, over any that came later. `OSError`."""

def address_of(memory: Buffer, /) -> int:
    """Where the first byte of a buffer is. Valid as long as the caller holds the buffer."""

class Watch:
    """Between `start` and `stop`, a page of the range that faults becomes zeros, in every thread.

    The range is whole pages of a mapping of a file, and `protection` is the mapping's, and the
    zeros'. The caller keeps the mapping. `restore` maps the file back: from `twin`, a second
    address of the same pages (see `map_again`), or, if that is 0, privately from `offset` of `fd`.

    A fault is a SIGBUS of an instruction (not BUS_ADRALN), or a SIGSEGV in a range of
    `forward_segv`, whose address is in the range. One inside a guarded call is that call's. Any
    number of watches may overlap: each is told, also of pages that did not show the file when it
    was started. Works in a forked child. What can wait releases the GIL.

    Where one bad page follows the other, the kernel is asked about those behind them, and what
    would fault becomes zeros in the same call, never more than were met already. After 16,384
    entries, in a range without PROT_WRITE, 2 MiB around a fault are copied at once, up to 1 GiB:
    others' changes of the file are then not seen. Where no mapping is left (vm.max_map_count),
    zeros take the place of good pages too.
    """

    def __new__(
        cls, address: int, length: int, protection: int, twin: int, fd: int, offset: int, /
    ) -> Watch:
        """At most 65,536 watches at a time (`OSError` ENOMEM)."""

    def start(self) -> None:
        """Puts the handlers on top, and watches. Not twice. `OSError`."""

    def stop(self) -> bool:
        """Ends it; only after `start`. False: there is nothing to take, and nothing to restore."""

    def take(self) -> bytes:
        """What was done since it was started, or asked last; 24 bytes an entry.

        In the machine's order: offset and length (64 bits each, bytes of the range), si_code and
        what was done (32 bits each): 0 faulted, now zeros; 1 a copy of the good pages; 2 zeros,
        and nobody knows what was bad. In the order of time; the same may be there twice. What does
        not fit in 1,048,576 entries, or in memory, becomes one of the last kind. Where several
        threads take at a time, entries of length 0 follow.
        """

    def restore(self) -> None:
        """Maps the file back wherever in the range it is not shown, whoever's fault that was.

        `OSError`: the rest does not show it, and whoever starts to watch is told.
        """

def forward_segv(address: int, length: int, /) -> None:
    """From now on a missing page in this range is a SIGBUS: BUS_MCEERR_AR, lsb 12, exact address.

    For ranges with guard regions (MADV_GUARD_INSTALL), whose unguarded access would be a SIGSEGV;
    it is sent to the thread that faulted, with the registers of its access. It works in a forked
    child too. Only SEGV_MAPERR is translated. Any number of ranges, which may overlap; each
    fault looks through them one by one. `OSError`.
    """

def forget_segv(address: int, length: int, /) -> None:
    """Ends one `forward_segv` with the same two arguments; `OSError` ENOENT if there was none."""
