"""Passthrough opens: the kernel reads a backing file without asking the server."""

import os
from pathlib import Path

import pytest
from test_fuse_memory import (
    MemoryHandler,
    needs_root,
    pytestmark,  # noqa: F401
    served,
)

from daxmend.fuse import Opened, Session
from daxmend.fuse import protocol as p


class Through(MemoryHandler):
    """Every open of a file in the root but `.log` goes through to one backing file."""

    def __init__(self, backing: Path) -> None:
        super().__init__()
        self.backing = backing
        self.ids: list[int] = []

    def _opened(self, nodeid: int, flags: int) -> Opened:
        if nodeid in self.special.values():
            return super()._opened(nodeid, flags)
        fd = os.open(self.backing, os.O_RDWR)
        try:
            self.ids.append(self.session.open_backing(fd))
        finally:
            os.close(fd)
        return Opened(nodeid, p.FOPEN_PASSTHROUGH, self.ids[-1])

    def release(self, nodeid: int, fh: int, *rest: int) -> None:
        if self.ids:
            self.session.close_backing(self.ids.pop())

    def init(self, session: Session) -> None:
        super().init(session)
        assert session.kernel is not None
        self.log.append(["passthrough", session.kernel.passthrough])


@needs_root
def test_a_passthrough_open_reads_and_writes_the_backing_file(tmp_path: Path) -> None:
    backing = tmp_path / "backing"
    backing.write_bytes(b"from the backing file")
    with served(tmp_path, Through(backing), passthrough=True) as mounted:
        if mounted.log("passthrough") == [[False]]:
            pytest.skip("this kernel offers no FUSE_PASSTHROUGH")
        fd = os.open(mounted.path / "file", os.O_RDWR | os.O_CREAT)
        assert os.pread(fd, 100, 0) == b"from the backing file"
        os.pwrite(fd, b"FROM", 0)
        os.close(fd)
        assert mounted.log("read") == mounted.log("write") == []
    assert backing.read_bytes() == b"FROM the backing file"
