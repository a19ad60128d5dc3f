"""There is always room for the next checkpoint, whatever was promised and whatever went bad."""

import errno
import stat

import pytest

from daxmend.errors import MediaError
from daxmend.extent import Extent
from daxmend.fs import FileSystem, core, make_file_system
from daxmend.media.pool import MediumKind, create_memory_pool
from daxmend.pmem.device import PmemDevice
from daxmend.units import MIB, PAGE, SECTOR
from fswalk import check_medium, walk

SIZE = 48 * MIB  # more runs than the first checkpoint and the spare pages hold
FILE = stat.S_IFREG | 0o644


def open_new(*, commits_each: bool, kind: MediumKind = MediumKind.PLAIN) -> FileSystem:
    device = PmemDevice(create_memory_pool(SIZE, medium=kind))
    make_file_system(device)
    return FileSystem(device, commits_each=commits_each)


def allocate_all(fs: FileSystem) -> tuple[int, int]:
    """A file that has all space, unwritten; and its pages."""
    ino = fs.make(fs.root, b"all", FILE, 0, 0)
    pages = fs.statfs().bavail
    while True:
        try:
            fs.fallocate(ino, 0, pages * PAGE)
        except OSError:
            pages -= 1
        else:
            return ino, pages


def punch_every_other_page(fs: FileSystem, ino: int, pages: int) -> None:
    for page in range(1, pages, 2):
        fs.punch(ino, page * PAGE, PAGE)


@pytest.mark.parametrize("commits_each", [False, True])
def test_what_has_its_place_can_be_written_page_by_page_on_a_full_device(
    commits_each: bool,
) -> None:
    """Each such write makes two more runs, until there is no room for them."""
    fs = open_new(commits_each=commits_each)
    ino, pages = allocate_all(fs)
    for page in range(1, pages, 2):
        assert fs.write(ino, page * PAGE + 5, b"%08d" % page) == 8
        if page % 500 == 1:
            fs.sync()
    fs.checkpoint()
    assert not fs.is_read_only
    for page in range(pages):
        wanted = b"%08d" % page if page % 2 else bytes(8)
        assert fs.read(ino, page * PAGE, 20) == bytes(5) + wanted + bytes(7)
    walk(fs)
    fs.close()
    check_medium(fs.device)


def test_a_punch_that_leaves_no_room_for_a_checkpoint_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What it would free lies in too many pieces; whole files can still go."""
    monkeypatch.setattr(core, "_SPARE_PAGES", 1)
    fs = open_new(commits_each=False)
    ino, pages = allocate_all(fs)
    fs.sync()
    monkeypatch.setattr(core, "MAX_EXTENTS", 2)
    with pytest.raises(OSError) as caught:
        punch_every_other_page(fs, ino, pages)
    assert caught.value.errno == errno.ENOSPC
    fs.checkpoint()
    fs.punch(ino, 0, PAGE)  # makes no run more
    fs.unlink(fs.root, b"all")
    fs.checkpoint()
    assert fs.statfs().bavail >= pages - 16  # metadata have grown
    walk(fs)
    fs.close()
    check_medium(fs.device)


def test_choosing_another_reserve_never_makes_it_shorter(monkeypatch: pytest.MonkeyPatch) -> None:
    fs = open_new(commits_each=False)
    ino, pages = allocate_all(fs)
    punch_every_other_page(fs, ino, pages // 2)
    fs.sync()
    before, free = fs._reserve, fs._space.free_length
    fs._space._cursor = PAGE
    monkeypatch.setattr(core, "MAX_EXTENTS", 1)
    assert not fs._has_room(SIZE)
    assert fs._reserve.length >= before.length
    assert fs._space.free_length + fs._reserve.length * 2 == free + before.length * 2
    walk(fs)
    fs.close()
    check_medium(fs.device)


@pytest.mark.parametrize("kind", list(MediumKind))
def test_a_checkpoint_goes_where_the_medium_takes_it_r21_r43(kind: MediumKind) -> None:
    """A page of its place has gone bad, and `tidy` had no time to look at it."""
    fs = open_new(commits_each=False, kind=kind)
    place = next(fs._reserve.extents())
    fs.device.inject(Extent(place.offset, SECTOR))  # type: ignore[attr-defined]
    ino = fs.make(fs.root, b"new", FILE, 0, 0)
    fs.checkpoint()
    assert not fs.is_read_only
    fs.close()
    again = FileSystem(fs.device, commits_each=False)
    assert again.lookup(again.root, b"new") == ino
    assert not again.notices
    again.close()


def test_a_close_whose_checkpoint_fails_is_none_that_failed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The journal has all that was done; whoever opens it next finds that."""
    fs = open_new(commits_each=False)
    device = fs.device
    ino = fs.make(fs.root, b"kept", FILE, 0, 0)
    fs.write(ino, 0, b"k" * PAGE)

    def fail(*_: object) -> int:
        raise MediaError("ram", 0, PAGE)

    with monkeypatch.context() as patch:
        patch.setattr(core, "write_checkpoint", fail)
        fs.close()
    again = FileSystem(device, commits_each=False)
    assert again.notices == []
    assert again.read(again.lookup(again.root, b"kept"), 0, PAGE) == b"k" * PAGE
    again.close()
    check_medium(device)
