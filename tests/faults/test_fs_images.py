"""Images of file systems that nobody made: whatever they hold, they are opened or refused, checked
and repaired, and nothing but our errors comes out (the issue's "Bad input").

Bytes change under the record's nose: the medium says nothing. `DAXMEND_IMAGES` is how many images
each test tries, `DAXMEND_SEED` what they are drawn from.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import resource
import stat
import time
from array import array
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

from daxmend.errors import CorruptionError, DaxmendError
from daxmend.extent import Extent
from daxmend.fs import (
    FileSystem,
    Invariant,
    apply_repair,
    check,
    make_file_system,
    plan_repair,
)
from daxmend.fs import checkpoint as checkpoint_module
from daxmend.fs.change import InodeSet, Mapped, NameSet, Unmapped, Written, XattrSet, pack_change
from daxmend.fs.check import MOST
from daxmend.fs.checkpoint import pages_for
from daxmend.fs.extentmap import ExtentMap
from daxmend.fs.inode import Attributes, Inode
from daxmend.fs.journal import FsJournal
from daxmend.fs.mirror import COPIES, Mirror
from daxmend.fs.superblock import Superblock, read_superblock, write_superblock
from daxmend.media.pool import create_memory_pool
from daxmend.pmem.device import PmemDevice
from daxmend.units import MIB, PAGE
from fswalk import check_medium, content, tree, walk

SIZE = 2 * MIB
IMAGES = int(os.environ.get("DAXMEND_IMAGES", "1500"))
SLOW = 5.0  # seconds: no image of 2 MiB may keep anybody that long
MEMORY = 100 * MIB
FILE = stat.S_IFREG | 0o644
DIRECTORY = stat.S_IFDIR | 0o755


def make_rng() -> random.Random:
    """Says its seed."""
    seed = int(os.environ.get("DAXMEND_SEED", random.randrange(1 << 32)))
    print(f"DAXMEND_SEED={seed}")
    return random.Random(seed)


def device_base(device: PmemDevice) -> int:
    return device.pool.header.layout.data.offset


def poke(device: PmemDevice, offset: int, data: bytes) -> None:
    device.pool.backing.store(device_base(device) + offset, data)


def peek(device: PmemDevice, extent: Extent) -> bytes:
    return device.pool.backing.load(device_base(device) + extent.offset, extent.length)


class Image(NamedTuple):
    """All bytes of a file system, older ones, and what is where."""

    data: bytes
    old: bytes  # the same file system before the last checkpoint
    metadata: list[int]  # the pages of all structures that hold something
    content: dict[bytes, bytes]  # path → what a file holds, or nothing


def read_files(fs: FileSystem) -> dict[bytes, bytes]:
    found = {}
    for path, ino in tree(fs).items():
        found[path] = content(fs, ino) if stat.S_ISREG(fs.stat(ino).mode) else b""
    return found


def fill(fs: FileSystem, name: str) -> None:
    directory = fs.make(fs.root, name.encode(), DIRECTORY, 1, 2)
    for number in range(14):
        ino = fs.make(directory, b"%d" % number, FILE, 3, 4)
        fs.write(ino, 0, b"%d" % number * 700)
        fs.setxattr(ino, b"user.x", bytes([number]) * 700)
    fs.make(directory, b"link", stat.S_IFLNK | 0o777, 0, 0, target=b"where" * 30)


@cache
def image() -> Image:
    """Its checkpoint and its journal have several pages."""
    device = PmemDevice(create_memory_pool(SIZE))
    make_file_system(device)
    fs = FileSystem(device, commits_each=True)
    fill(fs, "first")
    old = peek(device, Extent(0, SIZE))
    fs.close()
    fs = FileSystem(device, commits_each=True)
    fill(fs, "second")
    found = read_files(fs)
    superblock, _ = read_superblock(device)
    used = {
        "checkpoint": Extent(0, pages_for(superblock.checkpoint_length) * PAGE),
        "journal": Extent(0, fs._journal._end).widened(PAGE),
    }
    pages = [0, SIZE // PAGE - 1]
    for name, mirror in (("checkpoint", fs._checkpoint), ("journal", fs._journal.mirror)):
        for copy in COPIES:
            for extent in mirror.device_extents(copy, used[name]):
                pages += range(extent.offset // PAGE, extent.end // PAGE)
    stop(fs)
    data = peek(device, Extent(0, SIZE))
    device.close()
    return Image(data, old, pages, found)


def stop(fs: FileSystem) -> None:
    """As a crash does."""
    fs.is_read_only = True
    fs.close()


@pytest.fixture
def device() -> Iterator[PmemDevice]:
    made = PmemDevice(create_memory_pool(SIZE))
    yield made
    made.close()


def open_and_use(device: PmemDevice) -> None:
    """Everything that somebody could do with it; it may fail, but only as we fail."""
    try:
        fs = FileSystem(device, commits_each=True)
    except (DaxmendError, OSError):
        return
    waiting = [fs.root]
    seen = set()
    while waiting and len(seen) < 1000:
        ino = waiting.pop()
        if ino in seen:
            continue
        seen.add(ino)
        with contextlib.suppress(OSError, DaxmendError):
            node = fs.stat(ino)
            assert 0 <= node.nlink < 1 << 32
            assert len(fs.read(ino, 0, 1 << 16)) <= 1 << 16
        with contextlib.suppress(OSError, DaxmendError):
            waiting += [child for _, child, _ in fs.names(ino)]
        with contextlib.suppress(OSError, DaxmendError):
            fs.path(ino)
        for use in (
            lambda ino=ino: fs.write(ino, 100, b"new" * 2000),
            lambda ino=ino: fs.link(ino, fs.root, b"l%d" % ino),
            lambda ino=ino: fs.setxattr(ino, b"user.y", b"y" * 100),
            lambda ino=ino: fs.make(ino, b"made", FILE, 0, 0),
            lambda ino=ino: fs.rename(fs.root, b"first", ino, b"moved"),
            lambda ino=ino: fs.punch(ino, 0, 3 * PAGE),
            lambda ino=ino: fs.truncate(ino, 10),
        ):
            with contextlib.suppress(OSError, DaxmendError):
                use()
    with contextlib.suppress(OSError, DaxmendError):
        fs.owners(Extent(0, SIZE))
    with contextlib.suppress(OSError, DaxmendError):
        fs.check()
    with contextlib.suppress(OSError, DaxmendError):
        fs.tidy()
    with contextlib.suppress(OSError, DaxmendError):
        fs.close()


def check_and_repair(device: PmemDevice) -> str:
    """`refused`, or `whole`, or `repaired`: then it is whole; or `failed`, which says why."""
    try:
        findings = list(check(device))
        plan = plan_repair(device)
    except DaxmendError:
        return "refused"
    assert plan.findings == findings
    assert bool(plan.steps) == bool(findings), (plan.steps, findings)
    assert len(findings) <= (MOST + 1) * len(Invariant)
    assert all(str(finding) for finding in findings)
    if not findings:
        return "whole"
    try:
        apply_repair(device, plan)
    except (DaxmendError, OSError):
        return "failed"
    check_medium(device)
    assert plan_repair(device).steps == []
    fs = FileSystem(device, commits_each=True)
    assert not fs.is_read_only
    walk(fs)
    fs.close()
    return "repaired"


def attack(device: PmemDevice, data: bytes) -> str:
    """Both ways, from the same bytes; bounded in time."""
    start = time.monotonic()
    poke(device, 0, data)
    open_and_use(device)
    device.set_holder(None)
    poke(device, 0, data)
    result = check_and_repair(device)
    device.set_holder(None)
    assert time.monotonic() - start < SLOW
    return result


@contextlib.contextmanager
def bounded_memory(limit: int = MEMORY) -> Iterator[None]:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < limit


# -- bytes that no program wrote ---------------------------------------------------------------


def page_of(rng: random.Random) -> int:
    return rng.choice(image().metadata) * PAGE


def flip_some(rng: random.Random, data: bytearray) -> None:
    for _ in range(rng.choice([1, 1, 1, 2, 4, 40])):
        data[page_of(rng) + rng.randrange(PAGE)] ^= 1 << rng.randrange(8)


def flip_in_both(rng: random.Random, data: bytearray) -> None:
    """The same byte of each copy: the mirror does not help."""
    page = page_of(rng)
    wrong = data[page : page + PAGE]
    at = rng.randrange(PAGE)
    for other in image().metadata:
        if data[other * PAGE : other * PAGE + PAGE] == wrong:
            data[other * PAGE + at] ^= rng.randrange(1, 256)


def swap_pages(rng: random.Random, data: bytearray) -> None:
    for _ in range(rng.choice([1, 1, 3])):
        one, other = page_of(rng), page_of(rng)
        kept = data[one : one + PAGE]
        data[one : one + PAGE] = data[other : other + PAGE]
        data[other : other + PAGE] = kept


def put_back_old_pages(rng: random.Random, data: bytearray) -> None:
    pages = rng.sample(image().metadata, rng.choice([1, 2, 6]))
    if rng.random() < 0.5:
        pages += [0, SIZE // PAGE - 1]  # both superblocks as they were
    for page in pages:
        data[page * PAGE : (page + 1) * PAGE] = image().old[page * PAGE : (page + 1) * PAGE]


def put_garbage(rng: random.Random, data: bytearray) -> None:
    for _ in range(rng.choice([1, 2, 5])):
        at = page_of(rng)
        length = rng.choice([8, 64, 512, PAGE, 4 * PAGE])
        data[at : at + length] = rng.choice(
            [rng.randbytes(length), bytes(length), b"\xff" * length]
        )
    del data[SIZE:]


def lose_superblocks(rng: random.Random, data: bytearray) -> None:
    """And more of the metadata, sometimes."""
    data[0:PAGE] = rng.choice([bytes(PAGE), rng.randbytes(PAGE)])
    data[SIZE - PAGE :] = bytes(PAGE)
    if rng.random() < 0.6:
        flip_some(rng, data)
    if rng.random() < 0.3:
        flip_in_both(rng, data)


@pytest.mark.parametrize(
    "damage",
    [flip_some, flip_in_both, swap_pages, put_back_old_pages, put_garbage, lose_superblocks],
)
def test_wrong_bytes_are_refused_or_repaired(
    device: PmemDevice, damage: Callable[[random.Random, bytearray], None]
) -> None:
    rng = make_rng()
    results: dict[str, int] = {}
    with bounded_memory():
        for _ in range(max(IMAGES // 6, 1)):
            data = bytearray(image().data)
            damage(rng, data)
            result = attack(device, bytes(data))
            results[result] = results.get(result, 0) + 1
    print(results)
    assert results.get("failed", 0) == 0, "a plan that could not be carried out"
    assert results.get("repaired", 0) + results.get("whole", 0) > 0


def test_every_single_byte_of_a_superblock_may_be_wrong_r43(device: PmemDevice) -> None:
    rng = make_rng()
    length = int.from_bytes(image().data[12:16], "little")
    for at in sorted(rng.sample(range(length), min(length, IMAGES // 8))):
        data = bytearray(image().data)
        data[at] ^= 0x40
        poke(device, 0, bytes(data))
        assert [finding.invariant for finding in check(device)] == [Invariant.SUPERBLOCK]
        data[SIZE - PAGE + at] ^= 0x40
        poke(device, 0, bytes(data))
        assert [finding.invariant for finding in check(device)] == [Invariant.SUPERBLOCK]
        fs = FileSystem(device, commits_each=True)
        assert read_files(fs) == image().content
        stop(fs)


def test_a_device_that_was_cut_is_refused_and_says_so() -> None:
    rng = make_rng()
    sizes = [PAGE * pages for pages in rng.sample(range(1, SIZE // PAGE), 100)]
    for size in (MIB, SIZE - PAGE, SIZE // 2 + PAGE, 64 * PAGE, 8 * PAGE, PAGE, *sizes):
        device = PmemDevice(create_memory_pool(size))
        poke(device, 0, image().data[:size])
        for use in (check, plan_repair, lambda d: FileSystem(d, commits_each=True)):
            with pytest.raises(CorruptionError, match="size of the device"):
                list(use(device))  # type: ignore[call-overload]
        device.close()


def test_a_device_that_grew_is_refused_and_says_so() -> None:
    device = PmemDevice(create_memory_pool(2 * SIZE))
    poke(device, 0, image().data)
    with pytest.raises(CorruptionError, match="size of the device"):
        list(check(device))
    device.close()


def test_nothing_but_garbage_is_no_file_system() -> None:
    rng = make_rng()
    for size in (PAGE, 3 * PAGE, MIB, SIZE):
        for data in (
            bytes(size),
            rng.randbytes(size),
            b"DMCP" * (size // 4),
            b"DMFJ" * (size // 4),
        ):
            device = PmemDevice(create_memory_pool(size))
            poke(device, 0, data)
            with pytest.raises(CorruptionError, match="superblock"):
                list(check(device))
            with pytest.raises(CorruptionError, match="superblock"):
                FileSystem(device, commits_each=True)
            device.close()


# -- both superblocks lost ---------------------------------------------------------------------


def lose_both(device: PmemDevice) -> None:
    for offset in (0, device.size - PAGE):
        device.inject(Extent(offset, PAGE))


def test_a_repair_writes_lost_superblocks_anew_and_the_pool_is_as_it_was(
    device: PmemDevice,
) -> None:
    """R43, R46: opened without one it is read-only, and says which command mends it."""
    poke(device, 0, image().data)
    lose_both(device)
    fs = FileSystem(device, commits_each=True)
    assert fs.is_read_only
    assert any("daxmend check ram --repair" in notice for notice in fs.notices)
    assert read_files(fs) == image().content
    fs.close()
    findings = list(check(device))
    assert [finding.invariant for finding in findings] == [Invariant.SUPERBLOCK]
    assert "the journal confirms it" in findings[0].text
    before = peek(device, Extent(0, SIZE))
    plan = plan_repair(device)
    assert len(plan.steps) == 1
    assert peek(device, Extent(0, SIZE)) == before
    apply_repair(device, plan)
    check_medium(device)
    assert list(device.badblocks(Extent(0, SIZE))) == []
    fs = FileSystem(device, commits_each=True)
    assert fs.notices == []
    assert read_files(fs) == image().content
    walk(fs)
    fs.close()


def test_superblocks_that_are_both_old_are_known_by_the_mark(device: PmemDevice) -> None:
    """Stale copies of a device's first and last page were put back."""
    poke(device, 0, image().data)
    for offset in (0, SIZE - PAGE):
        poke(device, offset, image().old[offset : offset + PAGE])
    fs = FileSystem(device, commits_each=True)
    assert fs.is_read_only
    assert read_files(fs) == image().content
    fs.close()
    apply_repair(device, plan_repair(device))
    check_medium(device)


