"""Where XFS has metadata that never moves: the XFS_IOC_FSGEOMETRY ioctl (Linux, xfs_fs.h).

Without a reverse map the file system says of a block no more than that it is in use; the headers of
its allocation groups and the log have places that follow from its geometry.
"""

from __future__ import annotations

import errno
import fcntl
from collections.abc import Iterator
from struct import Struct
from typing import Final, NamedTuple

from daxmend.extent import Extent
from daxmend.host.unknown import Unknown
from daxmend.units import align_up

FSGEOMETRY_V1: Final = 0x80705864  # _IOR('X', 100, struct xfs_fsop_geom_v1), 112 bytes
# blocksize, rtextsize, agblocks, agcount, logblocks, sectsize, inodesize, imaxpct; datablocks,
# rtblocks, rtextents, logstart
_HEAD: Final = Struct("=8I4Q")
_SIZE: Final = 112
_HEADERS: Final = 4  # sectors at the start of a group: superblock, AGF, AGI, AGFL
_UNSUPPORTED: Final = frozenset({errno.ENOTTY, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS})


class XfsGeometry(NamedTuple):
    """Sizes in bytes; `log` is empty where the log lies on another device."""

    block: int
    sector: int
    group: int
    groups: int
    log: Extent

    def fixed_metadata(self) -> Iterator[Extent]:
        """The headers of each group, and the log; in bytes of the device."""
        for number in range(self.groups):
            yield Extent(number * self.group, align_up(_HEADERS * self.sector, self.block))
        yield self.log


def read_geometry(fd: int) -> XfsGeometry | Unknown:
    """Of the file system that `fd` lies on. `Unknown` where it is no XFS."""
    answer = bytearray(_SIZE)
    try:
        fcntl.ioctl(fd, FSGEOMETRY_V1, answer)
    except OSError as error:
        if error.errno in _UNSUPPORTED:
            return Unknown("it is no XFS")
        return Unknown(f"XFS does not tell its geometry: {error.strerror}")
    return unpack_geometry(answer)


def unpack_geometry(answer: bytes | bytearray) -> XfsGeometry:
    """The kernel's answer."""
    block, _, ag_blocks, groups, log_blocks, sector, _, _, _, _, _, log_start = _HEAD.unpack_from(
        answer
    )
    # A block's number has its group in the upper bits, above what a group's blocks need.
    group, within = divmod(log_start, 1 << (ag_blocks - 1).bit_length())
    log = Extent((group * ag_blocks + within) * block, log_blocks * block if log_start else 0)
    return XfsGeometry(block, sector, ag_blocks * block, groups, log)
