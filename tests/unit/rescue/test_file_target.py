"""Targets in a pool that nobody has open: which file is named, and whose a bad range is."""

import os
import stat
from pathlib import Path

import pytest

from daxmend.errors import BusyError, UsageError
from daxmend.extent import Extent
from daxmend.faults import Fault, FaultKind
from daxmend.media.pool import Content
from daxmend.rescue.file import FileTarget
from daxmend.rescue.opening import open_device_target, open_target
from daxmend.rescue.target import Range, Target, inner_path, locate
from daxmend.stack.device import open_device
from daxmend.stack.filesystem import open_filesystem
from daxmend.stack.pool import create
from daxmend.units import MIB, PAGE, SECTOR

SPARSE = [(0, 2), (4, 1), (9, 3)]  # page and number of pages of what is written


@pytest.fixture
def pool(shm: Path) -> Path:
    """A pool with `/dir/file`, which has holes, and `/other`."""
    path = shm / "pool"
    create(path, 4 * MIB, content=Content.FS)
    device = open_device(path)
    fs = open_filesystem(device)
    directory = fs.make(fs.root, b"dir", stat.S_IFDIR | 0o755, 0, 0)
    file = fs.make(directory, b"file", stat.S_IFREG | 0o644, 0, 0)
    other = fs.make(fs.root, b"other", stat.S_IFREG | 0o644, 0, 0)
    for page, count in SPARSE:
        fs.write(file, page * PAGE, b"f" * PAGE * count)
        fs.write(other, page * PAGE, b"o" * PAGE)
    fs.close()
    device.close()
    return path


@pytest.fixture
def file(pool: Path) -> FileTarget:
    """`/dir/file`; closed by whoever uses it."""
    target = open_target(f"{pool}:/dir/file", writable=True)
    assert isinstance(target, FileTarget)
    return target


def bad(target: Target) -> list[tuple[int, int, str]]:
    return [(*found.extent, found.kind) for found in target.ranges()]


@pytest.mark.parametrize(
    ("path", "names"),
    [
        (b"/", []),
        (b"/a", [b"a"]),
        (b"//a//b/", [b"a", b"b"]),
        (b"/a/./b", [b"a", b"b"]),
        (b"/../a/../b", [b"b"]),
        (b"/a\n/ ", [b"a\n", b" "]),
    ],
)
def test_a_path_has_these_names(path: bytes, names: list[bytes]) -> None:
    assert inner_path(path) == names


def test_a_fault_of_a_file_lies_on_every_part_of_the_device_that_it_covers(
    file: FileTarget,
) -> None:
    file.inject([Fault.of(Extent(10 * PAGE + 5, 600)), Fault.of(Extent(0, 2 * PAGE))])
    recorded = [found for found in file.ranges() if found.is_recorded]
    assert [found.extent for found in locate(file)] == [
        Extent(0, 2 * PAGE),
        Extent(10 * PAGE, 2 * SECTOR),
    ]
    assert file.badblocks() == [Extent(0, 2 * PAGE), Extent(10 * PAGE, 2 * SECTOR)]
    for found in recorded:
        holder = next(
            each
            for each in file.extents
            if each.offset <= found.extent.offset < each.offset + each.length
        )
        distance = found.extent.offset - holder.offset
        assert found.device_offset == holder.device_offset + distance
        assert found.file_offset == found.extent.offset
    file.close()


def test_none_of_many_faults_is_made_if_one_of_them_cannot_be(pool: Path, file: FileTarget) -> None:
    for extent in (Extent(PAGE, 2 * PAGE), Extent(3 * PAGE, 1), Extent(12 * PAGE, 1)):
        for kind in FaultKind:
            with pytest.raises(UsageError):
                file.inject([Fault.of(Extent(0, 1), kind), Fault.of(extent, kind)])
        with pytest.raises(UsageError):
            file.uninject(extent)
    assert bad(file) == []
    file.close()
    whole = open_target(pool)
    assert bad(whole) == []
    whole.close()


