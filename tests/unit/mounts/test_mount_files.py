"""The mount of a file system without a kernel."""

import errno
import struct
from collections.abc import Iterator

import pytest
from mountkernel import PAGE, FakeSession

from daxmend.errors import DaxmendError
from daxmend.fs import FileSystem, make_file_system
from daxmend.fuse import PENDING, Caller
from daxmend.fuse.protocol import FUSE_ROOT_ID
from daxmend.host import fileioctl
from daxmend.mounts.filesystem import FileSystemMount
from daxmend.stack.device import open_device

OWNER = Caller(0, 0, 1)


class Files:
    """One file, open, on a mount."""

    def __init__(self) -> None:
        device = open_device("ram:4M")
        make_file_system(device)
        self.fs = FileSystem(device, commits_each=True)
        self.mount = FileSystemMount(self.fs)
        self.session = FakeSession()
        self.mount.init(self.session)  # type: ignore[arg-type]
        entry, opened = self.mount.create(OWNER, FUSE_ROOT_ID, b"file", 2, 0o644, 0, 0)
        self.ino, self.fh = entry.nodeid, opened.fh
        assert self.mount.write(self.ino, self.fh, 0, memoryview(bytes(PAGE)), 0, 0) == PAGE

    def zeroinit(self) -> object:
        self.session.unique += 1
        data = struct.pack("=QQ", 0, PAGE)
        return self.mount.ioctl(OWNER, self.ino, self.fh, 0, fileioctl.ZEROINIT, 0, data, 0)


@pytest.fixture
def files() -> Iterator[Files]:
    made = Files()
    yield made
    made.mount.destroy()
    made.fs.close()


@pytest.mark.parametrize(
    ("raised", "number"),
    [
        (OSError(errno.ENOSPC, "full"), errno.ENOSPC),
        (DaxmendError("no room in the record"), DaxmendError.errno),
        (AssertionError("a mistake"), errno.EIO),
    ],
)
def test_every_zeroinit_is_answered_whatever_happens(
    files: Files, monkeypatch: pytest.MonkeyPatch, raised: Exception, number: int
) -> None:
    def fail(*_: object) -> None:
        raise raised

    monkeypatch.setattr(FileSystem, "zeroinit", fail)
    try:
        assert files.zeroinit() is PENDING
    except AssertionError as error:
        assert error is raised  # noqa: PT017  # the notifier logs it
    assert files.session.answers == {files.session.unique: number}
