"""File-system operations, stopped at every persist point: what was synced is there, all is whole.

Every run is compared with the states that one undisturbed run went through. After the stop the
names, sizes and link counts are those of one of them, not older than the last sync; each byte of a
file is one that this file had there since then, or that the stopped step was about to write.
"""

import contextlib
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from daxmend.errors import MediaError
from daxmend.extent import Extent
from daxmend.fs import FileSystem, apply_repair, make_file_system, plan_repair
from daxmend.fs.check import check
from daxmend.media.backing import Durability
from daxmend.media.pool import MediumKind, create_pool, open_pool
from daxmend.pmem.device import PmemDevice
from daxmend.testing import CrashExplorer
from daxmend.units import CACHELINE, KIB, MIB, PAGE, SECTOR
from fswalk import check_owners, tree, walk

SEED = 20240607
SIZE = MIB
FILE = stat.S_IFREG | 0o644
DIRECTORY = stat.S_IFDIR | 0o755
LINK = stat.S_IFLNK | 0o777

# The second is that of a journal whose medium refuses.
NOTICES = ("rewritten from the other copy", "the journal is out of use")

Step = Callable[[FileSystem], object]


class Node(NamedTuple):
    """What a name stands for, without times. Of a file, `data` is what it holds."""

    ino: int
    mode: int
    nlink: int
    size: int
    xattrs: dict[bytes, bytes]
    target: bytes
    data: bytes

    @property
    def meta(self) -> tuple[object, ...]:
        return self[:-1]


State = dict[bytes, Node]


def observe(fs: FileSystem, ino: int) -> Node:
    found = fs.stat(ino)
    xattrs = {name: fs.getxattr(ino, name) for name in fs.listxattr(ino)}
    target = fs.readlink(ino) if stat.S_ISLNK(found.mode) else b""
    data = read_all(fs, ino, found.size) if stat.S_ISREG(found.mode) else b""
    return Node(ino, found.mode, found.nlink, found.size, xattrs, target, data)


def read_all(fs: FileSystem, ino: int, size: int) -> bytes:
    """The content; `?` for what cannot be read, which must be recorded as bad."""
    data = bytearray()
    while len(data) < size:
        try:
            data += fs.read(ino, len(data), size - len(data))
        except MediaError:
            at = len(data)
            assert any(bad.offset <= at < bad.end for bad in fs.bad_ranges(ino))
            data += b"?" * min(SECTOR - at % SECTOR, size - at)
    return bytes(data)


def snapshot(fs: FileSystem) -> State:
    return {path: observe(fs, ino) for path, ino in tree(fs).items()}


def lookup(fs: FileSystem, path: bytes) -> int:
    ino = fs.root
    for name in path.strip(b"/").split(b"/"):
        ino = fs.lookup(ino, name)
    return ino


def write(path: bytes, offset: int, data: bytes) -> Step:
    def step(fs: FileSystem) -> None:
        assert fs.write(lookup(fs, path), offset, data) == len(data)

    return step


def on(path: bytes, name: str, *arguments: int) -> Step:
    """A method of the file system that takes an inode and numbers."""
    return lambda fs: getattr(fs, name)(lookup(fs, path), *arguments)


def sync(fs: FileSystem) -> None:
    fs.sync()


def tidy(fs: FileSystem) -> None:
    while fs.tidy():
        pass


