"""How a read(2) that blocks the main thread is made to return, at no cost to the ones that do not.

A signal interrupts it; Python then runs the signal's handler and reads again (PEP 475). Whoever
wants the loop around it to end therefore first makes the descriptor non-blocking, then sends a
signal: however the two meet the read, it blocks no longer.
"""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Final

_SIGNAL: Final = signal.SIGURG  # ignored by default, and hardly ever used
_NUDGE_SECONDS: Final = 0.01


def _do_nothing(*_: object) -> None:
    pass


@contextlib.contextmanager
def interruptible() -> Iterator[Callable[[], None]]:
    """Yield a function for other threads that interrupts what blocks this one.

    Only the main thread can be interrupted, because only there Python runs signal handlers; for
    any other the function does nothing. Takes SIGURG and the signal wakeup descriptor meanwhile.
    """
    thread = threading.main_thread().ident
    if thread is None or thread != threading.get_ident():
        yield _do_nothing
        return

    def interrupt() -> None:
        if threading.get_ident() != thread:
            signal.pthread_kill(thread, _SIGNAL)

    arrivals, wakeup = os.pipe()
    os.set_blocking(wakeup, False)
    previous = signal.signal(_SIGNAL, _do_nothing)
    previous_wakeup = signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
    threading.Thread(
        target=_nudge, args=(arrivals, interrupt), name="fuse-nudge", daemon=True
    ).start()
    try:
        yield interrupt
    finally:
        signal.set_wakeup_fd(previous_wakeup)
        signal.signal(_SIGNAL, previous or signal.SIG_DFL)
        os.close(wakeup)


def _nudge(arrivals: int, interrupt: Callable[[], None]) -> None:
    """Interrupt once more after every signal.

    Python runs a handler between two of its instructions. A signal that comes after the last of
    them, but before read(2) blocks, interrupts nothing: its handler would wait for a request.
    """
    with open(arrivals, "rb", buffering=0) as numbers:
        while arrived := numbers.read(64):
            if set(arrived) != {_SIGNAL}:
                time.sleep(_NUDGE_SECONDS)
                interrupt()
