"""What the running kernel's FUSE can do, asked without a mount that anybody sees.

The abilities stand in the kernel's INIT message alone, which it sends when something is mounted. A
child process mounts in a namespace of its own, reads the message and ends, and the mount with it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Final, NamedTuple

from daxmend.errors import UnsupportedError
from daxmend.fuse import protocol as p
from daxmend.fuse.handler import Handler
from daxmend.fuse.init import Kernel, negotiate, wanted_flags
from daxmend.fuse.mount import check_device
from daxmend.host.unknown import Unknown

_SECONDS: Final = 5.0

# Nothing of it can propagate: what is mounted is private before. Prints the message in hex.
_PROGRAM: Final = """
import ctypes, os, sys
NEWNS, NEWUSER, REC, PRIVATE, NOSUID, NODEV = 0x20000, 0x10000000, 0x4000, 1 << 18, 2, 4
libc = ctypes.CDLL(None, use_errno=True)
libc.mount.argtypes = [ctypes.c_char_p] * 3 + [ctypes.c_ulong, ctypes.c_char_p]
uid, gid = os.getuid(), os.getgid()

def must(result, what):
    if result:
        sys.exit(what + ": " + os.strerror(ctypes.get_errno()))

if os.geteuid() == 0:
    must(libc.unshare(NEWNS), "no mount namespace can be made")
else:
    must(libc.unshare(NEWUSER | NEWNS), "no user namespace can be made")
    for name, text in ("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1"):
        with open("/proc/self/" + name, "w") as file:
            file.write(text)
must(libc.mount(None, b"/", None, REC | PRIVATE, None), "the namespace cannot be made private")
fd = os.open("/dev/fuse", os.O_RDWR)
data = f"fd={fd},rootmode=40000,user_id={os.getuid()},group_id={os.getgid()}"
must(libc.mount(b"daxmend", b"/", b"fuse", NOSUID | NODEV, data.encode()), "nothing can be mounted")
print(os.read(fd, 1 << 18).hex())
"""


class Offer(NamedTuple):
    """What a mount would find: the kernel's protocol 7.`minor`, and what would be agreed on."""

    minor: int
    kernel: Kernel


def probe_kernel() -> Offer | Unknown:
    """Ask the kernel, in some milliseconds. `Unknown` where no namespace or mount can be made.

    Raises UnsupportedError where there is no FUSE, it is not allowed, or it is too old.
    """
    check_device()
    try:
        child = subprocess.run(
            [sys.executable, "-I", "-S", "-c", _PROGRAM],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Unknown(f"the kernel has not answered for {_SECONDS:.0f} s")
    except OSError as error:
        return Unknown(f"no child can be had to ask with: {error.strerror}")
    if child.returncode:
        said = os.fsdecode(child.stderr).strip().splitlines()
        return Unknown(said[-1] if said else f"the probe ended with status {child.returncode}")
    return unpack_offer(bytes.fromhex(child.stdout.decode()))


def unpack_offer(message: bytes) -> Offer:
    """The offer of an INIT request. Raises UnsupportedError for a kernel that is too old."""
    body = memoryview(message)[p.IN_HEADER.size :]
    major, minor, *_ = p.INIT_IN.unpack_from(body)
    kernel, _ = negotiate(body, wanted_flags(Handler(), passthrough=True))
    if kernel is None:
        raise UnsupportedError(f"the kernel speaks FUSE {major}.{minor}, daxmend 7")
    return Offer(minor, kernel)
