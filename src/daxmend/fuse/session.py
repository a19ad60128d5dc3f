"""One connection to the kernel: negotiates INIT, then reads requests and answers them.

The life of a session, all of it on the request thread (the one that calls `run`):

    INIT ─► serving ─► the connection is gone (ENODEV) ─────────────────► destroy
                 └───► stop(): parked requests fail, notifications drain ─► destroy

Nobody else reads the descriptor, so requests are handled one at a time and in order. They are
still served while notifications drain: an invalidation may be waiting for one of them.
"""

import errno
import fcntl
import os
import select
import sys
import threading
import time
import traceback
from collections.abc import Callable
from mmap import PAGESIZE, mmap
from typing import Final

from daxmend.errors import UnsupportedError
from daxmend.fuse import protocol as p
from daxmend.fuse.dispatch import OPERATIONS, Reply
from daxmend.fuse.handler import Handler
from daxmend.fuse.init import MAX_WRITE, Kernel, negotiate, wanted_flags
from daxmend.fuse.message import PENDING, Buffer, Caller, pack_write_out
from daxmend.fuse.notify import Log, Notifier
from daxmend.fuse.protocol import FUSE_READ, FUSE_WRITE
from daxmend.fuse.wakeup import interruptible

_DATA: Final = p.IO_REQUEST.size  # where the data of a WRITE begins
_NO_REPLY: Final = frozenset({p.FUSE_FORGET, p.FUSE_BATCH_FORGET, p.FUSE_INTERRUPT})
_GONE: Final = frozenset({errno.ENODEV, errno.ECONNABORTED, errno.ENOTCONN})
_DRAIN_SECONDS: Final = 2.0
_DRAIN_TICK_SECONDS: Final = 0.01
_MAX_ERRNO: Final = 511  # the kernel refuses larger ones, and the request would stay unanswered


def log_to_stderr(text: str) -> None:
    """The default log."""
    sys.stderr.write(text.rstrip("\n") + "\n")


