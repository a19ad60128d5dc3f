"""The process behind a shadow mount; as `daemon.py`, for a directory instead of a pool."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from functools import partial
from pathlib import Path

from daxmend.errors import UsageError
from daxmend.fuse import Session, find_mount, iter_mounts, mount, unmount
from daxmend.mounts.daemon import SUBTYPE, serve_session, start_server
from daxmend.mounts.option import ShadowOptions
from daxmend.mounts.shadow import ShadowMount

SHADOW_PREFIX = "shadow:"  # before the directory's path: what a mount's table calls its source

_DEFAULTS = ShadowOptions()


def shadow_in_background(
    source: Path,
    mountpoint: Path,
    options: ShadowOptions = _DEFAULTS,
    plan: str = "",
    log: Path | None = None,
) -> None:
    """Show the directory `source` at `mountpoint` and return when the mount is ready.

    `plan` is the text of a fault plan. Raises `MountFailedError` with what stopped the server:
    nothing is mounted then.
    """
    start_server(partial(serve_shadow, source, mountpoint, options, plan), mountpoint, log)


def serve_shadow(
    source: Path,
    mountpoint: Path,
    options: ShadowOptions = _DEFAULTS,
    plan: str = "",
    on_ready: Callable[[], None] = lambda: None,
) -> None:
    """Mount and serve in this process until unmounted, SIGTERM or SIGINT.

    Must be called on the main thread, for the sake of the signals. Raises `UsageError` for
    directories that hold each other, and for a plan that does not fit (its line, and why).
    """
    mountpoint = mountpoint.absolute()
    top = _check_source(source, mountpoint)
    root = os.open(top, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    handler = ShadowMount(root, top, options=options, on_ready=on_ready)
    handler.model.apply_plan(plan)
    fd = mount(mountpoint, fsname=SHADOW_PREFIX + top, subtype=SUBTYPE)
    _check_no_loop(top, mountpoint, fd)
    serve_session(Session(fd, handler, passthrough=os.geteuid() == 0), handler, mountpoint)


def _check_source(source: Path, mountpoint: Path) -> str:
    """The real path of the directory. Nothing of a mount that is in the way is touched."""
    if not stat.S_ISDIR(os.stat(source).st_mode):
        raise UsageError(f"{source} is not a directory; a shadow mount shows a directory")
    if not os.access(source, os.R_OK | os.X_OK):
        raise UsageError(f"{source} cannot be read by user {os.getuid()}; let root shadow it")
    top = os.path.realpath(source)
    at = os.path.realpath(mountpoint)
    if top == at:
        raise UsageError(f"{mountpoint} is the directory itself; mount at another, empty one")
    if _is_inside(at, top):
        raise UsageError(
            f"{mountpoint} lies in {source}: the mount would show itself; mount it outside"
        )
    if _is_inside(top, at):
        raise UsageError(f"{source} lies in {mountpoint}, which would hide it; mount it outside")
    return top


def _is_inside(path: str, directory: str) -> bool:
    return path.startswith(directory.rstrip("/") + "/")


def _check_no_loop(top: str, mountpoint: Path, fd: int) -> None:
    """A bind mount may show the mount inside of its own directory: its server would ask itself."""
    own = find_mount(mountpoint)
    loops = [
        each.mount_point
        for each in iter_mounts()
        if own is not None and each.device == own.device and _is_inside(each.mount_point, top)
    ]
    if loops:
        os.close(fd)
        unmount(mountpoint, lazy=True)
        raise UsageError(
            f"{mountpoint} also appears at {loops[0]}, in the directory itself (a bind mount): the "
            "mount would show itself; mount it elsewhere"
        )
