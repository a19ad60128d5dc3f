"""Whose a bad range is: what GETFSMAP tells, what the files' extents tell, and what nobody does."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from daxmend.extent import Extent
from daxmend.host.fiemap import FiemapExtent, FiemapFlag
from daxmend.host.fsmap import FsmapFlag, FsmapRecord
from daxmend.host.mountinfo import Mount
from daxmend.host.unknown import Unknown
from daxmend.rescue import hostowner
from daxmend.rescue.hostowner import Owned, OwnerSearch

PAGE = 4096
SPECIAL = FsmapFlag.SPECIAL_OWNER
Places = dict[str, list[FiemapExtent] | OSError]


def place(offset: int, device_offset: int, length: int, flags: int = 0) -> FiemapExtent:
    return FiemapExtent(offset, device_offset, length, FiemapFlag(flags))


def record(extent: Extent, flags: FsmapFlag, owner: int, offset: int = 0) -> FsmapRecord:
    return FsmapRecord(1, extent, flags, owner, offset)


class System:
    """A directory that looks like a file system with these extents; `asked` are files opened."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.places: Places = {}
        self.records: Callable[[Extent], list[FsmapRecord] | Unknown] = lambda _: Unknown("no")
        self.asked: list[str] = []
        monkeypatch.setattr(hostowner, "file_extents", self._file_extents)
        monkeypatch.setattr(hostowner, "read_fsmap", lambda fd, device, e: self.records(e))

    def make(self, name: str, *extents: FiemapExtent) -> bytes:
        path = self.root / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"")
        self.places[str(path)] = list(extents)
        return os.fsencode(path)

    def _file_extents(self, fd: int, sync: bool) -> list[FiemapExtent] | Unknown:
        assert not sync  # nothing is written back only to be looked at
        path = os.readlink(f"/proc/self/fd/{fd}")
        self.asked.append(path)
        found = self.places.get(path, [])
        if isinstance(found, OSError):
            raise found
        return found

    def search(self) -> OwnerSearch:
        mount = Mount(1, os.stat(self.root).st_dev, str(self.root), "", "ext4", "", "")
        return OwnerSearch(mount)


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> System:
    return System(tmp_path, monkeypatch)


def test_a_range_is_split_between_the_files_that_have_it(system: System) -> None:
    one = system.make("one", place(0, 0, 2 * PAGE))
    two = system.make("dir/two", place(8 * PAGE, 2 * PAGE, PAGE))
    search = system.search()
    assert search.find([Extent(PAGE, 3 * PAGE)]) == [
        Owned(Extent(PAGE, PAGE), "file", one, PAGE),
        Owned(Extent(2 * PAGE, PAGE), "file", two, 8 * PAGE),
        Owned(Extent(3 * PAGE, PAGE), None),
    ]
    assert "no file that has a name" in search.notices[0]
    assert str(PAGE) in search.notices[0]


def test_the_walk_ends_when_all_is_found(system: System) -> None:
    for number in range(50):
        system.make(f"{number}", place(0, number * PAGE, PAGE))
    search = system.search()
    with os.scandir(system.root) as entries:
        first = int(next(entries).name)
    (found,) = search.find([Extent(first * PAGE, 512)])
    assert found.path == os.fsencode(system.root / str(first))
    assert len(system.asked) == 2  # the root directory, and that file


def test_a_shared_block_has_all_its_owners(system: System) -> None:
    names = [system.make(f"{n}", place(n * PAGE, 0, PAGE, FiemapFlag.SHARED)) for n in range(3)]
    found = system.search().find([Extent(0, PAGE)])
    assert found == [
        Owned(Extent(0, PAGE), "file", name, n * PAGE) for n, name in enumerate(sorted(names))
    ]


def test_what_may_not_be_looked_into_is_counted_and_not_taken_for_nobodys(system: System) -> None:
    system.make("closed")
    system.places[str(system.root / "closed")] = OSError(errno.EACCES, "denied")
    search = system.search()
    assert search.find([Extent(0, PAGE)]) == [Owned(Extent(0, PAGE), None)]
    assert "1 files or directories" in search.notices[0]
    assert "ask root" in search.notices[0]


def test_places_that_are_none_own_nothing(system: System) -> None:
    system.make("inline", place(0, 0, PAGE, FiemapFlag.DATA_INLINE))
    assert system.search().find([Extent(0, PAGE)]) == [Owned(Extent(0, PAGE), None)]


def test_an_inode_that_is_told_is_named_without_asking_any_file(system: System) -> None:
    path = system.make("dir/file")
    ino = os.stat(path).st_ino
    directory = os.stat(system.root / "dir").st_ino
    told = {
        0: record(Extent(0, PAGE), FsmapFlag(0), ino, 5 * PAGE),
        PAGE: record(Extent(PAGE, PAGE), FsmapFlag.EXTENT_MAP, ino),
        2 * PAGE: record(Extent(2 * PAGE, PAGE), FsmapFlag(0), directory),
        3 * PAGE: record(Extent(3 * PAGE, PAGE), SPECIAL, 1),
        4 * PAGE: record(Extent(4 * PAGE, PAGE), SPECIAL, 0x5800000001),
    }
    system.records = lambda extent: [told[extent.offset]]
    assert system.search().find([each.extent for each in told.values()]) == [
        Owned(Extent(0, PAGE), "file", path, 5 * PAGE),
        Owned(Extent(PAGE, PAGE), "metadata", path),
        Owned(Extent(2 * PAGE, PAGE), "metadata", os.fsencode(system.root / "dir")),
        Owned(Extent(3 * PAGE, PAGE), "free"),
        Owned(Extent(4 * PAGE, PAGE), "metadata"),
    ]
    assert system.asked == []


def test_an_inode_without_a_name_is_a_file_without_one(system: System) -> None:
    system.records = lambda extent: [record(extent, FsmapFlag(0), 1 << 60, 0)]
    assert system.search().find([Extent(0, PAGE)]) == [Owned(Extent(0, PAGE), "file", b"", 0)]


def test_what_the_map_leaves_out_is_looked_for_in_the_files(system: System) -> None:
    """ext4 of Linux 6.18 answers with a gap where some files lie."""
    path = system.make("file", place(0, PAGE, PAGE))
    system.records = lambda extent: [record(Extent(0, PAGE), SPECIAL, 1)]
    assert system.search().find([Extent(0, 2 * PAGE)]) == [
        Owned(Extent(0, PAGE), "free"),
        Owned(Extent(PAGE, PAGE), "file", path, 0),
    ]


def test_nothing_is_opened_that_opening_could_change(system: System) -> None:
    os.mkfifo(system.root / "fifo")
    (system.root / "link").symlink_to(system.root / "file")
    system.make("file", place(0, 0, PAGE))
    system.search().find([Extent(PAGE, PAGE)])
    assert sorted(system.asked) == [str(system.root), str(system.root / "file")]
