"""What a signal of memory says: si_code of SIGBUS and SIGSEGV (<asm-generic/siginfo.h>).

A page that cannot be read is `BUS_ADRERR` where a file system could not give it, and
`BUS_MCEERR_AR` where the processor met the poison, or the driver knew of it (R24, R25).
`BUS_MCEERR_AO` tells of poison that nobody has met yet.
"""

from __future__ import annotations

import signal
from enum import IntEnum
from typing import Final


class BusCode(IntEnum):
    """si_code of SIGBUS."""

    BUS_ADRALN = 1  # an address that the instruction cannot use
    BUS_ADRERR = 2
    BUS_OBJERR = 3
    BUS_MCEERR_AR = 4
    BUS_MCEERR_AO = 5


class SegvCode(IntEnum):
    """si_code of SIGSEGV."""

    SEGV_MAPERR = 1  # nothing is mapped there
    SEGV_ACCERR = 2  # what is mapped there may not be used so


_CODES: Final[dict[int, type[BusCode] | type[SegvCode]]] = {
    signal.SIGBUS: BusCode,
    signal.SIGSEGV: SegvCode,
}
_SMALLEST_LSB: Final = 6  # a cacheline: what a machine check cannot be finer than
_LARGEST_LSB: Final = 40


def code_name(number: int, code: int) -> str:
    """The name of a signal's si_code; the signal and the number where it has none here."""
    try:
        return _CODES[number](code).name
    except (KeyError, ValueError):
        return f"{signal.Signals(number).name} {code}"


def has_width(code: int) -> bool:
    """Whether SIGBUS with this si_code says in `si_addr_lsb` how much memory has failed."""
    return code in (BusCode.BUS_MCEERR_AR, BusCode.BUS_MCEERR_AO)


def failed_width(lsb: int) -> int | None:
    """The bytes around `si_addr` that `si_addr_lsb` speaks of; None for what is no width."""
    return 1 << lsb if _SMALLEST_LSB <= lsb <= _LARGEST_LSB else None
