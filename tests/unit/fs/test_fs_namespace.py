"""The tree: what each call does, and with which errno it refuses."""

import errno
import os
import stat
from collections.abc import Callable

import pytest

from daxmend.fs import FIRST_INO, FileSystem
from daxmend.fs.inode import NAME_MAX
from daxmend.fs.namespace import TARGET_MAX, XATTR_MAX
from daxmend.pmem.device import PmemDevice

FILE = stat.S_IFREG | 0o644
DIRECTORY = stat.S_IFDIR | 0o755
LINK = stat.S_IFLNK | 0o777
NOREPLACE, EXCHANGE = 1, 2

MakeFile = Callable[..., int]


def fails(
    number: int, operation: Callable[..., object], *arguments: object, **named: object
) -> None:
    with pytest.raises(OSError) as caught:
        operation(*arguments, **named)
    assert caught.value.errno == number, os.strerror(number)


def directory(fs: FileSystem, name: bytes, parent: int | None = None) -> int:
    return fs.make(parent or fs.root, name, DIRECTORY, 0, 0)


def names(fs: FileSystem, ino: int) -> dict[bytes, int]:
    return {name: child for name, child, _ in fs.names(ino)}


def nlink(fs: FileSystem, ino: int) -> int:
    return fs.stat(ino).nlink


# -- making ------------------------------------------------------------------------------------


def test_a_new_file_has_what_it_was_made_with(fs: FileSystem) -> None:
    ino = fs.make(fs.root, b"f", stat.S_IFREG | 0o4640, 5, 6)
    found = fs.stat(ino)
    assert (found.mode, found.uid, found.gid) == (stat.S_IFREG | 0o4640, 5, 6)
    assert (found.nlink, found.size, found.blocks) == (1, 0, 0)
    assert found.atime_ns == found.mtime_ns == found.ctime_ns == found.btime_ns > 0
    assert ino >= FIRST_INO
    assert fs.lookup(fs.root, b"f") == ino
    assert fs.names(fs.root) == [(b"f", ino, stat.S_IFREG)]


@pytest.mark.parametrize("kind", [stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK])
def test_special_files_keep_type_and_device(fs: FileSystem, kind: int) -> None:
    ino = fs.make(fs.root, b"s", kind | 0o600, 0, 0, rdev=os.makedev(1, 3))
    assert fs.stat(ino).rdev == os.makedev(1, 3)
    assert stat.S_IFMT(fs.stat(ino).mode) == kind
    fails(errno.EINVAL, fs.read, ino, 0, 1)
    fails(errno.EINVAL, fs.readlink, ino)


def test_a_symbolic_link_has_its_target_and_that_length(fs: FileSystem) -> None:
    ino = fs.make(fs.root, b"l", LINK, 0, 0, target=b"over/there")
    assert fs.readlink(ino) == b"over/there"
    assert fs.stat(ino).size == 10
    longest = b"x" * TARGET_MAX
    assert fs.readlink(fs.make(fs.root, b"m", LINK, 0, 0, target=longest)) == longest
    fails(errno.ENAMETOOLONG, fs.make, fs.root, b"n", LINK, 0, 0, target=longest + b"x")
    fails(errno.ENOENT, fs.make, fs.root, b"n", LINK, 0, 0)


def test_names_that_cannot_be_are_refused(fs: FileSystem, make_file: MakeFile) -> None:
    make_file(name=b"there")
    longest = b"n" * NAME_MAX
    make_file(name=longest)
    for number, name in [
        (errno.EEXIST, b"there"),
        (errno.EEXIST, b"."),
        (errno.EEXIST, b".."),
        (errno.ENAMETOOLONG, longest + b"n"),
        (errno.EINVAL, b""),
        (errno.EINVAL, b"a/b"),
        (errno.EINVAL, b"a\0b"),
    ]:
        fails(number, fs.make, fs.root, name, FILE, 0, 0)
    fails(errno.ENOENT, fs.lookup, fs.root, b"not")
    fails(errno.ENAMETOOLONG, fs.lookup, fs.root, longest + b"n")


