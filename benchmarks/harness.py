"""How everything here is measured: pinned to one CPU, both sides interleaved, best of rounds."""

import os
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

ROUNDS = 8

_T = TypeVar("_T")


class Row(NamedTuple):
    """One line of the table: seconds of one operation on each side; `goal` is the least ratio."""

    name: str
    ours_s: float
    peer_name: str
    peer_s: float
    goal: float | None

    @property
    def ratio(self) -> float:
        """How fast we are in units of the peer: above 1 is faster."""
        return self.peer_s / self.ours_s


def pin(cpu: int = 0) -> None:
    """Stay on one CPU, and so do the children."""
    os.sched_setaffinity(0, {cpu})


def seconds(work: Callable[[], object]) -> float:
    """Seconds that `work` takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def seconds_each(work: Callable[[_T], object], arguments: Sequence[_T]) -> float:
    """Seconds of one call of `work`, over all `arguments`; results are let go at once."""
    start = time.perf_counter()
    for argument in arguments:
        work(argument)
    return (time.perf_counter() - start) / len(arguments)


def versus(
    name: str,
    ours: Callable[[], float],
    peer_name: str,
    peer: Callable[[], float],
    goal: float | None,
    rounds: int = ROUNDS,
) -> Row:
    """Measure both sides in turn; each returns its own seconds an operation."""
    best_ours = best_peer = float("inf")
    for _ in range(rounds):
        best_ours = min(best_ours, ours())
        best_peer = min(best_peer, peer())
    return Row(name, best_ours, peer_name, best_peer, goal)


def format_seconds(value: float) -> str:
    """`1.13 µs`, `4.8 ms`."""
    for factor, unit in ((1, "s"), (1e3, "ms"), (1e6, "µs"), (1e9, "ns")):
        if value * factor >= 1:
            return f"{value * factor:.3g} {unit}"
    return f"{value * 1e9:.3g} ns"
