"""log-writes as a crash test of the file system: replayed to every entry, it is whole (R39).

The stores of a prefix of the log, and no others, are one thing that a stop can leave. At every one
`check` finds nothing; at each mark the tree is what was synced there.
"""

import random
import stat
from collections.abc import Callable, Iterator

import pytest

from daxmend.dax import io
from daxmend.dm import MappedDevice
from daxmend.dm.log_writes import LogWrites
from daxmend.dm.logformat import LogFlag, Placed, iter_entries
from daxmend.dm.logreplay import replay
from daxmend.dm.writecache import Writecache
from daxmend.extent import Extent
from daxmend.fs import FileSystem, check, make_file_system
from daxmend.media.pool import create_memory_pool
from daxmend.pmem.device import PmemDevice
from daxmend.units import MIB, PAGE
from fswalk import content, tree, walk

SIZE = MIB
FILE = stat.S_IFREG | 0o644
State = dict[bytes, bytes]


class Logged:
    """A file system on log-writes, and what was synced at each mark."""

    def __init__(self, *, commits_each: bool) -> None:
        self.data = PmemDevice(create_memory_pool(SIZE))
        self.log = PmemDevice(create_memory_pool(64 * MIB))
        self.target = LogWrites(SIZE, self.data, self.log)
        self.device = MappedDevice("logged", [self.target])
        make_file_system(self.device)
        self.target.mark("made")
        self.fs = FileSystem(self.device, commits_each=commits_each)
        self.states: dict[str, State] = {"made": snapshot(self.fs)}

    def sync(self) -> None:
        self.fs.sync()
        name = f"synced {len(self.states)}"
        self.target.mark(name)
        self.states[name] = snapshot(self.fs)

    def entries(self) -> Iterator[Placed]:
        """Those after which there is a file system."""
        is_made = False
        for placed in iter_entries(self.log):
            is_made = is_made or placed.entry.mark == "made"
            if is_made:
                yield placed

    def copy_at(self, placed: Placed) -> PmemDevice:
        copy = PmemDevice(create_memory_pool(SIZE))
        assert replay(self.log, copy, placed.number + 1) == placed.number + 1
        return copy


def snapshot(fs: FileSystem) -> State:
    return {
        path: content(fs, ino) if stat.S_ISREG(fs.stat(ino).mode) else b""
        for path, ino in tree(fs).items()
    }


@pytest.fixture(params=[False, True], ids=["commits-when-synced", "commits-each"])
def logged(request: pytest.FixtureRequest) -> Logged:
    return Logged(commits_each=request.param)


def assert_whole_everywhere(logged: Logged) -> int:
    """Every entry, every flush and every mark; returns how many."""
    assert logged.target.log.is_enabled
    count = 0
    for placed in logged.entries():
        copy = logged.copy_at(placed)
        findings = [each for each in check(copy) if not each.is_healed]
        assert findings == [], f"entry {placed.number}: {placed.entry}"
        fs = FileSystem(copy, commits_each=False)
        assert not fs.is_read_only, fs.notices
        walk(fs)
        if LogFlag.MARK in placed.entry.flags:
            assert snapshot(fs) == logged.states[placed.entry.mark]
        fs.close()
        copy.close()
        count += 1
    return count


def test_names_and_data(logged: Logged) -> None:
    fs = logged.fs
    for number in range(4):
        ino = fs.make(fs.root, b"file%d" % number, FILE, 0, 0)
        fs.write(ino, number * 100, bytes([65 + number]) * 3000)
        logged.sync()
    fs.rename(fs.root, b"file0", fs.root, b"file1")
    fs.unlink(fs.root, b"file2")
    logged.sync()
    directory = fs.make(fs.root, b"d", stat.S_IFDIR | 0o755, 0, 0)
    fs.make(directory, b"below", FILE, 0, 0)
    fs.truncate(fs.lookup(fs.root, b"file3"), 10)
    logged.sync()
    fs.checkpoint()
    logged.sync()
    assert assert_whole_everywhere(logged) > 20


def test_healing_writes_and_zeroing_are_in_the_log(logged: Logged) -> None:
    """R14, R16, R29–R31 under the file system: a replay reproduces them."""
    fs = logged.fs
    ino = fs.make(fs.root, b"f", FILE, 0, 0)
    fs.write(ino, 0, b"f" * 6 * PAGE)
    logged.sync()
    for page in (1, 3, 4):
        for _, place in fs.device_extents(ino, Extent(page * PAGE + 512, 512)):
            logged.device.inject(place)
    fs.write(ino, PAGE, b"h" * PAGE)
    fs.write(ino, 3 * PAGE + 512, b"i" * 512)
    fs.zeroinit(ino, 4 * PAGE, PAGE)
    logged.sync()
    fs.punch(ino, 0, PAGE)
    logged.sync()
    assert_whole_everywhere(logged)
    copy = PmemDevice(create_memory_pool(SIZE))
    replay(logged.log, copy)
    assert io.read(copy, Extent(0, SIZE)) == io.read(logged.data, Extent(0, SIZE))


@pytest.mark.parametrize("seed", range(3))
def test_random_work(logged: Logged, seed: int) -> None:
    rng = random.Random(seed)
    fs = logged.fs

    def some() -> int:
        names = [name for name, _, _ in fs.names(fs.root)]
        return fs.lookup(fs.root, rng.choice(names))

    steps: list[Callable[[], object]] = [
        lambda: fs.write(some(), rng.randrange(20_000), rng.randbytes(rng.randrange(1, 9000))),
        lambda: fs.truncate(some(), rng.randrange(20_000)),
        lambda: fs.punch(some(), rng.randrange(5) * PAGE, PAGE),
        lambda: fs.make(fs.root, b"n%d" % rng.randrange(10**9), FILE, 0, 0),
        logged.sync,
    ]
    fs.make(fs.root, b"first", FILE, 0, 0)
    for _ in range(30):
        rng.choice(steps)()
    logged.sync()
    fs.close()
    assert_whole_everywhere(logged)


def test_the_log_shows_a_file_system_on_a_write_cache_whole() -> None:
    """log-writes below the cache as its origin: what is written back is a past state, in pieces;
    after a flush it is the present one."""
    data, log, cache = (PmemDevice(create_memory_pool(size)) for size in (SIZE, 64 * MIB, MIB))
    origin = MappedDevice("origin", [LogWrites(SIZE, data, log)])
    device = MappedDevice("top", [Writecache(SIZE, cache, origin)])
    make_file_system(device)
    fs = FileSystem(device, commits_each=False)
    ino = fs.make(fs.root, b"f", FILE, 0, 0)
    fs.write(ino, 0, b"w" * 5 * PAGE)
    fs.close()
    device.message(0, ["flush"])
    copy = PmemDevice(create_memory_pool(SIZE))
    replay(log, copy)
    assert list(check(copy)) == []
    fs = FileSystem(copy, commits_each=False)
    assert content(fs, fs.lookup(fs.root, b"f")) == b"w" * 5 * PAGE
    fs.close()