def test_what_is_no_directory_has_no_names(fs: FileSystem, make_file: MakeFile) -> None:
    ino = make_file()
    for operation in (fs.names, fs.parent):
        fails(errno.ENOTDIR, operation, ino)
    fails(errno.ENOTDIR, fs.lookup, ino, b"x")
    fails(errno.ENOTDIR, fs.make, ino, b"x", FILE, 0, 0)
    fails(errno.ENOTDIR, fs.unlink, ino, b"x")
    fails(errno.ENOTDIR, fs.rename, ino, b"x", fs.root, b"y")
    fails(errno.ENOTDIR, fs.link, ino, ino, b"x")


def test_an_inode_that_is_gone_is_stale(fs: FileSystem, make_file: MakeFile) -> None:
    ino = make_file(name=b"f")
    fs.unlink(fs.root, b"f")
    for operation in (fs.stat, fs.names, fs.readlink, fs.listxattr):
        fails(errno.ESTALE, operation, ino)
    fails(errno.ESTALE, fs.read, ino, 0, 1)
    fs.release(ino)  # of one that is not there: nothing


def test_setgid_directories_give_their_group_and_the_bit_to_directories(fs: FileSystem) -> None:
    parent = fs.make(fs.root, b"g", DIRECTORY | stat.S_ISGID, 1, 50)
    assert fs.stat(fs.make(parent, b"f", FILE, 2, 2)).gid == 50
    below = fs.stat(fs.make(parent, b"d", DIRECTORY, 2, 2))
    assert below.gid == 50
    assert below.mode & stat.S_ISGID
    assert fs.stat(fs.make(parent, b"f2", FILE, 2, 2)).mode == FILE
    assert fs.stat(fs.make(fs.root, b"f", FILE, 2, 2)).gid == 2


# -- links and users ---------------------------------------------------------------------------


def test_link_counts_follow_names(fs: FileSystem, make_file: MakeFile) -> None:
    ino = make_file(name=b"a")
    below = directory(fs, b"d")
    fs.link(ino, below, b"b")
    assert nlink(fs, ino) == 2
    fails(errno.EEXIST, fs.link, ino, below, b"b")
    fs.unlink(fs.root, b"a")
    assert nlink(fs, ino) == 1
    assert fs.lookup(below, b"b") == ino
    fails(errno.EPERM, fs.link, below, fs.root, b"hard")
    fails(errno.ENOENT, fs.unlink, fs.root, b"a")
    fails(errno.EISDIR, fs.unlink, fs.root, b"d")


def test_directories_count_themselves_and_those_below(fs: FileSystem) -> None:
    assert nlink(fs, fs.root) == 2
    below = directory(fs, b"d")
    deeper = directory(fs, b"e", below)
    assert [nlink(fs, each) for each in (fs.root, below, deeper)] == [3, 3, 2]
    assert (fs.parent(deeper), fs.parent(below), fs.parent(fs.root)) == (below, fs.root, fs.root)
    fails(errno.ENOTEMPTY, fs.rmdir, fs.root, b"d")
    fs.rmdir(below, b"e")
    assert nlink(fs, below) == 2
    fs.rmdir(fs.root, b"d")
    assert nlink(fs, fs.root) == 2
    fails(errno.ENOENT, fs.rmdir, fs.root, b"d")


def test_rmdir_is_for_directories(fs: FileSystem, make_file: MakeFile) -> None:
    make_file(name=b"f")
    fails(errno.ENOTDIR, fs.rmdir, fs.root, b"f")


def test_an_unlinked_file_lives_as_long_as_somebody_uses_it(
    fs: FileSystem, make_file: MakeFile
) -> None:
    ino = make_file(b"still here", b"f")
    fs.use(ino)
    fs.use(ino)
    fs.unlink(fs.root, b"f")
    assert fs.read(ino, 0, 99) == b"still here"
    assert fs.write(ino, 5, b"!") == 1
    assert fs.path(ino) == b""
    fs.release(ino)
    assert nlink(fs, ino) == 0
    fs.release(ino)
    fails(errno.ESTALE, fs.stat, ino)


def test_nothing_is_made_in_a_directory_that_was_removed(fs: FileSystem) -> None:
    ino = directory(fs, b"d")
    fs.use(ino)
    fs.rmdir(fs.root, b"d")
    fails(errno.ENOENT, fs.make, ino, b"x", FILE, 0, 0)
    fs.release(ino)


