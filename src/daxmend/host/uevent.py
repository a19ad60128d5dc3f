"""What the kernel says of devices that come, change and go: uevents (netlink)."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from typing import Final, NamedTuple

from daxmend.host.unknown import Unknown

_NETLINK_KOBJECT_UEVENT: Final = 15
_KERNEL_GROUP: Final = 1
_MAX_MESSAGE: Final = 64 << 10


class Uevent(NamedTuple):
    """`action`: add, remove, change …; `path` in sysfs, from /sys on; `fields` as the kernel's."""

    action: str
    path: str
    fields: dict[str, str]

    @property
    def device(self) -> int | None:
        """The number of the device, where it has one."""
        major, minor = self.fields.get("MAJOR", ""), self.fields.get("MINOR", "")
        return os.makedev(int(major), int(minor)) if major.isdigit() and minor.isdigit() else None


def parse_uevent(message: bytes) -> Uevent | None:
    """The kernel's own messages; None for others (udev's)."""
    head, *rest = message.split(b"\0")
    action, at, path = head.partition(b"@")
    if not at:
        return None
    pairs = (os.fsdecode(line).partition("=") for line in rest if b"=" in line)
    return Uevent(os.fsdecode(action), os.fsdecode(path), {key: value for key, _, value in pairs})


class UeventSocket:
    """Hears every uevent from now on; pollable."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected

    def fileno(self) -> int:
        """For poll(2)."""
        return self._socket.fileno()

    def read(self) -> Iterator[Uevent]:
        """What has come, without waiting. Raises `OSError` ENOBUFS where some were lost."""
        while True:
            try:
                message = self._socket.recv(_MAX_MESSAGE)
            except BlockingIOError:
                return
            found = parse_uevent(message)
            if found is not None:
                yield found

    def close(self) -> None:
        """Stop listening."""
        self._socket.close()


def open_uevents() -> UeventSocket | Unknown:
    """`Unknown` where they may not be heard, as in some containers."""
    try:
        made = socket.socket(
            socket.AF_NETLINK,
            socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK,
            _NETLINK_KOBJECT_UEVENT,
        )
    except OSError as error:
        return Unknown(f"uevents cannot be heard: {error.strerror}")
    try:
        made.bind((0, _KERNEL_GROUP))
    except OSError as error:
        made.close()
        return Unknown(f"uevents cannot be heard: {error.strerror}")
    return UeventSocket(made)
