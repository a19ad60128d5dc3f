"""Files: in-process and mounted, many small ones, and repair against the advice of the day."""

import itertools
import mmap
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.harness import (
    Measure,
    Result,
    Row,
    interleaved,
    seconds,
    seconds_each,
    versus,
    versus_briefly,
)
from benchmarks.memory import Memory
from benchmarks.mount import (
    SIZE,
    build_peer,
    mounted,
    our_device,
    peer_device,
    random_offsets,
    sequential_read,
    sequential_write,
)
from daxmend.extent import Extent, format_badblocks
from daxmend.fs import ROOT_INO, FileSystem
from daxmend.fuse import find_mount, unmount
from daxmend.host import fileioctl, zeroing
from daxmend.media.pool import Content
from daxmend.stack.device import open_device
from daxmend.stack.filesystem import open_filesystem
from daxmend.stack.pool import create
from daxmend.units import GIB, MIB, PAGE

if TYPE_CHECKING:
    from typing_extensions import Buffer

_FILES = 10_000
_PAGES = 1000  # bad ones, scattered
_MANY = 100_000
_FILE_MODE = 0o100644
_DAMAGED = 16 * MIB


def results(directory: Path) -> Iterator[Result]:
    """`directory` is on tmpfs. Without libfuse3-dev the mounted rows have no peer, and end."""
    yield from _in_process(directory)
    yield _repair(directory)
    yield from _mounted_repair(directory)
    yield from _mounted(directory)
    yield from _small_files(directory)
    yield from _many_files(directory / "many.pool")


def _open(path: Path, size: int) -> FileSystem:
    create(path, size, content=Content.FS)
    return open_filesystem(open_device(path))


def _close(fs: FileSystem, path: Path) -> None:
    fs.close()
    fs.device.close()  # type: ignore[attr-defined]
    path.unlink()


def _in_process(directory: Path) -> Iterator[Row]:
    path, plain = directory / "files.pool", directory / "plain"
    fs = _open(path, GIB)
    ino = fs.make(ROOT_INO, b"file", _FILE_MODE, 0, 0)
    data = os.urandom(SIZE)
    for at in range(0, SIZE, MIB):
        fs.write(ino, at, data[at : at + MIB])
    plain.write_bytes(data)
    fd = os.open(plain, os.O_RDWR)
    yield versus_briefly(
        "file: read 4 KiB, in-process",
        lambda at: fs.read(ino, at, PAGE),
        "os.pread on tmpfs",
        lambda at: os.pread(fd, PAGE, at),
        random_offsets(),
        0.8,
    )
    source, spans = bytes(MIB), range(0, SIZE // 2, MIB)
    memory = Memory(bytearray(data), source)
    yield versus(
        "file: read 1 MiB, in-process",
        lambda: seconds_each(lambda at: fs.read(ino, at, MIB), spans),
        memory.NAME,
        lambda: seconds_each(memory.copy_out, spans),
        0.9,
    )
    yield versus(
        "file: write 1 MiB, in-process",
        lambda: seconds_each(lambda at: fs.write(ino, at, source), spans),
        memory.NAME,
        lambda: seconds_each(memory.copy_in, spans),
        0.9,
    )
    os.close(fd)
    plain.unlink()
    _close(fs, path)


def _repair(directory: Path) -> Row:
    """Each page made durable; both leave the file whole and no poison behind, one in one piece."""
    path = directory / "repair.pool"
    fs = _open(path, GIB)
    data = os.urandom(PAGE)
    pages = [2 * PAGE * number for number in range(_PAGES)]
    inos = []
    for name in (b"write", b"punch"):
        inos.append(fs.make(ROOT_INO, name, _FILE_MODE, 0, 0))
        fs.write(inos[-1], 0, bytes(2 * PAGE * _PAGES))
    places = [next(fs.extents(ino)).device_offset for ino in inos]

    def write(at: int) -> None:
        fs.write(inos[0], at, data)
        fs.sync()

    def punch_and_write(at: int) -> None:
        fs.punch(inos[1], at, PAGE)
        fs.write(inos[1], at, data)
        fs.sync()

    def clear_the_rest() -> None:
        while fs.tidy():
            pass

    def damaged(place: int, work: Callable[[int], None]) -> float:
        for at in pages:
            fs.device.inject(Extent(place + at, PAGE))  # type: ignore[attr-defined]
        return seconds_each(work, pages) + seconds(clear_the_rest) / len(pages)

    def again() -> float:
        fs.unlink(ROOT_INO, b"punch")
        clear_the_rest()
        inos[1] = fs.make(ROOT_INO, b"punch", _FILE_MODE, 0, 0)
        fs.write(inos[1], 0, bytes(2 * PAGE * _PAGES))
        return damaged(next(fs.extents(inos[1])).device_offset, punch_and_write)

    row = versus(
        "repair of 1000 scattered pages, each durable",
        lambda: damaged(places[0], write),
        "punch and write",
        again,
        1.0,
        rounds=4,
    )
    extents = [sum(1 for _ in fs.extents(ino)) for ino in inos]
    _close(fs, path)
    return row._replace(name=f"{row.name} ({extents[0]} extent)", peer_name=f"punch ({extents[1]})")


class _Damaged:
    """A file on a mount, and the means to make its pages bad; each write is made durable."""

    def __init__(self, mountpoint: Path) -> None:
        self._mountpoint = mountpoint
        self._badblocks = mountpoint / ".daxmend" / "badblocks"
        self.make()

    def make(self) -> None:
        """Anew, and clean."""
        path = self._mountpoint / "damaged"
        path.unlink(missing_ok=True)
        while self._badblocks.read_text():  # what the old one left is cleared in the background
            time.sleep(0.001)
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT)
        os.pwrite(self.fd, bytes(_DAMAGED), 0)
        os.fsync(self.fd)

    def inject(self, pages: list[int]) -> None:
        bad = [
            Extent(extent.device_offset + at - extent.offset, PAGE)
            for extent in fileioctl.iter_extents(self.fd)
            for at in pages
            if extent.offset <= at < extent.offset + extent.length
        ]
        self._badblocks.write_text(format_badblocks(bad))

    def write(self, at: int, data: "Buffer") -> None:
        os.pwrite(self.fd, data, at)
        os.fsync(self.fd)

    def punch_and_write(self, at: int, data: "Buffer") -> None:
        zeroing.punch_hole(self.fd, Extent(at, PAGE))
        self.write(at, data)

    def extents(self) -> int:
        return sum(1 for _ in fileioctl.iter_extents(self.fd))

    def close(self) -> None:
        os.close(self.fd)


