"""The bad-block record against a bitmap, over restarts and compactions (R8)."""

import shutil
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from daxmend.dax.api import SectorState
from daxmend.extent import Extent
from daxmend.media.backing import Durability
from daxmend.media.pool import create_pool, open_pool
from daxmend.pmem.record import Record
from daxmend.units import MIB, SECTOR

SECTORS = 4 * MIB // SECTOR
MOST = 1024  # sectors: twice the 256 KiB that a kernel record can be long
GOOD, BAD, LOST = range(3)

firsts = st.one_of(st.integers(0, 16), st.integers(0, SECTORS - 1))
counts = st.one_of(st.integers(1, 8), st.integers(1, MOST))


class RecordMachine(RuleBasedStateMachine):
    """A byte a sector says what the record must say of it."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="daxmend-model-", dir="/dev/shm"))
        create_pool(self.directory / "p", 4 * MIB, durability=Durability.PROCESS)
        self.bitmap = bytearray(SECTORS)
        self.open()

    def open(self) -> None:
        self.pool = open_pool(self.directory / "p")
        self.record = Record(self.pool)
        self.record.heal()

    def teardown(self) -> None:
        self.pool.close()
        shutil.rmtree(self.directory)

    @rule(first=firsts, count=counts)
    def set(self, first: int, count: int) -> None:
        count = min(count, SECTORS - first)
        self.record.set([Extent.of_sectors(first, count)])
        for sector in range(first, first + count):
            self.bitmap[sector] = self.bitmap[sector] or BAD

    @rule(first=firsts, count=counts)
    def set_lost(self, first: int, count: int) -> None:
        count = min(count, SECTORS - first)
        self.record.set_lost([Extent.of_sectors(first, count)])
        self.bitmap[first : first + count] = bytes([LOST]) * count

    @rule(first=firsts, count=counts)
    def clear(self, first: int, count: int) -> None:
        count = min(count, SECTORS - first)
        self.record.clear([Extent.of_sectors(first, count)])
        self.bitmap[first : first + count] = bytes(count)

    @rule()
    def set_everything_and_clear_inside(self) -> None:
        """R8: a hole in a range far longer than a kernel record may be."""
        self.record.set([Extent(0, 4 * MIB)])
        self.record.clear([Extent.of_sectors(SECTORS // 2, 1)])
        self.bitmap = bytearray(state or BAD for state in self.bitmap)
        self.bitmap[SECTORS // 2] = GOOD

    @rule()
    def set_every_other_sector(self) -> None:
        """The most ranges there can be in a part: a snapshot of bits."""
        runs = [Extent.of_sectors(sector, 1) for sector in range(0, 1200, 2)]
        self.record.set(runs)
        for sector in range(0, 1200, 2):
            self.bitmap[sector] = self.bitmap[sector] or BAD

    @rule()
    def restart(self) -> None:
        self.record.fence()
        self.pool.close()
        self.open()
        assert self.record.repairs == []

    @rule()
    def compact(self) -> None:
        self.record._journal.compact()

    @rule(first=firsts, count=counts)
    def ask(self, first: int, count: int) -> None:
        extent = Extent.of_sectors(first, min(count, SECTORS - first))
        part = self.bitmap[first : first + count]
        assert self.record.badblocks.check(extent) == any(part)
        found = next((at for at, state in enumerate(part) if state), None)
        expected = None if found is None else (first + found) * SECTOR
        assert self.record.badblocks.first(extent) == expected

    @invariant()
    def the_record_says_what_the_bitmap_says(self) -> None:
        found = bytearray(SECTORS)
        for extent, state in self.record.states(Extent(0, 4 * MIB)):
            first, count = extent.offset // SECTOR, extent.length // SECTOR
            found[first : first + count] = (
                bytes([LOST if state is SectorState.LOST else BAD]) * count
            )
        assert found == self.bitmap


TestRecord = RecordMachine.TestCase
TestRecord.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)


def test_the_sequence_that_loses_a_sector_in_linux(shm: Path) -> None:
    """R8: set 0+1, 5+1, 0+7; sector 6 is still there, also after a restart between the steps."""
    create_pool(shm / "p", MIB, durability=Durability.PROCESS)
    for first, count in ((0, 1), (5, 1), (0, 7)):
        pool = open_pool(shm / "p")
        record = Record(pool)
        record.set([Extent.of_sectors(first, count)])
        record.fence()
        pool.close()
    pool = open_pool(shm / "p")
    states = list(Record(pool).states(Extent(0, MIB)))
    pool.close()
    assert states == [(Extent.of_sectors(0, 7), SectorState.BAD)]