def test_a_nameless_file_gets_a_name_or_goes(fs: FileSystem) -> None:
    kept = fs.make_nameless(fs.root, FILE, 0, 0)
    gone = fs.make_nameless(fs.root, FILE, 0, 0)
    assert nlink(fs, kept) == 0
    fs.link(kept, fs.root, b"named")
    for ino in (kept, gone):
        fs.release(ino)
    assert fs.lookup(fs.root, b"named") == kept
    fails(errno.ESTALE, fs.stat, gone)


def test_nameless_files_go_when_the_machine_stops(device: PmemDevice, fs: FileSystem) -> None:
    ino = fs.make_nameless(fs.root, FILE, 0, 0)
    fs.write(ino, 0, b"x" * 100_000)
    free = fs.statfs().bfree
    fs.sync()
    fs.is_read_only = True  # what follows does not reach the medium
    again = FileSystem(device, commits_each=True)
    fails(errno.ESTALE, again.stat, ino)
    assert again.statfs().bfree >= free + 24
    again.close()


def test_numbers_are_never_used_twice(device: PmemDevice, fs: FileSystem) -> None:
    first = fs.make(fs.root, b"a", FILE, 0, 0)
    fs.unlink(fs.root, b"a")
    fs.close()
    again = FileSystem(device, commits_each=True)
    assert again.make(fs.root, b"a", FILE, 0, 0) > first
    again.close()


# -- rename ------------------------------------------------------------------------------------


@pytest.fixture
def tree(fs: FileSystem) -> dict[bytes, int]:
    """Files a, b; directories d (with c in it), e (empty), d/f (empty)."""
    made = {name: fs.make(fs.root, name, FILE, 0, 0) for name in (b"a", b"b")}
    made |= {name: directory(fs, name) for name in (b"d", b"e")}
    made[b"c"] = fs.make(made[b"d"], b"c", FILE, 0, 0)
    made[b"f"] = directory(fs, b"f", made[b"d"])
    return made


def test_rename_moves_a_file(fs: FileSystem, tree: dict[bytes, int]) -> None:
    fs.rename(fs.root, b"a", tree[b"d"], b"moved")
    assert fs.lookup(tree[b"d"], b"moved") == tree[b"a"]
    assert b"a" not in names(fs, fs.root)
    assert nlink(fs, tree[b"a"]) == 1


def test_rename_moves_a_directory_with_counts_and_parent(
    fs: FileSystem, tree: dict[bytes, int]
) -> None:
    fs.rename(tree[b"d"], b"f", tree[b"e"], b"g")
    assert fs.parent(tree[b"f"]) == tree[b"e"]
    assert [nlink(fs, tree[each]) for each in (b"d", b"e", b"f")] == [2, 3, 2]


def test_rename_replaces_a_file(fs: FileSystem, tree: dict[bytes, int]) -> None:
    fs.link(tree[b"b"], fs.root, b"b2")
    fs.use(tree[b"b"])
    fs.rename(fs.root, b"a", fs.root, b"b")
    assert fs.lookup(fs.root, b"b") == tree[b"a"]
    assert nlink(fs, tree[b"b"]) == 1
    fs.rename(fs.root, b"b", fs.root, b"b2")
    assert nlink(fs, tree[b"b"]) == 0
    fs.release(tree[b"b"])
    fails(errno.ESTALE, fs.stat, tree[b"b"])


def test_rename_replaces_an_empty_directory_only(fs: FileSystem, tree: dict[bytes, int]) -> None:
    fails(errno.ENOTEMPTY, fs.rename, fs.root, b"e", fs.root, b"d")
    fs.rename(fs.root, b"d", fs.root, b"e")
    assert fs.lookup(fs.root, b"e") == tree[b"d"]
    assert nlink(fs, fs.root) == 3
    fails(errno.ESTALE, fs.stat, tree[b"e"])


