"""A shadow mount in a test: real EIO and real SIGBUS for programs that know nothing of daxmend."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterable
from pathlib import Path

from daxmend.errors import UsageError
from daxmend.extent import Extent
from daxmend.faults import Fault, FaultKind, format_pattern, format_plan, parse_plan
from daxmend.rescue.shadow import ShadowTarget
from daxmend.rescue.target import CONTROL_DIRECTORY
from daxmend.testing.mounted import Mounted
from daxmend.testing.process import run_daxmend
from daxmend.units import PAGE

_ALL = "**"


def why_no_mounts() -> str | None:
    """Why this process cannot mount anything; None if it can, as far as one can tell."""
    if not os.path.exists("/dev/fuse"):
        return "there is no /dev/fuse (modprobe fuse)"
    if os.geteuid() != 0 and not os.access("/dev/fuse", os.R_OK | os.W_OK):
        return "/dev/fuse may not be opened by this user"
    if os.geteuid() != 0 and shutil.which("fusermount3") is None:
        return "fusermount3 is missing (package fuse3), and only root can mount without it"
    return None


class FaultPlan:
    """The faults of one test, in the order in which they were made; also those healed since.

    With `replay`, the text of an earlier plan, `scatter` makes its faults instead of random ones.
    `seed` makes the random ones; it is chosen, and printed with the plan, where none is given.
    """

    def __init__(self, replay: str = "", seed: int | None = None) -> None:
        self.faults: list[Fault] = []
        self.seed = random.SystemRandom().randrange(1 << 32) if seed is None else seed
        self._random = random.Random(self.seed)
        self._replayed = parse_plan(replay)
        self.is_replayed = bool(replay)

    def __str__(self) -> str:
        """The text that replays it."""
        return format_plan(self.faults)

    def choose(self, name: str, size: int, count: int, kind: FaultKind) -> list[Fault]:
        """`count` pages of a file of `size` bytes, or the next so many of the replayed plan."""
        if self.is_replayed:
            chosen, self._replayed = self._replayed[:count], self._replayed[count:]
            return chosen
        pages = range(-(-size // PAGE))
        pattern = format_pattern(name)
        return [
            Fault.of(Extent(page * PAGE, min(PAGE, size - page * PAGE)), kind, pattern)
            for page in sorted(self._random.sample(pages, min(count, len(pages))))
        ]


class ShadowDirectory(Mounted):
    """A directory below, and its shadow, where the faults are. A context manager that unmounts.

    Files are made and used at `path`; `source` holds what is really stored. All files are armed:
    one can go bad while it is open or mapped. Names and attributes are not cached, so that what is
    changed in `source` shows at once.
    """

    def __init__(self, source: Path, path: Path, plan: FaultPlan | None = None) -> None:
        self.source = source
        self.path = path
        self.plan = FaultPlan() if plan is None else plan
        run_daxmend("shadow", "--cache", 0, "--arm", _ALL, source, path)
        self._target = ShadowTarget(path, None, str(path))

    def inject(
        self,
        name: str | os.PathLike[str],
        offset: int,
        length: int,
        kind: FaultKind | str = FaultKind.UNTIL_WRITTEN,
    ) -> None:
        """Make bytes of a file bad; `name` is below `path`, or absolute. Widens as a plan does.

        Effective on return, for who has the file open or mapped, too. Raises `UsageError` for a
        range that the file has not.
        """
        pattern = format_pattern(self._relative(name))
        self.apply([Fault.of(Extent(offset, length), FaultKind(kind), pattern)])

    def scatter(
        self,
        name: str | os.PathLike[str],
        count: int,
        kind: FaultKind | str = FaultKind.UNTIL_WRITTEN,
    ) -> list[Extent]:
        """Make `count` random pages of a file bad; their ranges. A failing test prints the plan."""
        relative = self._relative(name)
        size = os.stat(self.path / relative).st_size
        faults = self.plan.choose(relative, size, count, FaultKind(kind))
        self.apply(faults)
        return [fault.extent for fault in faults]

    def apply(self, faults: str | Iterable[Fault]) -> None:
        """Make bad what a plan says (its text, or its faults), all of it or nothing."""
        chosen = parse_plan(faults) if isinstance(faults, str) else list(faults)
        self._target.inject(chosen)
        self.plan.faults += chosen

    def bad_ranges(self, name: str | os.PathLike[str]) -> list[Extent]:
        """The recorded bad sectors of a file; latent poison is not among them."""
        path = b"/" + os.fsencode(self._relative(name))
        return [
            found.extent
            for found in self._target.ranges()
            if found.path == path and found.is_recorded
        ]

    def clear(self) -> None:
        """Take all faults away. What `plan` says stays."""
        control = os.open(self.path / CONTROL_DIRECTORY / "faults", os.O_WRONLY)
        try:
            os.write(control, f"-{_ALL} 0 {1 << 62}\n".encode())
        finally:
            os.close(control)

    def _relative(self, name: str | os.PathLike[str]) -> str:
        absolute = os.path.abspath(self.path / os.fspath(name))
        relative = os.path.relpath(absolute, self.path)
        if relative.startswith(".."):
            raise UsageError(f"{os.fspath(name)} is not below {self.path}")
        return relative