class Rehearsal:
    """A populated image; steps on it; and what is allowed after each stop."""

    def __init__(
        self,
        directory: Path,
        *,
        commits_each: bool,
        medium: MediumKind = MediumKind.PLAIN,
        clear_unit: int = 256,
    ) -> None:
        self.directory = directory
        self.image = directory / "image.pool"
        self.commits_each = commits_each
        create_pool(
            self.image,
            SIZE,
            durability=Durability.PROCESS,
            medium=medium,
            clear_unit=clear_unit,
        )
        self.device = PmemDevice(open_pool(self.image))
        make_file_system(self.device)
        self.fs = FileSystem(self.device, commits_each=True)
        self.bad_pages: set[tuple[int, int]] = set()  # inode, page
        self._populate()

    def _populate(self) -> None:
        fs = self.fs
        for name, letter, length in ((b"a", b"A", 3 * PAGE), (b"b", b"B", 2 * PAGE - 100)):
            ino = fs.make(fs.root, name, FILE, 0, 0)
            fs.write(ino, 0, letter * length)
        directory = fs.make(fs.root, b"d", DIRECTORY, 0, 0)
        ino = fs.make(directory, b"c", FILE, 0, 0)
        fs.write(ino, 0, b"C" * PAGE)
        fs.truncate(ino, 8 * PAGE)
        fs.write(ino, 6 * PAGE, b"c" * 1000)

    def bad(self, path: bytes, within: Extent) -> None:
        """Make a part of a page of a file bad in the image."""
        ino = lookup(self.fs, path)
        self.bad_pages.add((ino, within.offset // PAGE))
        for _, place in self.fs.device_extents(ino, within):
            self.device.inject(place)

    def explore(self, *steps: Step, samples: int = 1) -> int:
        self.fs.close()
        self.device.close()
        self.steps = steps
        self.states = self._run_undisturbed()
        self.done = self.durable = 0
        print(f"seed {SEED}")
        return CrashExplorer(self.image, self.directory, SEED).explore(
            self._operate, self._look, samples
        )

    def _run_undisturbed(self) -> list[State]:
        path = self.directory / "undisturbed.pool"
        shutil.copy(self.image, path)
        device = PmemDevice(open_pool(path))
        fs = FileSystem(device, commits_each=self.commits_each)
        states = [snapshot(fs)]
        for step in self.steps:
            step(fs)
            states.append(snapshot(fs))
        fs.close()
        device.close()
        return states

    def _operate(self, device: PmemDevice) -> None:
        self.done = self.durable = 0
        fs = FileSystem(device, commits_each=self.commits_each)
        for step in self.steps:
            step(fs)
            self.done += 1
            if step is sync or (self.commits_each and not fs._pending and not fs._dirty):
                self.durable = self.done
        fs.close()
        self.durable = self.done

    def _look(self, device: PmemDevice) -> None:
        try:
            self._check(device)
        finally:
            self.done = self.durable = 0

    # -- what must hold --------------------------------------------------------------------

    def _check(self, device: PmemDevice) -> None:
        assert [each for each in check(device) if not each.is_healed] == []
        fs = FileSystem(device, commits_each=self.commits_each)
        assert not fs.is_read_only, fs.notices
        assert all(any(said in notice for said in NOTICES) for notice in fs.notices)
        walk(fs)
        check_owners(fs)
        self._check_state(snapshot(fs))
        self._go_on(fs)
        assert list(check(device)) == []

    def _check_state(self, found: State) -> None:
        possible = self.states[self.durable : self.done + 2]
        metas = [{path: node.meta for path, node in state.items()} for state in possible]
        meta = {path: node.meta for path, node in found.items()}
        assert meta in metas, f"{meta}\nis none of\n{metas}"
        for path, node in found.items():
            histories = [
                old.data for state in possible for old in state.values() if old.ino == node.ino
            ]
            for at in range(0, len(node.data), CACHELINE):
                line = node.data[at : at + CACHELINE]
                if not line.strip(b"?"):  # R18: lost, not mixed
                    assert (node.ino, at // PAGE) in self.bad_pages
                    continue
                self._check_line(path, at, line, histories)

    def _check_line(self, path: bytes, at: int, line: bytes, histories: list[bytes]) -> None:
        olds = [old[at : at + len(line)] for old in histories]
        if line in olds:
            return
        for index, byte in enumerate(line):
            allowed = {old[index] for old in olds if index < len(old)}
            assert byte in allowed, f"{path!r} holds {line!r} at {at}, never one of {olds}"

    def _go_on(self, fs: FileSystem) -> None:
        """It works as ever: a new file, and what is tidied and closed is whole when reopened."""
        for name in (b"b", b"ballast"):
            with contextlib.suppress(OSError):
                fs.unlink(fs.root, name)
        ino = fs.make(fs.root, b"later", FILE, 0, 0)
        assert fs.write(ino, 100, b"L" * 3 * PAGE) == 3 * PAGE
        tidy(fs)
        fs.close()
        again = FileSystem(fs.device, commits_each=self.commits_each)
        assert all("out of use" in notice for notice in again.notices)
        assert read_all(again, ino, 3 * PAGE + 100) == bytes(100) + b"L" * 3 * PAGE
        walk(again)
        again.close()


@pytest.fixture(params=[False, True], ids=["commits-when-synced", "commits-each"])
def rehearsal(request: pytest.FixtureRequest, shm: Path) -> Rehearsal:
    return Rehearsal(shm, commits_each=request.param)


def make(parent: bytes, name: bytes, mode: int = FILE, target: bytes = b"") -> Step:
    def step(fs: FileSystem) -> None:
        directory = lookup(fs, parent) if parent else fs.root
        fs.make(directory, name, mode, 7, 8, target=target)

    return step


def test_new_names_are_there_whole_or_not_at_all(rehearsal: Rehearsal) -> None:
    rehearsal.explore(
        make(b"", b"new"),
        make(b"", b"symlink", LINK, b"target"),
        sync,
        make(b"d", b"below", DIRECTORY),
        lambda fs: fs.link(lookup(fs, b"a"), lookup(fs, b"d/below"), b"hard"),
        lambda fs: fs.setxattr(lookup(fs, b"a"), b"user.k", b"value" * 20),
        lambda fs: fs.unlink(fs.root, b"symlink"),
    )


def test_writes_into_holes_show_zeros_or_the_data(rehearsal: Rehearsal) -> None:
    """R13; and pages that belonged to others before show nothing of that."""
    rehearsal.explore(
        lambda fs: fs.unlink(fs.root, b"a"),
        sync,
        write(b"d/c", 2 * PAGE + 50, b"h" * (PAGE + 300)),
        write(b"b", 3 * PAGE, b"i" * 100),
        sync,
        write(b"d/c", 20 * PAGE, b"j" * 5000),
    )


def test_an_overwrite_in_place_touches_only_its_bytes(rehearsal: Rehearsal) -> None:
    rehearsal.explore(
        write(b"a", 100, b"o" * 5000),
        sync,
        write(b"a", PAGE, b"p" * PAGE),
    )


def test_a_rename_over_a_file_leaves_the_old_or_the_new(rehearsal: Rehearsal) -> None:
    root = 1
    rehearsal.explore(
        make(b"", b"tmp"),
        write(b"tmp", 0, b"T" * 3000),
        sync,
        lambda fs: fs.rename(root, b"tmp", root, b"b"),
        lambda fs: fs.rename(root, b"a", lookup(fs, b"d"), b"c", 2),
        lambda fs: fs.rename(lookup(fs, b"d"), b"c", root, b"moved"),
    )


def test_a_directory_moves_whole(rehearsal: Rehearsal) -> None:
    root = 1
    rehearsal.explore(
        make(b"d", b"below", DIRECTORY),
        make(b"", b"empty", DIRECTORY),
        lambda fs: fs.rename(lookup(fs, b"d"), b"below", root, b"empty"),
        sync,
        lambda fs: fs.rename(root, b"d", lookup(fs, b"empty"), b"d"),
    )


def test_freed_pages_are_not_reused_before_the_unlink_is_durable(rehearsal: Rehearsal) -> None:
    rehearsal.explore(
        lambda fs: fs.unlink(fs.root, b"a"),
        write(b"b", 2 * PAGE, b"R" * 3 * PAGE),
        lambda fs: fs.truncate(lookup(fs, b"d/c"), 0),
        make(b"", b"new"),
        write(b"new", 0, b"N" * 4 * PAGE),
        sync,
        write(b"new", 4 * PAGE, b"M" * 4 * PAGE),
    )


def test_freed_pages_in_a_full_file_system_are_reused_only_when_they_may(
    rehearsal: Rehearsal,
) -> None:
    ino = rehearsal.fs.make(1, b"ballast", FILE, 0, 0)
    at = 0
    with contextlib.suppress(OSError):
        while True:
            at += rehearsal.fs.write(ino, at, b"W" * 64 * KIB)
    rehearsal.explore(
        lambda fs: fs.unlink(fs.root, b"a"),
        write(b"b", 2 * PAGE, b"R" * 2 * PAGE),
    )


def test_truncation_and_growth_show_old_bytes_or_zeros(rehearsal: Rehearsal) -> None:
    """R32."""
    rehearsal.explore(
        on(b"a", "truncate", PAGE + 100),
        on(b"a", "truncate", 3 * PAGE),
        sync,
        on(b"b", "truncate", 10),
        write(b"b", 600, b"g" * 50),
    )


def test_allocation_and_zeroing_show_old_bytes_or_zeros(rehearsal: Rehearsal) -> None:
    """R29–R31."""
    rehearsal.explore(
        on(b"d/c", "fallocate", PAGE, 3 * PAGE),
        write(b"d/c", 2 * PAGE + 10, b"u" * 100),
        on(b"a", "punch", 100, 2 * PAGE),
        sync,
        on(b"b", "zero_range", 50, PAGE),
        on(b"a", "zeroinit", 2 * PAGE, PAGE),
    )


def test_a_checkpoint_takes_the_journals_place_or_does_not(rehearsal: Rehearsal) -> None:
    rehearsal.explore(
        lambda fs: fs.setxattr(lookup(fs, b"a"), b"user.x", b"x" * 3000),
        lambda fs: fs.checkpoint(),
        lambda fs: fs.setxattr(lookup(fs, b"b"), b"user.y", b"y" * 2000),
        lambda fs: fs.checkpoint(),
        lambda fs: fs.unlink(fs.root, b"b"),
    )


def test_a_full_journal_becomes_a_checkpoint(rehearsal: Rehearsal) -> None:
    for number in range(2):
        rehearsal.fs.setxattr(1, b"user.%d" % number, b"z" * 30 * KIB)
    # Closed without a checkpoint, so that the journal stays full.
    rehearsal.fs.sync()
    rehearsal.fs.is_read_only = True
    rehearsal.explore(
        lambda fs: fs.removexattr(1, b"user.0"),
        lambda fs: fs.setxattr(1, b"user.2", b"w" * 4 * KIB),
        sync,
        make(b"", b"new"),
    )


def test_a_healing_write_leaves_the_page_bad_or_new(rehearsal: Rehearsal) -> None:
    """R14, R16, R18."""
    rehearsal.bad(b"a", Extent(PAGE + SECTOR, SECTOR))
    rehearsal.bad(b"b", Extent(PAGE, SECTOR))
    rehearsal.explore(
        write(b"a", PAGE, b"h" * PAGE),
        write(b"b", PAGE, b"i" * SECTOR),
        sync,
        write(b"a", 2 * PAGE, b"j" * 10),
    )


def test_truncation_into_a_bad_page_never_shows_what_was_given_up(rehearsal: Rehearsal) -> None:
    """R32."""
    rehearsal.bad(b"a", Extent(2 * PAGE + 3 * SECTOR, SECTOR))
    rehearsal.explore(
        on(b"a", "truncate", 2 * PAGE + 100),
        on(b"a", "truncate", 3 * PAGE),
    )


@pytest.mark.parametrize(
    ("medium", "commits_each"),
    [(MediumKind.LIES, False), (MediumKind.LIES, True), (MediumKind.CLEARS_PART, False)],
)
def test_kept_bytes_go_when_the_truncation_is_durable_and_not_before(
    shm: Path, medium: MediumKind, commits_each: bool
) -> None:
    """R32, R12, R46: a failed recovery left the page lost, and its good bytes kept for salvage."""
    rehearsal = Rehearsal(shm, commits_each=commits_each, medium=medium)
    rehearsal.bad(b"a", Extent(2 * PAGE, SECTOR))
    ino = lookup(rehearsal.fs, b"a")
    ((_, page),) = rehearsal.fs.device_extents(ino, Extent(2 * PAGE, PAGE))
    with pytest.raises(MediaError):
        rehearsal.fs.write(ino, 2 * PAGE, b"h" * SECTOR)
    rehearsal.fs.close()
    rehearsal.device.close()
    lost, kept = b"?" * SECTOR, b"A" * (PAGE - SECTOR)
    cut = kept[: 700 - SECTOR] + bytes(PAGE - 700)
    seen: set[int] = set()

    def operation(device: PmemDevice) -> None:
        fs = FileSystem(device, commits_each=commits_each)
        fs.truncate(ino, 2 * PAGE + 700)
        fs.truncate(ino, 3 * PAGE - 5)
        fs.close()

    def check(device: PmemDevice) -> None:
        fs = FileSystem(device, commits_each=commits_each)
        size = fs.stat(ino).size
        seen.add(size)
        found = salvaged(device, page)
        if size == 3 * PAGE:
            assert found == lost + kept, "nothing was given up yet"
        elif size == 2 * PAGE + 700:
            assert found[:700] == (lost + kept)[:700]
            fs.truncate(ino, 3 * PAGE)
        if size < 3 * PAGE:
            assert salvaged(device, page) == lost + cut
        fs.close()

    CrashExplorer(rehearsal.image, shm, SEED).explore(operation, check, samples=1)
    assert seen == {3 * PAGE, 2 * PAGE + 700, 3 * PAGE - 5}


def salvaged(device: PmemDevice, extent: Extent) -> bytes:
    """What can be had of the range, and `?` for what is lost."""
    data, lost = device.recovery_read(extent)
    for run in lost:
        data[run.offset - extent.offset : run.end - extent.offset] = b"?" * run.length
    return bytes(data)


def test_freed_bad_pages_are_cleared_and_reused_in_that_order(rehearsal: Rehearsal) -> None:
    """R31."""
    rehearsal.bad(b"a", Extent(PAGE, SECTOR))
    rehearsal.explore(
        on(b"a", "punch", PAGE, PAGE),
        sync,
        tidy,
        write(b"b", 3 * PAGE, b"q" * PAGE),
    )


@pytest.mark.parametrize("structure", ["superblock", "journal", "checkpoint"])
def test_metadata_heals_or_stays_readable_from_the_other_copy(
    rehearsal: Rehearsal, structure: str
) -> None:
    """R43."""
    rehearsal.fs.sync()
    rehearsal.fs.is_read_only = True  # closed with entries in the journal
    superblock = rehearsal.fs._superblock
    places = {
        "superblock": 0,
        "journal": superblock.journal[0].offset,
        "checkpoint": superblock.checkpoint[1][0].offset,
    }
    rehearsal.device.inject(Extent(places[structure], SECTOR))
    rehearsal.explore(tidy, make(b"", b"new"), samples=1)


@pytest.fixture(
    params=[
        (MediumKind.CLEARS_LINES, 256),
        (MediumKind.HEALS_ON_WRITE, 256),
        (MediumKind.PLAIN, 64),
        (MediumKind.PLAIN, 1024),
        (MediumKind.PLAIN, PAGE),
    ],
    ids=lambda param: f"{param[0]}-{param[1]}",
)
def unusual(request: pytest.FixtureRequest, shm: Path) -> Rehearsal:
    """On media that clear in another way, or in other units."""
    medium, clear_unit = request.param
    return Rehearsal(shm, commits_each=False, medium=medium, clear_unit=clear_unit)


def test_files_heal_and_are_freed_on_any_medium_r6_r7_r18_r31(unusual: Rehearsal) -> None:
    unusual.bad(b"a", Extent(PAGE + SECTOR, SECTOR))
    unusual.bad(b"b", Extent(PAGE, SECTOR))
    unusual.bad(b"d/c", Extent(0, CACHELINE))
    unusual.explore(
        write(b"a", PAGE, b"h" * PAGE),
        write(b"b", PAGE, b"i" * SECTOR),
        sync,
        on(b"d/c", "punch", 0, PAGE),
        sync,
        tidy,
    )


def test_metadata_heals_on_any_medium_r43(unusual: Rehearsal) -> None:
    unusual.fs.sync()
    unusual.fs.is_read_only = True  # closed with entries in the journal
    superblock = unusual.fs._superblock
    for place in (PAGE * 255, superblock.journal[1].offset, superblock.checkpoint[0][0].offset):
        unusual.device.inject(Extent(place, SECTOR))
    unusual.explore(tidy, make(b"", b"new"))


@pytest.mark.parametrize("copies", [(0,), (0, 1)], ids=["first", "both"])
def test_without_a_journal_every_commit_is_a_checkpoint_r21(
    shm: Path, copies: tuple[int, ...]
) -> None:
    """The medium refuses to clear the journal's first page: a repair takes it out of use."""
    rehearsal = Rehearsal(shm, commits_each=True, medium=MediumKind.REFUSES)
    rehearsal.fs.close()
    for copy in copies:
        rehearsal.device.inject(Extent(rehearsal.fs._superblock.journal[copy].offset, SECTOR))
    apply_repair(rehearsal.device, plan_repair(rehearsal.device))
    rehearsal.explore(
        on(b"a", "truncate", PAGE),
        write(b"b", 3 * PAGE, b"q" * 2 * PAGE),
    )