class Session:
    """Serves `handler` on `fd`, a descriptor that `mount` gave and the session now owns.

    `kernel` is what INIT agreed on (None before), `unique` names the request that is being handled,
    `notifier` takes invalidations. `passthrough` asks for passthrough opens; `log` is given
    tracebacks and warnings, from any thread.

    Unmounting (from another thread or process) ends `run` in good order, and is refused while
    files are open or mapped. `stop` ends it at once: what is mapped and not yet written back is
    lost. Close the session after it and unmount last, so that nobody waits for a server that no
    longer answers. A SIGTERM handler starts a thread that calls `unmount` and, if that raises
    BusyError, `stop`.
    """

    def __init__(
        self, fd: int, handler: Handler, *, passthrough: bool = False, log: Log = log_to_stderr
    ) -> None:
        self.kernel: Kernel | None = None
        self.unique = 0
        self.notifier = Notifier(fd, log)
        self._fd = fd
        self._handler = handler
        self._wanted = wanted_flags(handler, passthrough)
        self._log = log
        # The data of a WRITE begins on a page, so that a handler may pass it on with O_DIRECT.
        pages = memoryview(mmap(-1, MAX_WRITE + 2 * PAGESIZE))
        self._buffer = pages[PAGESIZE - _DATA :]
        self._lock = threading.Lock()  # guards the next three; never held where the kernel can wait
        self._parked: set[int] = set()
        self._answered_early = 0
        self._closed = False
        self._stopping = False
        self._deadline: float | None = None  # by the monotonic clock, once it drains
        self._interrupt_read: Callable[[], object] = lambda: None
        os.set_blocking(fd, True)

    # For the handler: from any thread

    def reply(self, unique: int, payload: Buffer = b"") -> bool:
        """Answer the parked request `unique`: a READ's data, or what a `pack_*_out` made.

        `unique` is what `session.unique` was while the handler's method ran. False if the request
        has had its answer (EINTR after a signal, a stop) and nothing was delivered.
        """
        return self._answer(unique, 0, payload)

    def reply_error(self, unique: int, number: int) -> bool:
        """Answer the parked request `unique` with the errno `number`; False as in `reply`."""
        return self._answer(unique, -number, b"")

    def open_backing(self, fd: int) -> int:
        """Register an open file for passthrough: an id for `Opened.backing_id`. Root only."""
        backing_map = bytearray(p.BACKING_MAP.pack(fd, 0))
        backing_id: int = fcntl.ioctl(self._fd, p.FUSE_DEV_IOC_BACKING_OPEN, backing_map)
        return backing_id

    def close_backing(self, backing_id: int) -> None:
        """Give `backing_id` back; files that are open with it stay open."""
        argument = backing_id.to_bytes(4, sys.byteorder)
        fcntl.ioctl(self._fd, p.FUSE_DEV_IOC_BACKING_CLOSE, argument)

    # For the owner

    def run(self) -> None:
        """Serve on this thread until the mount is gone or `stop` is called. Call it once.

        Raises UnsupportedError for a kernel that is too old. Never hangs in the end: a notification
        that the kernel does not let go of within seconds is logged and left behind.
        """
        self.notifier.start()
        try:
            with interruptible() as self._interrupt_read:
                if self._initialize():
                    self._serve()
        finally:
            self.notifier.close()
            if not self.notifier.join(_DRAIN_SECONDS):
                self._log("the kernel holds on to a notification; abort the connection to end it")
            self._guarded(self._handler.destroy)

    def stop(self) -> None:
        """Let `run` end after the request at hand: from any thread, also in a signal handler.

        A second call is harmless. If `run` is not on the main thread, nothing can interrupt its
        read, and it ends with the next request.
        """
        self._stopping = True
        if not self._closed:
            os.set_blocking(self._fd, False)  # see daxmend.fuse.wakeup
        self._interrupt_read()

    def close(self) -> None:
        """Close the descriptor, after `run`: what is still unanswered fails with ECONNABORTED."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        # A thread that the kernel holds in write(2) would go on to write to a reused number.
        if self.notifier.join(0):
            os.close(self._fd)

    # The request thread

    def _initialize(self) -> bool:
        """Agree on INIT, the first request; False if the connection is gone before."""
        while not self._stopping:
            try:
                length = os.readv(self._fd, [self._buffer])
            except OSError as error:
                if self._is_gone(error):
                    return False
                continue
            _, _opcode, unique, *_ = p.IN_HEADER.unpack_from(self._buffer)
            try:
                kernel, reply = negotiate(self._buffer[p.IN_HEADER.size : length], self._wanted)
            except UnsupportedError:
                self._send(unique, -errno.EPROTO)
                raise
            if kernel is None:
                self._send(unique, 0, reply)
                continue
            self.kernel = kernel
            self._handler.init(self)
            self._send(unique, 0, reply)
            return True
        return False

    def _serve(self) -> None:
        """The hot path: whatever is done here is done for every READ."""
        fd, buffer, buffers = self._fd, self._buffer, [self._buffer]
        read, write, readv, writev = self._handler.read, self._handler.write, os.readv, os.writev
        unpack, pack_header = p.IO_REQUEST.unpack_from, p.OUT_HEADER.pack
        reply: Reply
        while True:
            if self._stopping and self._is_drained():
                return
            try:
                length = readv(fd, buffers)
            except OSError as error:
                if self._is_gone(error):
                    return
                continue
            # All but opcode, unique and nodeid is stale unless this is a READ or WRITE.
            opcode, unique, nodeid, fh, offset, size, io_flags, flags = unpack(buffer)
            self.unique = unique
            try:
                if opcode == FUSE_READ:
                    reply = read(nodeid, fh, offset, size, io_flags, flags)
                elif opcode == FUSE_WRITE:
                    data = buffer[_DATA : _DATA + size]
                    count = write(nodeid, fh, offset, data, io_flags, flags)
                    reply = count if count is PENDING else pack_write_out(count)
                elif opcode in _NO_REPLY:
                    self._guarded(self._take, opcode, nodeid, length)
                    continue
                else:
                    reply = self._operate(opcode, nodeid, length)
                if reply is PENDING:
                    self._park(unique)
                else:
                    writev(fd, (pack_header(16 + len(reply), 0, unique), reply))
            except Exception as error:  # noqa: BLE001  # the kernel must have an answer
                self._fail(unique, error)

    def _is_gone(self, error: OSError) -> bool:
        """Whether reading failed because the connection has ended."""
        if error.errno in _GONE:
            return True
        # ENOENT: the request was interrupted before it could be read. EAGAIN: see `stop`.
        if error.errno not in (errno.ENOENT, errno.EAGAIN, errno.EINTR):
            raise error
        return False

    def _operate(self, opcode: int, nodeid: int, length: int) -> Reply:
        """Any operation but READ and WRITE."""
        operation = OPERATIONS.get(opcode)
        if operation is None:
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
        _, _, _, _, uid, gid, pid = p.IN_HEADER.unpack_from(self._buffer)
        body = self._buffer[p.IN_HEADER.size : length]
        return operation(self._handler, Caller(uid, gid, pid), nodeid, body)

    def _take(self, opcode: int, nodeid: int, length: int) -> None:
        """What has no reply."""
        body = self._buffer[p.IN_HEADER.size : length]
        if opcode == p.FUSE_INTERRUPT:
            self._interrupt(*p.INTERRUPT_IN.unpack_from(body))
        elif opcode == p.FUSE_FORGET:
            self._handler.forget(nodeid, *p.FORGET_IN.unpack_from(body))
        else:
            (count,) = p.BATCH_FORGET_IN.unpack_from(body)
            end = p.BATCH_FORGET_IN.size + count * p.FORGET_ONE.size
            for forgotten, nlookup in p.FORGET_ONE.iter_unpack(body[p.BATCH_FORGET_IN.size : end]):
                self._handler.forget(forgotten, nlookup)

    def _interrupt(self, unique: int) -> None:
        # One reader: the request itself was read before, so what is not parked has been answered.
        if unique in self._parked and self._handler.interrupted(unique):
            self.reply_error(unique, errno.EINTR)

    def _park(self, unique: int) -> None:
        with self._lock:
            if self._answered_early != unique:
                self._parked.add(unique)

    def _fail(self, unique: int, error: Exception) -> None:
        number = getattr(error, "errno", None)
        if not isinstance(number, int) or not 0 < number <= _MAX_ERRNO:
            self._log("".join(traceback.format_exception(error)))
            number = errno.EIO
        if not self._send(unique, -number) and number != errno.ENOENT:
            self._log(f"the kernel took no answer to request {unique}: {error!r}")

    # Answers

    def _answer(self, unique: int, error: int, payload: Buffer) -> bool:
        with self._lock:
            if unique in self._parked:
                self._parked.remove(unique)
            elif unique == self.unique and unique != self._answered_early:
                self._answered_early = unique  # before the handler has returned PENDING
            else:
                return False
            return not self._closed and self._send(unique, error, payload)

    def _send(self, unique: int, error: int, payload: Buffer = b"") -> bool:
        """Whether the kernel still knew the request."""
        header = p.OUT_HEADER.pack(p.OUT_HEADER.size + len(payload), error, unique)
        try:
            os.writev(self._fd, (header, payload))
        except OSError as failure:
            if failure.errno == errno.ENOENT or failure.errno in _GONE:
                return False
            raise
        return True

    # The end

    def _is_drained(self) -> bool:
        """While stopping: whether the notifier has done its work, or has had its time."""
        if self._deadline is None:
            self._deadline = time.monotonic() + _DRAIN_SECONDS
            self.notifier.close()
        for unique in tuple(self._parked):
            self.reply_error(unique, errno.ENOTCONN)
        if self.notifier.join(0) or time.monotonic() > self._deadline:
            return True
        select.select([self._fd], [], [], _DRAIN_TICK_SECONDS)
        return False

    def _guarded(self, callback: Callable[..., object], *arguments: int) -> None:
        """Call what has nobody to report an error to."""
        try:
            callback(*arguments)
        except Exception:  # noqa: BLE001  # the log takes them all
            self._log(traceback.format_exc())