def test_rename_replaces_a_directory_beside_it(fs: FileSystem, tree: dict[bytes, int]) -> None:
    fs.rename(tree[b"d"], b"f", fs.root, b"e")
    assert [nlink(fs, each) for each in (fs.root, tree[b"d"], tree[b"f"])] == [4, 2, 2]


def test_rename_does_not_mix_types(fs: FileSystem, tree: dict[bytes, int]) -> None:
    fails(errno.EISDIR, fs.rename, fs.root, b"a", fs.root, b"e")
    fails(errno.ENOTDIR, fs.rename, fs.root, b"e", fs.root, b"a")


def test_a_directory_does_not_move_into_itself(fs: FileSystem, tree: dict[bytes, int]) -> None:
    fails(errno.EINVAL, fs.rename, fs.root, b"d", tree[b"d"], b"x")
    fails(errno.EINVAL, fs.rename, fs.root, b"d", tree[b"f"], b"x")
    fails(errno.EINVAL, fs.rename, fs.root, b"d", tree[b"d"], b"f", EXCHANGE)
    fails(errno.EINVAL, fs.rename, tree[b"d"], b"f", fs.root, b"d", EXCHANGE)
    fails(errno.ENOTEMPTY, fs.rename, tree[b"d"], b"f", fs.root, b"d")


def test_rename_of_nothing_or_to_no_name_fails(fs: FileSystem, tree: dict[bytes, int]) -> None:
    fails(errno.ENOENT, fs.rename, fs.root, b"no", fs.root, b"x")
    fails(errno.ENAMETOOLONG, fs.rename, fs.root, b"a", fs.root, b"x" * 256)
    fails(errno.EINVAL, fs.rename, fs.root, b"a", fs.root, b"x", 3)
    fails(errno.EINVAL, fs.rename, fs.root, b"a", fs.root, b"x", 4)
    fails(errno.ENOENT, fs.rename, fs.root, b"a", fs.root, b"no", EXCHANGE)
    assert names(fs, fs.root).keys() == {b"a", b"b", b"d", b"e"}


def test_noreplace_replaces_nothing(fs: FileSystem, tree: dict[bytes, int]) -> None:
    fails(errno.EEXIST, fs.rename, fs.root, b"a", fs.root, b"b", NOREPLACE)
    fails(errno.EEXIST, fs.rename, fs.root, b"a", fs.root, b"a", NOREPLACE)
    fs.rename(fs.root, b"a", fs.root, b"x", NOREPLACE)
    assert fs.lookup(fs.root, b"x") == tree[b"a"]


def test_names_of_one_file_renamed_to_each_other_stay(
    fs: FileSystem, tree: dict[bytes, int]
) -> None:
    fs.link(tree[b"a"], fs.root, b"a2")
    for flags in (0, EXCHANGE):
        fs.rename(fs.root, b"a", fs.root, b"a2", flags)
        fs.rename(fs.root, b"a", fs.root, b"a", flags)
        assert nlink(fs, tree[b"a"]) == 2
        assert names(fs, fs.root)[b"a"] == names(fs, fs.root)[b"a2"] == tree[b"a"]


def test_exchange_swaps_anything(fs: FileSystem, tree: dict[bytes, int]) -> None:
    fs.rename(fs.root, b"a", tree[b"d"], b"f", EXCHANGE)
    assert fs.lookup(fs.root, b"a") == tree[b"f"]
    assert fs.lookup(tree[b"d"], b"f") == tree[b"a"]
    assert fs.parent(tree[b"f"]) == fs.root
    assert [nlink(fs, each) for each in (fs.root, tree[b"d"])] == [5, 2]
    fs.rename(fs.root, b"d", fs.root, b"e", EXCHANGE)
    assert fs.lookup(fs.root, b"e") == tree[b"d"]
    fs.rename(fs.root, b"b", tree[b"d"], b"c", EXCHANGE)
    assert fs.lookup(tree[b"d"], b"c") == tree[b"b"]


# -- attributes --------------------------------------------------------------------------------