def write_checkpoint_that_never_counts(fs: FileSystem) -> None:
    """What a stop leaves between the checkpoint and its superblock."""
    generation = fs._superblock.generation + (1 << 33)
    checkpoint_module.write_checkpoint(fs._reserve, fs._state.records(), generation)
    fs.device.fence()


def test_a_whole_checkpoint_that_never_counted_is_not_taken(device: PmemDevice) -> None:
    """What was committed after it was made is not lost with the superblocks."""
    poke(device, 0, image().data)
    fs = FileSystem(device, commits_each=True)
    write_checkpoint_that_never_counts(fs)
    fs._space.take(fs._reserve.copies[0][0])  # nobody writes there meanwhile
    fs.make(fs.root, b"committed", FILE, 0, 0)
    stop(fs)
    lose_both(device)
    fs = FileSystem(device, commits_each=True)
    assert fs.lookup(fs.root, b"committed")
    assert read_files(fs).keys() == image().content.keys() | {b"/committed"}
    fs.close()


def test_pages_that_a_user_made_are_not_taken_for_the_checkpoint(device: PmemDevice) -> None:
    """A file may hold a pool, or what looks like one, with any number for a generation."""
    poke(device, 0, image().data)
    fs = FileSystem(device, commits_each=True)
    ino = fs.make(fs.root, b"evil", FILE, 7, 7)
    root = Attributes(1, stat.S_IFDIR | 0o777, 7, 7, 2, 0, 0, 0, 1, 0, 0, 0, 0)
    for copy in range(2):
        fs.write(
            ino,
            copy * PAGE,
            checkpoint_module._pack(Inode(root).pack(), 0, (1 << 63) - 1, 0, 1),
        )
    fs.checkpoint()  # now the real one knows whose pages those are
    stop(fs)
    lose_both(device)
    for marked in (True, False):
        if not marked:  # nor does the journal say anything
            for area in fs._superblock.journal:
                device.inject(Extent(area.offset, PAGE))
        found = FileSystem(device, commits_each=True)
        assert found.stat(1).uid == 0
        assert found.lookup(1, b"first")
        found.close()


