"""The one thread that sends notifications to the kernel.

An invalidation waits for requests that are under way, and may itself cause a write-back: sent
from the request thread it would wait for itself, for ever. So there is no way to send one here,
only to queue it; the queue never blocks and holds no lock that a caller could wait for. Work is
done in the order in which it was queued, callbacks included.
"""

import errno
import os
import traceback
from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread
from typing import Final

from daxmend.fuse.protocol import (
    FUSE_NOTIFY_INVAL_ENTRY,
    FUSE_NOTIFY_INVAL_INODE,
    FUSE_NOTIFY_POLL,
    NOTIFY_INVAL_ENTRY_OUT,
    NOTIFY_INVAL_INODE_OUT,
    NOTIFY_POLL_WAKEUP_OUT,
    OUT_HEADER,
)

Log = Callable[[str], object]

# The kernel does not know the inode or the name (normal: it may never have asked), or the mount
# has gone.
_PASSING: Final = frozenset(
    {errno.ENOENT, errno.ENOTDIR, errno.ENOTCONN, errno.ENODEV, errno.ECONNABORTED}
)


def pack_notification(code: int, payload: bytes) -> bytes:
    """A whole message to the kernel: a header with `unique` 0 and the code in place of `error`."""
    return OUT_HEADER.pack(OUT_HEADER.size + len(payload), code, 0) + payload


class Notifier:
    """Sends notifications on `fd`, the connection's descriptor, from its own daemon thread.

    Every method may be called from any thread, the request thread and signal handlers included,
    and returns at once. What is queued after `close` is dropped.
    """

    def __init__(self, fd: int, log: Log) -> None:
        self._fd = fd
        self._log = log
        self._queue: SimpleQueue[bytes | Callable[[], object] | None] = SimpleQueue()
        self._thread = Thread(target=self._run, name="fuse-notifier", daemon=True)

    def start(self) -> None:
        """Start the thread (in the process that serves: threads do not survive a fork)."""
        self._thread.start()

    def inval_inode(self, nodeid: int, offset: int = 0, length: int = 0) -> None:
        """Drop attributes and the cached pages of a byte range, from live mappings too.

        `length` 0 means up to the end, a negative `offset` the attributes alone. Dirty pages are
        written back first.
        """
        payload = NOTIFY_INVAL_INODE_OUT.pack(nodeid, offset, length)
        self._queue.put(pack_notification(FUSE_NOTIFY_INVAL_INODE, payload))

    def inval_entry(self, parent: int, name: bytes) -> None:
        """Drop a cached name."""
        payload = NOTIFY_INVAL_ENTRY_OUT.pack(parent, len(name)) + name + b"\0"
        self._queue.put(pack_notification(FUSE_NOTIFY_INVAL_ENTRY, payload))

    def poll_wakeup(self, kh: int) -> None:
        """Wake those who poll(2) the file that `Handler.poll` was given `kh` for."""
        self._queue.put(pack_notification(FUSE_NOTIFY_POLL, NOTIFY_POLL_WAKEUP_OUT.pack(kh)))

    def then(self, callback: Callable[[], object]) -> None:
        """Call `callback` on the notifier's thread when all that was queued before is done.

        Made for answering a parked request after its invalidations. It must not wait for the
        request thread; what it raises goes to the log.
        """
        self._queue.put(callback)

    def close(self) -> None:
        """Let the thread end after what is queued; returns at once (see `join`)."""
        self._queue.put(None)

    def join(self, timeout: float) -> bool:
        """Wait at most `timeout` seconds for the thread to end; whether it has."""
        if self._thread.ident is not None:
            self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            try:
                if callable(item):
                    item()
                else:
                    self._send(item)
            except Exception:  # noqa: BLE001  # one bad callback must not end all notifications
                self._log(traceback.format_exc())

    def _send(self, notification: bytes) -> None:
        try:
            os.write(self._fd, notification)
        except OSError as error:
            if error.errno not in _PASSING:
                raise