def _mounted_repair(directory: Path) -> Iterator[Row]:
    """Through the mount: healing against clean pages, and against the advice of the day."""
    chunk, page = mmap.mmap(-1, MIB), mmap.mmap(-1, PAGE)  # page-aligned: requests are whole
    with mounted(directory, 16 * _DAMAGED) as mountpoint:
        file = _Damaged(mountpoint)
        spans = range(0, _DAMAGED, MIB)

        def write_clean() -> float:
            return seconds_each(lambda at: file.write(at, chunk), spans)

        def heal() -> float:
            file.inject(list(range(0, _DAMAGED, PAGE)))
            return write_clean()

        yield versus(
            "mounted: recovering write of 1 MiB, all bad",
            heal,
            "over clean pages",
            write_clean,
            0.7,
        )
        scattered = [2 * PAGE * number for number in range(_PAGES)]
        counts = {}

        def repair(name: str, work: Callable[[int, "Buffer"], None]) -> float:
            file.close()
            file.make()
            file.inject(scattered)
            took = seconds_each(lambda at: work(at, page), scattered)
            counts[name] = file.extents()
            return took

        row = versus(
            "mounted: repair of 1000 scattered pages",
            lambda: repair("write", file.write),
            "punch and write",
            lambda: repair("punch", file.punch_and_write),
            1.0,
            rounds=4,
        )
        name = f"{row.name} ({counts['write']} extents)"
        yield row._replace(name=name, peer_name=f"punch ({counts['punch']})")
        file.close()


