"""The damage that a comparison does to a file: how many pages, and how they lie."""

from __future__ import annotations

import random
from enum import StrEnum
from typing import NamedTuple

from daxmend.errors import UsageError
from daxmend.extent import Extent, merged
from daxmend.units import PAGE, SECTOR

_SECTORS = PAGE // SECTOR


class Pattern(StrEnum):
    """How bad pages lie in the file."""

    SCATTERED = "scattered"  # far from each other, one sector of each page
    CLUSTERED = "clustered"  # one behind the other, all of each page


class Damage(NamedTuple):
    """`pages` bad pages."""

    pages: int
    pattern: Pattern

    def __str__(self) -> str:
        if self.pages == 1:
            return "1 page" if self.pattern is Pattern.SCATTERED else "1 whole page"
        return f"{self.pages} {self.pattern} pages"


def bad_sectors(damage: Damage, size: int, seed: int) -> list[Extent]:
    """The bad sectors of a file of `size` bytes, ascending, by chance; neighbours are one.

    Scattered pages do not touch each other. Raises `UsageError` if they do not fit.
    """
    pages = size // PAGE
    needed = 2 * damage.pages if damage.pattern is Pattern.SCATTERED else damage.pages
    if damage.pages < 1 or needed > pages:
        raise UsageError(
            f"{damage.pages} {damage.pattern} bad pages do not fit into a file of {size} bytes; "
            f"they need {needed} pages"
        )
    chance = random.Random(f"{seed} {damage.pages} {damage.pattern}")
    if damage.pattern is Pattern.CLUSTERED:
        first = chance.randrange(pages - damage.pages + 1)
        return [Extent(first * PAGE, damage.pages * PAGE)]
    # Chosen from fewer pages; the gap that each needs behind it is then put there.
    chosen = sorted(chance.sample(range(pages - damage.pages), damage.pages))
    bad = [
        Extent((page + gap) * PAGE + chance.randrange(_SECTORS) * SECTOR, SECTOR)
        for gap, page in enumerate(chosen)
    ]
    return merged(bad)


def bad_pages(bad: list[Extent]) -> list[Extent]:
    """Each page that holds something of ascending bad ranges, once."""
    pages = {offset for each in bad for offset in range(each.widened(PAGE).offset, each.end, PAGE)}
    return [Extent(offset, PAGE) for offset in sorted(pages)]


def content(size: int, seed: int) -> bytes:
    """What the file holds: bytes by chance, none of them zero, so that zeros show."""
    return random.Random(seed).randbytes(size).replace(b"\0", b"\1")
