"""The file that a page goes to: written whole, or not at all, and never over what is asked."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path
from typing import Final

from daxmend.errors import UsageError
from daxmend.rescue.opening import split_name
from daxmend.rescue.salvage import write_durably

_MODE: Final = 0o644  # less what the umask takes


def validate_free(out: Path, target: str, *, overwrite: bool) -> None:
    """Raise `UsageError` unless a page may go there; nothing is touched."""
    if not out.parent.is_dir():
        raise UsageError(f"{out.parent} is no directory: {out} cannot be made in it")
    try:
        mode = out.stat().st_mode
    except FileNotFoundError:
        if not out.is_symlink():
            return
        raise UsageError(f"{out} is a symbolic link that leads nowhere; name a file") from None
    if not stat.S_ISREG(mode):
        raise UsageError(f"{out} is no regular file; name one, or - for standard output")
    split = split_name(target)
    for name in (target, *([split[0]] if split else [])):
        with contextlib.suppress(OSError):
            if os.path.samefile(out, name):
                raise UsageError(f"{out} is {name} itself: nothing is ever written to it")
    if not overwrite:
        raise _exists(out)


def _exists(out: Path) -> UsageError:
    return UsageError(f"{out} exists, and is not overwritten; name another, or say --overwrite")


def write_page(out: Path, data: bytes, *, overwrite: bool) -> None:
    """Make the file; durable on return.

    Raises `OSError` that names it, or `UsageError` if it has come meanwhile: nothing is left then.
    """
    path = Path(os.path.realpath(out))
    if overwrite:
        write_durably(path, data, _MODE)
        return
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _MODE))
    except FileExistsError:
        raise _exists(out) from None
    try:
        write_durably(path, data, _MODE)
    except BaseException:
        path.unlink()
        raise
