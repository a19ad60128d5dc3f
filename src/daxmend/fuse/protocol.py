"""The numbers and layouts of the kernel's FUSE protocol (`linux/fuse.h`), names verbatim.

A layout's comment lists the fields of the kernel's struct in order; padding is `x` and has no
name. Everything is native byte order. This module says what the bytes are, `message` makes
values of them.
"""

from struct import Struct
from typing import Final

FUSE_KERNEL_VERSION: Final = 7
FUSE_KERNEL_MINOR_VERSION: Final = 40  # the newest we speak; `Session` offers the lower of both
OLDEST_MINOR_VERSION: Final = 28  # Linux 4.20: FUSE_MAX_PAGES, so that a request holds 1 MiB
FUSE_ROOT_ID: Final = 1

# enum fuse_opcode. Not here and answered ENOSYS: locks and BMAP (the kernel's own serve), ACCESS
# (not asked with default_permissions), DAX mappings, STATX (the kernel falls back to GETATTR),
# COPY_FILE_RANGE_64 (to COPY_FILE_RANGE).
FUSE_LOOKUP: Final = 1
FUSE_FORGET: Final = 2
FUSE_GETATTR: Final = 3
FUSE_SETATTR: Final = 4
FUSE_READLINK: Final = 5
FUSE_SYMLINK: Final = 6
FUSE_MKNOD: Final = 8
FUSE_MKDIR: Final = 9
FUSE_UNLINK: Final = 10
FUSE_RMDIR: Final = 11
FUSE_RENAME: Final = 12
FUSE_LINK: Final = 13
FUSE_OPEN: Final = 14
FUSE_READ: Final = 15
FUSE_WRITE: Final = 16
FUSE_STATFS: Final = 17
FUSE_RELEASE: Final = 18
FUSE_FSYNC: Final = 20
FUSE_SETXATTR: Final = 21
FUSE_GETXATTR: Final = 22
FUSE_LISTXATTR: Final = 23
FUSE_REMOVEXATTR: Final = 24
FUSE_FLUSH: Final = 25
FUSE_INIT: Final = 26
FUSE_OPENDIR: Final = 27
FUSE_READDIR: Final = 28
FUSE_RELEASEDIR: Final = 29
FUSE_FSYNCDIR: Final = 30
FUSE_CREATE: Final = 35
FUSE_INTERRUPT: Final = 36
FUSE_DESTROY: Final = 38
FUSE_IOCTL: Final = 39
FUSE_POLL: Final = 40
FUSE_BATCH_FORGET: Final = 42
FUSE_FALLOCATE: Final = 43
FUSE_READDIRPLUS: Final = 44
FUSE_RENAME2: Final = 45
FUSE_LSEEK: Final = 46
FUSE_COPY_FILE_RANGE: Final = 47
FUSE_SYNCFS: Final = 50
FUSE_TMPFILE: Final = 51

# enum fuse_notify_code
FUSE_NOTIFY_POLL: Final = 1
FUSE_NOTIFY_INVAL_INODE: Final = 2
FUSE_NOTIFY_INVAL_ENTRY: Final = 3

# INIT flags; those from bit 32 up travel in flags2 and need FUSE_INIT_EXT (minor 36)
FUSE_ASYNC_READ: Final = 1 << 0
FUSE_ATOMIC_O_TRUNC: Final = 1 << 3
FUSE_BIG_WRITES: Final = 1 << 5
FUSE_DONT_MASK: Final = 1 << 6
FUSE_DO_READDIRPLUS: Final = 1 << 13
FUSE_READDIRPLUS_AUTO: Final = 1 << 14
FUSE_WRITEBACK_CACHE: Final = 1 << 16  # never asked for: it reads before a sub-page write
FUSE_PARALLEL_DIROPS: Final = 1 << 18
FUSE_POSIX_ACL: Final = 1 << 20
FUSE_MAX_PAGES: Final = 1 << 22
FUSE_HANDLE_KILLPRIV_V2: Final = 1 << 28
FUSE_INIT_EXT: Final = 1 << 30
FUSE_DIRECT_IO_ALLOW_MMAP: Final = 1 << 36  # Linux 6.6
FUSE_PASSTHROUGH: Final = 1 << 37  # Linux 6.9

# fuse_setattr_in.valid
FATTR_MODE: Final = 1 << 0
FATTR_UID: Final = 1 << 1
FATTR_GID: Final = 1 << 2
FATTR_SIZE: Final = 1 << 3
FATTR_ATIME: Final = 1 << 4
FATTR_MTIME: Final = 1 << 5
FATTR_FH: Final = 1 << 6
FATTR_ATIME_NOW: Final = 1 << 7
FATTR_MTIME_NOW: Final = 1 << 8
FATTR_KILL_SUIDGID: Final = 1 << 11

# fuse_open_out.open_flags
FOPEN_DIRECT_IO: Final = 1 << 0
FOPEN_KEEP_CACHE: Final = 1 << 1
FOPEN_NOFLUSH: Final = 1 << 5
FOPEN_PASSTHROUGH: Final = 1 << 7

