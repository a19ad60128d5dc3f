"""The pool file: header, lock and owner (format.md §1, §2)."""

import errno
import itertools
import mmap
import os
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from xxhash import xxh3_64_intdigest

from daxmend.errors import BusyError, CorruptionError, DaxmendError, UnsupportedError, UsageError
from daxmend.media.backing import Durability
from daxmend.media.pool import (
    POOL_VERSION,
    Content,
    Layout,
    MediumKind,
    Pool,
    create_memory_pool,
    create_pool,
    is_pool,
    open_pool,
    pack_header,
    read_owner,
    unpack_header,
)
from daxmend.units import GIB, KIB, MIB, PAGE, SECTOR, TIB

COPIES = (0, 4 * KIB)
Opener = Callable[..., Pool]


@pytest.fixture
def opened(pool_path: Path) -> Iterator[Opener]:
    """Opens `pool_path`, and closes what was opened."""
    pools: list[Pool] = []

    def open_it(**options: bool) -> Pool:
        pools.append(open_pool(pool_path, **options))
        return pools[-1]

    yield open_it
    for pool in pools:
        pool.close()


def patch_header(path: Path, at: int, data: bytes, copies: tuple[int, ...] = COPIES) -> None:
    """Change header bytes and make the checksum match, as another program would write it."""
    with open(path, "r+b") as file:
        for offset in copies:
            file.seek(offset)
            raw = bytearray(file.read(4 * KIB))
            raw[at : at + len(data)] = data
            (length,) = struct.unpack_from("<I", raw, 12)
            struct.pack_into("<Q", raw, length - 8, xxh3_64_intdigest(raw[: length - 8]))
            file.seek(offset)
            file.write(raw)


# -- layout and header -------------------------------------------------------------------------


