"""The bytes of files without errors: holes, allocation, sizes, and what happens without space."""

import errno
import os
import random
import stat
from collections.abc import Callable

import pytest

from daxmend.extent import Extent
from daxmend.fs import FileSystem
from daxmend.fs.inode import MAX_SIZE
from daxmend.pmem.device import PmemDevice
from daxmend.units import KIB, MIB, PAGE
from fswalk import content, walk

MakeFile = Callable[..., int]
NOISE = random.Random(9).randbytes(64 * KIB)


def fails(
    number: int, operation: Callable[..., object], *arguments: object, **named: object
) -> None:
    with pytest.raises(OSError) as caught:
        operation(*arguments, **named)
    assert caught.value.errno == number, os.strerror(number)


def shape(fs: FileSystem, ino: int) -> list[tuple[int, int, bool]]:
    """Page, pages and whether written, merged."""
    found: list[tuple[int, int, bool]] = []
    for mapping in fs.extents(ino):
        row = (mapping.offset // PAGE, mapping.length // PAGE, mapping.is_written)
        if found and (found[-1][0] + found[-1][1], found[-1][2]) == (row[0], row[2]):
            row = (found[-1][0], found[-1][1] + row[1], row[2])
            found.pop()
        found.append(row)
    return found


def test_what_is_written_is_read_at_any_offset(fs: FileSystem, make_file: MakeFile) -> None:
    ino = make_file()
    model = bytearray()
    rng = random.Random(3)
    for _ in range(60):
        offset, length = rng.randrange(40_000), rng.randrange(1, 9000)
        model += bytes(max(offset + length - len(model), 0))
        model[offset : offset + length] = NOISE[:length]
        assert fs.write(ino, offset, NOISE[:length]) == length
        at = rng.randrange(45_000)
        assert fs.read(ino, at, 5000) == model[at : at + 5000]
    assert content(fs, ino) == model
    assert fs.stat(ino).size == len(model)


def test_any_buffer_can_be_written_and_none_changes_nothing(
    fs: FileSystem, make_file: MakeFile
) -> None:
    ino = make_file()
    assert fs.write(ino, 0, memoryview(bytearray(b"abcdefgh")).cast("I")) == 8
    assert fs.write(ino, 100, b"") == 0
    assert content(fs, ino) == b"abcdefgh"


def test_reading_ends_with_the_file(fs: FileSystem, make_file: MakeFile) -> None:
    ino = make_file(b"12345")
    assert fs.read(ino, 3, 100) == b"45"
    assert fs.read(ino, 5, 100) == b""
    assert fs.read(ino, 1 << 60, 100) == b""
    fails(errno.EISDIR, fs.read, fs.root, 0, 1)
    fails(errno.EISDIR, fs.write, fs.root, 0, b"x")
    fails(errno.EISDIR, fs.truncate, fs.root, 0)


def test_a_view_is_the_bytes_themselves_if_they_are_in_one_piece(
    fs: FileSystem, make_file: MakeFile
) -> None:
    ino = make_file(NOISE[:10_000])
    fs.read(ino, 0, 1)
    assert fs.view(ino, 100, 10_000) is None  # not whole: `read` knows where the file ends
    view = fs.view(ino, 100, 9_900)
    assert view is not None
    assert bytes(view) == NOISE[100:10_000]
    view.release()
    fs.truncate(ino, 3 * PAGE)
    fs.punch(ino, 0, PAGE)
    assert fs.view(ino, 0, 100) is None


# -- holes -------------------------------------------------------------------------------------


def test_a_hole_reads_as_zeros_and_takes_no_space(fs: FileSystem, make_file: MakeFile) -> None:
    ino = make_file()
    fs.write(ino, 5 * PAGE + 10, b"x")
    assert fs.stat(ino).size == 5 * PAGE + 11
    assert fs.stat(ino).blocks == 8
    assert content(fs, ino) == bytes(5 * PAGE + 10) + b"x"
    assert shape(fs, ino) == [(5, 1, True)]


def test_a_page_that_was_somebody_elses_shows_nothing_of_it(
    fs: FileSystem, make_file: MakeFile
) -> None:
    old = make_file(b"secret" * 40_000, b"old")
    places = [mapping.device_offset for mapping in fs.extents(old)]
    fs.unlink(fs.root, b"old")
    fs.sync()
    ino = make_file()
    for page in range(60):
        fs.write(ino, page * PAGE + 2000, b"new")
    fs.fallocate(ino, MIB, 20 * PAGE)
    assert any(mapping.device_offset in places for mapping in fs.extents(ino))
    assert b"secret" not in content(fs, ino)


def test_seek_finds_data_and_holes(fs: FileSystem, make_file: MakeFile) -> None:
    ino = make_file()
    fs.write(ino, 2 * PAGE + 5, b"x")
    fs.fallocate(ino, 4 * PAGE, PAGE)
    fs.write(ino, 6 * PAGE, b"yy")
    data, hole = os.SEEK_DATA, os.SEEK_HOLE
    assert fs.seek(ino, 0, data) == 2 * PAGE
    assert fs.seek(ino, 2 * PAGE + 1, data) == 2 * PAGE + 1
    assert fs.seek(ino, 3 * PAGE, data) == 6 * PAGE, "unwritten is a hole"
    assert fs.seek(ino, 0, hole) == 0
    assert fs.seek(ino, 2 * PAGE, hole) == 3 * PAGE
    assert fs.seek(ino, 6 * PAGE, hole) == 6 * PAGE + 2, "the end is one"
    fails(errno.ENXIO, fs.seek, ino, 6 * PAGE + 2, data)
    fails(errno.ENXIO, fs.seek, ino, 6 * PAGE + 2, hole)
    fails(errno.ENXIO, fs.seek, ino, -1, hole)
    fails(errno.EINVAL, fs.seek, ino, 0, os.SEEK_SET)
    fs.truncate(ino, 9 * PAGE)
    fails(errno.ENXIO, fs.seek, ino, 7 * PAGE, data)


# -- sizes -------------------------------------------------------------------------------------


def test_truncation_frees_pages_and_growth_shows_zeros(fs: FileSystem, make_file: MakeFile) -> None:
    ino = make_file(NOISE[: 5 * PAGE])
    fs.truncate(ino, PAGE + 100)
    assert fs.stat(ino).blocks == 16
    assert content(fs, ino) == NOISE[: PAGE + 100]
    fs.truncate(ino, 4 * PAGE)
    assert content(fs, ino) == NOISE[: PAGE + 100] + bytes(3 * PAGE - 100)


@pytest.mark.parametrize("how", ["truncate", "write", "fallocate", "zero_range"])
def test_bytes_behind_the_end_never_come_back(
    fs: FileSystem, make_file: MakeFile, how: str
) -> None:
    ino = make_file(NOISE[: 2 * PAGE])
    fs.truncate(ino, 100)
    if how == "truncate":
        fs.truncate(ino, PAGE)
    elif how == "write":
        fs.write(ino, PAGE - 10, bytes(10))
    elif how == "fallocate":
        fs.fallocate(ino, 0, PAGE)
    else:
        fs.zero_range(ino, 200, PAGE - 200)
    assert content(fs, ino) == NOISE[:100] + bytes(PAGE - 100)


def test_the_largest_file_ends_where_offsets_do(fs: FileSystem, make_file: MakeFile) -> None:
    ino = make_file()
    fs.truncate(ino, MAX_SIZE)
    fails(errno.EFBIG, fs.truncate, ino, MAX_SIZE + 1)
    assert fs.write(ino, MAX_SIZE - 3, b"12345") == 3
    fails(errno.EFBIG, fs.write, ino, MAX_SIZE, b"x")
    fails(errno.EFBIG, fs.fallocate, ino, MAX_SIZE - 1, 2)
    assert fs.read(ino, MAX_SIZE - 5, 100) == b"\0\x00123"
    assert fs.seek(ino, 0, os.SEEK_DATA) == MAX_SIZE - PAGE
    fails(errno.ENOSPC, fs.fallocate, ino, 0, MAX_SIZE)


# -- fallocate ---------------------------------------------------------------------------------


def test_fallocate_fills_holes_and_changes_nothing_that_is_written(
    fs: FileSystem, make_file: MakeFile
) -> None:
    ino = make_file()
    fs.write(ino, 2 * PAGE, NOISE[:PAGE])
    fs.fallocate(ino, 100, 5 * PAGE)
    assert shape(fs, ino) == [(0, 2, False), (2, 1, True), (3, 3, False)]
    assert content(fs, ino) == bytes(2 * PAGE) + NOISE[:PAGE] + bytes(2 * PAGE + 100)


def test_fallocate_can_keep_the_size(fs: FileSystem, make_file: MakeFile) -> None:
    ino = make_file(b"x")
    fs.fallocate(ino, 0, 5 * PAGE, keep_size=True)
    assert fs.stat(ino).size == 1
    assert fs.stat(ino).blocks == 40
    fs.truncate(ino, 1)
    assert fs.stat(ino).blocks == 8, "as in Linux: truncation frees what is behind the end"


@pytest.mark.parametrize("name", ["fallocate", "punch", "zero_range", "zeroinit"])
def test_ranges_that_cannot_be_are_refused(fs: FileSystem, make_file: MakeFile, name: str) -> None:
    ino = make_file(b"x")
    operation = getattr(fs, name)
    fails(errno.EINVAL, operation, ino, 0, 0)
    fails(errno.EINVAL, operation, ino, -1, 5)
    fails(errno.EINVAL, operation, ino, 0, -1)
    fails(errno.EISDIR, operation, fs.root, 0, 1)


def test_a_partial_write_makes_an_unwritten_page_written_and_zero_around(
    fs: FileSystem, make_file: MakeFile
) -> None:
    ino = make_file()
    fs.fallocate(ino, 0, 5 * PAGE)
    places = [mapping.device_offset for mapping in fs.extents(ino)]
    assert fs.write(ino, PAGE + 1000, b"z" * PAGE) == PAGE
    assert shape(fs, ino) == [(0, 1, False), (1, 2, True), (3, 2, False)]
    assert content(fs, ino) == bytes(PAGE + 1000) + b"z" * PAGE + bytes(3 * PAGE - 1000)
    assert next(fs.extents(ino)).device_offset == places[0]


@pytest.mark.parametrize(
    ("offset", "length"),
    [
        (PAGE, 2 * PAGE),
        (PAGE - 96, 200),
        (100, 200),
        (PAGE + 100, 3 * PAGE),
        (0, 5 * PAGE),
        (PAGE - 1, 2),
        (3 * PAGE + 5, 100 * PAGE),
        (9 * PAGE, PAGE),
    ],
)
@pytest.mark.parametrize("name", ["punch", "zero_range", "zeroinit"])
def test_exactly_the_range_becomes_zero(
    fs: FileSystem, make_file: MakeFile, name: str, offset: int, length: int
) -> None:
    size = 5 * PAGE - 50
    ino = make_file(NOISE[:size])
    keep = {"keep_size": True} if name == "zero_range" else {}
    getattr(fs, name)(ino, offset, length, **keep)
    model = bytearray(NOISE[:size])
    end = min(offset + length, size)
    model[offset:end] = bytes(max(end - offset, 0))
    assert content(fs, ino) == model
    whole = len(range(-(-offset // PAGE), min((offset + length) // PAGE, 5)))
    if name == "punch":
        assert fs.stat(ino).blocks == (5 - whole) * 8
    elif name == "zeroinit":
        assert shape(fs, ino) == [(0, 5, True)], "R29: in place"


def test_zeroinit_leaves_holes_and_unwritten_parts_r29(fs: FileSystem, make_file: MakeFile) -> None:
    ino = make_file(NOISE[:PAGE])
    fs.truncate(ino, 8 * PAGE)
    fs.fallocate(ino, 2 * PAGE, PAGE)
    before = shape(fs, ino)
    fs.zeroinit(ino, 0, 8 * PAGE)
    assert shape(fs, ino) == before == [(0, 1, True), (2, 1, False)]
    assert content(fs, ino) == bytes(8 * PAGE)


def test_zero_range_allocates_holes(fs: FileSystem, make_file: MakeFile) -> None:
    """R29: as its documentation says; zeroinit does not."""
    ino = make_file(NOISE[:PAGE])
    fs.zero_range(ino, 10, 3 * PAGE)
    assert fs.stat(ino).size == 3 * PAGE + 10
    assert content(fs, ino) == NOISE[:10] + bytes(3 * PAGE)
    assert sum(pages for _, pages, _ in shape(fs, ino)) == 4


def test_device_extents_are_the_written_parts_of_a_range(
    fs: FileSystem, make_file: MakeFile
) -> None:
    ino = make_file(NOISE[: 3 * PAGE])
    fs.punch(ino, PAGE, PAGE)
    found = fs.device_extents(ino, Extent(100, 2 * PAGE + 50))
    assert [(offset, extent.length) for offset, extent in found] == [
        (100, PAGE - 100),
        (2 * PAGE, 150),
    ]
    assert fs.device_extents(ino, Extent(100, 0)) == []


# -- without space -----------------------------------------------------------------------------


def fill(fs: FileSystem, ino: int) -> int:
    """Write until nothing fits; returns the size."""
    at = fs.stat(ino).size
    while True:
        try:
            at += fs.write(ino, at, NOISE[: 16 * KIB])
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            return at


@pytest.fixture
def full(fs: FileSystem, make_file: MakeFile) -> int:
    """A file that has taken all space there is; beside it a small one."""
    make_file(b"small", b"small")
    ino = make_file(name=b"full")
    fill(fs, ino)
    return ino


def test_a_write_without_space_writes_what_fits_and_then_nothing(fs: FileSystem, full: int) -> None:
    """R17 for space."""
    size = fs.stat(full).size
    assert size > 300 * KIB
    data = content(fs, full)
    assert all(data[at : at + 100] == NOISE[at % (16 * KIB) :][:100] for at in range(0, size, PAGE))
    fails(errno.ENOSPC, fs.write, full, size + PAGE, b"x")
    fails(errno.ENOSPC, fs.fallocate, full, size, 50 * PAGE)
    assert fs.stat(full).size == size
    assert content(fs, full) == data
    walk(fs)


def test_a_full_file_system_can_be_overwritten_and_synced(fs: FileSystem, full: int) -> None:
    assert fs.write(full, 0, b"again" * 1000) == 5000
    fs.sync()
    assert fs.read(full, 0, 5000) == b"again" * 1000


@pytest.mark.parametrize("commits_each", [False, True])
def test_a_full_file_system_can_be_emptied_and_used_again(
    device: PmemDevice, fs: FileSystem, full: int, commits_each: bool
) -> None:
    fs.close()
    for how in ("unlink", "truncate", "punch"):
        again = FileSystem(device, commits_each=commits_each)
        assert not again.is_read_only
        if how == "unlink":
            again.unlink(again.root, b"full")
            full = again.make(again.root, b"full", stat.S_IFREG | 0o644, 0, 0)
        elif how == "truncate":
            again.truncate(full, 0)
        else:
            again.punch(full, 0, 2 * MIB)
            again.truncate(full, 0)
        assert again.write(full, 0, NOISE) == len(NOISE), how
        fill(again, full)
        assert content(again, again.lookup(again.root, b"small")) == b"small"
        walk(again)
        again.close()


def make_names(fs: FileSystem) -> int:
    """Make empty files with long names until there is no space; returns how many."""
    for made in range(100_000):
        try:
            fs.make(fs.root, b"%06d" % made + b"n" * 200, stat.S_IFREG | 0o644, 0, 0)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            return made
        if made % 100 == 0:
            fs.sync()
    raise AssertionError("it never fills")


def test_names_fill_a_file_system_without_damage_and_go_away_again(
    device: PmemDevice, fs: FileSystem
) -> None:
    made = make_names(fs)
    assert made > 300
    fs.sync()
    walk(fs)
    fs.close()
    again = FileSystem(device, commits_each=False)
    assert again.notices == []
    assert len(again.names(again.root)) == made
    for name, _, _ in again.names(again.root):
        again.unlink(again.root, name)
    again.sync()
    ino = again.make(again.root, b"room", stat.S_IFREG | 0o644, 0, 0)
    assert again.write(ino, 0, NOISE) == len(NOISE)
    walk(again)
    again.close()


def test_a_rename_over_a_file_without_space_loses_neither(
    fs: FileSystem, make_file: MakeFile, full: int
) -> None:
    for number in range(2000):
        try:
            fs.setxattr(fs.root, b"user.%d" % number, b"x" * 100)
        except OSError:
            break
    else:
        pytest.fail("it never fills")
    before = {name: ino for name, ino, _ in fs.names(fs.root)}
    try:
        fs.rename(fs.root, b"small", fs.root, b"full")
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        assert {name: ino for name, ino, _ in fs.names(fs.root)} == before
    walk(fs)


def test_freed_space_counts_at_once_and_is_written_after_a_commit(
    fs: FileSystem, full: int, make_file: MakeFile
) -> None:
    fs.sync()
    free = fs.statfs().bavail
    size = fs.stat(full).size
    fs.truncate(full, 0)
    assert fs.statfs().bavail == free + size // PAGE
    ino = make_file()
    assert fs.write(ino, 0, NOISE) == len(NOISE)


def test_a_scattered_file_system_still_finds_room_for_checkpoints(
    fs: FileSystem, full: int
) -> None:
    for page in range(0, fs.stat(full).size // PAGE, 2):
        fs.punch(full, page * PAGE, PAGE)
    fs.sync()
    fs.checkpoint()
    walk(fs)
    assert make_names(fs) > 50
    fs.checkpoint()
