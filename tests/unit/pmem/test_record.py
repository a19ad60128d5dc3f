"""The record on the medium: it survives, with its intents and what they keep (R8, R18)."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from daxmend.dax.api import SectorState
from daxmend.extent import Extent
from daxmend.media.pool import Pool, open_pool
from daxmend.pmem.intent import Intent, Kept
from daxmend.pmem.record import Record
from daxmend.units import MIB, PAGE

ALL = Extent(0, MIB)
BAD, LOST = SectorState.BAD, SectorState.LOST

Reopen = Callable[..., Record]


@pytest.fixture
def reopen(pool_path: Path) -> Iterator[Reopen]:
    """The record of a pool, read anew each time."""
    pools: list[Pool] = []

    def opened(*, writable: bool = True) -> Record:
        while pools:
            pools.pop().close()
        pools.append(open_pool(pool_path, writable=writable))
        return Record(pools[0])

    yield opened
    while pools:
        pools.pop().close()


def sectors(first: int, count: int = 1) -> Extent:
    return Extent.of_sectors(first, count)


def intent(number: int, *runs: Extent) -> Intent:
    units = sum(run.length for run in runs) // PAGE
    kept = (Kept(Extent(runs[0].offset, 5), b"kept!"),)
    return Intent(number, PAGE, runs, bytes(range(8 * units)), bytes(8 * units), kept)


def everything(record: Record) -> object:
    return list(record.states(ALL)), record.intents, sorted(record.kept)


def change_everything(record: Record) -> None:
    """A history with every kind of entry."""
    record.set([sectors(0, 8), sectors(100)])
    record.set_lost([sectors(4, 2), sectors(200, 8)])
    record.clear([sectors(7)])
    record.keep([Kept(Extent(200 * 512 + 7, 9), b"good bytes")])
    first = intent(record.next_id(), Extent(PAGE, PAGE))
    second = intent(record.next_id(), Extent(4 * PAGE, 2 * PAGE), Extent(9 * PAGE, PAGE))
    record.begin(first)
    record.begin(second)
    record.complete(first, [sectors(8, 8)])
    record.fence()


def test_every_change_is_there_after_a_restart(reopen: Reopen) -> None:
    record = reopen()
    change_everything(record)
    before = everything(record)
    assert len(record.intents) == 1
    assert everything(reopen()) == before


def test_a_compaction_changes_nothing(reopen: Reopen) -> None:
    record = reopen()
    change_everything(record)
    before = everything(record)
    record._journal.compact()
    assert everything(record) == before
    assert everything(reopen()) == before


def test_completing_an_intent_drops_its_sectors_and_it_in_one_step(reopen: Reopen) -> None:
    record = reopen()
    record.set([sectors(8, 8)])
    one = intent(record.next_id(), Extent(PAGE, PAGE))
    record.begin(one)
    record.complete(one, [sectors(8, 8)])
    assert everything(reopen()) == ([], {}, [])


def test_numbers_of_intents_are_never_used_twice_after_a_restart(reopen: Reopen) -> None:
    record = reopen()
    one = intent(record.next_id(), Extent(0, PAGE))
    record.begin(one)
    assert reopen().next_id() > one.id


def test_kept_bytes_go_with_the_sectors_that_are_rewritten(reopen: Reopen) -> None:
    """R18: stale bytes must not come back over a sector that was healed since."""
    record = reopen()
    record.set_lost([sectors(0, 8)])
    record.keep([Kept(Extent(500, 2000), bytes(range(200)) * 10)])
    record.clear([sectors(2)])
    expected = [
        Kept(Extent(500, 524), (bytes(range(200)) * 10)[:524]),
        Kept(Extent(1536, 964), (bytes(range(200)) * 10)[1036:]),
    ]
    assert sorted(record.kept) == expected
    assert sorted(reopen().kept) == expected
    record = reopen()
    record._journal.compact()
    assert sorted(reopen().kept) == expected


def test_keeping_again_replaces_what_was_kept(reopen: Reopen) -> None:
    record = reopen()
    record.keep([Kept(Extent(0, 4), b"old.")])
    record.keep([Kept(Extent(0, 4), b"new.")])
    record.keep([])
    assert record.kept == [Kept(Extent(0, 4), b"new.")]
    assert reopen().kept == record.kept


def test_a_long_list_of_runs_is_written_whole(reopen: Reopen) -> None:
    record = reopen()
    runs = [sectors(first) for first in range(0, 2000, 2)] * 9  # more than one entry holds
    record.set(runs)
    assert len(list(reopen().states(ALL))) == 1000


def test_a_reader_keeps_changes_to_itself(reopen: Reopen) -> None:
    change_everything(reopen())
    before = everything(reopen())
    record = reopen(writable=False)
    record.set([sectors(300)])
    record.fence()
    assert (sectors(300), BAD) in record.states(ALL)
    assert everything(reopen()) == before


def test_lost_sectors_stand_in_the_record_after_a_restart(reopen: Reopen) -> None:
    record = reopen()
    record.set([sectors(0, 2)])
    record.set_lost([sectors(1)])
    assert list(reopen().states(ALL)) == [(sectors(0), BAD), (sectors(1), LOST)]


@pytest.mark.parametrize("state", [BAD, LOST])
def test_more_ranges_than_a_kernel_record_holds_survive_a_compaction_r8(
    reopen: Reopen, state: SectorState
) -> None:
    """A kernel's record ends at 512 ranges, of 256 KiB at most."""
    record = reopen()
    runs = [sectors(2 * at) for at in range(700)] + [sectors(1400, 640)]
    (record.set if state is BAD else record.set_lost)(runs)
    record.fence()
    record._journal.compact()
    assert list(reopen().states(ALL)) == [(run, state) for run in runs]
