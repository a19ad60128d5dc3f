"""Something bad at every place an operation touches: result, blast radius, record afterwards.

The one result that is accepted comes from the rules (`devicemodel`); after each operation every
byte of the medium, the whole record and all poison are compared, so that nothing else changed.
"""

import itertools
from collections.abc import Callable, Iterator

import pytest

from daxmend.dax import io
from daxmend.dax.api import Recovery
from daxmend.errors import MediaError, UsageError
from daxmend.extent import Extent
from daxmend.media.pool import create_memory_pool
from daxmend.pmem.device import PmemDevice
from daxmend.units import CACHELINE, PAGE, SECTOR
from devicemodel import DeviceModel, EioError, merged

PAGES = 7  # five that the operation touches, and a neighbour at each side
SIZE = PAGES * PAGE
ALL = Extent(0, SIZE)
CONTENT = bytes(range(1, 252)) * (SIZE // 251 + 1)
CONTENT = CONTENT[:SIZE]

Operation = Callable[[PmemDevice | DeviceModel, Extent], object]


class Rehearsal:
    """A device and its model, brought into the same state again and again."""

    def __init__(self) -> None:
        self.device = PmemDevice(create_memory_pool(SIZE))
        self.begin()

    def begin(self) -> None:
        """Everything good, with the known content."""
        self.device.uninject(ALL)
        self.device.recovery_write(0, CONTENT)
        self.model = DeviceModel(SIZE)
        self.model.content[:] = CONTENT

    def inject(self, extent: Extent, *, latent: bool) -> None:
        self.device.inject(extent, latent=latent)
        self.model.inject(extent, latent=latent)

    def run(self, operation: Operation, extent: Extent) -> None:
        """Do it to both, and compare all there is."""
        try:
            expected = operation(self.model, extent)
        except EioError:
            expected = EioError
        try:
            found = operation(self.device, extent)
        except MediaError:
            found = EioError
        assert found == expected
        pool = self.device.pool
        assert pool.backing.load(pool.header.layout.data.offset, SIZE) == self.model.content
        assert [run for run, _ in self.device.badblocks(ALL)] == merged(self.model.recorded, SECTOR)
        assert list(self.device.poison(ALL)) == merged(self.model.poison, CACHELINE)


@pytest.fixture(scope="module")
def rehearsal() -> Iterator[Rehearsal]:
    made = Rehearsal()
    yield made
    made.device.close()


def new(extent: Extent) -> bytes:
    return bytes(b ^ 0xFF for b in CONTENT[extent.offset : extent.end])


def read(device: PmemDevice | DeviceModel, extent: Extent) -> object:
    return io.read(device, extent) if isinstance(device, PmemDevice) else device.read(extent)


def salvage(device: PmemDevice | DeviceModel, extent: Extent) -> object:
    if isinstance(device, DeviceModel):
        return device.salvage(extent)
    found = device.recovery_read(extent)
    return bytes(found.data), found.lost


def write(device: PmemDevice | DeviceModel, extent: Extent) -> object:
    if isinstance(device, DeviceModel):
        return device.write(extent.offset, new(extent))
    return io.write(device, extent.offset, new(extent))


def write_always(device: PmemDevice | DeviceModel, extent: Extent) -> object:
    if isinstance(device, DeviceModel):
        return device.write(extent.offset, new(extent), Recovery.ALWAYS)
    return io.write(device, extent.offset, new(extent), Recovery.ALWAYS)


def write_never(device: PmemDevice | DeviceModel, extent: Extent) -> object:
    if isinstance(device, DeviceModel):
        return device.write(extent.offset, new(extent), Recovery.NEVER)
    return io.write(device, extent.offset, new(extent), Recovery.NEVER)


def write_raw(device: PmemDevice | DeviceModel, extent: Extent) -> object:
    if isinstance(device, DeviceModel):
        return device.write_raw(extent.offset, new(extent))
    return io.write_raw(device, extent.offset, new(extent))


def recovery_write(device: PmemDevice | DeviceModel, extent: Extent) -> object:
    return device.recovery_write(extent.offset, new(extent))


# What is wrong with a page: what to inject into it, and whether latent.
GOOD = None
FIRST = (Extent(0, SECTOR), False)
LAST = (Extent(PAGE - SECTOR, SECTOR), False)
LATENT = (Extent(5 * CACHELINE, CACHELINE), True)
WHOLE = (Extent(0, PAGE), False)
DAMAGE = [GOOD, FIRST, LAST, LATENT]

ALIGNED: list[Operation] = [read, salvage, write, write_raw, write_never, recovery_write]
UNALIGNED: list[Operation] = [read, salvage, write, write_raw, write_always]


@pytest.mark.parametrize("operation", ALIGNED, ids=lambda o: o.__name__)
@pytest.mark.parametrize("pages", [1, 2, 3])
def test_damage_in_any_combination_of_pages(
    rehearsal: Rehearsal, operation: Operation, pages: int
) -> None:
    """R10–R12, R14, R17, R23 with aligned ends."""
    extent = Extent(PAGE, pages * PAGE)
    for damage in itertools.product(DAMAGE, repeat=pages):
        begin(rehearsal, damage)
        rehearsal.run(operation, extent)


@pytest.mark.parametrize("operation", ALIGNED, ids=lambda o: o.__name__)
def test_damage_in_any_combination_of_five_pages(
    rehearsal: Rehearsal, operation: Operation
) -> None:
    for damage in itertools.product((GOOD, WHOLE), repeat=5):
        begin(rehearsal, damage)
        rehearsal.run(operation, Extent(PAGE, 5 * PAGE))


@pytest.mark.parametrize("operation", UNALIGNED, ids=lambda o: o.__name__)
@pytest.mark.parametrize(
    ("head", "tail"), [(SECTOR, 0), (0, SECTOR), (SECTOR, SECTOR), (100, 3), (PAGE - 64, 64)]
)
def test_damage_under_unaligned_ends(
    rehearsal: Rehearsal, operation: Operation, head: int, tail: int
) -> None:
    """R15, R16, R33: `head` and `tail` bytes of the first and last page are left out."""
    extent = Extent.between(PAGE + head, 4 * PAGE - tail)
    for damage in itertools.product(
        (GOOD, FIRST, LAST, LATENT), (GOOD, FIRST), (GOOD, FIRST, LAST)
    ):
        begin(rehearsal, damage)
        rehearsal.run(operation, extent)


@pytest.mark.parametrize("latent", [False, True], ids=["recorded", "latent"])
@pytest.mark.parametrize("operation", [read, write, write_always, write_raw, salvage])
def test_damage_at_every_line_of_a_page_under_every_sector_of_an_access(
    rehearsal: Rehearsal, operation: Operation, latent: bool
) -> None:
    """R10, R11, R16: each line bad in turn; the access covers it, ends at it, or leaves it out."""
    ends = [0, 64, 1000, 2 * SECTOR, 5 * SECTOR + 64, PAGE]
    accesses = [Extent.between(PAGE + a, PAGE + b) for a, b in itertools.combinations(ends, 2)]
    for line in range(PAGE // CACHELINE):
        for access in accesses:
            rehearsal.begin()
            rehearsal.inject(Extent(PAGE + line * CACHELINE, CACHELINE), latent=latent)
            rehearsal.run(operation, access)


def test_a_partial_write_that_covers_the_bad_lines_but_not_their_sector_heals(
    rehearsal: Rehearsal,
) -> None:
    """R16 asks for poisoned lines and *recorded* sectors; reading the page first must not turn
    the one into the other."""
    rehearsal.begin()
    rehearsal.inject(Extent(PAGE, SECTOR), latent=False)  # so that the page is bad
    rehearsal.inject(Extent(PAGE + SECTOR, CACHELINE), latent=True)
    rehearsal.run(write, Extent(PAGE, SECTOR + CACHELINE))
    assert list(rehearsal.device.poison(ALL)) == []


def begin(rehearsal: Rehearsal, damage: tuple[tuple[Extent, bool] | None, ...]) -> None:
    """Damage the pages from the second on."""
    rehearsal.begin()
    for page, what in enumerate(damage, 1):
        if what is not None:
            extent, latent = what
            rehearsal.inject(extent.shifted(page * PAGE), latent=latent)


@pytest.mark.parametrize("recovery", [Recovery.AUTO, Recovery.ALWAYS])
@pytest.mark.parametrize("how", [io.write, io.write_raw])
def test_a_write_beyond_the_end_changes_nothing(
    rehearsal: Rehearsal, recovery: Recovery, how: Callable[..., int]
) -> None:
    rehearsal.begin()
    rehearsal.inject(Extent(SIZE - PAGE, SECTOR), latent=False)
    with pytest.raises(UsageError):
        how(rehearsal.device, SIZE - 2 * PAGE, bytes(3 * PAGE), recovery)
    rehearsal.run(read, Extent(0, SIZE))
