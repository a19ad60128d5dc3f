"""The fault plan: `PATTERN OFFSET LENGTH until-written|once|latent` lines, `#` comments.

PATTERN is a shell pattern over file names (`pattern.py`), `-` where there are no files. Offsets and
lengths are bytes, plain or with K, M, G, T.
"""

from collections.abc import Iterable
from enum import StrEnum
from typing import NamedTuple

from daxmend.errors import UsageError
from daxmend.extent import Extent
from daxmend.units import CACHELINE, MAX_OFFSET, SECTOR, parse_size

NO_FILES = "-"


class FaultKind(StrEnum):
    """How a fault shows itself, and what ends it."""

    UNTIL_WRITTEN = "until-written"  # poisoned and recorded; a write that covers it heals
    ONCE = "once"  # one access fails, the next is fine
    LATENT = "latent"  # poisoned, and nobody knows until an access meets it


class Fault(NamedTuple):
    """One line of a plan. `extent` is widened to what can fail: a sector, or a latent line."""

    extent: Extent
    kind: FaultKind = FaultKind.UNTIL_WRITTEN
    pattern: str = NO_FILES

    @classmethod
    def of(
        cls, extent: Extent, kind: FaultKind = FaultKind.UNTIL_WRITTEN, pattern: str = NO_FILES
    ) -> "Fault":
        """The fault that takes at least the bytes of `extent`."""
        return cls(extent.widened(CACHELINE if kind is FaultKind.LATENT else SECTOR), kind, pattern)

    def __str__(self) -> str:
        return f"{self.pattern} {self.extent.offset} {self.extent.length} {self.kind}"


def parse_plan(text: str) -> list[Fault]:
    """The faults of a plan, in its order. Raises `UsageError` with the line's number."""
    return [fault for _, fault in parse_numbered(text)]


def parse_numbered(text: str) -> list[tuple[int, Fault]]:
    """As `parse_plan`, each with the number of its line."""
    faults = []
    for number, line in enumerate(text.splitlines(), 1):
        content = line.split("#", 1)[0].strip()
        if content:
            try:
                faults.append((number, parse_fault(content)))
            except UsageError as error:
                raise UsageError(f"fault plan, line {number}: {error}") from None
    return faults


def format_plan(faults: Iterable[Fault]) -> str:
    """The text that `parse_plan` reads back."""
    return "".join(f"{fault}\n" for fault in faults)


def parse_fault(content: str) -> Fault:
    """The fault of one line, without a comment. Raises `UsageError`."""
    words = content.rsplit(maxsplit=3)
    if len(words) != 4:
        raise UsageError(f"'{content}' is not 'PATTERN OFFSET LENGTH KIND'")
    pattern, offset, length, kind = words
    if kind not in list(FaultKind):
        raise UsageError(f"'{kind}' is not one of {', '.join(FaultKind)}")
    extent = Extent(parse_size(offset), parse_size(length))
    if extent.length == 0:
        raise UsageError(f"'{content}': a length of 0 names nothing")
    if extent.end > MAX_OFFSET - SECTOR:
        raise UsageError(f"'{content}' overflows")
    return Fault.of(extent, FaultKind(kind), pattern)
