"""Salvage of a damaged file on a mount against GNU ddrescue and dd: whole commands.

Each begins with nothing of the file in the page cache: what a copy saves is to be what the medium
has. Beside the time: how much each saved, and how many reads it asked the kernel for.
"""

import functools
import os
import random
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from benchmarks.harness import Missing, Note, Result, Row, interleaved
from benchmarks.mount import mounted
from daxmend.extent import Extent, format_badblocks
from daxmend.host import fileioctl
from daxmend.units import GIB, MIB, PAGE

_SIZE = GIB
_BAD_PAGES = (0, 10, 1000)
_ROUNDS = 3  # each is seconds long
_LIMIT_S = 120  # who takes longer is stopped, and counts with that


class _Run(NamedTuple):
    """Of one command: bytes that are as they were, and reads asked for."""

    saved: int
    requests: int


def results(directory: Path) -> Iterator[Result]:
    """`directory` is on tmpfs with 3 GiB of room. Without GNU ddrescue there are no rows."""
    ddrescue = shutil.which("ddrescue")
    if ddrescue is None:
        raise Missing("no peer: install gddrescue")
    ours = Path(sys.executable).with_name("daxmend")
    out, mapfile = directory / "out", directory / "map"
    with _mounted_file(directory) as (path, data):
        commands: dict[str, list[object]] = {
            "ours": [ours, "salvage", path, "-o", out, "--mapfile", mapfile],
            "GNU ddrescue": [ddrescue, "-q", path, out, mapfile],
            "dd noerror,sync": [
                "dd", f"if={path}", f"of={out}", f"bs={PAGE}", "conv=noerror,sync", "status=none",
            ],
        }  # fmt: skip
        bad: list[int] = []
        for count in _BAD_PAGES:
            pages = random.Random(count).sample(range(_SIZE // PAGE), count)
            _damage(path, [page for page in pages if page not in bad])
            bad += pages
            runs: dict[str, _Run] = {}

            def copy(name: str, runs: dict[str, _Run] = runs) -> float:
                for left in (out, mapfile):
                    left.unlink(missing_ok=True)
                _drop_cache(path)
                start = time.perf_counter()
                requests = _run(commands[name])
                took = time.perf_counter() - start
                saved = runs[name].saved if name in runs else _count_saved(out, data)
                runs[name] = _Run(saved, requests)
                return took

            turns = {name: functools.partial(copy, name) for name in commands}
            timings = interleaved(turns, _ROUNDS)
            out.unlink()
            for name, run in runs.items():
                yield Note(
                    f"salvage, {count} bad pages, {name}: {run.requests:,} reads, "
                    f"{_SIZE - run.saved:,} bytes not saved"
                )
            for name in ("GNU ddrescue", "dd noerror,sync"):
                goal = 5.0 if count == 1000 and name == "GNU ddrescue" else None
                what = f"salvage 1 GiB, {count} bad pages"
                yield Row(what, timings["ours"], name, timings[name], goal)


def _drop_cache(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)


@contextmanager
def _mounted_file(directory: Path) -> Iterator[tuple[Path, bytes]]:
    """A file on a mount, and what each MiB of it is."""
    data = random.Random(1).randbytes(MIB)
    with mounted(directory, _SIZE + 64 * MIB) as mountpoint:
        path = mountpoint / "file"
        with open(path, "wb", buffering=0) as file:
            for _ in range(_SIZE // MIB):
                file.write(data)
        yield path, data


def _damage(path: Path, pages: list[int]) -> None:
    """Record and poison pages of the file."""
    fd = os.open(path, os.O_RDONLY)
    extents = list(fileioctl.iter_extents(fd))
    os.close(fd)
    places = []
    for page in sorted(pages):
        for each in extents:
            if each.offset <= page * PAGE < each.offset + each.length:
                places.append(Extent(each.device_offset + page * PAGE - each.offset, PAGE))
    for at in range(0, len(places), 100):
        (path.parent / ".daxmend/badblocks").write_text(format_badblocks(places[at : at + 100]))


def _run(command: list[object]) -> int:
    """Run it; the number of read system calls that it made."""
    child = subprocess.Popen(
        [str(word) for word in command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    limit = threading.Timer(_LIMIT_S, child.kill)
    limit.start()
    try:
        return _waited(child.pid)
    finally:
        limit.cancel()
        child.wait()


def _waited(pid: int) -> int:
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)  # ended, and its counters are still there
    lines = Path(f"/proc/{pid}/io").read_text().splitlines()
    return int(dict(line.split(": ") for line in lines)["syscr"])


def _count_saved(out: Path, data: bytes) -> int:
    """Bytes, by pages, that are as they were."""
    saved = 0
    with open(out, "rb") as file:
        while chunk := file.read(MIB):
            if chunk == data:
                saved += len(chunk)
                continue
            saved += sum(
                PAGE
                for at in range(0, len(chunk), PAGE)
                if chunk[at : at + PAGE] == data[at : at + PAGE]
            )
    return saved
