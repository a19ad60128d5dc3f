"""The peer of copies in memory: numpy, whose copy is the C library's `memcpy`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from typing_extensions import Buffer


class Memory:
    """Bytes of somebody's, and a piece to copy out to or in from; no call allocates."""

    NAME = "numpy memcpy"

    def __init__(self, memory: Buffer, piece: bytes) -> None:
        self._all = np.frombuffer(memoryview(memory), np.uint8)
        self._source = np.frombuffer(piece, np.uint8)
        self._target = np.empty_like(self._source)

    def copy_out(self, at: int) -> None:
        """A piece from `at` on into other memory."""
        np.copyto(self._target, self._all[at : at + len(self._target)])

    def copy_in(self, at: int) -> None:
        """The piece to `at`."""
        self._all[at : at + len(self._source)] = self._source
