"""Random histories of file-system operations against dicts and bytearrays (as fsx does).

`DAXMEND_FSX_OPERATIONS` sets how many without faults, and as many again with them (100,000 are the
default, half a minute; millions may be asked for), `DAXMEND_FSX_SEED` repeats a run.
With faults, every byte that is read is the model's; what cannot be read lies in a sector that is
really bad; and what was refused changed nothing.
"""

import contextlib
import errno
import os
import random
import stat
from collections.abc import Callable

import pytest

from daxmend.dax.api import SectorState
from daxmend.errors import MediaError
from daxmend.extent import Extent, ExtentSet
from daxmend.fs import FileSystem, make_file_system
from daxmend.media.pool import create_memory_pool
from daxmend.pmem.device import PmemDevice
from daxmend.units import CACHELINE, KIB, MIB, PAGE, SECTOR
from fswalk import bad_owners, check_medium, check_owners, tree, walk

OPERATIONS = int(os.environ.get("DAXMEND_FSX_OPERATIONS", "100000"))
SEED = int(os.environ.get("DAXMEND_FSX_SEED", random.randrange(1 << 32)))
EVERY = 250  # operations between two walks
MAX = 96 * KIB  # where writes begin at most
FILES = 8
DIRECTORIES = 4


def only(error: OSError, number: int) -> None:
    """Let no other error pass."""
    if error.errno != number:
        raise error