def test_a_scrub_goes_over_what_is_there_and_leaves_the_holes(file: FileTarget) -> None:
    done = list(file.scrub(None))
    assert sum(each.length for each in done) == 6 * PAGE
    covered = {page for each in done for page in range(each.offset // PAGE, each.end // PAGE)}
    assert covered == {0, 1, 4, 9, 10, 11}
    assert list(file.scrub(Extent(2 * PAGE, 2 * PAGE))) == []
    with pytest.raises(UsageError, match="beyond its end"):
        list(file.scrub(Extent(11 * PAGE, 2 * PAGE)))
    file.close()


def test_poison_of_another_file_is_not_this_ones(pool: Path, file: FileTarget) -> None:
    file.close()
    other = open_target(f"{pool}:/other", writable=True)
    other.inject([Fault.of(Extent(0, PAGE)), Fault.of(Extent(4 * PAGE, 64), FaultKind.LATENT)])
    assert len(bad(other)) == 3
    other.close()
    file = open_target(f"{pool}:/dir/file")  # type: ignore[assignment]
    assert bad(file) == []
    file.close()


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("/nothing", FileNotFoundError),
        ("/dir/file/below", NotADirectoryError),
        ("/" + "x" * 300, OSError),
        ("/dir", UsageError),
        ("/", UsageError),
    ],
)
def test_the_pool_is_free_again_after_what_could_not_be_opened(
    pool: Path, path: str, error: type[Exception]
) -> None:
    with pytest.raises(error) as info:
        open_target(f"{pool}:{path}", writable=True)
    if isinstance(info.value, OSError):
        assert info.value.filename == f"{pool}:{path}"
    with pytest.raises(UsageError, match="is a file"):
        open_device_target(f"{pool}:/other", writable=True)
    open_target(pool, writable=True).close()


def test_the_existing_file_wins_over_the_path_in_a_pool(
    pool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(pool.parent)
    Path("x:").mkdir()
    os.link(pool, "x:/pool")
    for name, content in (
        ("x:/pool", "fs"),
        ("x:/pool:/other", "file"),
        ("./pool:/other", "file"),
        (Path("pool:/other"), "file"),
    ):
        target = open_target(name)
        assert target.content == content
        target.close()
    with pytest.raises(FileNotFoundError, match="x:/nothing"):
        open_target("x:/nothing:/other")


def test_a_repair_needs_the_pool_alone(pool: Path) -> None:
    device = open_device(pool)
    with pytest.raises(BusyError):
        open_device_target(pool, writable=True)
    device.close()


A = Range(Extent(0, 512), "recorded", 4096, "file", b"/a", 0)


@pytest.mark.parametrize(
    ("after", "goes_on"),
    [
        (Range(Extent(512, 512), "recorded", 4608, "file", b"/a", 512), True),
        (Range(Extent(512, 512), "lost", 4608, "file", b"/a", 512), False),
        (Range(Extent(512, 512), "recorded", 4608, "file", b"/b", 512), False),
        (Range(Extent(512, 512), "recorded", 4608, "file", b"/a", 1024), False),
        (Range(Extent(512, 512), "recorded", 8192, "file", b"/a", 512), False),
        (Range(Extent(1024, 512), "recorded", 4608, "file", b"/a", 512), False),
        (Range(Extent(512, 512), "recorded", 4608, "metadata"), False),
    ],
)
def test_what_goes_on_in_all_that_is_known_is_merged(after: Range, goes_on: bool) -> None:
    assert after.continues(A) is goes_on


def test_ranges_without_a_file_go_on_and_those_of_nameless_files_do_not() -> None:
    for owner in ("metadata", "free", None):
        one, two = (Range(Extent(at, 512), "recorded", at, owner) for at in (0, 512))
        assert two.continues(one)
    one, two = (Range(Extent(at, 512), "recorded", at, "file", b"", at) for at in (0, 512))
    assert not two.continues(one)