def test_a_search_reads_no_holes(monkeypatch: pytest.MonkeyPatch) -> None:
    device = PmemDevice(create_memory_pool(512 * MIB))
    make_file_system(device)
    fs = FileSystem(device, commits_each=True)
    fill(fs, "first")
    stop(fs)
    lose_both(device)
    before = os.fstat(device.pool.backing.fd).st_blocks
    start = time.monotonic()
    assert len(list(check(device))) == 1
    assert time.monotonic() - start < SLOW
    assert os.fstat(device.pool.backing.fd).st_blocks - before < 64 * MIB // 512, "memory for holes"
    device.close()


def test_what_is_missing_of_the_checkpoint_that_is_found_is_named(device: PmemDevice) -> None:
    poke(device, 0, image().data)
    superblock, _ = read_superblock(device)
    count = pages_for(superblock.checkpoint_length)
    assert count > 3
    mirror = Mirror(device, superblock.checkpoint)
    for number in range(count):
        poke(device, 0, image().data)
        lose_both(device)
        for copy in COPIES:
            device.inject(next(mirror.device_extents(copy, Extent(number * PAGE, PAGE))))
        findings = list(check(device))
        assert findings[0].invariant is Invariant.SUPERBLOCK
        assert any(f"page {number} of the checkpoint" in finding.text for finding in findings)
        apply_repair(device, plan_repair(device))
        check_medium(device)
        for extent, _ in list(device.badblocks(Extent(0, SIZE))):
            device.zeroinit(extent.widened(PAGE))


