"""A shadow mount against the directory itself, and against bindfs: fio, and many small files."""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.harness import Missing, Result, Row, interleaved, seconds
from daxmend.fuse import find_mount, unmount
from daxmend.mounts.option import ShadowOptions
from daxmend.mounts.shadowserver import shadow_in_background
from daxmend.units import MIB, PAGE

_SIZE = 64 * MIB
_FILES = 1000
_ROUNDS = 6
_FIO_SECONDS = 0.5

Work = Callable[[Path], float]


def results(directory: Path) -> Iterator[Result]:
    """`directory` is on tmpfs. Raises `Missing` where bindfs or fio is missing."""
    if shutil.which("bindfs") is None or shutil.which("fio") is None:
        raise Missing("no peer: install bindfs and fio")
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
        places = {"clean": clean, "bad": bad, "armed": watched, "bindfs": peer, "source": source}
        for name, goal, work in (
            ("read 4 KiB", 0.9, lambda at: _fio(at, "randread", "4k")),
            ("write 4 KiB", 0.9, lambda at: _fio(at, "randwrite", "4k")),
            ("read 1 MiB", 0.9, lambda at: _fio(at, "read", "1m")),
            ("write 1 MiB", 0.9, lambda at: _fio(at, "write", "1m")),
            ("stat", None, _stat),
            ("open, read 4 KiB, close", None, _read_files),
            ("create and unlink", None, _create),
        ):
            yield from _compare(name, goal, work, places)


def _compare(
    name: str, goal: float | None, work: Work, places: dict[str, Path]
) -> Iterator[Result]:
    """All places in turn; the goal is for a clean file against the file itself."""
    timings = interleaved({each: lambda at=at: work(at) for each, at in places.items()}, _ROUNDS)
    for kind, said, peer, peer_name in (
        ("clean", "", "source", "the directory"),
        ("clean", "", "bindfs", "bindfs"),
        ("bad", ", 1 in 1000 bad", "clean", "none bad"),
        ("armed", ", armed", "bindfs", "bindfs"),
    ):
        least = goal if peer == "source" else None
        yield Row(f"shadow{said}: {name}", timings[kind], peer_name, timings[peer], least)


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
