"""Whether the server behind a mount answers, without ever waiting for one that does not."""

import errno
from enum import Enum
from typing import Final

from daxmend.host.childprogram import run_program
from daxmend.host.mountinfo import Mount

_SECONDS: Final = 2.0

# The child ends with the errno as its exit status. The attributes of a dead mount's root may still
# be cached, so stat(2) can succeed; statfs(2) always asks the server.
_STATFS_PROGRAM: Final = """
import os, sys
try:
    os.statvfs(sys.argv[1])
except OSError as error:
    sys.exit(error.errno)
"""


class MountState(Enum):
    """What a mount's server said when it was asked."""

    ANSWERS = "answers"
    DEAD = "dead"  # the server has gone
    SILENT = "silent"  # it does not answer in time
    CLOSED = "closed"  # another user's own mount: it does not tell


def probe_mount(mount: Mount) -> MountState:
    """Ask the server, in a child process with a time limit: a stuck one would keep a thread."""
    try:
        status = run_program(_STATFS_PROGRAM, mount.mount_point, seconds=_SECONDS)
    except OSError:  # no child can be had: nothing is known, and whoever uses the mount will see
        return MountState.ANSWERS
    if status is None:
        return MountState.SILENT
    if status == errno.ENOTCONN:
        return MountState.DEAD
    return MountState.CLOSED if status == errno.EACCES else MountState.ANSWERS
