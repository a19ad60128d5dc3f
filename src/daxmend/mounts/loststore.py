"""Which opens must hear that a mapping's stores were lost (R27).

The kernel does not say which open a written-back page belongs to: every open of that file that
could have been mapped to write hears of it, at its next fsync and at every close until then.
"""

import errno
import os


class LostStores:
    """Kept per open, by its file handle. Used on the request thread."""

    def __init__(self) -> None:
        self._writers: dict[int, set[int]] = {}  # nodeid → the opens that can be mapped to write
        self._lost: set[int] = set()

    def open(self, nodeid: int, fh: int) -> None:
        """A new open that can be mapped to write."""
        self._writers.setdefault(nodeid, set()).add(fh)

    def release(self, nodeid: int, fh: int) -> None:
        """The open has gone, its mappings too."""
        self._lost.discard(fh)
        writers = self._writers.get(nodeid)
        if writers is not None:
            writers.discard(fh)
            if not writers:
                del self._writers[nodeid]

    def lose(self, nodeid: int) -> None:
        """A store to the file was lost."""
        self._lost |= self._writers.get(nodeid, set())

    def nodeids(self) -> list[int]:
        """The files that may have dirty pages. From any thread."""
        return list(self._writers)

    def report(self, fh: int) -> None:
        """A close: EIO if a store was lost; again, too: a forked child's may be the first."""
        if fh in self._lost:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    def sync(self, fh: int) -> None:
        """An fsync: EIO if a store was lost, once."""
        try:
            self.report(fh)
        finally:
            self._lost.discard(fh)
