"""A SIGSEGV of a guard region, turned into the SIGBUS of a memory error."""

import signal

import pytest
from native_child import run_program
from native_memory import BUS_MCEERR_AR, MADV_GUARD_INSTALL, PAGE, open_pages

from daxmend import _native

BUS, SEGV = -signal.SIGBUS, -signal.SIGSEGV

# Page 1 of the four becomes a guard region.
GUARD = """
lost = pages.address + PAGE
_native.madvise(lost, PAGE, MADV_GUARD_INSTALL)
_native.forward_segv(pages.address, 4 * PAGE)
REPORT = lambda number, code, address: (
    os.write(1, b'%d %d %d' % (number, code, address - lost)), os._exit(5))
"""


def _has_guard_regions() -> bool:
    with open_pages(1) as pages:
        try:
            _native.madvise(pages.address, PAGE, MADV_GUARD_INSTALL)
        except OSError:
            return False
    return True


pytestmark = pytest.mark.skipif(
    not _has_guard_regions(), reason="this kernel has no guard regions in file mappings (6.15)"
)


def test_an_unguarded_load_dies_of_sigbus() -> None:
    assert run_program(GUARD + "load(lost)").status == BUS
    assert run_program(GUARD + "guarded_not = load(lost - 1); load(lost + PAGE - 1)").status == BUS


def test_neighbours_load() -> None:
    assert run_program(GUARD + "load(lost - 1); print('alive')").output == "alive\n"


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_handler_sees_a_memory_error_at_the_exact_address(when: str) -> None:
    handle = "on_signal(signal.SIGBUS, REPORT)\n"
    first, last = (handle, "") if when == "before" else ("", handle)
    ending = run_program(
        GUARD.replace("_native.forward_segv(pages.address, 4 * PAGE)\n", "")
        + first
        + "_native.forward_segv(pages.address, 4 * PAGE)\n"
        + last
        + "load(lost + 1234)"
    )
    expected = f"{signal.SIGBUS.value} {BUS_MCEERR_AR} 1234"
    assert (ending.status, ending.output) == (5, expected), ending


def test_a_guarded_read_reports_the_same() -> None:
    with open_pages(4) as pages:
        lost = pages.address + PAGE
        _native.madvise(lost, PAGE, MADV_GUARD_INSTALL)
        with pytest.raises(_native.MemoryFault) as plain:
            _native.read(pages.memory, 0, 4 * PAGE)
        _native.forward_segv(pages.address, 4 * PAGE)
        with pytest.raises(_native.MemoryFault) as forwarded:
            _native.read(pages.memory, 0, 4 * PAGE)
        _native.forget_segv(pages.address, 4 * PAGE)
    assert (plain.value.signal, plain.value.code) == (signal.SIGSEGV, 1)
    fault = forwarded.value
    assert (fault.signal, fault.code, fault.lsb) == (signal.SIGBUS, BUS_MCEERR_AR, 12)
    assert (fault.address, fault.partial) == (lost, pages.content[:PAGE])


def test_outside_the_ranges_a_sigsegv_stays_one() -> None:
    forget = "_native.forget_segv(pages.address, 4 * PAGE)\n"
    assert run_program(GUARD + forget + "load(lost)").status == SEGV
    assert run_program(GUARD + "pages.forbid_page(3); load(lost + 2 * PAGE)").status == SEGV
    assert run_program(GUARD + "load(16)").status == SEGV


def test_a_range_registered_twice_is_forgotten_twice() -> None:
    program = (
        "_native.forward_segv(pages.address, 4 * PAGE)\n"
        "_native.forget_segv(pages.address, 4 * PAGE)\n"
    )
    assert run_program(GUARD + program + "load(lost)").status == BUS


def test_thousands_of_ranges_are_looked_through() -> None:
    program = """
for n in range(5000):
    _native.forward_segv((n + 1) << 40, PAGE)
for n in range(0, 5000, 2):
    _native.forget_segv((n + 1) << 40, PAGE)
_native.forget_segv(pages.address, 4 * PAGE)
_native.forward_segv(pages.address, 2 * PAGE)
for n in range(0, 5000, 2):
    _native.forward_segv((n + 1) << 41, PAGE)
on_signal(signal.SIGBUS, REPORT)
load(lost + 5)
"""
    assert run_program(GUARD + program).output == f"{signal.SIGBUS.value} {BUS_MCEERR_AR} 5"


def test_neither_blocking_nor_ignoring_makes_it_hang() -> None:
    block = "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGBUS])\n"
    ignore = "signal.signal(signal.SIGBUS, signal.SIG_IGN)\n"
    for setting in (block, ignore, block + "on_signal(signal.SIGBUS, REPORT)\n"):
        assert run_program(GUARD + setting + "load(lost)").status == BUS


def test_it_works_in_a_forked_child_and_another_thread() -> None:
    program = """
import threading
child = os.fork()
if child == 0:
    load(lost)
assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGBUS
on_signal(signal.SIGBUS, REPORT)
threading.Thread(target=load, args=(lost + 3,)).start()
"""
    assert run_program(GUARD + program).output == f"{signal.SIGBUS.value} {BUS_MCEERR_AR} 3"


def test_an_older_handler_of_sigsegv_still_gets_the_others() -> None:
    program = """
on_signal(signal.SIGSEGV, REPORT)
_native.install()
pages.forbid_page(3)
load(lost + 2 * PAGE)
"""
    ending = run_program(GUARD + program)
    assert ending.output == f"{signal.SIGSEGV.value} 2 {2 * PAGE}"
