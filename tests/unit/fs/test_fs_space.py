"""`Space`: which free page comes next, and which may not (R31)."""

import errno
import random

import pytest

from daxmend.errors import MediaError
from daxmend.events import Event, SpaceCleared
from daxmend.extent import Extent
from daxmend.fs.space import Space
from daxmend.media.pool import MediumKind, create_memory_pool
from daxmend.pmem.device import PmemDevice
from daxmend.units import MIB, PAGE, SECTOR


@pytest.fixture
def space(device: PmemDevice) -> Space:
    """256 free pages."""
    return Space(device)


def no_space(space: Space) -> None:
    with pytest.raises(OSError) as caught:
        space.allocate(PAGE)
    assert caught.value.errno == errno.ENOSPC


def test_allocation_goes_on_where_the_last_one_ended(space: Space) -> None:
    assert space.allocate(3 * PAGE) == Extent(0, 3 * PAGE)
    assert space.allocate(PAGE) == Extent(3 * PAGE, PAGE)
    space.give_back(Extent(0, 3 * PAGE))
    assert space.allocate(PAGE) == Extent(4 * PAGE, PAGE), "next fit"


def test_a_goal_is_taken_if_it_is_free(space: Space) -> None:
    assert space.allocate(PAGE, 100 * PAGE) == Extent(100 * PAGE, PAGE)
    assert space.allocate(5 * PAGE, 100 * PAGE).offset != 100 * PAGE
    space.take(Extent(122 * PAGE, PAGE))
    assert space.allocate(5 * PAGE, 120 * PAGE) == Extent(120 * PAGE, 2 * PAGE), "what fits there"
    assert space.allocate(PAGE, MIB).length == PAGE, "a goal behind the device is none"


def test_the_longest_of_the_next_runs_is_taken_if_none_is_long_enough(space: Space) -> None:
    for page in range(0, 256, 2):
        space.take(Extent(page * PAGE, PAGE))
    space.give_back(Extent(10 * PAGE, PAGE))
    assert space.allocate(8 * PAGE) == Extent(9 * PAGE, 3 * PAGE)


def test_all_of_it_can_be_had_and_then_nothing(space: Space) -> None:
    seen = 0
    rng = random.Random(5)
    while space.free_length:
        seen += space.allocate(rng.randrange(1, 9) * PAGE).length
    assert seen == MIB
    no_space(space)


def test_freed_pages_come_back_after_settling_only(space: Space) -> None:
    whole = space.allocate(MIB)
    space.free(Extent(10 * PAGE, 2 * PAGE))
    assert space.has_freed
    assert space.free_length == 0
    assert space.unused_length == 2 * PAGE
    no_space(space)
    space.settle()
    assert space.unused_length == space.free_length
    assert space.allocate(MIB) == Extent(10 * PAGE, 2 * PAGE)
    assert whole.length == MIB


def test_a_bad_page_is_never_handed_out(device: PmemDevice, space: Space) -> None:
    bad = [Extent(page * PAGE + SECTOR, SECTOR) for page in (0, 7, 8, 100, 255)]
    for extent in bad:
        device.inject(extent)
    while space.free_length:
        got = space.allocate(30 * PAGE)
        assert not any(got.overlaps(extent) for extent in bad)
    assert space.quarantine.length == 5 * PAGE
    assert space.unused_length == 5 * PAGE


def test_a_bad_page_at_the_goal_is_passed_over(device: PmemDevice, space: Space) -> None:
    device.inject(Extent(50 * PAGE, SECTOR))
    got = space.allocate(PAGE, 50 * PAGE)
    assert not got.overlaps(Extent(50 * PAGE, PAGE))


def test_freed_bad_pages_are_quarantined_cleared_and_then_free_r31(
    device: PmemDevice, space: Space
) -> None:
    events: list[Event] = []
    device.events.subscribe(events.append)
    space.allocate(MIB)
    device.inject(Extent(20 * PAGE, SECTOR))
    space.free(Extent(19 * PAGE, 3 * PAGE))
    space.settle()
    assert list(space.quarantine) == [Extent(20 * PAGE, PAGE)]
    assert space.free_length == 2 * PAGE
    assert not space.clear_some()
    assert not space.quarantine
    assert space.free_length == 3 * PAGE
    assert list(device.poison(Extent(0, MIB))) == []
    assert [event for event in events if isinstance(event, SpaceCleared)] == [
        SpaceCleared(Extent(20 * PAGE, PAGE))
    ]


def test_only_what_is_free_is_secluded(device: PmemDevice, space: Space) -> None:
    space.allocate(10 * PAGE)
    space.seclude([Extent(9 * PAGE + SECTOR, PAGE)])
    assert list(space.quarantine) == [Extent(10 * PAGE, PAGE)]


def test_what_the_medium_does_not_clear_stays_in_quarantine() -> None:
    device = PmemDevice(create_memory_pool(MIB, MediumKind.REFUSES))
    space = Space(device)
    device.inject(Extent(3 * PAGE, SECTOR))
    space.seclude([Extent(3 * PAGE, SECTOR)])
    assert not space.clear_some(), "nothing loops"
    assert list(space.quarantine) == [Extent(3 * PAGE, PAGE)]
    device.close()


def test_a_page_that_does_not_clear_keeps_none_behind_it_from_being_cleared(
    device: PmemDevice, space: Space, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R31; and it is tried once, not once a second."""
    run = Extent(10 * PAGE, 5 * PAGE)
    stubborn = Extent(12 * PAGE, PAGE)
    tried: list[Extent] = []
    clear = device.zeroinit

    def zeroinit(extent: Extent) -> int:
        tried.append(extent)
        if extent.offset == stubborn.offset:
            raise MediaError("ram", extent.offset, extent.length)
        if extent.overlaps(stubborn):
            extent = Extent.between(extent.offset, stubborn.offset)
        return clear(extent)

    monkeypatch.setattr(device, "zeroinit", zeroinit)
    device.inject(run)
    space.seclude([run])
    while space.clear_some():
        pass
    assert list(space.quarantine) == [stubborn]
    assert space.free_length == MIB - PAGE
    count = len(tried)
    assert not space.clear_some()
    assert len(tried) == count
    space.seclude([Extent(40 * PAGE, PAGE)])
    assert not space.clear_some()
    assert len(tried) == count + 1
    assert list(space.quarantine) == [stubborn]


def test_pages_taken_twice_or_outside_are_noticed(space: Space) -> None:
    space.take(Extent(0, PAGE))
    assert space.is_consistent
    space.take(Extent(0, PAGE))
    assert not space.is_consistent


def test_pages_outside_the_device_are_noticed(space: Space) -> None:
    space.take(Extent(1 << 75, 1 << 70))
    assert not space.is_consistent


def test_used_is_what_is_neither_free_nor_freed_nor_quarantined(
    device: PmemDevice, space: Space
) -> None:
    space.allocate(10 * PAGE)
    space.free(Extent(2 * PAGE, PAGE))
    space.seclude([Extent(12 * PAGE, SECTOR)])
    whole = Extent(0, MIB)
    assert list(space.used(whole)) == [Extent(0, 2 * PAGE), Extent(3 * PAGE, 7 * PAGE)]
    assert list(space.used(Extent(10 * PAGE, 5 * PAGE))) == []
    assert list(space.used(Extent(9 * PAGE, 5 * PAGE))) == [Extent(9 * PAGE, PAGE)]
