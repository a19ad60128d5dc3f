"""A shadow mount against the directory itself, and against bindfs: fio, and many small files."""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.harness import Row, seconds
from daxmend.fuse import find_mount, unmount
from daxmend.mounts.option import ShadowOptions
from daxmend.mounts.shadowserver import shadow_in_background
from daxmend.units import MIB, PAGE

_SIZE = 64 * MIB
_FILES = 1000
_ROUNDS = 6
_FIO_SECONDS = 0.5

Work = Callable[[Path], float]


def rows(directory: Path) -> Iterator[Row]:
    """`directory` is on tmpfs. Raises `LookupError` where bindfs or fio is missing."""
    if shutil.which("bindfs") is None or shutil.which("fio") is None:
        raise LookupError("no peer: install bindfs and fio")
    source, bound = directory / "source", directory / "bound"
    source.mkdir()
    (source / "big").write_bytes(os.urandom(_SIZE))
    for number in range(_FILES):
        (source / f"file{number}").write_bytes(bytes(PAGE))
    plan = f"/file{_FILES // 2} 0 4096 until-written\n"  # one file in a thousand
    armed = ShadowOptions(armed=("**",))
    with (
        _shadow(source, directory / "clean", ShadowOptions()) as clean,
        _shadow(source, directory / "bad", ShadowOptions(), plan) as bad,
        _shadow(source, directory / "armed", armed) as watched,
        _bindfs(source, bound) as peer,
    ):
        ours = {"clean": clean, "1 in 1000 bad": bad, "armed": watched}
        for name, work in (
            ("read 4 KiB", lambda at: _fio(at, "randread", "4k")),
            ("write 4 KiB", lambda at: _fio(at, "randwrite", "4k")),
            ("read 1 MiB", lambda at: _fio(at, "read", "1m")),
            ("write 1 MiB", lambda at: _fio(at, "write", "1m")),
            ("stat", _stat),
            ("open and read a file", _read_files),
            ("create and unlink", _create),
        ):
            yield from _compare(name, work, ours, {"bindfs": peer, "the directory": source})


def _compare(name: str, work: Work, ours: dict[str, Path], peers: dict[str, Path]) -> Iterator[Row]:
    """All places in turn, best of rounds; each of ours against each peer."""
    best = dict.fromkeys([*ours.values(), *peers.values()], float("inf"))
    for _ in range(_ROUNDS):
        for where in best:
            best[where] = min(best[where], work(where))
    for kind, where in ours.items():
        for peer, other in peers.items():
            yield Row(f"shadow, {kind}: {name}", best[where], peer, best[other], None)


@contextmanager
def _shadow(source: Path, at: Path, options: ShadowOptions, plan: str = "") -> Iterator[Path]:
    at.mkdir()
    shadow_in_background(source, at, options, plan)
    try:
        yield at
    finally:
        unmount(at)


@contextmanager
def _bindfs(source: Path, at: Path) -> Iterator[Path]:
    at.mkdir()
    server = subprocess.Popen(["bindfs", "-f", source, at])
    while find_mount(at) is None:
        time.sleep(0.01)
    try:
        yield at
    finally:
        unmount(at)
        server.wait()


def _fio(where: Path, kind: str, block: str) -> float:
    """Seconds of one operation."""
    done = subprocess.run(
        [
            "fio", "--name=x", f"--filename={where / 'big'}", f"--rw={kind}", f"--bs={block}",
            "--ioengine=psync", f"--runtime={_FIO_SECONDS}", "--time_based", f"--size={_SIZE}",
            "--invalidate=0", "--fallocate=none", "--thread", "--output-format=json",
        ],
        capture_output=True, text=True, check=True, cwd=where.parent,
    )  # fmt: skip
    job = json.loads(done.stdout[done.stdout.index("{") :])["jobs"][0]
    return 1 / float(job["write" if "write" in kind else "read"]["iops"])


def _stat(where: Path) -> float:
    return seconds(lambda: [os.stat(where / f"file{n}") for n in range(_FILES)]) / _FILES


def _read_files(where: Path) -> float:
    """All but the bad one."""

    def read() -> None:
        for number in range(_FILES):
            if number != _FILES // 2:
                with open(where / f"file{number}", "rb", buffering=0) as file:
                    file.read()

    return seconds(read) / _FILES


def _create(where: Path) -> float:
    def create() -> None:
        for number in range(_FILES):
            os.close(os.open(where / f"new{number}", os.O_CREAT | os.O_WRONLY, 0o644))
        for number in range(_FILES):
            os.unlink(where / f"new{number}")

    return seconds(create) / _FILES
