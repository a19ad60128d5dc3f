"""How everything here is measured: pinned to one CPU, all sides in turn, best of rounds."""

import itertools
import os
import statistics
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import NamedTuple, TypeVar

ROUNDS = 8
_SHORT_ROUNDS = 40  # of small things, so that some of them have the processor for themselves
_CALLS = 2_000  # in a short round

_T = TypeVar("_T")
_Key = TypeVar("_Key", bound=Hashable)


class Timing(NamedTuple):
    """Seconds of one operation: the best round's, and the median of all."""

    best: float
    median: float

    @property
    def noise(self) -> float:
        """How far the rounds lie apart, as a part of the best."""
        return self.median / self.best - 1


class Row(NamedTuple):
    """One line of the table, measured side by side; `goal` is the least ratio, or None."""

    name: str
    ours: Timing
    peer_name: str
    peer: Timing
    goal: float | None = None

    @property
    def ratio(self) -> float:
        """How fast we are in units of the peer: above 1 is faster."""
        return self.peer.best / self.ours.best

    @property
    def noise(self) -> float:
        """What the ratio may differ by from one run to the next."""
        return self.ours.noise + self.peer.noise

    @property
    def is_met(self) -> bool | None:
        """Whether the ratio reaches the goal; None without one."""
        return None if self.goal is None else self.ratio >= self.goal


class Measure(NamedTuple):
    """One number against a limit that it must not pass."""

    name: str
    value: float
    unit: str
    limit: float

    @property
    def is_met(self) -> bool:
        """Whether it keeps the limit."""
        return self.value <= self.limit


class Note(NamedTuple):
    """What was seen and is no speed: how much somebody saved, why there is no peer."""

    text: str


Result = Row | Measure | Note


class Missing(Exception):  # noqa: N818  # nothing went wrong
    """A part cannot be measured here: its peer is not installed, or root is needed."""


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


def interleaved(
    works: Mapping[_Key, Callable[[], float]], rounds: int = ROUNDS
) -> dict[_Key, Timing]:
    """Every work in turn, again and again; each returns its own seconds an operation."""
    times: dict[_Key, list[float]] = {key: [] for key in works}
    for _ in range(rounds):
        for key, work in works.items():
            times[key].append(work())
    return {key: Timing(min(all_), statistics.median(all_)) for key, all_ in times.items()}


def versus(
    name: str,
    ours: Callable[[], float],
    peer_name: str,
    peer: Callable[[], float],
    goal: float | None,
    rounds: int = ROUNDS,
) -> Row:
    """Both sides in turn."""
    timings = interleaved({"ours": ours, "peer": peer}, rounds)
    return Row(name, timings["ours"], peer_name, timings["peer"], goal)


def versus_briefly(
    name: str,
    ours: Callable[[_T], object],
    peer_name: str,
    peer: Callable[[_T], object],
    arguments: Sequence[_T],
    goal: float | None,
) -> Row:
    """Both sides in turn, for calls of microseconds: many short rounds, each of other arguments."""

    def each(work: Callable[[_T], object]) -> Callable[[], float]:
        starts = range(0, len(arguments), _CALLS)
        parts = itertools.cycle([arguments[at : at + _CALLS] for at in starts])
        return lambda: seconds_each(work, next(parts))

    return versus(name, each(ours), peer_name, each(peer), goal, _SHORT_ROUNDS)


def format_seconds(value: float) -> str:
    """`1.13 µs`, `4.8 ms`."""
    for factor, unit in ((1, "s"), (1e3, "ms"), (1e6, "µs"), (1e9, "ns")):
        if value * factor >= 1:
            return f"{value * factor:.3g} {unit}"
    return f"{value * 1e9:.3g} ns"
