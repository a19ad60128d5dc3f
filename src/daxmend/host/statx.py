"""Whether a file is mapped straight onto its medium: the statx(2) attribute (Linux 5.8).

Python has no statx; numbers and layout are the kernel's (linux/stat.h).
"""

from __future__ import annotations

import ctypes
import os
from struct import Struct
from typing import Final

from daxmend.host.unknown import Unknown

_AT_EMPTY_PATH: Final = 0x1000
_ATTR_DAX: Final = 0x00200000
_SIZE: Final = 256
_HEAD: Final = Struct("=IIQ")  # mask, block size, attributes
_MASK: Final = Struct("=Q")
_MASK_AT: Final = 56  # stx_attributes_mask

_libc = ctypes.CDLL(None, use_errno=True)


def is_dax(fd: int) -> bool | Unknown:
    """Whether the open file is in DAX mode now, so that it is read and lost by whole pages (R10).

    `Unknown` where the kernel or the C library has no statx, or the kernel does not tell.
    """
    statx = getattr(_libc, "statx", None)
    if statx is None:
        return Unknown("the C library has no statx")
    answer = ctypes.create_string_buffer(_SIZE)
    if statx(fd, b"", _AT_EMPTY_PATH, 0, answer):
        return Unknown(f"statx: {os.strerror(ctypes.get_errno())}")
    attributes: int = _HEAD.unpack_from(answer)[2]
    told: int = _MASK.unpack_from(answer, _MASK_AT)[0]
    if not told & _ATTR_DAX:
        return Unknown("the kernel does not tell whether a file is in DAX mode")
    return bool(attributes & _ATTR_DAX)
