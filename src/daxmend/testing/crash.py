"""A pool file that loses what was not fenced, and an explorer that stops at every persist point.

It is the pool medium that ships, on its own file: `CrashBacking` only remembers what each
unfenced cacheline held before, and puts that back for the lines that the crash drops.
"""

from __future__ import annotations

import errno
import itertools
import os
import random
from collections.abc import Callable, Iterator
from enum import Enum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from daxmend.media.backing import Backing, Durability
from daxmend.media.pool import open_pool
from daxmend.pmem.device import PmemDevice
from daxmend.units import CACHELINE, align_down

if TYPE_CHECKING:
    from typing_extensions import Buffer


class PowerLoss(BaseException):
    """The machine stopped. Not an `Exception`: nothing that runs on it may handle this."""


class Survival(Enum):
    """Which unfenced cachelines reach the medium when the machine stops."""

    NONE = "none"
    ALL = "all"
    SOME = "some"  # each by the toss of a seeded coin: a sampled reordering


class CrashBacking(Backing):
    """A `Backing` that stops at its `stop_at`-th persist point (a store, flush or fence).

    `flush` alone promises nothing: a line is safe when a fence followed its flush. What the medium
    changes by itself (`poke`) is safe at once; under `Survival.SOME`, half of it is so only with
    the next fence, as in a real pool file (persistence.md §1).
    """

    def __init__(
        self,
        fd: int,
        name: str,
        durability: Durability,
        *,
        writable: bool = True,
        stop_at: int | None = None,
        survival: Survival = Survival.NONE,
        seed: int = 0,
    ) -> None:
        super().__init__(fd, name, durability, writable=writable)
        self.points = 0
        self.is_down = False
        self._stop_at = stop_at
        self._survival = survival
        self._random = random.Random(seed)
        self._before: dict[int, bytes] = {}  # line offset → what it held when it was last safe
        self._flushed: set[int] = set()

    def store(self, offset: int, data: Buffer) -> None:
        self._reach_point()
        for line in _lines(offset, memoryview(data).nbytes):
            if line not in self._before:
                self._before[line] = bytes(self.memory[line : line + CACHELINE])
            self._flushed.discard(line)
        super().store(offset, data)

    def poke(self, offset: int, data: Buffer) -> None:
        if self.is_down:
            raise PowerLoss
        for line in _lines(offset, memoryview(data).nbytes):
            if self._survival is Survival.SOME and self._random.random() < 0.5:
                self._before.setdefault(line, bytes(self.memory[line : line + CACHELINE]))
                self._flushed.add(line)
            else:
                self._before.pop(line, None)
        super().store(offset, data)

    def store_flush(self, offset: int, data: Buffer) -> None:
        self.store(offset, data)
        self.flush(offset, memoryview(data).nbytes)

    def store_line(self, offset: int, line: Buffer) -> None:
        self.store(offset, line)

    def flush(self, offset: int, length: int) -> None:
        self._reach_point()
        self._flushed.update(line for line in _lines(offset, length) if line in self._before)
        super().flush(offset, length)

    def fence(self) -> None:
        if self.is_down:
            return  # closing the remains of a stopped machine promises nothing
        self._reach_point()
        for line in self._flushed:
            del self._before[line]
        self._flushed.clear()

    def _reach_point(self) -> None:
        if self.is_down:
            raise PowerLoss
        if self.points == self._stop_at:
            self.lose_power()
            raise PowerLoss
        self.points += 1

    def lose_power(self) -> None:
        """Drop what the survival rule drops; every later access raises `PowerLoss`."""
        self.is_down = True
        for line, before in self._before.items():
            is_kept = self._survival is Survival.ALL or (
                self._survival is Survival.SOME and self._random.random() < 0.5
            )
            if not is_kept:
                self.memory[line : line + len(before)] = before
        self._before.clear()


def _lines(offset: int, length: int) -> Iterator[int]:
    return iter(range(align_down(offset, CACHELINE), offset + length, CACHELINE))


class Operation(Protocol):
    """What runs until the machine stops; it notes for the check what it has acknowledged."""

    def __call__(self, device: PmemDevice) -> object: ...


class CrashExplorer:
    """Runs an operation once for every persist point and survival rule, stopping it there, and
    once more to its end.

    `image` is a closed pool; each run works on a copy in `scratch`. After the stop the pool is
    attached again (itself stopped at each of its points, then whole) and `check` is called with
    the device; it asserts. The seed of a failing run is in the exception's notes.
    """

    def __init__(self, image: Path, scratch: Path, seed: int = 0) -> None:
        self._size = image.stat().st_size
        self._content = list(_data_of(image))
        self._pool = scratch / "crash.pool"
        self._seed = seed

    def explore(
        self, operation: Operation, check: Callable[[PmemDevice], None], samples: int = 4
    ) -> int:
        """Explore everything; returns how many stops were checked."""
        stops = 0
        for survival, seed in self._rules(samples):
            for stop_at in itertools.count():
                is_stopped = self._run(operation, stop_at, survival, seed)
                self._restart_and_check(check, stop_at, survival, seed)
                stops += 1
                if not is_stopped:
                    break
        return stops

    def _rules(self, samples: int) -> Iterator[tuple[Survival, int]]:
        yield Survival.NONE, 0
        yield Survival.ALL, 0
        for sample in range(samples):
            yield Survival.SOME, self._seed + sample

    def _run(self, operation: Operation, stop_at: int, survival: Survival, seed: int) -> bool:
        """True if the operation was stopped before its end; else the machine stops then."""
        with open(self._pool, "wb") as file:
            for offset, data in self._content:
                file.seek(offset)
                file.write(data)
            file.truncate(self._size)
        return self._stopped(operation, stop_at, survival, seed)

    def _stopped(self, operation: Operation, stop_at: int, survival: Survival, seed: int) -> bool:
        make_backing = partial(CrashBacking, stop_at=stop_at, survival=survival, seed=seed)
        pool = open_pool(self._pool, make_backing=make_backing)
        backing = pool.backing
        assert isinstance(backing, CrashBacking)
        try:
            operation(PmemDevice(pool))
        except PowerLoss:
            return True
        else:
            backing.lose_power()
            return False
        finally:
            backing.is_down = True  # closing is not a part of the operation
            pool.close()

    def _restart_and_check(
        self, check: Callable[[PmemDevice], None], stop_at: int, survival: Survival, seed: int
    ) -> None:
        try:
            attach_stop = 0
            while self._stopped(_only_attach, attach_stop, Survival.SOME, seed):
                attach_stop += 1
            device = PmemDevice(open_pool(self._pool))
            try:
                check(device)
            finally:
                device.close()
        except BaseException as error:
            error.add_note(f"stopped at persist point {stop_at}, {survival}, seed {seed}")
            raise


def _data_of(path: Path) -> Iterator[tuple[int, bytes]]:
    """The parts of a sparse file that are not holes: a pool is nearly all holes."""
    fd = os.open(path, os.O_RDONLY)
    try:
        end = 0
        while (start := _seek_data(fd, end)) is not None:
            end = os.lseek(fd, start, os.SEEK_HOLE)
            yield start, os.pread(fd, end - start, start)
    finally:
        os.close(fd)


def _seek_data(fd: int, offset: int) -> int | None:
    try:
        return os.lseek(fd, offset, os.SEEK_DATA)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return None
        raise


def _only_attach(device: PmemDevice) -> object:
    return device
