"""What the rules must remember of a device and its files; pages, sectors, causes. No I/O.

Everything is counted from where the first file first started: `phys` is a page of the device,
a sector is `phys * 8 + n` (both may be negative). A page whose place only the allocator knows has
a `phys` of FRESH or above until `Model.adopt` is told.
"""

from dataclasses import dataclass, field

PAGE = 4096
SECTOR = 512
PER_PAGE = PAGE // SECTOR
FIRST_PAGES = 64
FRESH = 1 << 40

HOLE, UNWRITTEN, WRITTEN = "hole", "unwritten", "written"

FILE, OTHER = "file", "other"


@dataclass
class Slot:
    """A mapped page of a file. `kinds`: what it may turn out to be, where the rules leave that."""

    phys: int
    written: bool
    data: bytearray = field(default_factory=lambda: bytearray(PAGE))
    kinds: frozenset[str] = frozenset()

    @property
    def kind(self) -> str:
        return WRITTEN if self.written else UNWRITTEN

    @property
    def sectors(self) -> range:
        """The sectors under the page."""
        return range(self.phys * PER_PAGE, (self.phys + 1) * PER_PAGE)


@dataclass
class FileState:
    """A file: its size, its mapped pages, and which were dirtied through a mapping (R27)."""

    size: int = 0
    slots: dict[int, Slot] = field(default_factory=dict)
    stored: set[int] = field(default_factory=set)

    def content(self, offset: int, end: int) -> bytes:
        """The bytes of a range that is all within the size and good."""
        pieces = []
        for page, lo, hi in pieces_of(offset, end):
            slot = self.slots.get(page)
            data = slot.data if slot is not None and slot.written else bytes(PAGE)
            pieces.append(bytes(data[lo:hi]))
        return b"".join(pieces)


def pieces_of(offset: int, end: int) -> list[tuple[int, int, int]]:
    """`(page, lo, hi)` of the range in each page that it touches; lo and hi within the page."""
    return [
        (page, max(offset - page * PAGE, 0), min(end - page * PAGE, PAGE))
        for page in range(offset // PAGE, -(-end // PAGE))
        if offset < end
    ]


def format_runs(data: bytes) -> str:
    """`A*100 B*8192`, a zero byte as `0`: how the observations write data."""
    runs: list[list[int]] = []
    for byte in data:
        if runs and runs[-1][0] == byte:
            runs[-1][1] += 1
        else:
            runs.append([byte, 1])
    return " ".join(f"{chr(byte) if byte else '0'}*{count}" for byte, count in runs)


@dataclass
class Record:
    """The bad-block record as far as the rules fix it.

    `bad` must be in it. `maybe` may be in it or have left; of these `doomed` must leave in the end
    (R31: cleared in the background). `why`: the rule that last decided about a sector.
    """

    bad: set[int] = field(default_factory=set)
    maybe: set[int] = field(default_factory=set)
    doomed: set[int] = field(default_factory=set)
    why: dict[int, tuple[str, ...]] = field(default_factory=dict)

    def heal(self, sectors: "range | set[int]", *rules: str) -> None:
        """The sectors are good now."""
        for sector in set(sectors) & (self.bad | self.maybe):
            self.why[sector] = rules
        for kept in (self.bad, self.maybe, self.doomed):
            kept.difference_update(sectors)

    def free(self, sectors: range, *rules: str) -> None:
        """Their page is free: quarantined while bad, cleared in the background (R31)."""
        gone = set(sectors) & (self.bad | self.maybe)
        self.bad -= gone
        self.maybe |= gone
        self.doomed |= gone
        for sector in gone:
            self.why[sector] = rules

    def release(self, sectors: "range | set[int]", *rules: str) -> None:
        """They may leave the record or stay: no rule says."""
        for sector in set(sectors) & self.bad:
            self.bad.discard(sector)
            self.maybe.add(sector)
            self.why[sector] = rules

    def keep(self, sectors: "range | set[int]", *rules: str) -> None:
        """They stay bad, and that is a rule's doing."""
        for sector in set(sectors) & self.bad:
            self.why[sector] = rules

    def adopt(self, seen: set[int]) -> None:
        """What was seen to have left has left for good (R8: never invents one)."""
        self.maybe &= seen
        self.doomed &= seen