class ModelFile:
    """The bytes of a file, and how many names it has."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.links = 1

    def write(self, offset: int, data: bytes) -> None:
        if not data:
            return
        self.resize(max(len(self.data), offset + len(data)))
        self.data[offset : offset + len(data)] = data

    def resize(self, size: int) -> None:
        del self.data[size:]
        self.data += bytes(size - len(self.data))

    def zero(self, offset: int, length: int) -> None:
        end = min(offset + length, len(self.data))
        if end > offset:
            self.data[offset:end] = bytes(end - offset)


class Exerciser:
    """A file system and its model, to which the same is done."""

    def __init__(self, seed: int, *, has_faults: bool, commits_each: bool, size: int) -> None:
        self.random = random.Random(seed)
        self.has_faults = has_faults
        self.commits_each = commits_each
        self.device = PmemDevice(create_memory_pool(size))
        make_file_system(self.device)
        self.fs = FileSystem(self.device, commits_each=commits_each)
        self.files: dict[int, ModelFile] = {}
        self.names: dict[bytes, int] = {}  # path → inode, files and directories
        self.log: list[str] = []
        self.acts: list[Callable[[], None]] = [
            *[self.write] * 6,
            *[self.read] * 6,
            *[self.truncate] * 2,
            self.punch,
            self.zero_range,
            self.zeroinit,
            self.fallocate,
            self.seek,
            *[self.create] * 2,
            self.make_directory,
            self.link,
            *[self.unlink] * 2,
            self.remove_directory,
            *[self.rename] * 2,
            self.set_xattr,
            self.sync,
        ]
        if has_faults:
            self.acts += [*[self.inject] * 2, self.scrub, *[self.tidy] * 2, self.heal]

    def run(self, operations: int) -> None:
        for number in range(operations):
            act = self.random.choice(self.acts)
            act()
            if number % EVERY == EVERY - 1:
                self.look()
            if number % (4 * EVERY) == 4 * EVERY - 1:
                self.reopen()
        self.look()
        self.reopen()
        self.fs.close()
        self.device.close()

    # -- choices ---------------------------------------------------------------------------

    def note(self, *words: object) -> None:
        self.log.append(" ".join(map(str, words)))

    def directories(self) -> list[bytes]:
        return [b"/", *(path for path, ino in self.names.items() if ino not in self.files)]

    def new_path(self) -> bytes:
        parent = self.random.choice(self.directories()).rstrip(b"/")
        return parent + b"/" + b"%c" % self.random.choice(b"abcdefghijkl")

    def file_path(self) -> bytes | None:
        paths = [path for path, ino in self.names.items() if ino in self.files]
        return self.random.choice(paths) if paths else None

    def ino_of(self, path: bytes) -> int:
        return self.fs.root if path == b"/" else self.names[path]

    def split(self, path: bytes) -> tuple[int, bytes]:
        parent, _, name = path.rpartition(b"/")
        return self.ino_of(parent or b"/"), name

    def any_file(self) -> int:
        if not self.files:
            self.create()
        return self.random.choice(list(self.files))

    def range(self) -> tuple[int, int]:
        unit = self.random.choice([1, 1, CACHELINE, SECTOR, SECTOR, PAGE, PAGE])
        offset = self.random.randrange(MAX // unit) * unit
        length = self.random.choice([unit, SECTOR, PAGE, 3 * PAGE, 20 * PAGE])
        return offset, max(self.random.randrange(length + 1) // unit * unit, 1)

    def agree(self, wanted: int, operation: Callable[[], object]) -> object:
        """The operation fails with the errno `wanted`, or succeeds where that is 0."""
        try:
            result = operation()
        except OSError as error:
            if error.errno != wanted:
                raise
            return None
        assert wanted == 0, os.strerror(wanted)
        return result

    # -- data ------------------------------------------------------------------------------

    def write(self) -> None:
        ino = self.any_file()
        offset, length = self.range()
        data = self.random.randbytes(length)
        model = self.files[ino]
        self.note("write", ino, offset, length)
        whole_pages = Extent(offset, length).narrowed(PAGE)
        try:
            done = self.fs.write(ino, offset, data)
        except MediaError:
            assert self.has_faults
            assert whole_pages.offset != offset or not whole_pages.length, "R14: it must heal"
            return
        except OSError as error:
            only(error, errno.ENOSPC)
            return
        assert 0 < done <= length
        model.write(offset, data[:done])
        if not self.has_faults:
            assert done == length or self.fs.statfs().bavail < length // PAGE + 40
        healed = Extent(offset, done).narrowed(PAGE)
        if healed.length:  # R14
            assert not any(bad.overlaps(healed) for bad in self.fs.bad_ranges(ino))

    def read(self) -> None:
        ino = self.any_file()
        offset, length = self.range()
        self.note("read", ino, offset, length)
        self.check_read(ino, offset, length)

    def check_read(self, ino: int, offset: int, length: int) -> int:
        """R10, R11: the model's bytes, up to a sector that is bad; returns how many."""
        wanted = bytes(self.files[ino].data[offset : offset + length])
        try:
            found = bytes(self.fs.read(ino, offset, length))
        except MediaError:
            found = b""
        assert found == wanted[: len(found)], self.differ(found, wanted)
        if len(found) < len(wanted):
            assert self.has_faults
            at = offset + len(found)
            assert any(bad.offset <= at < bad.end for bad in self.fs.bad_ranges(ino)), at
            # The record knows it because the medium does, or its content is gone (R1).
            ((_, place),) = self.fs.device_extents(ino, Extent(at, 1))
            sector = place.widened(SECTOR)
            states = [state for _, state in self.device.badblocks(sector)]
            assert SectorState.LOST in states or any(self.device.poison(sector)), sector
        return len(found)

    def differ(self, found: bytes, wanted: bytes) -> str:
        at = next(at for at, byte in enumerate(found) if byte != wanted[at])
        return f"byte {at} of {len(wanted)} is {found[at]}, not {wanted[at]}"

    def truncate(self) -> None:
        ino = self.any_file()
        model = self.files[ino]
        size = self.random.choice([0, self.range()[0], self.random.randrange(len(model.data) + 1)])
        self.note("truncate", ino, size)
        bad = self.fs.bad_ranges(ino)
        self.fs.truncate(ino, size)
        model.resize(size)
        kept = [each.widened(SECTOR).intersection(Extent(0, size)) for each in bad]
        assert self.fs.bad_ranges(ino) == [each for each in kept if each.length], "R32"

    def do_range(self, name: str, *, keep_size: bool, zeros: bool) -> None:
        ino = self.any_file()
        model = self.files[ino]
        offset, length = self.range()
        self.note(name, ino, offset, length)
        operation = getattr(self.fs, name)
        arguments = {"keep_size": keep_size} if name in ("fallocate", "zero_range") else {}
        try:
            operation(ino, offset, length, **arguments)
        except MediaError:
            assert self.has_faults
            return  # R30: nothing has changed
        except OSError as error:
            only(error, errno.ENOSPC)
            return
        if zeros:
            model.zero(offset, length)
        if arguments and not keep_size:
            model.resize(max(len(model.data), offset + length))

    def punch(self) -> None:
        self.do_range("punch", keep_size=True, zeros=True)

    def zero_range(self) -> None:
        self.do_range("zero_range", keep_size=self.random.random() < 0.5, zeros=True)

    def zeroinit(self) -> None:
        self.do_range("zeroinit", keep_size=True, zeros=True)

    def fallocate(self) -> None:
        self.do_range("fallocate", keep_size=self.random.random() < 0.5, zeros=False)

    def seek(self) -> None:
        """What SEEK_HOLE finds is zeros up to the next data."""
        ino = self.any_file()
        model = self.files[ino]
        if not model.data:
            return
        hole = self.fs.seek(ino, self.random.randrange(len(model.data)), os.SEEK_HOLE)
        if hole == len(model.data):
            return
        try:
            end = self.fs.seek(ino, hole, os.SEEK_DATA)
        except OSError as error:
            only(error, errno.ENXIO)
            end = len(model.data)
        assert not any(model.data[hole:end])

    # -- names -----------------------------------------------------------------------------

    def create(self) -> None:
        path = self.new_path()
        parent, name = self.split(path)
        self.note("create", path)
        wanted = errno.EEXIST if path in self.names else 0
        if not wanted and len(self.files) >= FILES:
            return
        with self.may_be_full():
            ino = self.agree(wanted, lambda: self.fs.make(parent, name, stat.S_IFREG | 0o644, 0, 0))
            if isinstance(ino, int):
                assert ino not in self.names.values(), "numbers are never used twice"
                self.files[ino] = ModelFile()
                self.names[path] = ino

    def make_directory(self) -> None:
        path = self.new_path()
        parent, name = self.split(path)
        self.note("mkdir", path)
        wanted = errno.EEXIST if path in self.names else 0
        if not wanted and (len(self.directories()) > DIRECTORIES or path.count(b"/") > 3):
            return
        with self.may_be_full():
            ino = self.agree(wanted, lambda: self.fs.make(parent, name, stat.S_IFDIR | 0o755, 0, 0))
            if isinstance(ino, int):
                self.names[path] = ino

    @contextlib.contextmanager
    def may_be_full(self):  # type: ignore[no-untyped-def]
        try:
            yield
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise

    def link(self) -> None:
        source, path = self.file_path(), self.new_path()
        if source is None:
            return
        self.note("link", source, path)
        parent, name = self.split(path)
        ino = self.names[source]
        wanted = errno.EEXIST if path in self.names else 0
        with self.may_be_full():
            self.agree(wanted, lambda: self.fs.link(ino, parent, name))
            if not wanted:
                self.names[path] = ino
                self.files[ino].links += 1

    def drop(self, ino: int) -> None:
        if ino in self.files:
            self.files[ino].links -= 1
            if not self.files[ino].links:
                del self.files[ino]

    def unlink(self) -> None:
        path = self.random.choice([self.new_path(), *self.names])
        self.note("unlink", path)
        parent, name = self.split(path)
        ino = self.names.get(path)
        wanted = errno.ENOENT if ino is None else 0 if ino in self.files else errno.EISDIR
        self.agree(wanted, lambda: self.fs.unlink(parent, name))
        if not wanted and ino is not None:
            del self.names[path]
            self.drop(ino)

    def is_empty(self, path: bytes) -> bool:
        return not any(each.startswith(path + b"/") for each in self.names)

    def remove_directory(self) -> None:
        path = self.random.choice([self.new_path(), *self.names])
        self.note("rmdir", path)
        parent, name = self.split(path)
        ino = self.names.get(path)
        wanted = errno.ENOENT if ino is None else 0
        if ino in self.files:
            wanted = errno.ENOTDIR
        elif ino is not None and not self.is_empty(path):
            wanted = errno.ENOTEMPTY
        self.agree(wanted, lambda: self.fs.rmdir(parent, name))
        if not wanted:
            del self.names[path]

    def rename(self) -> None:
        old = self.random.choice([self.new_path(), *self.names])
        new = self.random.choice([self.new_path(), *self.names])
        flags = self.random.choice([0, 0, 0, 1, 2])
        self.note("rename", old, new, flags)
        wanted = self.rename_error(old, new, flags)
        with self.may_be_full():
            self.agree(wanted, lambda: self.fs.rename(*self.split(old), *self.split(new), flags))
            if not wanted:
                self.move(old, new, flags)

    def rename_error(self, old: bytes, new: bytes, flags: int) -> int:
        ino, there = self.names.get(old), self.names.get(new)
        if ino is None:
            return errno.ENOENT
        if ino not in self.files and new.startswith(old + b"/"):
            return errno.EINVAL
        if flags == 2:
            if there is None:
                return errno.ENOENT
            is_inside = there not in self.files and old.startswith(new + b"/")
            return errno.EINVAL if is_inside else 0
        if there is None:
            return 0
        if flags == 1:
            return errno.EEXIST
        if there == ino:
            return 0
        if there in self.files:
            return 0 if ino in self.files else errno.ENOTDIR
        if ino in self.files:
            return errno.EISDIR
        return 0 if self.is_empty(new) else errno.ENOTEMPTY

    def move(self, old: bytes, new: bytes, flags: int) -> None:
        ino, there = self.names[old], self.names.get(new)
        if ino == there:
            return
        moved = self.take_below(old)
        others = self.take_below(new)
        self.put_below(new, moved)
        if flags == 2:
            self.put_below(old, others)
        elif there is not None:
            self.drop(there)

    def take_below(self, path: bytes) -> dict[bytes, int]:
        """A name and all names below it, relative, out of the model."""
        found = {
            each[len(path) :]: ino
            for each, ino in self.names.items()
            if each == path or each.startswith(path + b"/")
        }
        for rest in found:
            del self.names[path + rest]
        return found

    def put_below(self, path: bytes, found: dict[bytes, int]) -> None:
        self.names.update({path + rest: ino for rest, ino in found.items()})

    def set_xattr(self) -> None:
        ino = self.any_file()
        value = self.random.randbytes(self.random.randrange(2000))
        with self.may_be_full():
            self.fs.setxattr(ino, b"user.x", value)
            assert self.fs.getxattr(ino, b"user.x") == value

    # -- faults ----------------------------------------------------------------------------

    def sync(self) -> None:
        self.fs.sync()

    def inject(self) -> None:
        if sum(run.length for run in self.device.poison(Extent(0, self.device.size))) > 40 * KIB:
            return
        offset = self.random.randrange(self.device.size // CACHELINE) * CACHELINE
        if self.random.random() < 0.6 and self.files:  # where the files are
            places = [place for _, place in self.fs.device_extents(self.any_file(), Extent(0, MAX))]
            if places:
                place = self.random.choice(places)
                offset = place.offset + self.random.randrange(place.length // CACHELINE) * CACHELINE
        length = self.random.choice([CACHELINE, SECTOR, PAGE, 3 * PAGE])
        extent = Extent(offset, min(length, self.device.size - offset))
        latent = self.random.random() < 0.5
        if latent and self.is_both_copies(extent):
            return
        self.note("inject", extent, "latent" if latent else "recorded")
        self.device.inject(extent, latent=latent)

    def is_both_copies(self, extent: Extent) -> bool:
        """Latent poison in the second copy where there is some in the first cannot be survived."""
        if not self.fs.is_metadata(extent.widened(PAGE)):
            return False
        poison = ExtentSet(PAGE)
        for lines in self.device.poison(Extent(0, self.device.size)):
            poison.add(lines.widened(PAGE))
        return any(self.fs.is_metadata(run) for run in poison)

    def scrub(self) -> None:
        self.note("scrub")
        for _ in self.device.scrub(Extent(0, self.device.size)):
            pass

    def tidy(self) -> None:
        self.note("tidy")
        while self.fs.tidy():
            pass
        metadata = [owner for owner in bad_owners(self.fs) if owner.kind == "metadata"]
        assert metadata == [], "R43: it is healed while in use"
        assert self.fs.quarantined() == [], "R31"

    def heal(self) -> None:
        """R14: whole pages written over what is bad heal it, in place."""
        ino = self.any_file()
        model = self.files[ino]
        for bad in self.fs.bad_ranges(ino):
            pages = bad.widened(PAGE)
            length = min(pages.end, len(model.data)) - pages.offset
            before = list(self.fs.extents(ino))
            self.note("heal", ino, pages)
            data = self.random.randbytes(length)
            assert self.fs.write(ino, pages.offset, data) == length
            model.write(pages.offset, data)
            assert list(self.fs.extents(ino)) == before
            assert self.check_read(ino, pages.offset, length) == length

    # -- looking ---------------------------------------------------------------------------

    def look(self) -> None:
        if self.has_faults:
            self.scrub()
        walk(self.fs)
        check_owners(self.fs)
        found = {path: ino for path, ino in tree(self.fs).items() if path != b"/"}
        assert found == self.names
        for ino, model in self.files.items():
            assert self.fs.stat(ino).size == len(model.data)
            at = 0
            while at < len(model.data):
                at += self.check_read(ino, at, len(model.data) - at) or SECTOR - at % SECTOR
        assert not self.fs.is_read_only
        if not self.has_faults:
            assert self.fs.notices == []

    def reopen(self) -> None:
        """After a commit, sometimes without the checkpoint that closing makes."""
        self.note("reopen")
        if self.has_faults:
            self.tidy()  # no more than one copy may be bad while nobody is there
        if self.random.random() < 0.5:
            self.fs.sync()
            self.device.set_holder(None)
        else:
            self.fs.close()
        if not self.has_faults:
            check_medium(self.device)
        self.fs = FileSystem(self.device, commits_each=self.commits_each)
        self.look()


def exercise(*, has_faults: bool, commits_each: bool, size: int, operations: int) -> None:
    for name, value in [("seed", SEED), ("faults", has_faults), ("commits_each", commits_each)]:
        print(name, value)
    exerciser = Exerciser(SEED, has_faults=has_faults, commits_each=commits_each, size=size)
    try:
        exerciser.run(operations)
    except BaseException as error:
        error.add_note(f"DAXMEND_FSX_SEED={SEED}; the last operations:")
        error.add_note("\n".join(exerciser.log[-40:]))
        raise


@pytest.mark.timeout(max(120, OPERATIONS // 50))
@pytest.mark.parametrize("commits_each", [False, True])
def test_a_file_system_does_what_dicts_and_bytearrays_do(commits_each: bool) -> None:
    exercise(has_faults=False, commits_each=commits_each, size=8 * MIB, operations=OPERATIONS // 2)


@pytest.mark.timeout(max(120, OPERATIONS // 50))
@pytest.mark.parametrize("commits_each", [False, True])
def test_with_faults_every_read_is_true_or_eio_where_it_is_bad(commits_each: bool) -> None:
    """R10–R18, R29–R32, R43."""
    exercise(has_faults=True, commits_each=commits_each, size=8 * MIB, operations=OPERATIONS // 2)


@pytest.mark.timeout(max(120, OPERATIONS // 50))
@pytest.mark.parametrize("has_faults", [False, True], ids=["clean", "faults"])
def test_a_file_system_that_is_nearly_full_does_the_same_or_enospc(has_faults: bool) -> None:
    exercise(has_faults=has_faults, commits_each=True, size=MIB, operations=OPERATIONS // 4)