# -- numbers that no program of ours writes, with right checksums ------------------------------

HUGE = [0, 1, 2, 254, 255, 256, 65535, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32]
HUGE += [
    (1 << 51) - 1,
    1 << 51,
    (1 << 52) + 1,
    (1 << 63) - 1,
    1 << 63,
    (1 << 64) - 2,
    (1 << 64) - 1,
]


def craft_record(rng: random.Random, device: PmemDevice, fs: FileSystem) -> None:
    """Some numbers of some records are hostile."""
    fs.checkpoint()
    superblock = fs._superblock
    stream = bytearray(b"".join(fs._state.records()))
    starts = [0]
    while starts[-1] < len(stream):
        starts.append(
            starts[-1] + int.from_bytes(stream[starts[-1] + 4 : starts[-1] + 8], "little")
        )
    starts.pop()
    for _ in range(rng.choice([1, 1, 2, 5])):
        width = rng.choice([1, 2, 4, 8, 8])
        at = rng.choice(starts) + 4 * rng.randrange(40)
        wrong = rng.choice(HUGE) & ((1 << 8 * width) - 1)
        stream[at : at + width] = wrong.to_bytes(width, "little")
    write_stream(device, superblock, bytes(stream), starts)


def write_stream(
    device: PmemDevice, superblock: Superblock, stream: bytes, starts: list[int]
) -> None:
    pages = b"".join(checkpoint_module._pages(stream, starts, superblock.generation))
    mirror = Mirror(device, superblock.checkpoint)
    assert len(pages) <= mirror.length
    for copy in COPIES:
        mirror.write(copy, 0, pages)
    write_superblock(device, superblock._replace(checkpoint_length=len(stream)))


