"""Ctrl-C and SIGTERM at the right time: what was mounted half would stay.

Between `hold` and `release` a signal is remembered; it acts at the release that ends the last hold.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


class _State:
    held = 0
    is_wanted = False


def hold() -> None:
    """Nobody interrupts from here on."""
    _State.held += 1


def release() -> None:
    """The end of a hold. Raises `KeyboardInterrupt` if it was the last, and somebody wanted to."""
    _State.held -= 1
    if _State.is_wanted and not _State.held:
        _State.is_wanted = False
        raise KeyboardInterrupt


def _interrupt(number: int, frame: FrameType | None) -> None:
    if _State.held:
        _State.is_wanted = True
    else:
        raise KeyboardInterrupt


@contextmanager
def interruptible() -> Iterator[None]:
    """SIGINT and SIGTERM raise `KeyboardInterrupt` here, outside of holds. On the main thread."""
    before = {number: signal.signal(number, _interrupt) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, action in before.items():
            signal.signal(number, action)
