"""The bytes below a medium: stores, fences, and what is raised where the file itself fails."""

import array
import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from daxmend.errors import TruncatedError
from daxmend.extent import Extent
from daxmend.media.backing import Backing, Durability
from daxmend.units import KIB, MIB, PAGE

SIZE = 64 * KIB


def open_backing(path: Path, durability: Durability = Durability.PROCESS) -> Backing:
    """The file as a backing; made with `SIZE` bytes if it is not there."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    if not os.fstat(fd).st_size:
        os.truncate(fd, SIZE)
    return Backing(fd, str(path), durability)


@pytest.fixture
def backing(shm: Path) -> Iterator[Backing]:
    opened = open_backing(shm / "backing")
    yield opened
    opened.close()


@pytest.fixture
def syncs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The file descriptors that were synced."""
    seen: list[int] = []
    monkeypatch.setattr(os, "fdatasync", seen.append)
    return seen


@pytest.fixture
def full_disk(tmp_path: Path, need_root: None) -> Iterator[Path]:
    """A tmpfs of 256 KiB."""
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", tmp_path],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"a tmpfs cannot be mounted here: {done.stderr}")
    yield tmp_path
    subprocess.run(["umount", "--lazy", tmp_path], check=True)


def test_what_is_stored_is_loaded_and_stands_in_the_file(backing: Backing) -> None:
    backing.store(100, b"hello")
    target = bytearray(5)
    backing.load_into(100, target)
    assert backing.load(99, 7) == b"\0hello\0"
    assert target == b"hello"
    assert os.pread(backing.fd, 5, 100) == b"hello"


def test_the_mapping_is_not_the_owner_of_the_length(backing: Backing) -> None:
    with pytest.raises(ValueError):
        backing.load(SIZE - 1, 2)
    with pytest.raises(ValueError):
        backing.store(SIZE - 1, b"xx")


def test_a_fence_of_durability_process_costs_no_sync(shm: Path, syncs: list[int]) -> None:
    backing = open_backing(shm / "backing")
    backing.store(0, b"x")
    backing.flush(0, 1)
    backing.fence()
    backing.close()
    assert syncs == []


def test_a_fence_of_durability_machine_syncs_what_was_flushed(shm: Path, syncs: list[int]) -> None:
    backing = open_backing(shm / "backing", Durability.MACHINE)
    backing.fence()
    syncs.clear()
    backing.store(0, b"x")
    backing.flush(0, 1)
    backing.fence()
    assert syncs == [backing.fd]
    backing.fence()
    assert len(syncs) == 1, "nothing is unsynced"
    backing.poke(0, b"y")
    backing.fence()
    assert len(syncs) == 2
    backing.close()


def test_the_first_fence_makes_durable_what_a_killed_owner_left(
    shm: Path, syncs: list[int]
) -> None:
    """R8, R18: a restart reads the page cache; what it then builds on must not vanish later."""
    backing = open_backing(shm / "backing", Durability.MACHINE)
    backing.fence()
    assert syncs == [backing.fd]
    backing.close()


