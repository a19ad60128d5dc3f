"""Guards: the copy against memcpy, entering and leaving a watch, and storms of faults."""

import mmap
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.harness import Measure, Missing, Result, Row, Timing, seconds
from daxmend import _native, guard
from daxmend.errors import FaultError

_HERE = Path(__file__).parent
_NATIVE = _HERE.parent / "src" / "daxmend" / "_native"
_GUARD_INSTALL = 102
_PAGE = 4096
_STORM = 100_000
_ROUNDS = 5


def results(directory: Path) -> Iterator[Result]:
    """`directory` is on tmpfs. Storms: the whole block, and mapping the file back."""
    yield _copy(directory)
    yield from _enter_and_leave(directory / "small")
    for name, step, protection, limit in (
        ("contiguous", 1, mmap.PROT_READ | mmap.PROT_WRITE, 1.0),
        ("scattered, read-only", 2, mmap.PROT_READ, 5.0),
    ):
        best = min(
            _storm(directory / "large", step, protection) for _ in range(2 if step > 1 else 3)
        )
        yield Measure(f"storm of 100,000 bad pages, {name}", best, "s", limit)


def _copy(directory: Path) -> Row:
    """Timed by a program in C."""
    if shutil.which("cc") is None:
        raise Missing("no C compiler")
    program = directory / "guarded"
    sources = [_HERE / "guarded.c"]
    sources += [_NATIVE / f"{name}.c" for name in ("trap", "watch", "table", "move")]
    subprocess.run(
        ["cc", "-std=gnu11", "-O2", f"-I{_NATIVE}", *sources, "-o", program, "-pthread"], check=True
    )
    done = subprocess.run([program], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    ours, peer = (Timing(*(float(ns) / 1e9 for ns in line.split())) for line in lines)
    return Row("guarded copy of 4 KiB, in C", ours, "memcpy", peer, 0.95)


def _enter_and_leave(path: Path) -> Iterator[Measure]:
    path.write_bytes(bytes(_PAGE))
    count = 20_000
    with guard.open(path) as mapping:
        watch = guard.watch(mapping)
        enter, leave = watch.__enter__, watch.__exit__
        both = min(seconds(lambda: _repeat(count, enter, leave)) for _ in range(_ROUNDS)) / count
        yield Measure("guard.watch: enter and leave, each", both / 2 * 1e6, "µs", 1.0)


def _repeat(count: int, enter: Callable[[], object], leave: Callable[..., object]) -> None:
    for _ in range(count):
        enter()
        leave(None, None, None)


def _storm(path: Path, step: int, protection: int) -> float:
    """Seconds for a load of every page, of which each `step`-th faults, by one C call."""
    pages = _STORM * step
    with path.open("w+b") as file:
        file.truncate(pages * _PAGE)
        memory = mmap.mmap(file.fileno(), 0, prot=protection)
    view = memoryview(memory)
    address = _native.address_of(view)
    for page in range(0, pages, step):
        _native.madvise(address + page * _PAGE, _PAGE, _GUARD_INSTALL)
    _native.forward_segv(address, len(view))
    try:
        return seconds(lambda: _met(memory, view))
    finally:
        _native.forget_segv(address, len(view))
        path.unlink()


def _met(memory: mmap.mmap, view: memoryview) -> None:
    try:
        with guard.watch(memory):
            _touch(view)
    except FaultError:
        return
    raise AssertionError("nothing faulted")


def _touch(view: memoryview) -> None:
    """One byte of each page."""
    bytes(view[::_PAGE])
