"""Faults that are not ours: they reach the handler from before, or kill as they should."""

import os
import signal

import pytest
from native_child import run_program

BUS, SEGV = -signal.SIGBUS, -signal.SIGSEGV
CRASH = "Fatal Python error: Bus error"


def test_an_unguarded_load_still_dies_of_sigbus() -> None:
    assert run_program("guarded(); load(bad)").status == BUS


def test_an_unguarded_load_beside_the_bad_page_works() -> None:
    ending = run_program("guarded(); load(bad - 1); load(bad + PAGE); print('alive')")
    assert ending.output == "alive\n", ending


def test_an_unguarded_segfault_still_dies_of_sigsegv() -> None:
    assert run_program("guarded(); pages.forbid_page(1); load(pages.address + PAGE)").status == SEGV
    assert run_program("guarded(); load(8)").status == SEGV


def test_a_load_in_another_thread_dies_while_one_is_guarded() -> None:
    program = """
import threading
def loop():
    while True:
        guarded()
threading.Thread(target=loop, daemon=True).start()
guarded(); load(bad)
"""
    assert run_program(program).status == BUS


def test_faulthandler_from_before_reports_and_the_program_dies() -> None:
    ending = run_program("faulthandler.enable(); guarded(); load(bad)")
    assert ending.status == BUS
    assert ending.errors.count(CRASH) == 1


def test_faulthandler_from_later_does_not_break_the_guard() -> None:
    program = "guarded(); faulthandler.enable(); _native.install(); guarded(); load(bad)"
    ending = run_program(program)
    assert ending.status == BUS
    assert ending.errors.count(CRASH) == 1


def test_a_handler_from_later_is_found_without_being_told() -> None:
    program = """
import time
guarded()
faulthandler.enable()
end = time.perf_counter_ns() + 100_000
while time.perf_counter_ns() < end:
    pass
guarded()
print('alive')
"""
    assert run_program(program).output == "alive\n"


def test_faulthandler_that_comes_and_goes_leaves_no_hang() -> None:
    program = """
for _ in range(20):
    faulthandler.enable()
    _native.install()
    guarded()
    faulthandler.disable()
    guarded()
load(bad)
"""
    ending = run_program(program)
    assert (ending.status, ending.errors) == (BUS, "")


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_python_handler_for_the_signal_cannot_hang_a_fault(when: str) -> None:
    handle = "signal.signal(signal.SIGBUS, lambda *_: None)"
    first, last = (handle, "pass") if when == "before" else ("pass", handle)
    ending = run_program(f"{first}\nguarded()\n{last}\n_native.install()\nguarded()\nload(bad)")
    assert ending.status == BUS


def test_an_ignored_signal_does_not_hang_a_fault() -> None:
    program = "signal.signal(signal.SIGBUS, signal.SIG_IGN); guarded(); load(bad)"
    assert run_program(program).status == BUS


def test_a_sent_signal_does_what_it_did_before() -> None:
    send = "os.kill(os.getpid(), signal.SIGBUS); print('alive')"
    ignore = "signal.signal(signal.SIGBUS, signal.SIG_IGN); guarded()\n"
    handle = "signal.signal(signal.SIGBUS, lambda *_: print('handled')); guarded()\n"
    assert run_program("guarded()\n" + send).status == BUS
    assert run_program(ignore + send).output == "alive\n"
    assert run_program(handle + send).output == "handled\nalive\n"
    assert run_program("guarded(); faulthandler.enable(); _native.install()\n" + send).status == BUS


def test_an_older_handler_gets_the_fault_with_its_address_and_can_cure_it() -> None:
    program = """
def cure(number, code, address):
    os.write(1, b'%d %d %d\\n' % (number, code, address - bad))
    pages.mend_page(2)
on_signal(signal.SIGBUS, cure)
guarded()
assert load(bad + 77) == pages.content[2 * PAGE + 77 : 2 * PAGE + 78]
pages.break_page(2)
guarded()
load(bad + 78)
"""
    ending = run_program(program)
    expected = f"{signal.SIGBUS.value} 2 77\n{signal.SIGBUS.value} 2 78\n"
    assert (ending.status, ending.output) == (0, expected), ending


def test_a_later_handler_gets_what_is_not_ours_too() -> None:
    program = """
guarded()
def leave(number, code, address):
    os.write(1, b'%d\\n' % (address - bad))
    os._exit(5)
on_signal(signal.SIGBUS, leave)
_native.install()
guarded()
load(bad + 9)
"""
    ending = run_program(program)
    assert (ending.status, ending.output) == (5, "9\n")


def test_an_older_handler_that_gives_up_passes_to_the_one_before_it() -> None:
    program = """
faulthandler.enable()
guarded()
on_signal(signal.SIGBUS, lambda *_: os.write(1, b'seen\\n'))
_native.install()
guarded()
load(bad)
"""
    ending = run_program(program)
    assert (ending.status, ending.output) == (BUS, "seen\n")
    assert ending.errors.count(CRASH) == 1


def test_a_handler_that_was_reset_is_not_called_any_more() -> None:
    program = """
on_signal(signal.SIGBUS, lambda *_: os.write(1, b'stale\\n'))
guarded()
signal.signal(signal.SIGBUS, signal.SIG_DFL)
_native.install()
load(bad)
"""
    ending = run_program(program)
    assert (ending.status, ending.output) == (BUS, "")


@pytest.mark.skipif(
    "DAXMEND_SANITIZED" in os.environ,
    reason="the sanitizer's allocator can deadlock in the child of a process with threads",
)
def test_guards_work_in_parent_and_child_of_a_fork() -> None:
    program = """
import threading, warnings
warnings.simplefilter('ignore')
stop = False
def loop():
    while not stop:
        guarded()
threads = [threading.Thread(target=loop) for _ in range(4)]
for thread in threads:
    thread.start()
for _ in range(20):
    child = os.fork()
    if child == 0:
        guarded()
        _native.install()
        guarded()
        load(bad)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGBUS
    guarded()
stop = True
for thread in threads:
    thread.join()
print('alive')
"""
    assert run_program(program).output == "alive\n"
