"""The faults of one file of a shadow mount, without a mount."""

import pytest

from daxmend.events import (
    Event,
    FaultInjected,
    PoisonConsumed,
    PoisonFound,
    RecoveryDone,
    ScrubDone,
)
from daxmend.extent import Extent
from daxmend.faults import Fault, FaultKind
from daxmend.mounts.shadowfaults import FileFaults, InFile
from daxmend.units import MAX_OFFSET, PAGE, SECTOR

SIZE = 16 * PAGE


@pytest.fixture
def faults() -> FileFaults:
    return FileFaults(allows_recovery=True)


def add(faults: FileFaults, offset: int, length: int, kind: str = "until-written") -> None:
    faults.add(Fault.of(Extent(offset, length), FaultKind(kind)))


def refused(faults: FileFaults, offset: int, length: int, size: int = SIZE) -> Extent | None:
    return faults.first_refused(Extent(offset, length), size, may_heal=True)


def test_the_first_bad_byte_is_that_of_any_kind(faults: FileFaults) -> None:
    add(faults, 3 * PAGE, SECTOR)
    add(faults, 2 * PAGE + 64, 64, "latent")
    add(faults, PAGE, SECTOR, "once")
    assert faults.first_bad(Extent(0, SIZE)) == PAGE
    assert faults.first_bad(Extent(2 * PAGE, SIZE)) == 2 * PAGE + 64
    assert faults.first_bad(Extent(2 * PAGE + 128, SIZE)) == 3 * PAGE
    assert faults.first_bad(Extent(0, PAGE)) is None


def test_a_write_heals_what_it_covers_and_only_that_r16(faults: FileFaults) -> None:
    add(faults, PAGE + SECTOR, SECTOR)
    add(faults, PAGE + 2048, 64, "latent")
    assert refused(faults, PAGE + SECTOR, SECTOR) == Extent(PAGE, PAGE)  # not the latent line
    assert refused(faults, PAGE + SECTOR, 2048) is None
    assert refused(faults, PAGE + 100, 10) == Extent(PAGE, PAGE)
    assert refused(faults, 0, PAGE) is None
    faults.heal(Extent(PAGE + SECTOR, 2048))
    assert not faults


def test_a_store_over_latent_poison_leaves_it_r5(faults: FileFaults) -> None:
    add(faults, 64, 64, "latent")
    assert refused(faults, 0, 10) is None
    faults.heal(Extent(0, PAGE))
    assert faults.first_bad(Extent(0, PAGE)) == 64


def test_what_lies_behind_the_end_counts_as_covered_r16(faults: FileFaults) -> None:
    add(faults, PAGE, 1000)
    assert refused(faults, PAGE, 900, PAGE + 1000) == Extent(PAGE, PAGE)
    assert refused(faults, PAGE, 1000, PAGE + 1000) is None


def test_with_recovery_refused_every_bad_page_refuses_r23(faults: FileFaults) -> None:
    add(faults, PAGE, SECTOR)
    found = faults.first_refused(Extent(0, 2 * PAGE), SIZE, may_heal=False)
    assert found == Extent(PAGE, PAGE)


def test_met_poison_is_recorded_as_its_sector_r3(faults: FileFaults) -> None:
    told: list[Event] = []
    faults.events.subscribe(told.append)
    add(faults, 3 * SECTOR + 64, 64, "latent")
    faults.meet(3 * SECTOR + 64)
    assert list(faults.recorded(Extent(0, SIZE))) == [Extent(3 * SECTOR, SECTOR)]
    assert told == [
        FaultInjected(Extent(3 * SECTOR + 64, 64), "latent"),
        PoisonConsumed(Extent(3 * SECTOR, SECTOR)),
    ]


def test_once_is_spent_whole_by_one_access(faults: FileFaults) -> None:
    add(faults, 0, 4 * SECTOR, "once")
    faults.meet(2 * SECTOR)
    assert not faults


def test_reading_ahead_spends_nothing(faults: FileFaults) -> None:
    add(faults, 0, SECTOR, "once")
    faults.meet(0, ahead=32 * PAGE)
    faults.meet(0, ahead=32 * PAGE)
    assert faults
    faults.meet(0, ahead=PAGE)
    assert not faults


def test_truncation_takes_what_lies_behind_the_end_r32(faults: FileFaults) -> None:
    add(faults, 0, SIZE)
    faults.cut(PAGE + 1)
    assert list(faults.recorded(Extent(0, SIZE))) == [Extent(0, PAGE + SECTOR)]


def test_removal_of_a_huge_range_is_quick(faults: FileFaults) -> None:
    add(faults, 0, SIZE)
    faults.remove(Extent(0, MAX_OFFSET - MAX_OFFSET % SECTOR))
    assert not faults


def test_a_recorded_sector_is_not_latent_as_well(faults: FileFaults) -> None:
    add(faults, 0, PAGE)
    add(faults, 64, 64, "latent")
    assert [str(fault) for fault in faults.faults("/f")] == ["/f 0 4096 until-written"]


def test_an_event_names_its_file() -> None:
    event = InFile(RecoveryDone(Extent(0, PAGE)), "/f", 7)
    assert event.as_dict() == {
        "event": "recovery_done", "offset": 0, "length": PAGE, "path": "/f", "ino": 7,
    }  # fmt: skip


def test_a_scrub_finds_whole_sectors_and_tells_of_its_end_r4_r48(faults: FileFaults) -> None:
    told: list[Event] = []
    add(faults, 64, 64, "latent")
    faults.events.subscribe(told.append)
    faults.scrub(SIZE)
    found = Extent(0, SECTOR)
    assert told == [PoisonFound(found), ScrubDone(Extent(0, SIZE), SECTOR)]
    assert list(faults.recorded(Extent(0, SIZE))) == [found]
    assert refused(faults, 0, 10) == Extent(0, PAGE)
    faults.scrub(SIZE)
    assert told[2:] == [ScrubDone(Extent(0, SIZE), 0)]
