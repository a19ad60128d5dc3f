"""The ways in which Linux zeroes a range (R34): thin, and each says itself whether it is there.

A mode that is missing answers EOPNOTSUPP and has changed nothing, so trying is the probe; the
numbers are defined here because the headers of most systems are older than the kernel.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import stat
from enum import StrEnum
from struct import Struct
from typing import Final

from daxmend.extent import Extent
from daxmend.host import fileioctl
from daxmend.host.fiemap import device_of, file_extents
from daxmend.host.topology import find_block_device
from daxmend.host.unknown import Unknown
from daxmend.units import MIB, SECTOR, is_aligned

FALLOC_FL_KEEP_SIZE: Final = 0x01
FALLOC_FL_PUNCH_HOLE: Final = 0x02
FALLOC_FL_ZERO_RANGE: Final = 0x10
FALLOC_FL_WRITE_ZEROES: Final = 0x80  # Linux 6.17
BLKZEROOUT: Final = 0x127F  # _IO(0x12, 127); takes u64 start, u64 length

_RANGE: Final = Struct("=QQ")
_PROBE_LENGTH: Final = 4096

# "Not here", as opposed to "tried and failed".
MISSING: Final = frozenset({errno.EOPNOTSUPP, errno.ENOTTY, errno.ENOSYS, errno.EINVAL})

_libc = ctypes.CDLL(None, use_errno=True)
# Not fallocate64, which musl does not have: off_t has 64 bits wherever daxmend runs.
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


class ZeroVerb(StrEnum):
    """What zeroed a range, as reports name it."""

    ZEROINIT = "zeroinit"  # daxmend's ioctl, on its own mounts (R29)
    WRITE_ZEROES = "FALLOC_FL_WRITE_ZEROES"
    ZERO_RANGE = "FALLOC_FL_ZERO_RANGE"
    BLKZEROOUT = "BLKZEROOUT"
    WRITE = "writing zeros"


def fallocate(fd: int, mode: int, extent: Extent) -> None:
    """fallocate(2). Raises `OSError`; EOPNOTSUPP where kernel or file system lack the mode."""
    while _libc.fallocate(fd, mode, extent.offset, extent.length):
        number = ctypes.get_errno()
        if number != errno.EINTR:
            raise OSError(number, os.strerror(number))


def punch_hole(fd: int, extent: Extent) -> None:
    """Give the blocks of the range back to the file system; the size stays (R35)."""
    fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, extent)


def zeroinit(fd: int, extent: Extent) -> None:
    """Zero in place on a daxmend mount (R29). ENOTTY elsewhere."""
    fileioctl.zeroinit(fd, extent.offset, extent.length)


def write_zeroes(fd: int, extent: Extent) -> None:
    """FALLOC_FL_WRITE_ZEROES: written zeros, in place, by the device where it can."""
    fallocate(fd, FALLOC_FL_WRITE_ZEROES, extent)


def zero_range(fd: int, extent: Extent) -> None:
    """FALLOC_FL_ZERO_RANGE. In place on a daxmend mount and on a block device.

    On a regular file elsewhere it is not: ext4 turns the blocks into unwritten extents and leaves
    the bad sectors as they are, XFS gives the blocks back and takes others (R29).
    """
    fallocate(fd, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, extent)


def block_zeroout(fd: int, extent: Extent) -> None:
    """BLKZEROOUT of whole sectors of an open block device; needs it open for writing."""
    fcntl.ioctl(fd, BLKZEROOUT, _RANGE.pack(extent.offset, extent.length))


def zeroout_below(fd: int, extent: Extent) -> None:
    """BLKZEROOUT of the blocks that FIEMAP names for a range of a file (R34); for the privileged.

    Nothing keeps the file system from giving the blocks to another file in between: for who knows
    that nobody changes the file's mapping, and after everything else has failed. The file's page
    cache is dropped. Raises `OSError`, and nothing has changed, where a part of the
    range has no place of its own on one block device; EOPNOTSUPP if that cannot be known.
    """
    device = device_of(fd)
    extents = file_extents(fd, extent)
    if isinstance(device, Unknown) or isinstance(extents, Unknown):
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
    places = []
    at = extent.offset
    for each in extents:
        part = Extent(each.offset, each.length).intersection(extent)
        place = part.shifted(each.device_offset - each.offset)
        usable = each.has_place and each.is_written and not each.is_shared
        if part.offset != at or not usable or not is_aligned(place.offset | place.length, SECTOR):
            break
        places.append(place)
        at = part.end
    if at < extent.end:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
    block = _open_block(device)
    try:
        for place in places:
            block_zeroout(block, place)
    finally:
        os.close(block)
    # All of it: a large folio that lies only in part in a range is not dropped.
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)


def _open_block(device: int) -> int:
    """The block device of that number, for writing; ENODEV where its node cannot be found."""
    found = find_block_device(device)
    if isinstance(found, Unknown):
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))
    fd = os.open(found.node, os.O_RDWR | os.O_CLOEXEC)
    status = os.fstat(fd)
    if not stat.S_ISBLK(status.st_mode) or status.st_rdev != device:
        os.close(fd)
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))
    return fd


def write_zeros(fd: int, extent: Extent) -> None:
    """Ordinary writes of zeros, buffered; durable after fdatasync."""
    offset = extent.offset
    while offset < extent.end:
        offset += os.pwrite(fd, bytes(min(MIB, extent.end - offset)), offset)


def probe_verbs(directory: str | os.PathLike[str]) -> dict[ZeroVerb, bool] | Unknown:
    """Which ways work on files in the directory, tried on a file without a name.

    `Unknown` where none can be made. BLKZEROOUT is not tried: it is a device's.
    """
    try:
        fd = os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        return Unknown(f"no file can be made in {os.fspath(directory)}: {error.strerror}")
    try:
        os.pwrite(fd, b"\x01" * _PROBE_LENGTH, 0)
        tried = {
            ZeroVerb.ZEROINIT: zeroinit,
            ZeroVerb.WRITE_ZEROES: write_zeroes,
            ZeroVerb.ZERO_RANGE: zero_range,
            ZeroVerb.WRITE: write_zeros,
        }
        found = {}
        for verb, function in tried.items():
            try:
                function(fd, Extent(0, _PROBE_LENGTH))
                found[verb] = True
            except OSError:
                found[verb] = False
        return found
    finally:
        os.close(fd)
