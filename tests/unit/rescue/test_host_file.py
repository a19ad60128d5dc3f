"""A file of the running system as a subject: reading around what is bad by halving."""

import errno
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from daxmend.errors import ChangedError, UnknownStateError, UsageError
from daxmend.extent import Extent
from daxmend.host import zeroing
from daxmend.host.zeroing import ZeroVerb
from daxmend.rescue.hostfile import HostFile
from daxmend.rescue.reader import Reader
from daxmend.rescue.subject import CHUNK
from daxmend.rescue.subjectopening import open_subject
from daxmend.units import MIB, PAGE

DATA = random.Random(1).randbytes(9 * MIB + 700)
SECTORS = len(DATA) // 512


class Medium:
    """`os.preadv` over a file with bad sectors; counts requests."""

    def __init__(self, bad: set[int], *, gives_prefix: bool, number: int = errno.EIO) -> None:
        self.bad = sorted(bad)
        self.gives_prefix = gives_prefix
        self.number = number
        self.requests = 0
        self.cached: set[int] = set()  # pages
        self._preadv: Callable[..., int] = os.preadv

    def preadv(self, fd: int, buffers: list[Any], offset: int, flags: int = 0) -> int:
        if flags:
            assert flags == os.RWF_NOWAIT
            if offset // PAGE not in self.cached:
                raise BlockingIOError
            return self._preadv(fd, buffers, offset)
        self.requests += 1
        (buffer,) = buffers
        end = offset + len(buffer)
        hit = next((s * 512 for s in self.bad if (s + 1) * 512 > offset and s * 512 < end), None)
        if hit is None:
            return self._preadv(fd, buffers, offset)
        if hit <= offset or not self.gives_prefix:
            raise OSError(self.number, os.strerror(self.number))
        return self._preadv(fd, [buffer[: hit - offset]], offset)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("host") / "file"
    path.write_bytes(DATA)
    return path


def salvage_all(path: Path, medium: Medium) -> tuple[bytes, list[Extent], int]:
    file = HostFile(path, "file")
    try:
        grain = file.grain
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "preadv", medium.preadv)
            saved = file.salvage(Extent(0, file.size))
        return bytes(saved.data), saved.lost, grain
    finally:
        file.close()


def test_what_the_page_cache_has_of_lost_pages_is_saved_from_there(path: Path) -> None:
    """R12; and it is told."""
    medium = Medium({17, 18, 40}, gives_prefix=False)
    medium.cached = {18 * 512 // PAGE}
    data, lost, grain = salvage_all(path, medium)
    assert grain < PAGE, "O_DIRECT by sectors"
    assert lost == [Extent(40 * 512, 512)]
    assert data[: 40 * 512] == DATA[: 40 * 512]
    file = HostFile(path, "file")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "preadv", medium.preadv)
        extent = Extent(0, 40 * 512)
        assert [got is None for _, got in file.pieces(extent)].count(True) == 0
        assert list(file.unreadable(extent)) == [Extent(17 * 512, 512), Extent(18 * 512, 512)]
    assert len(file.notices) == 1
    assert "the page cache still has" in file.notices[0]
    file.close()


def expected_lost(bad: set[int], grain: int) -> set[int]:
    """The bytes, in units of 64, that are lost at this grain."""
    units = {s * 512 // grain for s in bad}
    return {at for u in units for at in range(u * grain, min((u + 1) * grain, len(DATA)), 4)}


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    bad=st.sets(st.integers(0, SECTORS), max_size=12),
    gives_prefix=st.booleans(),
)
def test_exactly_the_bad_units_are_lost_and_all_else_is_saved(
    path: Path, bad: set[int], gives_prefix: bool
) -> None:
    data, lost, grain = salvage_all(path, Medium(bad, gives_prefix=gives_prefix))
    told = {at for run in lost for at in range(run.offset, run.end, 4)}
    assert told == expected_lost(bad, grain)
    rest = bytearray(DATA)
    for run in lost:
        rest[run.offset : run.end] = bytes(run.length)
    assert data == rest


