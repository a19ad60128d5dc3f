"""A signal at a bad time waits, and is not forgotten."""

import os
import signal

import pytest

from daxmend.report.interrupt import hold, interruptible, release


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_interrupts(number: int) -> None:
    with pytest.raises(KeyboardInterrupt), interruptible():
        os.kill(os.getpid(), number)


def _held_twice(done: list[int]) -> None:
    hold()
    hold()
    os.kill(os.getpid(), signal.SIGTERM)
    done.append(1)
    release()
    done.append(2)
    release()
    done.append(3)


def test_it_waits_for_the_last_hold_to_end() -> None:
    done: list[int] = []
    with pytest.raises(KeyboardInterrupt), interruptible():
        _held_twice(done)
    assert done == [1, 2]


def test_without_a_signal_nothing_happens_and_handlers_are_put_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with interruptible():
        hold()
        release()
    assert signal.getsignal(signal.SIGTERM) is before
