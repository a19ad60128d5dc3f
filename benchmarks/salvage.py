"""Salvage of a damaged file on a mount against GNU ddrescue and dd: whole commands.

Beside the time: how much each saved, and how many reads it asked the kernel for.
"""

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

from benchmarks.harness import Row
from daxmend.extent import Extent, format_badblocks
from daxmend.fuse import unmount
from daxmend.host import fileioctl
from daxmend.media.pool import Content
from daxmend.mounts.daemon import mount_in_background
from daxmend.mounts.option import MountOptions
from daxmend.stack.pool import create
from daxmend.units import GIB, MIB, PAGE

_SIZE = GIB
_BAD_PAGES = (0, 10, 1000)
_ROUNDS = 3  # each is seconds long; the first of each peer warms what is to be warm
_LIMIT_S = 120  # who takes longer is stopped, and counts with that


class _Run(NamedTuple):
    """Seconds, bytes that are as they were, and reads asked for."""

    seconds: float
    saved: int
    requests: int


def rows(directory: Path) -> Iterator[Row]:
    """`directory` is on tmpfs with 3 GiB of room. Without GNU ddrescue there are no rows."""
    ddrescue = shutil.which("ddrescue")
    if ddrescue is None:
        raise LookupError("no peer: install gddrescue")
    with _mounted_file(directory) as (path, data):
        bad: list[int] = []
        for count in _BAD_PAGES:
            pages = random.Random(count).sample(range(_SIZE // PAGE), count)
            _damage(path, [page for page in pages if page not in bad])
            bad += pages
            out, mapfile = directory / "out", directory / "map"
            ours = Path(sys.executable).with_name("daxmend")
            commands: dict[str, list[object]] = {
                "ours": [ours, "salvage", path, "-o", out, "--mapfile", mapfile],
                "GNU ddrescue": [ddrescue, "-q", path, out, mapfile],
                "dd noerror,sync": [
                    "dd", f"if={path}", f"of={out}", f"bs={PAGE}", "conv=noerror,sync",
                    "status=none",
                ],
            }  # fmt: skip
            best = _measure(commands, out, mapfile, data)
            _print_counts(count, best)
            for name in ("GNU ddrescue", "dd noerror,sync"):
                goal = 5.0 if count == 1000 and name == "GNU ddrescue" else None
                yield Row(
                    f"salvage 1 GiB, {count} bad pages", best["ours"].seconds, name,
                    best[name].seconds, goal,
                )  # fmt: skip


@contextmanager
def _mounted_file(directory: Path) -> Iterator[tuple[Path, bytes]]:
    """A file on a mount, and its bytes."""
    pool, mountpoint = directory / "salvage.pool", directory / "salvage"
    create(pool, _SIZE + 64 * MIB, content=Content.FS)
    mountpoint.mkdir()
    mount_in_background(pool, mountpoint, MountOptions())
    data = random.Random(1).randbytes(MIB)
    try:
        path = mountpoint / "file"
        with open(path, "wb", buffering=0) as file:
            for _ in range(_SIZE // MIB):
                file.write(data)
        yield path, data
    finally:
        unmount(mountpoint)
        pool.unlink()


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


def _measure(
    commands: dict[str, list[object]], out: Path, mapfile: Path, data: bytes
) -> dict[str, _Run]:
    """Each command's fastest round; they take turns."""
    best: dict[str, _Run] = {}
    for _ in range(_ROUNDS):
        for name, command in commands.items():
            for left in (out, mapfile):
                left.unlink(missing_ok=True)
            start = time.perf_counter()
            requests = _run(command)
            took = time.perf_counter() - start
            saved = best[name].saved if name in best else _count_saved(out, data)
            best[name] = min(
                best.get(name, _Run(took, saved, requests)), _Run(took, saved, requests)
            )
    out.unlink()
    return best


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


def _print_counts(count: int, best: dict[str, _Run]) -> None:
    for name, run in best.items():
        print(
            f"  {count:>5} bad pages, {name:<16} {run.seconds:>7.2f} s, {run.requests:>7} reads, "
            f"{_SIZE - run.saved:>9} bytes not saved",
            flush=True,
        )