def _mounted(directory: Path) -> Iterator[Row]:
    """A clean file, opened cached as `auto` does, past the page cache where it is asked to be."""
    devices = directory / "devices"
    devices.mkdir()
    with (
        mounted(directory, SIZE + 64 * MIB) as mountpoint,
        our_device(devices) as raw,
        peer_device(devices) as peer,  # last: a server of ours would inherit its open file
        open(mountpoint / "file", "w+b", buffering=0) as file,
    ):
        for fd in (file.fileno(), peer, raw):
            sequential_write(fd)
        direct = os.open(mountpoint / "file", os.O_RDWR | os.O_DIRECT)
        page = mmap.mmap(-1, PAGE)  # aligned, as O_DIRECT wants it
        for name, fd, goal in (("C libfuse", peer, 0.8), ("raw device file", raw, None)):
            yield versus_briefly(
                "mounted file: read 4 KiB, random",
                lambda at: os.preadv(direct, [page], at),
                name,
                lambda at, fd=fd: os.pread(fd, PAGE, at),  # type: ignore[misc]
                random_offsets(),
                goal,
            )
        for name, fd, goal in (("C libfuse", peer, 0.9), ("raw device file", raw, None)):
            yield versus(
                "mounted file: read 1 MiB, sequential",
                lambda: sequential_read(direct),
                name,
                lambda fd=fd: sequential_read(fd),  # type: ignore[misc]
                goal,
            )
            yield versus(
                "mounted file: write 1 MiB, sequential",
                lambda: sequential_write(direct),
                name,
                lambda fd=fd: sequential_write(fd),  # type: ignore[misc]
                goal,
            )
        os.close(direct)


def _small_files(directory: Path) -> Iterator[Row]:
    backing, peer = directory / "backing", directory / "tree"
    backing.mkdir()
    peer.mkdir()
    program = build_peer(directory, "passthrough_tree")
    server = subprocess.Popen([program, backing, peer], stderr=subprocess.DEVNULL)
    while find_mount(peer) is None:
        time.sleep(0.01)
    try:
        with mounted(directory, 256 * MIB) as ours:
            for name, work in (("create", _create), ("stat", _stat), ("unlink", _unlink)):
                turns = itertools.count()
                timings = interleaved(
                    {
                        where: lambda at=where: _work_once(at, next(turns), name, work)  # noqa: B023
                        for where in (ours, peer)
                    },
                    rounds=3,
                )
                yield Row(
                    f"mounted: {name} of {_FILES} files, each", timings[ours], "C libfuse tree",
                    timings[peer],
                )  # fmt: skip
    finally:
        unmount(peer)
        server.wait()


def _work_once(where: Path, turn: int, name: str, work: Callable[[Path], None]) -> float:
    """Seconds a file; what is not measured is done before and after."""
    directory = where / f"{name}{turn}"
    directory.mkdir()
    if name != "create":
        _create(directory)
    result = seconds(lambda: work(directory)) / _FILES
    if name != "unlink":
        _unlink(directory)
    directory.rmdir()
    return result


def _create(directory: Path) -> None:
    for number in range(_FILES):
        os.close(os.open(f"{directory}/{number}", os.O_CREAT | os.O_WRONLY, 0o644))


def _stat(directory: Path) -> None:
    for number in range(_FILES):
        os.stat(f"{directory}/{number}")


def _unlink(directory: Path) -> None:
    for number in range(_FILES):
        os.unlink(f"{directory}/{number}")


def _many_files(path: Path) -> Iterator[Measure]:
    """Opening a file system with 100,000 files."""
    fs = _open(path, GIB)
    for number in range(_MANY // 1000):
        parent = fs.make(ROOT_INO, b"%d" % number, 0o040755, 0, 0)
        for each in range(1000):
            ino = fs.make(parent, b"file%d" % each, _FILE_MODE, 0, 0)
            fs.write(ino, 0, b"x" * 100)
    fs.close()
    fs.device.close()  # type: ignore[attr-defined]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.files", path], capture_output=True, text=True, check=True
    )
    took, memory = map(float, done.stdout.split())
    path.unlink()
    yield Measure("mount of 100,000 files", took, "s", 2)
    yield Measure("memory of a mount of 100,000 files", memory, "MiB", 128)


def _open_and_tell(path: Path) -> None:
    """In a process of its own: seconds and MiB that opening takes."""
    device = open_device(path)
    before = _peak_kib()
    took = seconds(lambda: open_filesystem(device))
    print(took, (_peak_kib() - before) / 1024)


def _peak_kib() -> int:
    """The most memory that this process had, without what it shares with a pool on tmpfs.

    Not getrusage's number, which a process inherits from whoever started it.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    kib = {name: rest.split() for name, _, rest in (line.partition(":") for line in lines)}
    return int(kib["VmHWM"][0]) - int(kib["RssShmem"][0])


if __name__ == "__main__":
    _open_and_tell(Path(sys.argv[1]))
