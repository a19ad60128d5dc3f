"""Block devices that the tests stand on: one namespace, or a table of dm over two."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pmem import SECTOR, Pmem
from program import program

SIZE = 400 << 20  # mkfs.xfs wants 300 MiB
HALF = SIZE // 2 // SECTOR
START = (32 << 20) // SECTOR  # where the halves begin in their members
CHUNK = 128
KINDS = ("one", "linear", "striped")


@dataclass(frozen=True)
class Place:
    """A block device, and where its sectors lie in the namespaces below."""

    kind: str
    path: Path
    members: Sequence[Pmem]

    def member(self, sector: int) -> tuple[Pmem, int]:
        """The namespace and its sector below a sector of the device."""
        if self.kind == "one":
            return self.members[0], sector
        if self.kind == "linear":
            return self.members[sector // HALF], START + sector % HALF
        chunk, within = divmod(sector, CHUNK)
        return self.members[chunk % 2], START + chunk // 2 * CHUNK + within

    def inject(self, offset: int, length: int) -> None:
        """Make the sectors of a range of the device bad, in whatever lies below."""
        for sector in range(offset // SECTOR, -(-(offset + length) // SECTOR)):
            pmem, below = self.member(sector)
            pmem.inject(below)

    def bad_sectors(self) -> list[tuple[str, int]]:
        """The records of all members."""
        return [(pmem.name, sector) for pmem in self.members for sector in pmem.bad_sectors()]

    def ndctl_bad_sectors(self) -> list[tuple[str, int]]:
        """What ndctl says of all members."""
        return [(pmem.name, sector) for pmem in self.members for sector in pmem.ndctl_bad_sectors()]

    def clear(self) -> None:
        """Forget all bad sectors of the members."""
        for pmem in self.members:
            pmem.clear()


def table_text(kind: str, members: Sequence[Pmem]) -> str:
    """The table for dmsetup."""
    one, two = (member.path for member in members)
    if kind == "linear":
        return f"0 {HALF} linear {one} {START}\n{HALF} {HALF} linear {two} {START}\n"
    return f"0 {2 * HALF} striped 2 {CHUNK} {one} {START} {two} {START}\n"


@contextmanager
def open_place(kind: str, pmems: Sequence[Pmem]) -> Iterator[Place]:
    """The device, while the context lasts."""
    if kind == "one":
        yield Place(kind, pmems[0].path, pmems[:1])
        return
    name = f"ring-{kind}"
    program("dmsetup", "create", name, text=table_text(kind, pmems))
    try:
        yield Place(kind, Path("/dev/mapper", name), pmems)
    finally:
        program("dmsetup", "remove", name)
