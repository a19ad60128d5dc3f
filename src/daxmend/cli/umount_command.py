"""`daxmend umount`: end a mount, also one whose server has died."""

import contextlib
import json
import os
import pwd
import select
import time
from pathlib import Path

import click

from daxmend.cli.option import PATH
from daxmend.errors import BusyError, DaxmendError, UsageError
from daxmend.fuse import Mount, find_mount, is_dead, unmount, unmount_dead
from daxmend.media.pool import read_owner
from daxmend.rescue.shadow import SHADOW_PREFIX
from daxmend.rescue.target import CONTROL_DIRECTORY

_RELEASE_SECONDS = 10.0


@click.command("umount")
@click.argument("directory", type=PATH)
@click.option("--force", "-F", is_flag=True, help="Also if the server is stuck: abort, detach.")
def command(directory: Path, force: bool) -> None:
    """Unmount DIRECTORY; returns when the pool is durable and free, or the shadow's SOURCE.

    A mount whose server has died is cleaned up.
    """
    found = find_mount(directory)
    if found is None or found.fstype != "fuse.daxmend":
        raise UsageError(f"{directory} is not a daxmend mount; see: findmnt -t fuse.daxmend")
    _check_is_own(found)
    if force or is_dead(found):
        unmount_dead(directory)
        return
    if found.source.startswith(SHADOW_PREFIX):
        _unmount_shadow(directory, found)
        return
    unmount(directory)
    _wait_until_free(Path(found.source))


def _unmount_shadow(directory: Path, found: Mount) -> None:
    """Its server has the directory below open; when it has ended, that is free."""
    control = Path(found.mount_point) / CONTROL_DIRECTORY / "status"
    pid, server = 0, -1
    # Root may end another user's mount, and not look into it; a pid may be of another namespace.
    with contextlib.suppress(PermissionError, ProcessLookupError):
        pid = json.loads(control.read_text())["pid"]
        server = os.pidfd_open(pid)
    try:
        unmount(directory)
        if server >= 0 and not select.select([server], [], [], _RELEASE_SECONDS)[0]:
            raise BusyError(f"{directory} is unmounted, but its server, process {pid}, goes on")
    finally:
        if server >= 0:
            os.close(server)


def _check_is_own(found: Mount) -> None:
    """What one may not unmount is said before fusermount3 says it in words of its own."""
    if os.geteuid() in (0, found.user_id):
        return
    raise DaxmendError(
        f"{found.mount_point} was mounted by {_user_name(found.user_id)}; only that user, or root, "
        "can unmount it"
    )


def _user_name(uid: int | None) -> str:
    try:
        return pwd.getpwuid(uid).pw_name if uid is not None else "somebody else"
    except KeyError:
        return f"user {uid}"


def _wait_until_free(pool: Path) -> None:
    """The server closes the pool after the unmount; the next command shall find it free."""
    deadline = time.monotonic() + _RELEASE_SECONDS
    while pool.exists() and (owner := read_owner(pool)) is not None:
        if time.monotonic() > deadline:
            raise BusyError(
                f"{pool} is unmounted, but its server, process {owner[0]}, has not closed it yet; "
                "wait for it, or end it"
            )
        time.sleep(0.005)