def test_attributes_are_set_one_by_one(fs: FileSystem, make_file: MakeFile) -> None:
    ino = make_file()
    before = fs.stat(ino)
    fs.set_attributes(ino, mode=stat.S_IFDIR | 0o7123)
    assert fs.stat(ino).mode == stat.S_IFREG | 0o7123
    fs.set_attributes(ino, uid=7)
    fs.set_attributes(ino, gid=8)
    fs.set_attributes(ino, atime_ns=-5, mtime_ns=10**18)
    found = fs.stat(ino)
    assert (found.uid, found.gid, found.atime_ns, found.mtime_ns) == (7, 8, -5, 10**18)
    assert found.ctime_ns > before.ctime_ns
    assert found.btime_ns == before.btime_ns


def test_names_change_the_times_of_their_directory(fs: FileSystem, make_file: MakeFile) -> None:
    for change in (
        lambda: make_file(name=b"x"),
        lambda: fs.rename(fs.root, b"x", fs.root, b"y"),
        lambda: fs.unlink(fs.root, b"y"),
    ):
        before = fs.stat(fs.root)
        change()
        after = fs.stat(fs.root)
        assert after.mtime_ns > before.mtime_ns
        assert after.ctime_ns > before.ctime_ns


def test_extended_attributes(fs: FileSystem, make_file: MakeFile) -> None:
    ino = make_file()
    fails(errno.ENODATA, fs.getxattr, ino, b"user.x")
    fails(errno.ENODATA, fs.removexattr, ino, b"user.x")
    fails(errno.ENODATA, fs.setxattr, ino, b"user.x", b"", 2)
    fs.setxattr(ino, b"user.x", b"one", 1)
    fails(errno.EEXIST, fs.setxattr, ino, b"user.x", b"two", 1)
    fs.setxattr(ino, b"user.x", b"two", 2)
    fs.setxattr(ino, b"user.empty", b"")
    assert (fs.getxattr(ino, b"user.x"), fs.getxattr(ino, b"user.empty")) == (b"two", b"")
    assert sorted(fs.listxattr(ino)) == [b"user.empty", b"user.x"]
    fs.removexattr(ino, b"user.x")
    assert fs.listxattr(ino) == [b"user.empty"]
    fails(errno.ERANGE, fs.setxattr, ino, b"", b"v")
    fails(errno.ERANGE, fs.setxattr, ino, b"n" * 256, b"v")
    fails(errno.E2BIG, fs.setxattr, ino, b"user.big", bytes(XATTR_MAX + 1))


def test_large_extended_attributes_survive_closing(device: PmemDevice, fs: FileSystem) -> None:
    big = os.urandom(XATTR_MAX)
    fs.setxattr(fs.root, b"user.big", big)
    fs.close()
    again = FileSystem(device, commits_each=False)
    assert again.getxattr(fs.root, b"user.big") == big
    again.close()


# -- read-only ---------------------------------------------------------------------------------


def test_a_file_system_opened_for_reading_is_not_written(
    device: PmemDevice, fs: FileSystem, make_file: MakeFile
) -> None:
    ino = make_file(b"x" * 5000, b"f")
    fs.close()
    pool = device.pool
    layout = pool.header.layout.data
    before = pool.backing.load(layout.offset, layout.length)
    again = FileSystem(device, commits_each=True, writable=False)
    assert again.read(ino, 0, 9000) == b"x" * 5000
    for operation in (
        lambda: again.make(1, b"x", FILE, 0, 0),
        lambda: again.make_nameless(1, FILE, 0, 0),
        lambda: again.link(ino, 1, b"x"),
        lambda: again.unlink(1, b"f"),
        lambda: again.rmdir(1, b"f"),
        lambda: again.rename(1, b"f", 1, b"g"),
        lambda: again.set_attributes(ino, mode=0),
        lambda: again.setxattr(ino, b"user.x", b""),
        lambda: again.removexattr(ino, b"user.x"),
        lambda: again.write(ino, 0, b"x"),
        lambda: again.truncate(ino, 0),
        lambda: again.fallocate(ino, 0, 1),
        lambda: again.zero_range(ino, 0, 1),
        lambda: again.zeroinit(ino, 0, 1),
        lambda: again.punch(ino, 0, 1),
    ):
        fails(errno.EROFS, operation)
    assert not again.tidy()
    again.use(ino)
    again.release(ino)
    again.close()
    assert pool.backing.load(layout.offset, layout.length) == before