@pytest.mark.parametrize("gives_prefix", [True, False])
def test_clean_stretches_take_large_requests_and_bad_ones_few(
    path: Path, gives_prefix: bool
) -> None:
    clean = Medium(set(), gives_prefix=gives_prefix)
    salvage_all(path, clean)
    assert clean.requests <= -(-len(DATA) // CHUNK)
    one = Medium({9000}, gives_prefix=gives_prefix)
    salvage_all(path, one)
    assert one.requests < 40  # not one for each of the 8192 sectors of its chunk


@pytest.mark.parametrize("number", [errno.EIO, errno.ENODATA, errno.EILSEQ, errno.EREMOTEIO])
def test_what_the_block_layer_calls_a_bad_medium_is_lost(path: Path, number: int) -> None:
    _, lost, grain = salvage_all(path, Medium({0}, gives_prefix=False, number=number))
    assert lost == [Extent(0, grain)]


def test_another_error_is_no_bad_block(path: Path) -> None:
    with pytest.raises(OSError, match="at offset 0") as caught:
        salvage_all(path, Medium({0}, gives_prefix=False, number=errno.ENXIO))
    assert caught.value.errno == errno.ENXIO


def test_a_last_page_that_fails_as_a_whole_is_unreadable_with_nothing_lost_r16(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests by sectors, past the cache, do not see what is bad behind the end of the file."""

    def fail(number: int) -> Callable[..., bytes]:
        def pread(fd: int, length: int, offset: int) -> bytes:
            assert (length, offset) == (700, 9 * MIB)
            raise OSError(number, os.strerror(number))

        return pread

    file = HostFile(path, "file")
    whole, tail = Extent(0, file.size), Extent(9 * MIB, 700)
    assert list(file.unreadable(whole)) == []
    monkeypatch.setattr(os, "pread", fail(errno.EIO))
    assert list(file.unreadable(whole)) == [tail]
    assert list(file.unreadable(tail)) == [tail]
    assert list(file.unreadable(Extent(0, 9 * MIB))) == []
    assert file.salvage(tail).lost == []
    monkeypatch.setattr(os, "pread", fail(errno.ENXIO))
    with pytest.raises(OSError, match="No such device"):
        list(file.unreadable(tail))
    file.close()


def test_any_range_is_cut_out_exactly(path: Path) -> None:
    file = HostFile(path, "file")
    for extent in (
        Extent(1, 1),
        Extent(511, 2),
        Extent(MIB - 3, CHUNK + 9),
        Extent(len(DATA) - 1, 1),
    ):
        assert file.salvage(extent).data == DATA[extent.offset : extent.end]
    file.close()


def test_a_change_of_the_file_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "file"

    def fresh() -> HostFile:
        path.write_bytes(DATA[: 4 * PAGE])
        return HostFile(path, "file")

    file = fresh()
    file.validate()
    os.truncate(path, 5 * PAGE)
    with pytest.raises(ChangedError, match="now has 20480"):
        file.validate()
    file.close()
    file = fresh()
    os.truncate(path, PAGE)
    with pytest.raises(ChangedError, match="shorter"):
        file.salvage(Extent(2 * PAGE, PAGE))
    file.close()
    file = fresh()
    path.rename(tmp_path / "old")
    with pytest.raises(ChangedError, match="removed"):
        file.validate()
    path.write_bytes(b"another")
    with pytest.raises(ChangedError, match="replaced"):
        file.validate()
    file.close()


def test_a_last_page_that_was_written_whole_is_cut_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 5000)
    os.truncate(path, 8192)
    file = HostFile(path, "file", writable=True)
    file.restore_size(5000)
    assert path.stat().st_size == 5000
    os.truncate(path, 8191)
    with pytest.raises(ChangedError, match="nothing of it is cut off"):
        file.restore_size(5000)
    file.close()


def test_pages_and_tail_are_written_and_holes_are_told(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with open(path, "wb") as opened:
        opened.truncate(2 * MIB + 100)
    file = HostFile(path, "file", writable=True)
    assert file.write(PAGE, b"a" * PAGE) == PAGE
    assert file.write(2 * MIB, b"b" * 100) == 100
    file.sync()
    assert path.stat().st_size == 2 * MIB + 100
    data = list(file.data())
    assert data[0].covers(Extent(PAGE, PAGE)) or data[0] == Extent(PAGE, PAGE)
    assert data[-1].end == 2 * MIB + 100
    assert file.zero(Extent(PAGE, PAGE)) in ("FALLOC_FL_WRITE_ZEROES", "writing zeros")
    assert not any(file.salvage(Extent(PAGE, PAGE)).data)
    file.close()


def test_what_is_no_file_is_refused(tmp_path: Path, pool_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    refused = [(tmp_path, "directory"), (tmp_path / "fifo", "no regular file")]
    refused += [(pool_path, "is a pool"), (Path(f"{pool_path}:/x"), "without a file system")]
    for name, word in refused:
        with pytest.raises(UsageError, match=word):
            open_subject(name)
    with pytest.raises(FileNotFoundError):
        open_subject(tmp_path / "nothing")


@pytest.mark.parametrize(("user", "asked"), [(0, [Extent(512, 1024)]), (1000, [])])
def test_blocks_below_are_zeroed_last_and_by_root_alone_r34(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, user: int, asked: list[Extent]
) -> None:
    """Every other way fails; a range of a file widens to the disk's sectors."""

    def fails(number: int) -> Callable[..., int]:
        def function(*_: object) -> int:
            raise OSError(number, os.strerror(number))

        return function

    done: list[Extent] = []
    monkeypatch.setattr(zeroing, "zeroinit", fails(errno.ENOTTY))
    monkeypatch.setattr(zeroing, "write_zeroes", fails(errno.EOPNOTSUPP))
    monkeypatch.setattr(zeroing, "zeroout_below", lambda _, extent: done.append(extent))
    monkeypatch.setattr(Reader, "write", fails(errno.EIO))
    monkeypatch.setattr(os, "geteuid", lambda: user)
    (tmp_path / "file").write_bytes(DATA[:PAGE])
    file = HostFile(tmp_path / "file", "file", writable=True)
    try:
        if asked:
            assert file.zero(Extent(600, 900)) == ZeroVerb.BLKZEROOUT
        else:
            with pytest.raises(OSError, match=os.strerror(errno.EIO)):
                file.zero(Extent(600, 900))
        assert done == asked
    finally:
        file.close()


def test_who_may_not_read_it_is_told_whom_to_ask_r44(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(path: object, flags: int) -> int:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    (tmp_path / "file").write_bytes(b"secret")
    monkeypatch.setattr(os, "open", refused)
    with pytest.raises(
        UnknownStateError, match=r"^file: cannot be read: .*; ask its owner, or root$"
    ):
        HostFile(tmp_path / "file", "file")
