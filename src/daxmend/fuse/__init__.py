"""The kernel's FUSE protocol, spoken directly on /dev/fuse; knows nothing of any file system.

A server is a `Handler`, a mount and a session:

    fd = mount(directory, fsname="pool", subtype="daxmend")
    session = Session(fd, MyHandler())
    session.run()          # until somebody unmounts, or session.stop()
    session.close()

The numbers (opcodes, FOPEN_*, FATTR_* ...) are in `daxmend.fuse.protocol` under the kernel's names.
"""

from daxmend.fuse.handler import Handler
from daxmend.fuse.init import MAX_WRITE, Kernel
from daxmend.fuse.message import (
    PENDING,
    Attr,
    AttrOut,
    Buffer,
    Caller,
    Dirent,
    DirentBuffer,
    Entry,
    Kstatfs,
    Opened,
    Pending,
    SetAttr,
    pack_attr_out,
    pack_create_out,
    pack_entry_out,
    pack_ioctl_out,
    pack_open_out,
    pack_statfs_out,
    pack_write_out,
)
from daxmend.fuse.mount import is_dead, mount, unmount, unmount_dead
from daxmend.fuse.notify import Notifier
from daxmend.fuse.probe import Offer, probe_kernel
from daxmend.fuse.session import Session
from daxmend.host.mountinfo import Mount, find_mount, iter_mounts

__all__ = [
    "MAX_WRITE",
    "PENDING",
    "Attr",
    "AttrOut",
    "Buffer",
    "Caller",
    "Dirent",
    "DirentBuffer",
    "Entry",
    "Handler",
    "Kernel",
    "Kstatfs",
    "Mount",
    "Notifier",
    "Offer",
    "Opened",
    "Pending",
    "Session",
    "SetAttr",
    "find_mount",
    "is_dead",
    "iter_mounts",
    "mount",
    "pack_attr_out",
    "pack_create_out",
    "pack_entry_out",
    "pack_ioctl_out",
    "pack_open_out",
    "pack_statfs_out",
    "pack_write_out",
    "probe_kernel",
    "unmount",
    "unmount_dead",
]
