"""Many programs at once on a mounted file system whose medium keeps failing: nothing hangs, no
byte is wrong, and a check after it finds every file as its owner left it."""

import contextlib
import errno
import json
import mmap
import os
import random
from pathlib import Path

import pytest
from filemount import Files
from rawmount import PAGE, SECTOR, in_child, wait
from test_files_data import PUNCH, ZERO_RANGE, fallocate

from daxmend.host import fileioctl

pytestmark = pytest.mark.timeout(60, method="signal")
DIAGONAL = True

WORKERS = 4
STEPS = 250
PAGES = 24


class Owner:
    """A program with a file of its own, whose content it knows; None is a byte that may be lost."""

    def __init__(self, path: Path, seed: int) -> None:
        self.path = path
        self.rng = random.Random(seed)
        self.model = bytearray()
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT)
        self.steps = (
            [self.write] * 5 + [self.heal] * 3 + [self.read] * 5 + [self.store] * 2
            + [self.truncate, self.sync, self.rename, self.reopen, self.punch]
        )  # fmt: skip

    def work(self) -> None:
        for _ in range(STEPS):
            self.rng.choice(self.steps)()
        self.heal()
        self.read()
        with self._may_be_bad():  # half of a write was dropped, and written again since (R50)
            os.close(self.fd)

    def _range(self) -> tuple[int, int]:
        offset = self.rng.randrange(PAGES * PAGE)
        return offset, self.rng.choice((1, 100, SECTOR, PAGE, 5 * PAGE))

    def _set(self, offset: int, data: bytes) -> None:
        if len(self.model) < offset:
            self.model.extend(bytes(offset - len(self.model)))
        self.model[offset : offset + len(data)] = data

    def write(self) -> None:
        offset, length = self._range()
        data = self.rng.randbytes(length)
        with self._may_be_bad():
            count = os.pwrite(self.fd, data, offset)
            self._set(offset, data[:count])

    def heal(self) -> None:
        """Write everything: whatever is bad by now is good then."""
        for _ in range(20):
            with self._may_be_bad():  # somebody damages it while it is written
                done = 0
                while done < len(self.model):
                    done += os.pwrite(self.fd, memoryview(self.model)[done:], done)
                return
        raise AssertionError("it does not heal")

    def read(self) -> None:
        offset, length = self._range()
        with self._may_be_bad():
            data = os.pread(self.fd, length, offset)
            assert data == self.model[offset : offset + len(data)]

    def store(self) -> None:
        """Through a mapping: what is stored and cannot be written back is said to be lost."""
        if not self.model:
            return
        self.heal()
        with mmap.mmap(self.fd, len(self.model)) as memory:
            at = self.rng.randrange(len(self.model))
            value = self.rng.randrange(256)
            pid = in_child(lambda: memory.__setitem__(at, value))  # may die of SIGBUS
            stored = wait(pid) == 0
            try:
                memory.flush()
                os.fsync(self.fd)
            except OSError as error:
                if error.errno != errno.EIO:
                    raise
                stored = False
        if stored:
            self.model[at] = value
        else:
            self._set(at, b"?")
            self.heal()

    def truncate(self) -> None:
        size = self.rng.randrange(PAGES * PAGE)
        os.ftruncate(self.fd, size)
        self.model[size:] = bytes(max(size - len(self.model), 0))

    def punch(self) -> None:
        if not self.model:
            return
        page = self.rng.randrange(len(self.model) // PAGE + 1)
        with self._may_be_bad():
            os.posix_fallocate(self.fd, page * PAGE, PAGE)
            self._set(max(page * PAGE + PAGE, len(self.model)), b"")

    def sync(self) -> None:
        with self._may_be_bad():
            os.fsync(self.fd)

    def rename(self) -> None:
        other = self.path.with_suffix(f".{self.rng.randrange(3)}")
        self.path.rename(other)
        self.path = other

    def reopen(self) -> None:
        with self._may_be_bad():
            os.close(self.fd)
        self.fd = os.open(self.path, os.O_RDWR)

    @contextlib.contextmanager
    def _may_be_bad(self):  # type: ignore[no-untyped-def]
        try:
            yield
        except OSError as error:
            if error.errno != errno.EIO:
                raise


def test_many_programs_on_a_failing_medium(files: Files) -> None:
    def damage() -> None:
        rng = random.Random(99)
        for _ in range(STEPS):
            paths = [path for path in files.mountpoint.rglob("file*") if path.is_file()]
            with contextlib.suppress(FileNotFoundError, IndexError):  # renamed, or empty
                _, place, length, _ = rng.choice(files.placed(rng.choice(paths)))
                at = place + rng.randrange(length)
                if rng.random() < 0.3:
                    files.write_control("poison", f"{at} 1\n")
                else:
                    files.write_control("badblocks", f"{at // SECTOR} {rng.choice((1, 8))}\n")
            for name in ("ranges", "status"):
                files.read_control(name)

    def make(number: int) -> None:
        directory = files.path(f"dir{number % 2}")
        with contextlib.suppress(FileExistsError):
            directory.mkdir()
        Owner(directory / f"file{number}", number).work()

    pids = [in_child(lambda number=number: make(number)) for number in range(WORKERS)]  # type: ignore[misc]
    pids.append(in_child(damage))
    assert [wait(pid) for pid in pids] == [0] * len(pids)
    events = json.loads(files.read_control("status"))["events"]
    assert events["recovery_done"] > WORKERS
    assert events["file_damaged"] > STEPS // 4
    files.remount()
    assert sorted(os.listdir(files.mountpoint)) == ["dir0", "dir1"]


def test_many_programs_on_one_file_do_not_lock_each_other_up(files: Files) -> None:
    path = files.make("file", PAGES)

    def meddle(seed: int) -> None:
        rng = random.Random(seed)
        fd, device = os.open(path, os.O_RDWR), os.open(files.device, os.O_RDWR)
        steps = [
            lambda at: os.pwrite(fd, rng.randbytes(3 * PAGE), at),
            lambda at: os.pread(fd, 8 * PAGE, at),
            lambda at: os.ftruncate(fd, at + PAGE),
            lambda at: fallocate(fd, PUNCH, at, 2 * PAGE),
            lambda at: fallocate(fd, ZERO_RANGE, at, 2 * PAGE),
            lambda at: fileioctl.zeroinit(fd, at, 3 * PAGE),
            lambda at: os.posix_fallocate(fd, at, 2 * PAGE),
            lambda at: files.damage(fd, at // SECTOR * SECTOR, PAGE),
            lambda at: os.pread(device, PAGE, files.place(fd, at)),
            lambda at: os.pwrite(device, bytes(PAGE), files.place(fd, at) // PAGE * PAGE),
            lambda at: wait(in_child(lambda: _store(fd, at))),
            lambda at: os.copy_file_range(fd, fd, 2 * PAGE, at, at + 4 * PAGE),
            lambda at: os.fsync(fd),
            lambda at: os.close(os.open(path, os.O_WRONLY | (os.O_TRUNC if at < PAGE else 0))),
        ]  # fmt: skip
        for _ in range(STEPS):
            with contextlib.suppress(OSError, AssertionError):
                rng.choice(steps)(rng.randrange(PAGES * PAGE))

    pids = [in_child(lambda seed=seed: meddle(seed)) for seed in range(WORKERS)]  # type: ignore[misc]
    assert [wait(pid) for pid in pids] == [0] * WORKERS
    with files.opened_file(path) as fd:
        os.pwrite(fd, bytes(PAGES * PAGE), 0)
        os.ftruncate(fd, PAGES * PAGE)
    assert path.read_bytes() == bytes(PAGES * PAGE)
    path.unlink()
    files.wait_until_clean()


def _store(fd: int, at: int) -> None:
    """Store through a mapping, and die of SIGBUS if that is what happens."""
    with mmap.mmap(fd, PAGES * PAGE) as memory:
        memory[at] = 1
        memory.flush()
