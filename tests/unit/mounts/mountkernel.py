"""A session that stands in for the kernel: the tests call the handler as the kernel would."""

import struct
from collections.abc import Callable, Sequence
from typing import Any

from daxmend.events import Event
from daxmend.mounts.raw import DEVICE_NODEID, MountOptions, RawMount
from daxmend.pmem.device import PmemDevice
from daxmend.stack.device import open_device

PAGE, SECTOR = 4096, 512


class FakeNotifier:
    """Does everything at once, in order, and remembers it."""

    def __init__(self) -> None:
        self.done: list[Any] = []

    def inval_inode(self, nodeid: int, offset: int = 0, length: int = 0) -> None:
        self.done.append(("inval", nodeid, offset, length))

    def poll_wakeup(self, kh: int) -> None:
        self.done.append(("wake", kh))

    def then(self, callback: Callable[[], object]) -> None:
        callback()


class FakeKernel:
    direct_mmap = True


class FakeSession:
    """Numbers requests; `answers` has what was replied to those that were parked."""

    def __init__(self) -> None:
        self.kernel = FakeKernel()
        self.notifier = FakeNotifier()
        self.unique = 1
        self.answers: dict[int, bytes | int] = {}
        self.gone: set[int] = set()

    def reply(self, unique: int, payload: bytes = b"") -> bool:
        if unique in self.gone:
            return False
        self.answers[unique] = bytes(payload)
        return True

    def reply_error(self, unique: int, number: int) -> bool:
        self.answers[unique] = number
        return unique not in self.gone


class Mounted:
    """A raw mount without a kernel."""

    def __init__(self, attached: Sequence[Event] = (), **options: object) -> None:
        self.device: PmemDevice = open_device("ram:1M")
        self.handler = RawMount(
            self.device,
            options=MountOptions(**options),  # type: ignore[arg-type]
            attached=attached,
        )
        self.session = FakeSession()
        self.handler.init(self.session)  # type: ignore[arg-type]

    def control(self, name: str) -> tuple[int, int]:
        """The nodeid of a control file, and a new open of it."""
        caller = None
        parent = self.handler.lookup(caller, 1, b".daxmend").nodeid  # type: ignore[arg-type]
        nodeid = self.handler.lookup(caller, parent, name.encode()).nodeid  # type: ignore[arg-type]
        return nodeid, self.handler.open(caller, nodeid, 2, 0).fh  # type: ignore[arg-type]

    def tell(self, name: str, text: str) -> None:
        """Write to a control file."""
        nodeid, fh = self.control(name)
        self.session.unique += 1
        self.handler.write(nodeid, fh, 0, memoryview(text.encode()), 0, 0)
        assert self.session.answers[self.session.unique] == struct.pack("=I4x", len(text))

    def ask(self, name: str) -> str:
        """Read a control file."""
        nodeid, fh = self.control(name)
        data = self.handler.read(nodeid, fh, 0, 1 << 20, 0, 0)
        return bytes(data).decode()  # type: ignore[arg-type]

    def open(self, flags: int = 2) -> int:
        return self.handler.open(None, DEVICE_NODEID, flags, 0).fh  # type: ignore[arg-type]

    def write(self, fh: int, offset: int, data: bytes, write_flags: int = 0) -> object:
        return self.handler.write(DEVICE_NODEID, fh, offset, memoryview(data), write_flags, 0)

    def read(self, offset: int, size: int, read_flags: int = 0) -> bytes:
        return bytes(self.handler.read(DEVICE_NODEID, 0, offset, size, read_flags, 0))  # type: ignore[arg-type]
