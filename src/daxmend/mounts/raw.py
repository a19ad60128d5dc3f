"""The raw mount: a device as one file, `device`, and the control directory (R33)."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

from daxmend.dax.api import DaxDevice
from daxmend.fuse import Caller, Dirent, DirentBuffer, Entry, Kstatfs, Opened
from daxmend.fuse.protocol import FUSE_ROOT_ID
from daxmend.mounts.control import CONTROL_NAME, CONTROL_NODEID
from daxmend.mounts.devicemount import DEVICE_NAME, DEVICE_NODEID, DeviceMount
from daxmend.mounts.deviceuse import RawUse
from daxmend.mounts.option import MountOptions, OpenMode
from daxmend.units import PAGE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from daxmend.events import Event

_DEFAULTS = MountOptions()


class RawMount(DeviceMount):
    """`device` and, hidden beside it, `.daxmend`.

    `attached` are the events of attaching the device.
    """

    truncates_on_open = False

    def __init__(
        self,
        device: DaxDevice,
        *,
        options: MountOptions = _DEFAULTS,
        on_ready: Callable[[], None] = lambda: None,
        attached: Sequence[Event] = (),
    ) -> None:
        super().__init__(
            device, use=RawUse(), options=options, on_ready=on_ready, attached=attached
        )

    def _opens_device_direct(self) -> bool:
        if self._options.open_mode is OpenMode.AUTO:
            return self._has_direct_mmap
        return self._options.open_mode is OpenMode.DIRECT

    # -- names -----------------------------------------------------------------------------

    def lookup(self, caller: Caller, parent: int, name: bytes) -> Entry:
        nodeid = self._find(parent, name)
        return Entry(nodeid, self._own_attr(nodeid), entry_valid=3600)

    def _find(self, parent: int, name: bytes) -> int:
        if parent == CONTROL_NODEID:
            return self._control.find(name)
        if name == DEVICE_NAME:
            return DEVICE_NODEID
        if name == CONTROL_NAME:
            return CONTROL_NODEID
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))

    def _own_mode(self, nodeid: int) -> int:
        if nodeid == FUSE_ROOT_ID:
            return stat.S_IFDIR | 0o755
        return super()._own_mode(nodeid)

    def statfs(self, caller: Caller, nodeid: int) -> Kstatfs:
        return Kstatfs(self._device.size // PAGE, 0, 0, 1, 0)

    # -- directories -----------------------------------------------------------------------

    def opendir(self, caller: Caller, nodeid: int, flags: int, open_flags: int) -> Opened:
        return Opened()

    def readdir(self, nodeid: int, fh: int, offset: int, dirents: DirentBuffer) -> None:
        for index, (child, name, kind) in enumerate(self._entries(nodeid), 1):
            if index > offset and not dirents.add(Dirent(child, index, kind, name)):
                break

    def _entries(self, nodeid: int) -> Iterator[tuple[int, bytes, int]]:
        directory, regular = stat.S_IFDIR >> 12, stat.S_IFREG >> 12
        yield nodeid, b".", directory
        yield FUSE_ROOT_ID, b"..", directory
        if nodeid == CONTROL_NODEID:
            yield from ((child, name, regular) for child, name in self._control.names())
        else:
            yield DEVICE_NODEID, DEVICE_NAME, regular

    def releasedir(
        self, nodeid: int, fh: int, flags: int, release_flags: int, lock_owner: int
    ) -> None:
        """Nothing is kept for an open directory."""
