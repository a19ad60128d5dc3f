"""What a report says of one target: asked once, and bounded, whatever there is to say.

Of many files the worst are named, of many ranges the first; what is left out is counted, and the
page names the command that lists all.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from daxmend.errors import EXIT_BAD_REMAINS, EXIT_DONE, EXIT_UNKNOWN
from daxmend.report.pagemap import Bars, Lane
from daxmend.rescue.target import FileExtent, Range

FILES: Final = 100
RANGES: Final = 20  # of each file, and of each kind of what is no file's
EXTENTS: Final = 8  # of each file
EVENTS: Final = 100


class Verdict(enum.Enum):
    """The answer (R44); latent poison alone is no bad block (R1)."""

    CLEAN = "clean"
    BAD = "bad"
    UNKNOWN = "unknown"

    @property
    def exit_status(self) -> int:
        """That of `locate`."""
        return {"clean": EXIT_DONE, "bad": EXIT_BAD_REMAINS, "unknown": EXIT_UNKNOWN}[self.value]


class Sum(NamedTuple):
    """How many ranges, and their bytes."""

    ranges: int
    length: int

    @classmethod
    def of(cls, ranges: list[Range]) -> Sum:
        """Of ranges, each counted."""
        return cls(len(ranges), sum(each.extent.length for each in ranges))


class Command(NamedTuple):
    """What to do, and the line for the shell that does it; None where there is none."""

    what: str
    line: str | None


class Placed(NamedTuple):
    """Where a file lies: how many extents it has, in how many something is bad, and some of these;
    `bars` are all of them."""

    extents: int
    hit: int
    shown: list[FileExtent]
    bars: Bars


@dataclass(frozen=True, slots=True)
class DamagedFile:
    """A file with bad bytes. Offsets count from its start.

    `name` is how commands call it. `size` and `placed` are None where that is not known; `why` says
    why.
    """

    name: str
    size: int | None
    total: Sum
    ranges: list[Range]
    placed: Placed | None
    why: str
    bars: Bars
    commands: list[Command]


@dataclass(frozen=True, slots=True)
class Group:
    """Bad ranges that are no file's, and are dealt with in one way. Offsets are the target's."""

    title: str
    total: Sum
    ranges: list[Range]
    commands: list[Command]


@dataclass(slots=True)
class Facts:
    """All of it. `target` is as it was named; `size` and `lanes` are of what offsets count in.

    `whole` is what `locate` lists where it does not take the target. `hit` says what the record is
    of, `unknown` why more may be bad than is told, `unasked` what a record cannot know, `notices`
    what the target says of itself. `events` is None where nobody keeps them.
    """

    target: str
    kind: str
    taken_ns: int
    whole: str | None = None
    size: int | None = None
    status: dict[str, object] = field(default_factory=dict)
    lanes: list[Lane] = field(default_factory=list)
    recorded: Sum = field(default_factory=lambda: Sum(0, 0))
    latent: Sum = field(default_factory=lambda: Sum(0, 0))
    hit: list[str] = field(default_factory=list)
    files: list[DamagedFile] = field(default_factory=list)
    files_total: int = 0
    groups: list[Group] = field(default_factory=list)
    events: list[dict[str, object]] | None = None
    events_total: int = 0
    unknown: list[str] = field(default_factory=list)
    unasked: list[str] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    headline: str = ""
    steps: list[Command] = field(default_factory=list)

    @property
    def verdict(self) -> Verdict:
        """Clean, bad or unknown."""
        if self.recorded.ranges:
            return Verdict.BAD
        return Verdict.UNKNOWN if self.unknown else Verdict.CLEAN

    @property
    def files_left(self) -> int:
        """Damaged files that are counted, and not listed."""
        return self.files_total - len(self.files)
