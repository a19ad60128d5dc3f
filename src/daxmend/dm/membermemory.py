"""The memory of a member's window, for targets that look at what passes through it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from daxmend.dax.api import ExposedMemory, Window
    from daxmend.extent import Extent


class Exposing(Protocol):
    """A target that hands out its member's memory in its own way."""

    def expose(self, window: Window, extent: Extent, *, writable: bool) -> ExposedMemory:
        """The memory of the window, which is `extent` of the target."""


class MemberMemory:
    """A member's window from `base` of the target on (implements `WindowMemory`).

    Offsets count from the target's start. A subclass does its part, and the rest is passed on.
    """

    settle: Callable[[Extent], None] | None = None  # the member's window does

    def __init__(self, target: Exposing, window: Window, base: int) -> None:
        self._exposing = target
        self._window = window
        self._base = base

    def load(self, offset: int, length: int) -> bytes:
        """See `Window`."""
        return self._window.load(offset - self._base, length)

    def view(self, offset: int, length: int) -> memoryview:
        """See `Window`."""
        return self._window.view(offset - self._base, length)

    def store(self, offset: int, data: Buffer) -> None:
        """See `Window`."""
        self._window.store(offset - self._base, data)

    def store_line(self, offset: int, line: Buffer) -> None:
        """See `Window`."""
        self._window.store_line(offset - self._base, line)

    def flush(self, offset: int, length: int) -> None:
        """The member's window has, with each store."""

    def expose(self, extent: Extent, *, writable: bool = True) -> ExposedMemory:
        """See `Window`: as the target does it."""
        return self._exposing.expose(self._window, extent, writable=writable)