def craft_superblock(rng: random.Random, device: PmemDevice, fs: FileSystem) -> None:
    superblock = fs._superblock
    for _ in range(rng.choice([1, 2])):
        field = rng.choice(["generation", "next_ino", "checkpoint_length", "journal", "checkpoint"])
        value: object = rng.choice(HUGE)
        if field in ("journal", "checkpoint"):
            extents = [
                Extent(
                    rng.choice([0, PAGE, 5 * PAGE, SIZE, *HUGE]), rng.choice([PAGE, SIZE, *HUGE])
                )
                for _ in range(2)
            ]
            extents[1] = Extent(extents[1].offset, extents[0].length)
            pair = (extents[0], extents[1])
            value = pair if field == "journal" else ((pair[0],), (pair[1],))
        superblock = superblock._replace(**{field: value})
    page = superblock.pack()
    for offset in (0, SIZE - PAGE):
        poke(device, offset, page)


def craft_changes(rng: random.Random, device: PmemDevice, fs: FileSystem) -> None:
    """Journal entries that were not made by any operation."""
    numbers = [*fs._state.inos(), 7, *HUGE]
    for _ in range(rng.randint(1, 4)):
        a, b, c, d = (rng.choice(HUGE) for _ in range(4))
        ino, other = rng.choice(numbers), rng.choice(numbers)
        mode = rng.choice([stat.S_IFDIR, stat.S_IFREG, 0, 0o170000]) | 0o644
        change = rng.choice(
            [
                InodeSet(
                    Attributes(
                        ino, mode, 0, 0, a & 0xFFFFFFFF, 0, 0, b, other, -(1 << 63), 1 << 62, 0, 0
                    )
                ),
                NameSet(ino, other, mode, rng.choice([b"", b"..", b"n" * 255, b"n" * 70000])),
                Mapped(ino, a, b, c, True),
                Unmapped(ino, a, b),
                Written(ino, a, d),
                XattrSet(ino, b"x" * rng.choice([0, 255, 256]), b"v" * rng.choice([0, 70000])),
            ]
        )
        with contextlib.suppress(DaxmendError):
            fs._journal.append(pack_change(change))
    if rng.random() < 0.3:
        fs._journal.append(rng.randbytes(rng.randrange(200)))


