"""What must hold of every open file system, found by a walk that trusts none of its indexes.

`walk` goes from the root through the public operations and adds up pages; `check_medium` asks
`check` about what is on the medium. Both return nothing and assert.
"""

import stat
from collections import Counter

from daxmend.dax.api import DaxDevice
from daxmend.extent import Extent, ExtentSet
from daxmend.fs import FileSystem, Owner
from daxmend.fs.check import check
from daxmend.units import PAGE


def tree(fs: FileSystem) -> dict[bytes, int]:
    """Path → inode of everything that has a name."""
    found = {b"/": fs.root}
    waiting = [(b"", fs.root)]
    while waiting:
        path, ino = waiting.pop()
        for name, child, kind in fs.names(ino):
            assert name not in (b"", b".", b"..")
            found[path + b"/" + name] = child
            assert stat.S_IFMT(fs.stat(child).mode) == kind, name
            if kind == stat.S_IFDIR:
                assert fs.parent(child) == ino, name
                waiting.append((path + b"/" + name, child))
    return found


def file_pages(fs: FileSystem, ino: int) -> list[int]:
    """The device's pages of a file, after a look at its mapping."""
    pages: list[int] = []
    before = None
    for mapping in fs.extents(ino):
        assert all(number % PAGE == 0 for number in mapping[:3])
        assert mapping.length > 0
        assert mapping.device_offset + mapping.length <= fs.device.size
        if before is not None:
            end, place_end = before.offset + before.length, before.device_offset + before.length
            assert mapping.offset >= end, "runs overlap"
            is_next = (mapping.offset, mapping.device_offset) == (end, place_end)
            assert not is_next or mapping.is_written != before.is_written, "runs are not merged"
        before = mapping
        first = mapping.device_offset // PAGE
        pages += range(first, first + mapping.length // PAGE)
    return pages


def walk(fs: FileSystem) -> None:
    """The tree, the link counts, and who owns each page of the device."""
    paths = tree(fs)
    names = Counter(paths.values())
    inos = set(fs._state.inos())
    assert set(names) <= inos
    below = Counter(
        fs.parent(ino) for ino in names if ino != fs.root and stat.S_ISDIR(fs.stat(ino).mode)
    )
    used: Counter[int] = Counter()
    for ino in inos:
        found = fs.stat(ino)
        is_directory = stat.S_ISDIR(found.mode)
        assert found.nlink == (2 + below[ino] if is_directory and names[ino] else names[ino]), ino
        assert names[ino] or fs._state.inode(ino).users > 0, f"inode {ino} has nobody"
        if is_directory:
            assert names[ino] <= 1
        if stat.S_ISREG(found.mode):
            pages = file_pages(fs, ino)
            assert found.blocks == len(pages) * (PAGE // 512)
            used.update(pages)
    _walk_places(fs, used)
    lengths = [len(fs._state.inode(ino).pack()) for ino in inos]
    assert fs._state.records_length == sum(lengths)
    assert all(ino < fs._state.next_ino for ino in inos)


def _walk_places(fs: FileSystem, used: Counter[int]) -> None:
    """Used + free + metadata = device, and no page in two of them."""
    device = fs.device
    metadata = [Extent(0, PAGE), Extent(device.size - PAGE, PAGE), *fs._superblock.journal]
    for copies in (fs._checkpoint.copies, fs._reserve.copies):
        metadata += [extent for copy in copies for extent in copy]
    for extent in metadata:
        used.update(range(extent.offset // PAGE, extent.end // PAGE))
    space = fs._space
    free = 0
    for pages in (space._free, space._freed, space.quarantine):
        for extent in pages:
            used.update(range(extent.offset // PAGE, extent.end // PAGE))
            free += extent.length
    assert free == space.unused_length
    assert space.free_length == space._free.length
    assert space._freed_length == space._freed.length
    doubles = [page for page, count in used.items() if count > 1]
    assert not doubles, f"pages {doubles[:5]} belong to two"
    assert len(used) == device.size // PAGE, "pages belong to nobody"
    for mirror in (fs._superblock.checkpoint,):
        assert all(extent in [*fs._checkpoint.extents()] for copy in mirror for extent in copy)


def check_owners(fs: FileSystem) -> None:
    """R42: `owners` splits the whole device without gaps, and says of files what they say."""
    end = 0
    files = ExtentSet(PAGE)
    for owner in fs.owners(Extent(0, fs.device.size)):
        assert owner.extent.offset == end
        assert owner.extent.length
        end = owner.extent.end
        if owner.kind == "file":
            assert owner.ino
            files.add(owner.extent)
            places = fs._state.inode(owner.ino).map.find(owner.offset // PAGE)
            assert places is not None
            offset = owner.offset - places.pgoff * PAGE
            assert places.place * PAGE + offset == owner.extent.offset
    assert end == fs.device.size
    wanted = ExtentSet(PAGE)
    for ino in fs._state.inos():
        for mapping in fs.extents(ino) if stat.S_ISREG(fs.stat(ino).mode) else ():
            wanted.add(Extent(mapping.device_offset, mapping.length))
    assert files == wanted


def bad_owners(fs: FileSystem) -> list[Owner]:
    """The whole record, split by owner (R9, R42)."""
    bad = fs.device.badblocks(Extent(0, fs.device.size))
    return [owner for run, _ in bad for owner in fs.owners(run)]


def check_medium(device: DaxDevice) -> None:
    """What is on the medium is whole, by `check`."""
    findings = [str(finding) for finding in check(device)]
    assert findings == []


def content(fs: FileSystem, ino: int) -> bytes:
    """All bytes of a file; none may be bad."""
    size = fs.stat(ino).size
    parts: list[bytes] = []
    at = 0
    while at < size:
        part = fs.read(ino, at, size - at)
        assert part
        parts.append(bytes(part))
        at += len(part)
    return b"".join(parts)
