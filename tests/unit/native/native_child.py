"""Programs that are expected to die. Each test gives one as text and looks at how it ended."""

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent

# What every program starts with: page 2 of four is bad, `load` is an access without any guard.
PRELUDE = """
import contextlib, ctypes, faulthandler, mmap, os, resource, signal, sys
from daxmend import _native
from native_child import load, on_signal
from native_memory import *
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
stack = contextlib.ExitStack()
pages = stack.enter_context(open_pages(4))
pages.break_page(2)
bad = pages.address + 2 * PAGE
def guarded():
    try:
        _native.read(pages.memory, 0, 4 * PAGE)
    except _native.MemoryFault as fault:
        assert fault.done == 2 * PAGE, fault
    else:
        raise AssertionError("no fault")
"""


class Ending(NamedTuple):
    """How a program ended: an exit status, or minus the signal; and what it said."""

    status: int
    output: str
    errors: str


def run_program(program: str, timeout: float = 60) -> Ending:
    """Run `program` after the prelude, in a Python of its own."""
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + program],
        capture_output=True,
        text=True,
        timeout=timeout,
        env=os.environ | {"PYTHONPATH": f"{HERE}:{os.environ.get('PYTHONPATH', '')}"},
        check=False,
    )
    return Ending(done.returncode, done.stdout, done.stderr)


def load(address: int) -> bytes:
    """One byte, read by code that knows nothing of daxmend."""
    return ctypes.string_at(address, 1)


class _Action(ctypes.Structure):
    _fields_ = (
        ("handler", ctypes.c_void_p),
        ("mask", ctypes.c_ulong * 16),
        ("flags", ctypes.c_int),
        ("restorer", ctypes.c_void_p),
    )


_HANDLER = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
_SA_SIGINFO = 4
_kept: list[object] = []


def on_signal(number: signal.Signals, handler: Callable[[int, int, int], None]) -> None:
    """Install a handler as C code does: it gets the signal, si_code and si_addr at once.

    (Python's own handlers run later, and for a fault that is never.)
    """

    def called(signal_number: int, info: int, context: int) -> None:
        code = ctypes.c_int.from_address(info + 8).value
        address = ctypes.c_size_t.from_address(info + 16).value
        assert context
        handler(signal_number, code, address)

    callback = _HANDLER(called)
    _kept.append(callback)
    action = _Action(ctypes.cast(callback, ctypes.c_void_p), flags=_SA_SIGINFO)
    assert ctypes.CDLL(None).sigaction(number, ctypes.byref(action), None) == 0