@pytest.mark.parametrize("size", [PAGE, MIB, GIB, 3 * GIB + PAGE, 16 * TIB])
def test_areas_do_not_overlap_and_hold_two_worst_snapshots(size: int) -> None:
    layout = Layout.of_size(size)
    areas = [*layout.poison, *layout.record, layout.data]
    assert areas[0].offset >= 12 * KIB
    for one, other in itertools.pairwise(areas):
        assert one.end <= other.offset
    assert layout.data.offset % (2 * MIB) == 0
    assert layout.data.length == size
    assert layout.poison[0].length >= 2 * (size // 64 // 8)
    assert layout.record[0].length >= 2 * 2 * (size // SECTOR // 8), "recorded and lost"


@pytest.mark.parametrize("durability", Durability)
@pytest.mark.parametrize("medium", MediumKind)
def test_a_header_says_what_it_was_told(
    shm: Path, durability: Durability, medium: MediumKind
) -> None:
    path = shm / "p"
    header = create_pool(path, MIB, durability=durability, medium=medium)
    assert header.durability is durability
    assert header.medium is medium
    assert header.content is Content.RAW
    assert len(header.uuid) == 16
    assert unpack_header(pack_header(header), "p", 0) == header
    with open(path, "rb") as file:
        assert unpack_header(file.read(4 * KIB), "p", 0) == header
    pool = open_pool(path)
    assert pool.header == header
    assert pool.repairs == []
    pool.close()


def test_every_pool_has_its_own_uuid(shm: Path) -> None:
    headers = [create_pool(shm / name, PAGE, durability=Durability.PROCESS) for name in "ab"]
    assert headers[0].uuid != headers[1].uuid


def test_a_new_pool_is_sparse(pool_path: Path) -> None:
    status = os.stat(pool_path)
    assert status.st_size > 20 * MIB
    assert status.st_blocks * 512 < 128 * KIB


@pytest.mark.parametrize("size", [0, -PAGE, 1, PAGE + 1, 1 << 63])
def test_an_impossible_size_is_refused_and_leaves_nothing(shm: Path, size: int) -> None:
    with pytest.raises(UsageError, match="pool"):
        create_pool(shm / "p", size, durability=Durability.PROCESS)
    with pytest.raises(UsageError, match="pool"):
        create_memory_pool(size)
    assert list(shm.iterdir()) == []


def test_nothing_is_overwritten_by_a_create(pool_path: Path) -> None:
    before = pool_path.read_bytes()
    with pytest.raises(UsageError, match="exists"):
        create_pool(pool_path, MIB, durability=Durability.PROCESS)
    assert pool_path.read_bytes() == before


def test_a_create_that_fails_leaves_nothing(shm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", _fail)
    with pytest.raises(OSError, match="planted"):
        create_pool(shm / "p", MIB, durability=Durability.PROCESS)
    assert list(shm.iterdir()) == []


def _fail(fd: int) -> None:
    raise OSError("planted")


# -- what is no pool, or not ours --------------------------------------------------------------


@pytest.mark.parametrize("bad", COPIES)
def test_a_bad_block_where_a_header_would_be_says_nothing_of_the_file(
    pool_path: Path, shm: Path, bad: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    ordinary = shm / "ordinary"
    ordinary.write_bytes(bytes(16 * KIB))
    read = os.pread

    def failing(fd: int, length: int, offset: int) -> bytes:
        if offset == bad:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return read(fd, length, offset)

    monkeypatch.setattr(os, "pread", failing)
    assert is_pool(pool_path)
    assert not is_pool(ordinary)


@pytest.mark.parametrize("content", [b"", b"x", b"not a pool" * 1000])
def test_what_is_no_pool_is_said_to_be_none_and_how_to_make_one(shm: Path, content: bytes) -> None:
    path = shm / "file"
    path.write_bytes(content)
    assert not is_pool(path)
    with pytest.raises(UsageError, match=r"is not a daxmend pool.*daxmend create"):
        open_pool(path)
    assert path.read_bytes() == content


@pytest.mark.parametrize("version", [0, 1, 77])
def test_another_version_is_refused_by_name(pool_path: Path, version: int) -> None:
    patch_header(pool_path, 8, struct.pack("<I", version))
    before = pool_path.read_bytes()
    with pytest.raises(UnsupportedError, match=f"version {version}.*knows version {POOL_VERSION}"):
        open_pool(pool_path)
    assert pool_path.read_bytes() == before


def test_another_version_with_a_damaged_copy_is_refused_by_name_too(pool_path: Path) -> None:
    patch_header(pool_path, 8, struct.pack("<I", 77))
    with open(pool_path, "r+b") as file:
        file.seek(20)
        file.write(b"\xff")
    with pytest.raises(UnsupportedError, match="version 77"):
        open_pool(pool_path)


def test_another_version_may_have_a_longer_header(pool_path: Path) -> None:
    patch_header(pool_path, 8, struct.pack("<II", 77, 512))
    with pytest.raises(UnsupportedError, match="version 77"):
        open_pool(pool_path)


@pytest.mark.parametrize(("at", "what"), [(40, "content"), (44, "medium"), (48, "medium")])
def test_content_medium_or_durability_of_the_future_is_refused(
    pool_path: Path, at: int, what: str
) -> None:
    patch_header(pool_path, at, struct.pack("<I", 99))
    with pytest.raises(UnsupportedError, match=what):
        open_pool(pool_path)


def test_a_layout_that_contradicts_itself_is_corruption(pool_path: Path) -> None:
    patch_header(pool_path, 96, struct.pack("<Q", 64 * KIB))
    with pytest.raises(CorruptionError, match="layout"):
        open_pool(pool_path)


@pytest.mark.parametrize("keep", [4 * KIB, 64 * KIB, 10 * MIB])
def test_a_file_that_was_cut_short_is_corruption_that_says_so(pool_path: Path, keep: int) -> None:
    os.truncate(pool_path, keep)
    with pytest.raises(CorruptionError, match="cut short"):
        open_pool(pool_path)
    assert os.stat(pool_path).st_size == keep


def test_a_directory_and_a_missing_file_are_plain_os_errors(shm: Path) -> None:
    with pytest.raises(IsADirectoryError):
        open_pool(shm)
    with pytest.raises(FileNotFoundError):
        open_pool(shm / "missing")


def test_a_failed_open_keeps_no_lock(pool_path: Path) -> None:
    patch_header(pool_path, 8, struct.pack("<I", 77))
    with pytest.raises(UnsupportedError):
        open_pool(pool_path)
    patch_header(pool_path, 8, struct.pack("<I", POOL_VERSION))
    open_pool(pool_path).close()


# -- who has it --------------------------------------------------------------------------------


def test_a_pool_in_use_is_refused_with_the_owners_pid(pool_path: Path, opened: Opener) -> None:
    opened()
    with pytest.raises(BusyError, match=f"in use by process {os.getpid()}"):
        open_pool(pool_path)
    with pytest.raises(BusyError):
        open_pool(pool_path, writable=False)
    assert read_owner(pool_path) == (os.getpid(), "")


def test_a_mounted_pool_names_the_directory_to_use(pool_path: Path, opened: Opener) -> None:
    opened().set_owner("/mnt/größe")
    assert read_owner(pool_path) == (os.getpid(), "/mnt/größe")
    with pytest.raises(BusyError, match="mounted at /mnt/größe; use that directory"):
        open_pool(pool_path)


def test_a_closed_pool_has_no_owner_even_while_somebody_holds_its_memory(
    pool_path: Path, opened: Opener
) -> None:
    pool = opened()
    view = memoryview(pool.backing.memory)
    pool.close()
    assert read_owner(pool_path) is None
    opened()
    view.release()


def test_the_owner_before_is_not_blamed_for_a_reader(pool_path: Path, opened: Opener) -> None:
    opened().close()
    reader = opened(writable=False)
    opened(writable=False)  # readers share
    with pytest.raises(BusyError, match="process that reads it"):
        open_pool(pool_path)
    assert read_owner(pool_path) is None
    assert not reader.is_writable


def test_a_killed_owner_leaves_the_pool_free(pool_path: Path) -> None:
    program = f"""
import os, signal
from pathlib import Path
from daxmend.media.pool import open_pool
pool = open_pool(Path({str(pool_path)!r}))
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", program], check=False)
    assert done.returncode == -9
    assert read_owner(pool_path) is None
    open_pool(pool_path).close()


def test_closing_twice_is_closing_once(opened: Opener, pool_path: Path) -> None:
    pool = opened()
    pool.close()
    other = opened()
    pool.close()
    with pytest.raises(BusyError):
        open_pool(pool_path)
    other.close()


def test_an_open_that_fails_late_gives_everything_back(
    pool_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise DaxmendError("planted")

    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(DaxmendError, match="planted"):
        open_pool(pool_path, make_backing=refuse)  # type: ignore[arg-type]
    assert len(os.listdir("/proc/self/fd")) == before
    open_pool(pool_path).close()


def test_a_reader_changes_no_byte_not_even_a_damaged_header(pool_path: Path) -> None:
    with open(pool_path, "r+b") as file:
        file.write(b"x")
    before = pool_path.read_bytes()
    pool = open_pool(pool_path, writable=False)
    assert [repair.copy for repair in pool.repairs] == [0]
    pool.close()
    assert pool_path.read_bytes() == before


@pytest.mark.parametrize("copy", [0, 1])
@pytest.mark.parametrize(("at", "what"), [(8, "version 99"), (40, "content 99")])
def test_a_copy_of_a_newer_daxmend_beside_one_of_ours_is_refused_and_not_overwritten(
    pool_path: Path, copy: int, at: int, what: str
) -> None:
    """An upgrade that a stop interrupted: the other copy is the better one."""
    patch_header(pool_path, at, struct.pack("<I", 99), (COPIES[copy],))
    before = pool_path.read_bytes()
    with pytest.raises(UnsupportedError, match=what):
        open_pool(pool_path)
    assert pool_path.read_bytes() == before


@pytest.mark.parametrize("clear_unit", [0, 63, 96, 8192])
def test_a_clear_unit_that_cannot_be_is_corruption(pool_path: Path, clear_unit: int) -> None:
    patch_header(pool_path, 52, struct.pack("<I", clear_unit))
    with pytest.raises(CorruptionError, match="clear_unit"):
        open_pool(pool_path)


@pytest.mark.parametrize("fails_at", [0, 1])
def test_a_pool_that_cannot_be_mapped_leaves_no_descriptor(
    shm: Path, monkeypatch: pytest.MonkeyPatch, fails_at: int
) -> None:
    maps = itertools.count()
    real = mmap.mmap

    def map_or_fail(*args: int) -> mmap.mmap:
        if next(maps) % 2 == fails_at:
            raise OSError(errno.ENOMEM, "planted")
        return real(*args)

    before = len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(mmap, "mmap", map_or_fail)
    with pytest.raises(OSError, match="planted"):
        create_memory_pool(MIB)
    if fails_at == 0:
        maps = itertools.count()
        with pytest.raises(OSError, match="planted"):
            create_pool(shm / "p", MIB, durability=Durability.PROCESS)
    assert len(os.listdir("/proc/self/fd")) == before
    assert list(shm.iterdir()) == []