@pytest.mark.parametrize("craft", [craft_record, craft_superblock, craft_changes])
def test_hostile_numbers_are_found_and_repaired(
    device: PmemDevice, craft: Callable[[random.Random, PmemDevice, FileSystem], None]
) -> None:
    rng = make_rng()
    results: dict[str, int] = {}
    with bounded_memory():
        for _ in range(max(IMAGES // 4, 1)):
            poke(device, 0, image().data)
            fs = FileSystem(device, commits_each=True)
            craft(rng, device, fs)
            stop(fs)
            result = attack(device, peek(device, Extent(0, SIZE)))
            results[result] = results.get(result, 0) + 1
    print(results)
    assert results.get("failed", 0) == 0


def test_a_journal_full_of_what_may_be_entries_ends_soon(device: PmemDevice) -> None:
    """Each of them would be as long as all that is left."""
    poke(device, 0, image().data)
    superblock, _ = read_superblock(device)
    area = superblock.journal[0]
    journal = FsJournal(device, superblock.journal, superblock.generation)
    entry = journal._pack(b"")[:4]
    fake = bytearray()
    while len(fake) < area.length - 64:
        left = area.length - len(fake) - 4 * 8
        fake += entry + left.to_bytes(4, "little")
        fake += superblock.generation.to_bytes(8, "little") + (1 << 40).to_bytes(8, "little")
        fake += bytes(8)
    data = bytearray(image().data)
    for each in superblock.journal:
        data[each.offset : each.offset + len(fake)] = fake
    attack(device, bytes(data))


def test_directories_ten_thousand_deep_take_no_more_memory_than_they_must() -> None:
    """Their paths together would be gigabytes."""
    device = PmemDevice(create_memory_pool(64 * MIB))
    make_file_system(device)
    fs = FileSystem(device, commits_each=False)
    parent = fs.root
    with bounded_memory(200 * MIB):
        for _ in range(10_000):
            parent = fs.make(parent, b"d" * 255, DIRECTORY, 0, 0)
        fs._touch(fs._inode(parent), nlink=77)
        assert len(fs.path(parent)) == 256 * 10_000
        findings = fs.check()
        assert [finding.invariant for finding in findings] == [Invariant.LINKS]
        stop(fs)
        apply_repair(device, plan_repair(device))
        check_medium(device)
    device.close()


def test_findings_of_one_kind_are_counted_and_not_listed_without_end() -> None:
    device = PmemDevice(create_memory_pool(64 * MIB))
    make_file_system(device)
    fs = FileSystem(device, commits_each=False)
    home = fs._inode(fs.root)
    with bounded_memory(200 * MIB):
        for number in range(50_000):
            home.set_name(b"%d" % number, 5000 + number, stat.S_IFREG)
        home.record = None
        fs._state.records_length += home.record_length
        fs._write_checkpoint()
        stop(fs)
        findings = list(check(device))
        assert len(findings) < 2 * MOST
        assert findings[-1].text == f"{50_000 - MOST} more"
        plan = plan_repair(device)
        assert len(plan.steps) < 2 * MOST
        apply_repair(device, plan)
        check_medium(device)
    device.close()


def test_a_ring_of_directories_keeps_nobody(device: PmemDevice) -> None:
    poke(device, 0, image().data)
    fs = FileSystem(device, commits_each=True)
    one = fs.make(fs.root, b"one", DIRECTORY, 0, 0)
    two = fs.make(one, b"two", DIRECTORY, 0, 0)
    fs.make(two, b"three", DIRECTORY, 0, 0)
    fs._inode(two).set_name(b"one", one, stat.S_IFDIR)
    fs._inode(fs.root).drop_name(b"one")
    fs._touch(fs._inode(one), parent=two)
    fs._paths = None
    assert fs.path(two) == b""
    with pytest.raises(OSError, match="clean"):
        fs.rename(fs.root, b"first", two, b"moved")
    fs._inode(fs.root).record = fs._inode(two).record = None
    fs._state.records_length = sum(map(len, fs._state.records()))
    fs._write_checkpoint()
    stop(fs)
    assert attack(device, peek(device, Extent(0, SIZE))) == "repaired"


# -- a million extents in one file -------------------------------------------------------------

EXTENTS = 1_000_000
EXTENTS_MEMORY = 300 * MIB
EXTENTS_SLOW = 20.0  # seconds for any one thing, on a machine that does others, too


def own_memory() -> int:
    """The most that this process ever had in memory, without what is shared with the pool."""
    lines = Path("/proc/self/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    kib = {name: int(fields[name].split()[0]) for name in ("VmHWM", "RssShmem")}
    return (kib["VmHWM"] - kib["RssShmem"]) * 1024


def test_a_file_of_a_million_extents_is_a_file_like_others() -> None:
    """Every second page is written, the others are allocated: no two pages are one extent."""
    device = PmemDevice(create_memory_pool(6 * 1024 * MIB))
    make_file_system(device)
    fs = FileSystem(device, commits_each=False)
    before = own_memory()
    times: dict[str, float] = {}

    @contextlib.contextmanager
    def timed(what: str) -> Iterator[None]:
        start = time.monotonic()
        yield
        times[what] = round(time.monotonic() - start, 2)

    ino = fs.make(fs.root, b"big", FILE, 0, 0)
    fs.fallocate(ino, 0, EXTENTS * PAGE)
    place = fs._inode(ino).map.find(0)
    assert place is not None
    mapped = fs._inode(ino)
    fs._state.records_length -= mapped.record_length
    mapped.record = None
    mapped.map = ExtentMap.unpack(
        array("Q", range(EXTENTS)).tobytes()
        + array("Q", range(place.place, place.place + EXTENTS)).tobytes()
        + array("Q", (2 + (number % 2 == 0) for number in range(EXTENTS))).tobytes()
    )
    fs._state.records_length += mapped.record_length
    fs._make_room(0)
    with timed("checkpoint"):
        fs._write_checkpoint()
    with timed("close"):
        fs.close()
    with timed("open"):
        fs = FileSystem(device, commits_each=False)
    assert fs.notices == []
    middle = EXTENTS // 2 * PAGE
    with timed("a thousand reads"):
        for number in range(1000):
            fs.read(ino, number * 997 * PAGE, PAGE)
    with timed("a hundred punches in the middle"):
        for number in range(100):
            fs.punch(ino, middle + 10 * number * PAGE, PAGE)
    with timed("a hundred writes into holes"):
        for number in range(100):
            assert fs.write(ino, middle + 10 * number * PAGE, b"n" * PAGE) == PAGE
    assert fs.read(ino, middle, PAGE) == b"n" * PAGE
    assert len(fs._inode(ino).map) >= EXTENTS - 200
    with timed("a thousand written"):
        for number in range(1, 2001, 2):
            fs.write(ino, number * PAGE, b"w" * PAGE)
    with timed("owners"):
        owners = fs.owners(Extent(1024 * MIB, MIB))
    assert len(owners) == 256
    assert {owner.path for owner in owners} == {b"/big"}
    with timed("owners, after a change"):
        fs.punch(ino, middle, PAGE)
        fs.owners(Extent(1024 * MIB, MIB))
    with timed("extents from the middle on"):
        assert len(list(itertools.islice(fs.extents(ino, middle), 512))) == 512
    with timed("check"):
        assert fs.check() == []
    fs.close()
    with timed("plan"):
        assert plan_repair(device).steps == []
    fs = FileSystem(device, commits_each=False)
    with timed("truncate"):
        fs.truncate(ino, middle)
    with timed("unlink"):
        fs.unlink(fs.root, b"big")
        fs.sync()
    assert fs.statfs().bfree > EXTENTS
    fs.close()
    check_medium(device)
    used = own_memory() - before
    device.close()
    print(times, f"{used / MIB:.0f} MiB")
    assert max(times.values()) < EXTENTS_SLOW
    assert used < EXTENTS_MEMORY
