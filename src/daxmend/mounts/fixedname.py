"""A directory whose names are fixed: whatever would make, remove or change one is refused."""

import errno
import os
from typing import Any, NoReturn

from daxmend.fuse import Handler


class FixedNames(Handler):
    """Answers EPERM, "Operation not permitted"; with ENOSYS programs would blame the kernel."""

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    create: Any = _refuse
    mknod: Any = _refuse
    mkdir: Any = _refuse
    symlink: Any = _refuse
    link: Any = _refuse
    unlink: Any = _refuse
    rmdir: Any = _refuse
    rename: Any = _refuse
