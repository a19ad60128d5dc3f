"""The process behind a mount: opens the pool, mounts, serves until unmounted or told to stop.

parent   forks, waits for the word of the child, returns when the mount is ready
child    open → mount → INIT ("ready") → serve → unmount if need be → close file system and pool
"""

import contextlib
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from threading import Thread
from types import FrameType
from typing import NoReturn, Protocol

from daxmend.dax.api import Recovery
from daxmend.errors import EXIT_FAILED, DaxmendError, UsageError
from daxmend.events import Event, EventHub
from daxmend.fuse import Session, find_mount, mount, unmount
from daxmend.mounts.devicemount import DeviceMount
from daxmend.mounts.filesystem import FileSystemMount
from daxmend.mounts.option import MountOptions
from daxmend.mounts.raw import RawMount
from daxmend.stack.device import open_device
from daxmend.stack.filesystem import has_filesystem, make_volatile_filesystem, open_filesystem
from daxmend.stack.member import PoolDevice

SUBTYPE = "daxmend"

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_READY = ""  # the server's word; any other is why it is not


class MountFailedError(DaxmendError):
    """The server could not start; the message is the server's own, and so is the exit status."""

    def __init__(self, message: str, exit_status: int) -> None:
        super().__init__(message)
        self.exit_status = exit_status


def mount_in_background(
    pool: Path,
    mountpoint: Path,
    options: MountOptions,
    log: Path | None = None,
    *,
    raw: bool = False,
) -> None:
    """Mount and return when the mount is ready; the server goes on in a process of its own.

    The pool's file system, or with `raw` the device of a raw pool. Raises `MountFailedError` with
    what stopped the server; nothing is mounted then. `log` takes what the server has to say
    afterwards (nothing, if all is well).
    """
    start_server(partial(serve, pool, mountpoint, options, raw=raw), mountpoint, log)


def start_server(
    serve_until_end: Callable[[Callable[[], None]], None], mountpoint: Path, log: Path | None
) -> None:
    """Run `serve_until_end` in a process of its own; return when it calls what it is given.

    Raises `MountFailedError` with what stopped it before.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        _run_server(serve_until_end, log, writer)
    os.close(writer)
    with os.fdopen(reader, "rb") as word:
        said = word.read()
    message, exit_status = json.loads(said) if said else (None, EXIT_FAILED)
    if message == _READY:
        return
    os.waitpid(child, 0)
    raise MountFailedError(
        message or f"{mountpoint}: the server died before it was ready", exit_status
    )


def serve(
    pool: Path,
    mountpoint: Path,
    options: MountOptions,
    on_ready: Callable[[], None] = lambda: None,
    *,
    raw: bool = False,
) -> None:
    """Mount and serve in this process until unmounted, SIGTERM or SIGINT; then all is durable.

    Must be called on the main thread, for the sake of the signals. Raises `UsageError` if the pool
    holds something else than `raw` says.
    """
    mountpoint = mountpoint.absolute()
    events, attached = EventHub(), list[Event]()
    end_of_attach = events.subscribe(attached.append)
    with contextlib.closing(open_device(pool.absolute(), events=events)) as device:
        if not raw:
            make_volatile_filesystem(device)
        _check_content(device, raw, mountpoint)
        device.allows_recovery = options.recovery is not Recovery.NEVER  # for every way to write
        _say(device.notices)
        if raw:
            end_of_attach()
            handler = RawMount(device, options=options, on_ready=on_ready, attached=attached)
            _serve_device(device, handler, mountpoint)
            return
        with contextlib.closing(open_filesystem(device)) as fs:
            end_of_attach()
            _say(fs.notices)
            files = FileSystemMount(fs, options=options, on_ready=on_ready, attached=attached)
            _serve_device(device, files, mountpoint)


def _check_content(device: PoolDevice, raw: bool, mountpoint: Path) -> None:
    """Raise `UsageError` with the command that fits, if this one does not."""
    if raw and has_filesystem(device):
        raise UsageError(
            f"{device.name} holds a file system: daxmend mount {device.name} {mountpoint}"
        )
    if not (raw or has_filesystem(device)):
        raise UsageError(
            f"{device.name} holds a raw device: daxmend mount --raw {device.name} {mountpoint}"
        )


def _say(notices: Iterable[str]) -> None:
    for notice in notices:
        sys.stderr.write(f"daxmend: {notice}\n")


def _serve_device(device: PoolDevice, handler: DeviceMount, mountpoint: Path) -> None:
    fd = mount(mountpoint, fsname=str(device.pool.path), subtype=SUBTYPE)
    device.pool.set_owner(str(mountpoint))
    serve_session(Session(fd, handler), handler, mountpoint)


class ServedHandler(Protocol):
    """What is served, and told before a mount in use is left."""

    def write_back(self) -> None:
        """Let the kernel write back what mappings dirtied, as far as a stopping session lets it."""


def serve_session(session: Session, handler: ServedHandler, mountpoint: Path) -> None:
    """Serve a mount until it is unmounted, SIGTERM or SIGINT; leaves no mount behind.

    Must be called on the main thread, for the sake of the signals.
    """
    with _stopped_by_signals(session, handler, mountpoint):
        try:
            session.run()
        finally:
            session.close()
            _unmount_own(mountpoint)


def _run_server(
    serve_until_end: Callable[[Callable[[], None]], None], log: Path | None, writer: int
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
        say(_READY, 0)

    try:
        os.setsid()
        serve_until_end(on_ready)
        status = 0
    except (DaxmendError, OSError) as error:
        status = error.exit_status if isinstance(error, DaxmendError) else EXIT_FAILED
        if is_ready:
            sys.stderr.write(f"daxmend: {error}\n")
        else:
            say(_describe(error), status)
    except Exception:  # noqa: BLE001  # a mistake of daxmend's, and nobody else would see it
        traceback.print_exc()
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
def _stopped_by_signals(
    session: Session, handler: ServedHandler, mountpoint: Path
) -> Iterator[None]:
    """SIGTERM and SIGINT end the session in good order."""

    def stop(number: int, frame: FrameType | None) -> None:
        Thread(target=_unmount_or_stop, args=(session, handler, mountpoint), daemon=True).start()

    before = {number: signal.signal(number, stop) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, action in before.items():
            signal.signal(number, action)


def _unmount_or_stop(session: Session, handler: ServedHandler, mountpoint: Path) -> None:
    """Unmount; a mount in use is left as soon as what mappings dirtied is written back."""
    try:
        unmount(mountpoint)
    except (DaxmendError, OSError):  # also where no child can be had that unmounts
        handler.write_back()
        session.stop()


def _unmount_own(mountpoint: Path) -> None:
    """Take the mount away if whoever ended the session has not: its connection is closed by now."""
    found = find_mount(mountpoint)
    if found is not None and found.fstype == f"fuse.{SUBTYPE}":
        unmount(mountpoint, lazy=True)