FUSE_GETATTR_FH: Final = 1 << 0  # fuse_getattr_in.getattr_flags
FUSE_OPEN_KILL_SUIDGID: Final = 1 << 0  # fuse_open_in.open_flags, with O_TRUNC
FUSE_READ_LOCKOWNER: Final = 1 << 1  # read_flags: a read(2), not the page cache or a mapping
FUSE_WRITE_CACHE: Final = 1 << 0  # write_flags: a page of a mapping is written back
FUSE_WRITE_KILL_SUIDGID: Final = 1 << 2
FUSE_FSYNC_FDATASYNC: Final = 1 << 0  # fuse_fsync_in.fsync_flags
FUSE_POLL_SCHEDULE_NOTIFY: Final = 1 << 0  # fuse_poll_in.flags

# Requests
IN_HEADER: Final = Struct("=IIQQIII4x")  # len opcode unique nodeid uid gid pid (total_extlen)
INIT_IN: Final = Struct("=IIII")  # major minor max_readahead flags
INIT_IN_FLAGS2: Final = Struct("=I")  # flags2, directly after INIT_IN where FUSE_INIT_EXT is set
FORGET_IN: Final = Struct("=Q")  # nlookup
BATCH_FORGET_IN: Final = Struct("=I4x")  # count, then so many FORGET_ONE
FORGET_ONE: Final = Struct("=QQ")  # nodeid nlookup
GETATTR_IN: Final = Struct("=I4xQ")  # getattr_flags fh
SETATTR_IN: Final = Struct("=I4xQQQqqqIIII4xII4x")  # as message.SetAttr
MKNOD_IN: Final = Struct("=III4x")  # mode rdev umask
MKDIR_IN: Final = Struct("=II")  # mode umask
RENAME_IN: Final = Struct("=Q")  # newdir
RENAME2_IN: Final = Struct("=QI4x")  # newdir flags
LINK_IN: Final = Struct("=Q")  # oldnodeid
OPEN_IN: Final = Struct("=II")  # flags open_flags
CREATE_IN: Final = Struct("=IIII")  # flags mode umask open_flags
READ_IN: Final = Struct("=QQIIQI4x")  # fh offset size read_flags lock_owner flags
WRITE_IN: Final = READ_IN  # fh offset size write_flags lock_owner flags
RELEASE_IN: Final = Struct("=QIIQ")  # fh flags release_flags lock_owner
FLUSH_IN: Final = Struct("=Q8xQ")  # fh lock_owner
FSYNC_IN: Final = Struct("=QI4x")  # fh fsync_flags
SETXATTR_IN: Final = Struct("=II")  # size flags (the short form: no FUSE_SETXATTR_EXT)
GETXATTR_IN: Final = Struct("=I4x")  # size
INTERRUPT_IN: Final = Struct("=Q")  # unique
IOCTL_IN: Final = Struct("=QIIQII")  # fh flags cmd arg in_size out_size
POLL_IN: Final = Struct("=QQII")  # fh kh flags events
FALLOCATE_IN: Final = Struct("=QQQI4x")  # fh offset length mode
LSEEK_IN: Final = Struct("=QqI4x")  # fh offset whence
COPY_FILE_RANGE_IN: Final = Struct("=QQQQQQQ")  # fh_in off_in nodeid_out fh_out off_out len flags

# IN_HEADER and READ_IN (or WRITE_IN) at once, for the hot path:
# opcode unique nodeid fh offset size read_flags flags
IO_REQUEST: Final = Struct("=4xIQQ16xQQII8xI4x")

# Replies and notifications
OUT_HEADER: Final = Struct("=IiQ")  # len error unique
INIT_OUT: Final = Struct("=IIIIHHIIHHII24x")  # major minor max_readahead flags max_background
#                      congestion_threshold max_write time_gran max_pages map_alignment flags2
#                      max_stack_depth
ATTR: Final = Struct("=QQQqqqIIIIIIIIII")  # as message.Attr
ATTR_OUT: Final = Struct("=QI4x")  # attr_valid attr_valid_nsec, then ATTR
ENTRY_OUT: Final = Struct("=QQQQII")  # nodeid generation entry_valid attr_valid
#                                       entry_valid_nsec attr_valid_nsec, then ATTR
OPEN_OUT: Final = Struct("=QIi")  # fh open_flags backing_id
WRITE_OUT: Final = Struct("=I4x")  # size
KSTATFS: Final = Struct("=QQQQQIII28x")  # as message.Kstatfs
GETXATTR_OUT: Final = Struct("=I4x")  # size
IOCTL_OUT: Final = Struct("=iIII")  # result flags in_iovs out_iovs
POLL_OUT: Final = Struct("=I4x")  # revents
LSEEK_OUT: Final = Struct("=Q")  # offset
DIRENT: Final = Struct("=QQII")  # ino off namelen type, then the name, padded to 8 bytes
NOTIFY_POLL_WAKEUP_OUT: Final = Struct("=Q")  # kh
NOTIFY_INVAL_INODE_OUT: Final = Struct("=Qqq")  # ino off len
NOTIFY_INVAL_ENTRY_OUT: Final = Struct("=QI4x")  # parent namelen (flags)

# ioctl(2) on /dev/fuse: _IOW(229, 1, struct fuse_backing_map) and _IOW(229, 2, uint32_t)
FUSE_DEV_IOC_BACKING_OPEN: Final = 0x4010E501
FUSE_DEV_IOC_BACKING_CLOSE: Final = 0x4004E502
BACKING_MAP: Final = Struct("=iI8x")  # fd flags