def test_a_sync_that_failed_once_is_never_taken_back(
    shm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R45: the kernel reports a failed write-back once, and calls the pages clean afterwards."""

    def fail(fd: int) -> None:
        raise OSError(errno.EIO, "planted")

    backing = open_backing(shm / "backing", Durability.MACHINE)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", fail)
        with pytest.raises(OSError, match="could not be made durable"):
            backing.fence()
    for _ in range(2):
        with pytest.raises(OSError, match="open it again"):
            backing.fence()
    with pytest.raises(OSError, match="open it again"):
        backing.close()
    with pytest.raises(OSError):
        os.fstat(backing.fd)


def test_closing_makes_durable_and_may_be_repeated(shm: Path, syncs: list[int]) -> None:
    backing = open_backing(shm / "backing", Durability.MACHINE)
    backing.fence()
    syncs.clear()
    backing.store(0, b"x")
    backing.flush(0, 1)
    backing.close()
    assert len(syncs) == 1
    backing.close()
    assert len(syncs) == 1
    with pytest.raises(ValueError):
        backing.load(0, 1)


def test_a_view_in_use_keeps_the_mapping_and_not_the_file(backing: Backing) -> None:
    view = memoryview(backing.memory)
    backing.store(0, b"x")
    fd = backing.fd
    backing.close()
    assert view[0] == ord("x")
    with pytest.raises(OSError):
        os.fstat(fd)


def test_a_file_that_shrank_is_an_error_and_not_a_signal(backing: Backing) -> None:
    os.truncate(backing.fd, 2 * PAGE)
    with pytest.raises(TruncatedError) as caught:
        backing.load(PAGE, 4 * PAGE)
    assert caught.value.offset == 2 * PAGE
    assert caught.value.length == 3 * PAGE
    assert "shrank" in str(caught.value)
    with pytest.raises(TruncatedError):
        backing.store(3 * PAGE, bytes(PAGE))
    with pytest.raises(TruncatedError):
        backing.load_into(3 * PAGE, bytearray(PAGE))


def test_a_full_disk_is_enospc_with_the_name_of_the_file(full_disk: Path) -> None:
    path = full_disk / "backing"
    path.touch()
    os.truncate(path, MIB)
    backing = Backing(os.open(path, os.O_RDWR), str(path), Durability.PROCESS)
    with pytest.raises(OSError) as caught:
        backing.store(0, bytes(MIB))
    assert caught.value.errno == errno.ENOSPC
    assert str(path) in str(caught.value)
    assert "free space" in str(caught.value)
    backing.close()
    assert shutil.disk_usage(full_disk).free == 0


def test_buffers_of_wide_elements_count_in_bytes(backing: Backing) -> None:
    words = array.array("Q", [1, 2, 3])
    backing.store(0, words)
    target = array.array("Q", [0, 0, 0])
    backing.load_into(0, target)
    assert target == words


def test_only_what_was_stored_is_data(backing: Backing) -> None:
    backing.store(4 * PAGE, b"x")
    backing.store(5 * PAGE, b"x")
    backing.store(9 * PAGE, b"x")
    assert backing.next_data(0, SIZE) == Extent(4 * PAGE, 2 * PAGE)
    assert backing.next_data(4 * PAGE + 8, 5 * PAGE) == Extent(4 * PAGE + 8, PAGE - 8)
    assert backing.next_data(6 * PAGE, 9 * PAGE) is None
    assert backing.next_data(10 * PAGE, SIZE) is None
    assert backing.next_data(SIZE, SIZE) is None


def test_what_is_flushed_while_a_sync_runs_is_for_the_next_one(
    shm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R8: the sync that runs may have passed the page by."""
    backing = open_backing(shm / "backing", Durability.MACHINE)
    backing.fence()
    syncs: list[int] = []

    def sync(fd: int) -> None:
        if not syncs:
            backing.flush(0, 1)
        syncs.append(fd)

    monkeypatch.setattr(os, "fdatasync", sync)
    backing.flush(0, 1)
    backing.fence()
    backing.fence()
    assert len(syncs) == 2
    backing.fence()
    assert len(syncs) == 2
    backing.close()


def test_a_sync_that_fails_while_somebody_flushes_is_not_taken_back_either(
    shm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backing = open_backing(shm / "backing", Durability.MACHINE)

    def fail(fd: int) -> None:
        backing.flush(0, 1)
        raise OSError(errno.ENOSPC, "planted")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", fail)
        with pytest.raises(OSError, match="could not be made durable"):
            backing.fence()
    with pytest.raises(OSError, match="open it again") as caught:
        backing.fence()
    assert caught.value.errno == errno.ENOSPC
    with pytest.raises(OSError, match="open it again"):
        backing.close()


def test_a_sync_that_was_interrupted_has_promised_nothing(
    shm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal's handler raised in the middle of it: the next fence must not believe it done."""
    backing = open_backing(shm / "backing", Durability.MACHINE)

    def interrupt(fd: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", interrupt)
        with pytest.raises(KeyboardInterrupt):
            backing.fence()
    syncs: list[int] = []
    monkeypatch.setattr(os, "fdatasync", syncs.append)
    backing.fence()
    assert syncs == [backing.fd]
    backing.close()


@pytest.mark.parametrize("free", [0, 5])
@pytest.mark.parametrize("access", ["hole", "readable", "unreadable"])
def test_want_of_space_and_a_failing_disk_are_told_apart(
    backing: Backing, monkeypatch: pytest.MonkeyPatch, free: int, access: str
) -> None:
    """A quota leaves blocks free for others; a full disk can fail as well as any."""
    backing.store(PAGE, b"x")
    space = os.fstatvfs(backing.fd)
    fields = list(space)
    fields[4] = free
    monkeypatch.setattr(os, "fstatvfs", lambda fd: os.statvfs_result(fields))
    if access == "unreadable":
        monkeypatch.setattr(os, "pread", _unreadable)
    error = backing.explain(5 * PAGE + 7 if access == "hole" else PAGE + 7, 100)
    lacks_space = access == "hole" or (access == "readable" and free == 0)
    assert error.errno == (errno.ENOSPC if lacks_space else errno.EIO)
    assert backing.name in str(error)


def _unreadable(fd: int, length: int, offset: int) -> bytes:
    raise OSError(errno.EIO, "planted")
