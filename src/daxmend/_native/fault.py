"""What a guarded move raises."""

import signal as _signal


class MemoryFault(Exception):  # noqa: N818  # the kernel's word; no FaultError (errors.py)
    """A guarded move met memory that cannot be accessed; on either of its sides.

    `done`: bytes that were moved, counted from the start of the move; it ends at the first page
    that failed, or before it. `partial` holds them where the call produces bytes, else it is empty.
    `address`, `signal`, `code` and `lsb` are what the kernel said: si_addr, SIGBUS or SIGSEGV,
    si_code, and si_addr_lsb (0 where the code carries none). The address is that of the access that
    failed, anywhere in its page: a copy does not touch its bytes one after the other. A guard
    region inside a range of `forward_segv` reads as what its unguarded access gets: SIGBUS,
    BUS_MCEERR_AR, 12.
    """

    def __init__(
        self,
        done: int,
        address: int,
        signal: int,
        code: int,
        lsb: int = 0,
        partial: bytes = b"",
    ) -> None:
        super().__init__(done, address, signal, code, lsb, partial)
        self.done = done
        self.address = address
        self.signal = signal
        self.code = code
        self.lsb = lsb
        self.partial = partial

    def __str__(self) -> str:
        name = _signal.Signals(self.signal).name
        return f"{name} code {self.code} at address {self.address:#x} after {self.done} bytes"
