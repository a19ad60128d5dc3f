import os
import signal
import threading

import pytest

from daxmend.fuse.wakeup import _nudge, interruptible

pytestmark = pytest.mark.timeout(20, method="signal")


def test_a_blocked_read_returns_once_its_descriptor_is_non_blocking() -> None:
    reader, writer = os.pipe()
    with interruptible() as interrupt:

        def stop() -> None:
            os.set_blocking(reader, False)
            interrupt()

        other = threading.Thread(target=stop)
        other.start()
        with pytest.raises(BlockingIOError):
            os.read(reader, 1)  # whether it came before or after the stop
        other.join()
    os.close(reader)
    os.close(writer)


def test_signals_are_left_as_they_were_found() -> None:
    before = signal.getsignal(signal.SIGURG)
    with interruptible():
        assert signal.getsignal(signal.SIGURG) != before
    assert signal.getsignal(signal.SIGURG) == before
    wakeup = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(wakeup)
    assert wakeup == -1


def test_off_the_main_thread_nothing_is_touched() -> None:
    seen: list[object] = []

    def body() -> None:
        with interruptible() as interrupt:
            seen.append(signal.getsignal(signal.SIGURG))
            interrupt()

    other = threading.Thread(target=body)
    other.start()
    other.join()
    assert seen == [signal.SIG_DFL]


def test_every_signal_but_the_wakeup_itself_is_followed_by_an_interruption() -> None:
    arrivals, wakeup = os.pipe()
    interrupted: list[None] = []
    done = threading.Event()

    def interrupt() -> None:
        interrupted.append(None)
        done.set()

    nudger = threading.Thread(target=_nudge, args=(arrivals, interrupt))
    nudger.start()
    os.write(wakeup, bytes([signal.SIGURG]))
    os.write(wakeup, bytes([signal.SIGTERM]))
    assert done.wait(10)
    os.close(wakeup)
    nudger.join()
    assert interrupted == [None]
