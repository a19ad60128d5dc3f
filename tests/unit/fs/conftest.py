"""A small file system in memory."""

import stat
from collections.abc import Callable, Iterator

import pytest

from daxmend.fs import FileSystem, make_file_system
from daxmend.pmem.device import PmemDevice
from fswalk import check_medium, check_owners, walk

MakeFile = Callable[..., int]


@pytest.fixture
def fs(device: PmemDevice) -> Iterator[FileSystem]:
    """An empty file system on 1 MiB; afterwards it must be whole, open and closed."""
    make_file_system(device)
    made = FileSystem(device, commits_each=False)
    yield made
    if not made.is_read_only:
        walk(made)
        check_owners(made)
        made.close()
        check_medium(device)


@pytest.fixture
def make_file(fs: FileSystem) -> MakeFile:
    """Makes a file in the root, with content if there is some; returns its number."""
    counter = iter(range(1000))

    def make(data: bytes = b"", name: bytes = b"") -> int:
        name = name or b"file%d" % next(counter)
        ino = fs.make(fs.root, name, stat.S_IFREG | 0o644, 0, 0)
        if data:
            assert fs.write(ino, 0, data) == len(data)
        return ino

    return make
