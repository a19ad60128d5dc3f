"""The process behind a mount: opens the pool, mounts, serves until unmounted or told to stop.

parent   forks, waits for the word of the child, returns when the mount is ready
child    open → mount → INIT ("ready") → serve → unmount if need be → close the pool
"""

import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread
from types import FrameType
from typing import NoReturn

from daxmend.dax.api import Recovery
from daxmend.errors import EXIT_FAILED, DaxmendError
from daxmend.fuse import Session, find_mount, mount, unmount
from daxmend.mounts.raw import MountOptions, RawMount
from daxmend.stack import open_device

SUBTYPE = "daxmend"

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class MountFailedError(DaxmendError):
    """The server could not start; the message is the server's own, and so is the exit status."""

    def __init__(self, message: str, exit_status: int) -> None:
        super().__init__(message)
        self.exit_status = exit_status


def mount_in_background(
    pool: Path, mountpoint: Path, options: MountOptions, log: Path | None = None
) -> None:
    """Mount and return when the mount is ready; the server goes on in a process of its own.

    Raises `MountFailedError` with what stopped the server; nothing is mounted then. `log` takes
    what the server has to say afterwards (nothing, if all is well).
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        _run_server(pool, mountpoint, options, log, writer)
    os.close(writer)
    with os.fdopen(reader, "rb") as word:
        said = word.read()
    if not said:
        raise MountFailedError(f"{mountpoint}: the server died before it was ready", EXIT_FAILED)
    message, exit_status = json.loads(said)
    if message:
        os.waitpid(child, 0)
        raise MountFailedError(message, exit_status)


def serve(
    pool: Path,
    mountpoint: Path,
    options: MountOptions,
    on_ready: Callable[[], None] = lambda: None,
) -> None:
    """Mount and serve in this process until unmounted, SIGTERM or SIGINT; then all is durable.

    Must be called on the main thread, for the sake of the signals.
    """
    mountpoint = mountpoint.absolute()
    device = open_device(str(pool))
    device.allows_recovery = options.recovery is not Recovery.NEVER  # for every way to write
    for notice in device.notices:
        sys.stderr.write(f"daxmend: {notice}\n")
    try:
        handler = RawMount(device, options=options, on_ready=on_ready)
        fd = mount(mountpoint, fsname=str(pool.absolute()), subtype=SUBTYPE)
        session = Session(fd, handler)
        device.pool.set_owner(str(mountpoint))
        with _stopped_by_signals(session, handler, mountpoint):
            try:
                session.run()
            finally:
                session.close()
                _unmount_own(mountpoint)
    finally:
        device.close()


def _run_server(
    pool: Path, mountpoint: Path, options: MountOptions, log: Path | None, writer: int
) -> NoReturn:
    """The child: never returns into the parent's code."""
    status = EXIT_FAILED
    is_ready = False

    def say(message: str, exit_status: int) -> None:
        nonlocal is_ready
        is_ready = True
        os.write(writer, json.dumps([message, exit_status]).encode())
        os.close(writer)

    def on_ready() -> None:
        _detach(log)
        say("", 0)

    try:
        os.setsid()
        serve(pool, mountpoint, options, on_ready)
        status = 0
    except (DaxmendError, OSError) as error:
        status = error.exit_status if isinstance(error, DaxmendError) else EXIT_FAILED
        if is_ready:
            sys.stderr.write(f"daxmend: {error}\n")
        else:
            say(_describe(error), status)
    finally:
        sys.stderr.flush()
        os._exit(status)


def _describe(error: DaxmendError | OSError) -> str:
    if isinstance(error, DaxmendError) or error.filename is None:
        return str(error)
    return f"{os.fsdecode(error.filename)}: {error.strerror}"


def _detach(log: Path | None) -> None:
    """Let go of terminal and directory; what is still said goes to the log."""
    null = os.open(os.devnull, os.O_RDWR)
    target = (
        os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600) if log is not None else null
    )
    os.dup2(null, 0)
    os.dup2(target, 1)
    os.dup2(target, 2)
    for fd in {null, target} - {0, 1, 2}:
        os.close(fd)
    os.chdir("/")


@contextlib.contextmanager
def _stopped_by_signals(session: Session, handler: RawMount, mountpoint: Path) -> Iterator[None]:
    """SIGTERM and SIGINT end the session in good order."""

    def stop(number: int, frame: FrameType | None) -> None:
        Thread(target=_unmount_or_stop, args=(session, handler, mountpoint), daemon=True).start()

    before = {number: signal.signal(number, stop) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, action in before.items():
            signal.signal(number, action)


def _unmount_or_stop(session: Session, handler: RawMount, mountpoint: Path) -> None:
    """Unmount; a mount in use is left as soon as what mappings dirtied is written back."""
    try:
        unmount(mountpoint)
    except DaxmendError:
        handler.write_back()
        session.stop()


def _unmount_own(mountpoint: Path) -> None:
    """Take the mount away if whoever ended the session has not: its connection is closed by now."""
    found = find_mount(mountpoint)
    if found is not None and found.fstype == f"fuse.{SUBTYPE}":
        unmount(mountpoint, lazy=True)
