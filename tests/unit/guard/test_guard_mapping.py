# ruff: noqa: PLW0108  # each line is one operation, also where a method would do
"""`guard.open`: used like `mmap.mmap`, raises where that dies."""

import mmap
import os
import pickle
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest
from guardmemory import PAGE, content, has_guard_regions, make_file, poisoned, run_program
from hypothesis import strategies as st

from daxmend import guard
from daxmend.errors import MediaError, TruncatedError, UsageError

PAGES = 64
needs_guard_regions = pytest.mark.skipif(
    not has_guard_regions(), reason="this kernel has no guard regions in file mappings (6.15)"
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return make_file(tmp_path / "data", PAGES)


@pytest.fixture
def mapping(path: Path) -> Iterator[guard.Mapping]:
    with guard.open(path) as mapped:
        yield mapped


def places() -> st.SearchStrategy[int | None]:
    return st.one_of(st.none(), st.integers(-300, 300))


@hypothesis.given(places(), places(), st.one_of(st.none(), st.sampled_from([-4097, -3, -1, 1, 7])))
@hypothesis.settings(
    max_examples=60, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)
def test_slices_are_those_of_bytes(
    tmp_path: Path, start: int | None, stop: int | None, step: int | None
) -> None:
    path = tmp_path / "slices"
    path.write_bytes(bytes(range(256)))
    with guard.open(path) as mapping:
        assert mapping[start:stop:step] == bytes(range(256))[start:stop:step]


def test_it_is_used_like_mmap(mapping: guard.Mapping, path: Path) -> None:
    data = content(PAGES)
    assert isinstance(mapping, mmap.mmap)
    assert (len(mapping), mapping.size(), mapping.tell()) == (len(data), len(data), 0)
    assert mapping[:] == bytes(mapping) == mapping.read() == data
    assert mapping.read() == b""
    assert (mapping[0], mapping[-PAGE], mapping[::PAGE]) == (1, PAGES, bytes(range(1, 65)))
    mapping.seek(PAGE - 3)
    assert mapping.read(6) == data[PAGE - 3 : PAGE + 3]
    assert mapping.read_byte() == data[PAGE + 3]
    mapping.seek(0)
    assert mapping.write(b"one\ntwo\n") == 8
    mapping.write_byte(65)
    mapping.seek(0)
    assert (mapping.readline(), mapping.readline()) == (b"one\n", b"two\n")
    mapping[100:104] = b"abcd"
    mapping[200:206:2] = b"xyz"
    mapping[-1] = 255
    mapping.move(102, 100, 4)
    mapping.flush()
    stored = path.read_bytes()
    assert stored[100:106] == b"ababcd"
    assert (stored[200], stored[202], stored[204], stored[-1]) == (120, 121, 122, 255)


@pytest.mark.parametrize(("dest", "src"), [(0, 3 << 20), (3 << 20, 0), (5000, 0), (0, 5000)])
def test_move_may_overlap(tmp_path: Path, dest: int, src: int) -> None:
    path = make_file(tmp_path / "data", 1500)
    expected = bytearray(content(1500))
    count = 2_900_000
    expected[dest : dest + count] = bytes(expected[src : src + count])
    with guard.open(path) as mapping:
        mapping.move(dest, src, count)
        assert mapping[:] == expected


def test_finding_is_that_of_bytes(tmp_path: Path) -> None:
    data = bytearray(3 << 20)
    for at in (0, (1 << 20) - 2, (2 << 20) - 1, (3 << 20) - 4):
        data[at : at + 4] = b"mark"
    (tmp_path / "data").write_bytes(data)
    with guard.open(tmp_path / "data") as mapping:
        plain = bytes(data)
        for wanted in (b"mark", b"k\0", b"", b"absent", bytes(10)):
            for start, end in ((0, None), (1, None), (1 << 20, 2 << 20), (-4, None), (5, 3)):
                assert mapping.find(wanted, start, end) == plain.find(wanted, start, end)
                assert mapping.rfind(wanted, start, end) == plain.rfind(wanted, start, end)


@needs_guard_regions
@pytest.mark.parametrize(
    "access",
    [
        lambda m: m[20 * PAGE],
        lambda m: m[:],
        lambda m: m[10 * PAGE : 30 * PAGE : 3],
        lambda m: m[20 * PAGE :: 2 * PAGE],
        lambda m: m.find(b"absent"),
        lambda m: m.rfind(b"absent"),
        lambda m: m.read(),
        lambda m: m.seek(11 * PAGE) or m.readline(),
        lambda m: m.seek(20 * PAGE) or m.read_byte(),
        lambda m: m.seek(20 * PAGE) or m.write(b"x"),
        lambda m: m.seek(20 * PAGE) or m.write_byte(1),
        lambda m: m.__setitem__(20 * PAGE, 1),
        lambda m: m.__setitem__(slice(19 * PAGE, 22 * PAGE), bytes(3 * PAGE)),
        lambda m: m.__setitem__(slice(20 * PAGE, 21 * PAGE, 2), bytes(PAGE // 2)),
        lambda m: m.move(0, 19 * PAGE, 3 * PAGE),
        lambda m: m.move(19 * PAGE, 0, 3 * PAGE),
        lambda m: list(m),
        lambda m: 7777 in m,
        lambda m: m.madvise(22),
    ],
)
def test_every_access_that_meets_the_page_raises(
    mapping: guard.Mapping, path: Path, access: Callable[[guard.Mapping], object]
) -> None:
    """madvise 22 is MADV_POPULATE_READ: a system call that says EFAULT."""
    with poisoned(mapping, 20):
        for _ in range(2):
            with pytest.raises(MediaError) as caught:
                access(mapping)
            error = caught.value
            assert (error.filename, error.offset, error.length) == (str(path), 20 * PAGE, PAGE)
            assert error.hint
        assert mapping[22 * PAGE :] == content(PAGES)[22 * PAGE :]


@needs_guard_regions
def test_what_ends_before_the_bad_page_does_not_raise(mapping: guard.Mapping) -> None:
    with poisoned(mapping, 20):
        assert mapping.find(b"\x05\0") == 4 * PAGE
        assert mapping.rfind(b"\x28\0") == 40 * PAGE - 8
        assert mapping.rfind(b"\x16\0") == 22 * PAGE - 8
        assert mapping.read(20 * PAGE) == content(20)


@needs_guard_regions
def test_a_store_has_stored_what_comes_before_the_bad_page(
    mapping: guard.Mapping, path: Path
) -> None:
    with poisoned(mapping, 20), pytest.raises(MediaError):
        mapping[18 * PAGE : 22 * PAGE] = b"n" * (4 * PAGE)
    assert path.read_bytes()[17 * PAGE : 20 * PAGE] == content(18)[17 * PAGE :] + b"n" * (2 * PAGE)


def test_a_file_that_shrank_says_so_and_grows_again(mapping: guard.Mapping, path: Path) -> None:
    os.truncate(path, 30 * PAGE + 5)
    assert mapping[30 * PAGE : 31 * PAGE] == content(31)[30 * PAGE :][:5] + bytes(PAGE - 5)
    with pytest.raises(TruncatedError) as caught:
        mapping[: 40 * PAGE]
    error = caught.value
    assert (error.offset, error.length) == (31 * PAGE, (PAGES - 31) * PAGE)
    assert (error.errno, error.code) == (14, "BUS_ADRERR")
    assert "was truncated to 122885 bytes" in str(error)
    os.truncate(path, PAGES * PAGE)
    assert mapping[40 * PAGE] == 0


def test_the_other_side_of_a_copy_is_named(mapping: guard.Mapping, tmp_path: Path) -> None:
    other = make_file(tmp_path / "other", 8)
    with other.open("rb") as file:
        memory = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    os.truncate(other, 4 * PAGE)
    with pytest.raises(TruncatedError) as caught:
        mapping[: 8 * PAGE] = memory
    assert (caught.value.filename, caught.value.offset) == (str(other), 4 * PAGE)


def test_an_error_can_be_sent_to_another_process(mapping: guard.Mapping, path: Path) -> None:
    os.truncate(path, PAGE)
    with pytest.raises(TruncatedError) as caught, guard.watch(mapping):
        bytes(mapping)
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.ranges) == (str(caught.value), caught.value.ranges)


def test_recovery_range_takes_a_fault_to_pages() -> None:
    """R26."""
    from daxmend.rescue.recovery_range import BusError, MappedRange

    where = MappedRange(1 << 30, 64 * PAGE, 8192)
    found = guard.recovery_range(BusError(4, (1 << 30) + 5000, 12, where))
    assert tuple(found) == (8192 + PAGE, PAGE)


# -- modes, and what cannot be mapped ---------------------------------------------------------


def test_read_only_refuses_to_write(path: Path) -> None:
    path.chmod(0o444)
    with guard.open(path, "r") as mapping:
        for store in (lambda: mapping.write(b"x"), lambda: mapping.move(0, 1, 2)):
            with pytest.raises(TypeError, match="read only"):
                store()
        with pytest.raises(TypeError, match="read only"):
            mapping[0] = 1
        assert mapping[0] == 1


def test_copy_on_write_leaves_the_file_alone(path: Path) -> None:
    with guard.open(path, "c") as mapping:
        mapping[0:4] = b"mine"
        assert mapping[:4] == b"mine"
    assert path.read_bytes() == content(PAGES)


def test_a_part_of_a_file_counts_from_the_files_start(path: Path) -> None:
    with guard.Mapping(path, "r", offset=8 * PAGE, length=10 * PAGE + 7) as mapping:
        assert mapping[:] == content(PAGES)[8 * PAGE : 18 * PAGE + 7]
        os.truncate(path, 12 * PAGE)
        with pytest.raises(TruncatedError) as caught:
            mapping[5 * PAGE]
    assert (caught.value.offset, caught.value.length) == (13 * PAGE, 5 * PAGE + 7)


def test_resize_changes_the_file(mapping: guard.Mapping, path: Path) -> None:
    mapping.resize(2 * PAGE)
    assert (len(mapping), path.stat().st_size) == (2 * PAGE, 2 * PAGE)
    view = memoryview(mapping)
    with pytest.raises(BufferError):
        mapping.resize(PAGE)
    view.release()


def test_out_of_range_and_closed_are_the_callers_errors(mapping: guard.Mapping) -> None:
    for access in (lambda: mapping[PAGES * PAGE], lambda: mapping[-PAGES * PAGE - 1]):
        with pytest.raises(IndexError):
            access()
    with pytest.raises(IndexError):
        mapping[0:4] = b"too long"
    with pytest.raises(ValueError):
        mapping.move(0, PAGES * PAGE, 1)
    mapping.seek(0, os.SEEK_END)
    with pytest.raises(ValueError):
        mapping.read_byte()
    with pytest.raises(ValueError):
        mapping.write(b"x")
    mapping.close()
    with pytest.raises(ValueError, match="closed"):
        mapping[0]
    assert "closed" in repr(mapping)


def test_what_cannot_be_mapped_is_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(UsageError, match="is empty"):
        guard.open(tmp_path / "empty")
    for mode in ("r", "r+"):
        with pytest.raises(UsageError, match="is a directory"):
            guard.open(tmp_path, mode)
    for name in ("/dev/null", "/dev/zero", tmp_path / "fifo"):
        with pytest.raises(UsageError, match="no regular file"):
            guard.open(name)
    with pytest.raises(FileNotFoundError):
        guard.open(tmp_path / "absent")
    with pytest.raises(UsageError, match="mode 'w'"):
        guard.open(tmp_path / "empty", "w")


def test_a_part_that_is_not_there_is_refused(path: Path) -> None:
    for offset, length in ((0, 65 * PAGE), (PAGE, 64 * PAGE), (0, 0), (0, -1)):
        with pytest.raises(UsageError, match="not a part of"):
            guard.Mapping(path, offset=offset, length=length)
    for offset in (64 * PAGE, 90 * PAGE, -PAGE):
        with pytest.raises(UsageError, match=f"offset {offset} is not in its {64 * PAGE} bytes"):
            guard.Mapping(path, offset=offset)
    with pytest.raises(UsageError, match="not aligned"):
        guard.Mapping(path, offset=100)


@pytest.mark.parametrize(
    "memory", [bytearray(PAGE), b"bytes", mmap.mmap(-1, PAGE)], ids=["heap", "bytes", "anonymous"]
)
def test_memory_without_a_file_cannot_be_guarded(memory: object) -> None:
    for use in (guard.watch, guard.probe):
        with pytest.raises(UsageError):
            use(memory)


def test_what_is_no_memory_cannot_be_guarded() -> None:
    with pytest.raises(UsageError, match=r"no buffer.*guard.open and guard.memmap map a file"):
        guard.watch("text")
    with pytest.raises(UsageError, match="0 bytes"):
        guard.watch(b"")
    with pytest.raises(UsageError, match="no buffer"):
        guard.watch(socket)


@needs_guard_regions
def test_probe_finds_the_pages_and_no_signal_is_raised(mapping: guard.Mapping, path: Path) -> None:
    assert guard.probe(mapping) == []
    with poisoned(mapping, 3, 4, 20, 63):
        found = guard.probe(mapping)
        assert [(f.offset // PAGE, f.length // PAGE) for f in found] == [(3, 2), (20, 1), (63, 1)]
        part = guard.probe(memoryview(mapping)[4 * PAGE + 5 : 21 * PAGE])
        assert [(f.offset // PAGE, f.length // PAGE) for f in part] == [(4, 1), (20, 1)]
    os.truncate(path, 60 * PAGE)
    assert guard.probe(mapping)[-1].is_beyond


def test_two_thousand_mappings_at_a_time(tmp_path: Path) -> None:
    program = """
resource.setrlimit(resource.RLIMIT_NOFILE, (5000, 5000))
path = make_file(path, 8)
mappings = [guard.open(path) for _ in range(2000)]
watches = [guard.watch(each) for each in mappings[:500]]
os.truncate(path, 4 * PAGE)
for each in mappings:
    try:
        each[6 * PAGE]
    except TruncatedError:
        continue
    raise AssertionError('no error')
for each in watches:
    each.__enter__()
ctypes.string_at(_native.address_of(mappings[499]) + 7 * PAGE, 1)
raised = 0
for each in watches:
    try:
        each.__exit__(None, None, None)
    except TruncatedError:
        raised += 1
print(raised)
"""
    assert shutil.which("true")
    ending = run_program(program, tmp_path / "data")
    assert (ending.status, ending.output) == (0, "1\n"), ending.errors
