"""What every `DaxDevice` must do (daxmend.dax.api), over every implementation there is."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import daxdevices
import pytest
from daxdevices import FACTORIES, SIZE, TARGETS, Closing, FaultyDevice

from daxmend.dax import io
from daxmend.dax.api import AccessMode, DaxDevice, FaultInjection, SectorState, Window
from daxmend.errors import BadBlockError, MediaError, PoisonError, UsageError
from daxmend.events import (
    Event,
    FaultInjected,
    FaultRemoved,
    PoisonConsumed,
    PoisonFound,
    RecoveryDone,
    ScrubDone,
    ZeroinitDone,
)
from daxmend.extent import Extent
from daxmend.media.pool import MediumKind, create_memory_pool
from daxmend.pmem.device import PmemDevice
from daxmend.units import CACHELINE, PAGE, SECTOR

NORMAL, RECOVERY = AccessMode.NORMAL, AccessMode.RECOVERY
ALL = Extent(0, SIZE)
CONTENT = bytes(range(251)) * (SIZE // 251 + 1)
CONTENT = CONTENT[:SIZE]
NEW = bytes(b ^ 0xFF for b in CONTENT)
BAD_PAGE = Extent(3 * PAGE, PAGE)
BAD_SECTOR = Extent(3 * PAGE + 2 * SECTOR, SECTOR)
OUTSIDE = [Extent(SIZE, PAGE), Extent(SIZE - PAGE, 2 * PAGE), Extent(-PAGE, PAGE)]


@pytest.fixture(params=FACTORIES)
def dax(request: pytest.FixtureRequest, shm: Path, tmp_path: Path) -> Iterator[FaultyDevice]:
    """Each implementation, filled with `CONTENT`."""
    make, is_on_tmpfs = FACTORIES[request.param]
    device = make(shm if is_on_tmpfs else tmp_path)
    for window, extent in windows(device, ALL):
        window.store(0, CONTENT[extent.offset : extent.end])
    device.fence()
    yield device
    device.close()


@pytest.fixture
def heard(dax: FaultyDevice) -> list[Event]:
    """What the device publishes."""
    seen: list[Event] = []
    dax.events.subscribe(seen.append)
    return seen


def record(dax: DaxDevice) -> list[Extent]:
    return [extent for extent, _ in dax.badblocks(ALL)]


def windows(dax: DaxDevice, extent: Extent) -> Iterator[tuple[Window, Extent]]:
    """Normal windows, one behind the other, and where each is; the range must be good."""
    while extent.length:
        window = dax.direct_access(extent, NORMAL)
        assert 0 < window.length <= extent.length
        yield window, Extent(extent.offset, window.length)
        extent = Extent.between(extent.offset + window.length, extent.end)


def content(dax: DaxDevice, extent: Extent) -> bytes:
    """What normal accesses find; the range must be good."""
    return b"".join(window.load(0, window.length) for window, _ in windows(dax, extent))


def assert_only(dax: FaultyDevice, changed: Extent, new: bytes) -> None:
    """Nothing is bad, `changed` holds `new`, and every other byte is as it was."""
    assert record(dax) == []
    assert list(dax.poison(ALL)) == []
    expected = CONTENT[: changed.offset] + new + CONTENT[changed.end :]
    assert content(dax, ALL) == expected


def test_it_has_the_shape_of_the_protocol(dax: FaultyDevice) -> None:
    assert isinstance(dax, FaultInjection)
    assert dax.size == SIZE
    assert dax.name
    assert dax.allows_recovery
    assert dax.sequence >= 0
    for name in (n for n in vars(DaxDevice) if not n.startswith("_") and n != "sequence"):
        assert callable(getattr(dax, name)), name


# -- access ------------------------------------------------------------------------------------


def test_a_window_gives_the_bytes_and_takes_them(dax: FaultyDevice) -> None:
    window = dax.direct_access(Extent(PAGE, 2 * PAGE), NORMAL)
    assert PAGE <= window.length <= 2 * PAGE
    assert window.load(10, 20) == CONTENT[PAGE + 10 : PAGE + 30]
    assert bytes(window.view(10, 20)) == CONTENT[PAGE + 10 : PAGE + 30]
    window.store(10, b"hello")
    dax.flush(Extent(PAGE, PAGE))
    dax.fence()
    assert content(dax, Extent(PAGE, PAGE))[10:15] == b"hello"


def test_what_is_known_to_be_clean_is_what_a_window_gives(dax: FaultyDevice) -> None:
    """R22: or nothing is known; of a bad page, of latent poison and of a fault for one access."""
    extent = Extent(PAGE + 10, 20)
    for page in range(PAGE, SIZE, PAGE):
        io.read(dax, Extent(page, PAGE))
        found, view = dax.read_clean(page + 10, 20), dax.view_clean(page + 10, 20)
        assert found in (None, CONTENT[page + 10 : page + 30])
        assert view in (None, CONTENT[page + 10 : page + 30])
    for make_bad in (
        lambda: dax.inject(extent),
        lambda: dax.inject(extent.shifted(PAGE), latent=True),
        lambda: dax.inject_once(extent.shifted(2 * PAGE)),
    ):
        io.read(dax, Extent(0, 1))
        make_bad()
    for page in (PAGE, 2 * PAGE, 3 * PAGE):
        assert dax.read_clean(page, PAGE) is dax.view_clean(page, PAGE) is None


def test_a_normal_window_ends_before_the_first_bad_page(dax: FaultyDevice) -> None:
    """R22, R24."""
    dax.inject(BAD_SECTOR)
    window = dax.direct_access(ALL, NORMAL)
    assert window.length <= BAD_PAGE.offset
    assert window.load(0, window.length) == CONTENT[: window.length]
    assert dax.direct_access(Extent(BAD_PAGE.end, PAGE), NORMAL).length == PAGE


@pytest.mark.parametrize("offset", [BAD_PAGE.offset, BAD_SECTOR.offset, BAD_PAGE.end - SECTOR])
def test_a_normal_access_to_a_bad_page_names_its_bad_sectors(
    dax: FaultyDevice, offset: int
) -> None:
    """R24: the page is the unit of access; what is said to be bad is the sector."""
    dax.inject(BAD_SECTOR)
    with pytest.raises(BadBlockError) as caught:
        dax.direct_access(Extent(offset, SECTOR), NORMAL)
    assert (caught.value.offset, caught.value.length) == BAD_SECTOR
    assert caught.value.filename == dax.name


def test_a_recovery_window_gives_the_good_lines_of_a_bad_page(dax: FaultyDevice) -> None:
    """R49: in a window bad pages can be looked at line by line."""
    dax.inject(BAD_SECTOR)
    window = dax.direct_access(BAD_PAGE, RECOVERY)
    assert window.length == PAGE
    assert window.load(0, 2 * SECTOR) == CONTENT[BAD_PAGE.offset : BAD_SECTOR.offset]
    with pytest.raises(PoisonError) as caught:
        window.load(2 * SECTOR + 3, 1)
    assert caught.value.offset == BAD_SECTOR.offset + 3
    window.store(2 * SECTOR, bytes(SECTOR))
    with pytest.raises(PoisonError):
        window.load(2 * SECTOR, SECTOR)


def test_latent_poison_passes_the_access_and_fails_the_load(
    dax: FaultyDevice, heard: list[Event]
) -> None:
    """R3: and then it stands in the record, sector by sector of the poisoned lines."""
    line = Extent(BAD_SECTOR.offset + 64, CACHELINE)
    dax.inject(line, latent=True)
    window = dax.direct_access(BAD_PAGE, NORMAL)
    assert record(dax) == []
    with pytest.raises(PoisonError) as caught:
        window.load(0, PAGE)
    assert caught.value.offset == line.offset
    assert caught.value.filename == dax.name
    assert record(dax) == [BAD_SECTOR]
    assert heard[-1] == PoisonConsumed(BAD_SECTOR)
    with pytest.raises(BadBlockError):
        dax.direct_access(BAD_PAGE, NORMAL)


@pytest.mark.parametrize("extent", OUTSIDE)
def test_nothing_outside_the_device_is_reached(dax: FaultyDevice, extent: Extent) -> None:
    data = bytes(extent.length)
    calls: list[Callable[[], object]] = [
        lambda: dax.direct_access(extent, NORMAL),
        lambda: dax.direct_access(extent, RECOVERY),
        lambda: dax.recovery_read(extent),
        lambda: dax.keep_zeros(extent),
        lambda: dax.recovery_write(extent.offset, data),
        lambda: dax.zeroinit(extent),
        lambda: dax.read_sectors(extent.offset // SECTOR, extent.length // SECTOR),
        lambda: dax.write_sectors(extent.offset // SECTOR, data),
        lambda: list(dax.badblocks(extent)),
        lambda: list(dax.scrub(extent)),
        lambda: dax.capabilities(extent),
        lambda: dax.hold(extent.offset, data, SECTOR),
        lambda: dax.inject(extent),
        lambda: dax.inject(extent, latent=True),
        lambda: dax.inject_once(extent),
        lambda: dax.uninject(extent),
        lambda: list(dax.poison(extent)),
    ]
    for call in calls:
        with pytest.raises(UsageError, match=dax.name):
            call()
    assert_only(dax, Extent(0, 0), b"")


@pytest.mark.parametrize("extent", [Extent(1, PAGE), Extent(0, PAGE - 1), Extent(SECTOR, PAGE)])
def test_recovery_and_zeroinit_work_on_whole_pages(dax: FaultyDevice, extent: Extent) -> None:
    with pytest.raises(UsageError, match="aligned"):
        dax.recovery_write(extent.offset, bytes(extent.length))
    with pytest.raises(UsageError, match="aligned"):
        dax.zeroinit(extent)
    assert_only(dax, Extent(0, 0), b"")


def test_a_buffer_of_wide_elements_is_measured_in_bytes(dax: FaultyDevice) -> None:
    dax.inject(BAD_PAGE)
    words = memoryview(NEW[:PAGE]).cast("Q")
    assert dax.recovery_write(BAD_PAGE.offset, words) == PAGE
    assert_only(dax, BAD_PAGE, NEW[:PAGE])


# -- salvage (R12) -----------------------------------------------------------------------------


def test_salvage_returns_every_good_line_and_says_exactly_which_are_lost(
    dax: FaultyDevice,
) -> None:
    line = Extent(BAD_PAGE.offset + 7 * CACHELINE, CACHELINE)
    dax.inject(BAD_SECTOR)
    dax.inject(line, latent=True)
    salvage = dax.recovery_read(BAD_PAGE)
    assert salvage.lost == [line, BAD_SECTOR]
    expected = bytearray(CONTENT[BAD_PAGE.offset : BAD_PAGE.end])
    for lost in salvage.lost:
        start = lost.offset - BAD_PAGE.offset
        expected[start : start + lost.length] = bytes(lost.length)
    assert salvage.data == expected


def test_salvage_of_good_bytes_is_a_read_of_any_alignment(dax: FaultyDevice) -> None:
    for extent in (Extent(5, 100), Extent(PAGE - 1, 2), ALL, Extent(9, 0)):
        salvage = dax.recovery_read(extent)
        assert (bytes(salvage.data), salvage.lost) == (CONTENT[extent.offset : extent.end], [])


def test_salvage_is_cut_to_what_was_asked(dax: FaultyDevice) -> None:
    dax.inject(BAD_SECTOR)
    salvage = dax.recovery_read(Extent(BAD_SECTOR.offset + 10, 20))
    assert salvage.lost == [Extent(BAD_SECTOR.offset + 10, 20)]
    assert salvage.data == bytes(20)


def test_a_record_without_poison_can_be_salvaged(dax: FaultyDevice) -> None:
    """R2: after un-injection the sector stands in the record, and what it holds is there."""
    dax.inject(BAD_SECTOR)
    dax.uninject(BAD_SECTOR)
    assert record(dax) == [BAD_SECTOR]
    salvage = dax.recovery_read(BAD_SECTOR)
    assert salvage.lost == []
    assert salvage.data[:8] == b"POISONED"


# -- recovery (R14, R20) -----------------------------------------------------------------------


@pytest.mark.parametrize("pages", [1, 2, 5])
def test_a_recovery_write_heals_and_changes_nothing_else(
    dax: FaultyDevice, heard: list[Event], pages: int
) -> None:
    extent = Extent(2 * PAGE, pages * PAGE)
    dax.inject(extent)
    heard.clear()
    data = NEW[extent.offset : extent.end]
    assert dax.recovery_write(extent.offset, data) == extent.length
    assert_only(dax, extent, data)
    assert heard == [RecoveryDone(extent)]


def test_good_pages_between_bad_ones_are_written_too(dax: FaultyDevice) -> None:
    extent = Extent(PAGE, 5 * PAGE)
    dax.inject(Extent(2 * PAGE, 1))
    dax.inject(Extent(4 * PAGE + 100, 1))
    data = NEW[extent.offset : extent.end]
    assert dax.recovery_write(extent.offset, data) == extent.length
    assert_only(dax, extent, data)


def test_the_whole_page_heals_with_its_latent_lines(dax: FaultyDevice) -> None:
    """R14: poison is cleared from the page, not only from what was recorded."""
    dax.inject(BAD_SECTOR)
    dax.inject(Extent(BAD_PAGE.offset, CACHELINE), latent=True)
    data = NEW[BAD_PAGE.offset : BAD_PAGE.end]
    assert dax.recovery_write(BAD_PAGE.offset, data) == PAGE
    assert_only(dax, BAD_PAGE, data)


def test_a_recovery_leaves_no_poison_behind_that_nobody_knew_of(dax: FaultyDevice) -> None:
    """R14, R45: success means that what was written can be read, also over latent poison alone."""
    dax.inject(Extent(BAD_PAGE.offset + 100, 1), latent=True)
    data = NEW[BAD_PAGE.offset : BAD_PAGE.end]
    assert dax.recovery_write(BAD_PAGE.offset, data) == PAGE
    assert_only(dax, BAD_PAGE, data)
    dax.inject(BAD_SECTOR)
    dax.inject(Extent(BAD_SECTOR.end, 1), latent=True)
    dax.inject(Extent(BAD_SECTOR.end + SECTOR, 1), latent=True)
    assert dax.write_sectors(BAD_SECTOR.offset // SECTOR, data[: 2 * SECTOR]) == 2 * SECTOR
    assert record(dax) == []
    assert list(dax.poison(ALL)) == [Extent(BAD_SECTOR.end + SECTOR, CACHELINE)], "not its range"


def test_kept_bytes_are_data_like_all_the_rest(dax: FaultyDevice) -> None:
    """R16, R46."""
    dax.inject(BAD_SECTOR)
    data = NEW[BAD_PAGE.offset : BAD_PAGE.end]
    keep = [Extent(BAD_PAGE.offset, 100), Extent(BAD_PAGE.end - 1000, 1000)]
    assert dax.recovery_write(BAD_PAGE.offset, data, keep) == PAGE
    assert_only(dax, BAD_PAGE, data)
    assert dax.recovery_read(BAD_PAGE).data == data


def test_writing_nothing_heals_nothing(dax: FaultyDevice) -> None:
    dax.inject(BAD_SECTOR)
    assert dax.recovery_write(BAD_PAGE.offset, b"") == 0
    assert dax.write_sectors(BAD_SECTOR.offset // SECTOR, b"") == 0
    assert dax.zeroinit(Extent(BAD_PAGE.offset, 0)) == 0
    assert record(dax) == [BAD_SECTOR]


def test_zeroinit_sets_zeros_and_heals_in_place(dax: FaultyDevice, heard: list[Event]) -> None:
    """R29."""
    extent = Extent(2 * PAGE, 3 * PAGE)
    dax.inject(BAD_SECTOR)
    heard.clear()
    assert dax.zeroinit(extent) == extent.length
    assert_only(dax, extent, bytes(extent.length))
    assert heard == [RecoveryDone(BAD_PAGE), ZeroinitDone(extent)]


def test_a_device_told_not_to_recover_leaves_what_is_bad_as_it_is(dax: FaultyDevice) -> None:
    """R23: per device; good pages are still written."""
    dax.inject(BAD_SECTOR)
    dax.allows_recovery = False
    for attempt in (
        lambda: dax.recovery_write(BAD_PAGE.offset, bytes(PAGE)),
        lambda: dax.write_sectors(BAD_SECTOR.offset // SECTOR, bytes(SECTOR)),
        lambda: dax.zeroinit(BAD_PAGE),
    ):
        with pytest.raises(BadBlockError):
            attempt()
    assert record(dax) == [BAD_SECTOR]
    assert not dax.capabilities(BAD_PAGE)[0].can_recover
    assert dax.recovery_write(0, NEW[:PAGE]) == PAGE
    dax.allows_recovery = True
    assert dax.recovery_write(BAD_PAGE.offset, bytes(PAGE)) == PAGE
    assert record(dax) == []


def test_held_bytes_are_salvaged_until_the_unit_heals_or_they_are_dropped(
    dax: FaultyDevice,
) -> None:
    """R50: what a writer was promised is there, and goes with what takes its place."""
    held = Extent(BAD_SECTOR.offset + 10, 100)
    dax.inject(BAD_SECTOR)
    for end in (
        lambda: dax.drop_hold(held),
        lambda: dax.write_sectors(BAD_SECTOR.offset // SECTOR, NEW[:SECTOR]),
    ):
        dax.hold(held.offset, b"h" * 100, SECTOR)
        salvage = dax.recovery_read(BAD_SECTOR)
        assert salvage.data[10:110] == b"h" * 100
        assert not any(lost.overlaps(held) for lost in salvage.lost)
        assert record(dax) == [BAD_SECTOR]
        end()
        assert dax.recovery_read(held).data != b"h" * 100
    assert record(dax) == []


def test_bytes_that_were_given_up_are_held_no_longer_and_nothing_else_changes(
    dax: FaultyDevice,
) -> None:
    """R32: what a writer was promised of them does not come back; bad stays bad, good stays."""
    held = Extent(BAD_SECTOR.offset, 100)
    dax.inject(BAD_SECTOR)
    dax.hold(held.offset, b"h" * held.length, SECTOR)
    dax.keep_zeros(Extent.between(BAD_SECTOR.offset + 10, BAD_PAGE.end))
    dax.fence()
    salvage = dax.recovery_read(BAD_PAGE)
    given_up = Extent.between(BAD_SECTOR.offset + 10, BAD_SECTOR.end)
    assert all(run in (BAD_SECTOR, given_up) for run in salvage.lost)
    assert b"h" not in dax.recovery_read(given_up).data
    assert record(dax) == [BAD_SECTOR]
    assert content(dax, Extent(0, BAD_PAGE.offset)) == CONTENT[: BAD_PAGE.offset]
    rest = Extent.between(BAD_SECTOR.end, BAD_PAGE.end)
    assert dax.recovery_read(rest) == (CONTENT[rest.offset : rest.end], [])


@pytest.mark.parametrize("name", TARGETS)
def test_what_a_recovery_kept_of_given_up_bytes_becomes_zeros(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R32, R12: the sectors stay lost, and a salvage finds what whoever gave them up says of them.

    On members that claim to clear, and do not (R21).
    """

    def lying(size: int) -> PmemDevice:
        return PmemDevice(create_memory_pool(size, MediumKind.LIES))

    monkeypatch.setattr(daxdevices, "_pmem", lying)
    dax = Closing(name, TARGETS[name](lying))
    for target, _, part in dax._pieces_of(BAD_SECTOR):
        member, place = target.place_of(part)
        cast(PmemDevice, member).inject(place)
    keep = [Extent.between(BAD_PAGE.offset, BAD_SECTOR.offset)]
    with pytest.raises(MediaError):
        dax.recovery_write(BAD_PAGE.offset, CONTENT[BAD_PAGE.offset : BAD_PAGE.end], keep)
    kept = dax.recovery_read(keep[0])
    assert kept == (CONTENT[BAD_PAGE.offset : BAD_SECTOR.offset], [])
    states = list(dax.badblocks(ALL))
    assert states == [(BAD_PAGE, SectorState.LOST)]
    given_up = Extent.between(BAD_PAGE.offset + 700, BAD_SECTOR.end - 10)
    dax.keep_zeros(given_up)
    dax.fence()
    assert list(dax.badblocks(ALL)) == states
    salvage = dax.recovery_read(BAD_PAGE)
    zeros = bytes(BAD_PAGE.length - 700)
    assert salvage.data == CONTENT[BAD_PAGE.offset : given_up.offset] + zeros
    assert salvage.lost == [Extent.between(given_up.end, BAD_PAGE.end)]
    dax.close()


# -- the block path (R33) ----------------------------------------------------------------------


def test_a_bad_sector_fails_reads_that_touch_it_and_no_others(dax: FaultyDevice) -> None:
    dax.inject(BAD_SECTOR)
    first = BAD_SECTOR.offset // SECTOR
    assert dax.read_sectors(first - 2, 2) == CONTENT[BAD_PAGE.offset : BAD_SECTOR.offset]
    assert dax.read_sectors(first + 1, 1) == CONTENT[BAD_SECTOR.end : BAD_SECTOR.end + SECTOR]
    for start, count in ((first, 1), (first - 1, 2), (0, 128)):
        with pytest.raises(MediaError) as caught:
            dax.read_sectors(start, count)
        assert caught.value.offset == BAD_SECTOR.offset


def test_a_sector_write_heals_that_sector_alone(dax: FaultyDevice) -> None:
    two = Extent(BAD_SECTOR.offset, 2 * SECTOR)
    dax.inject(two)
    data = NEW[BAD_SECTOR.offset : BAD_SECTOR.end]
    assert dax.write_sectors(BAD_SECTOR.offset // SECTOR, data) == SECTOR
    assert record(dax) == [Extent(BAD_SECTOR.end, SECTOR)]
    assert dax.read_sectors(BAD_SECTOR.offset // SECTOR, 1) == data
    assert dax.write_sectors(BAD_SECTOR.end // SECTOR, data) == SECTOR
    assert_only(dax, two, data + data)


@pytest.mark.parametrize("length", [1, SECTOR - 1, SECTOR + 1])
def test_sector_writes_are_of_whole_sectors(dax: FaultyDevice, length: int) -> None:
    with pytest.raises(UsageError, match="whole sectors"):
        dax.write_sectors(0, bytes(length))
    assert_only(dax, Extent(0, 0), b"")


# -- record, injection, scrub (R1, R2, R4, R9) -------------------------------------------------


def test_the_record_is_sector_aligned_ascending_and_cut_to_the_question(
    dax: FaultyDevice,
) -> None:
    for offset in (9 * PAGE, 100, PAGE + 513):
        dax.inject(Extent(offset, 1))
    assert list(dax.badblocks(ALL)) == [
        (Extent(0, SECTOR), SectorState.BAD),
        (Extent(PAGE + SECTOR, SECTOR), SectorState.BAD),
        (Extent(9 * PAGE, SECTOR), SectorState.BAD),
    ]
    assert [e for e, _ in dax.badblocks(Extent(PAGE, PAGE))] == [Extent(PAGE + SECTOR, SECTOR)]
    assert list(dax.badblocks(Extent(PAGE, 0))) == []


def test_injection_makes_record_and_poison_of_every_line(
    dax: FaultyDevice, heard: list[Event]
) -> None:
    """R2."""
    dax.inject(Extent(BAD_SECTOR.offset + 100, 500))
    two = Extent(BAD_SECTOR.offset, 2 * SECTOR)
    assert record(dax) == [two]
    assert list(dax.poison(ALL)) == [two]
    assert heard == [FaultInjected(two, "until-written")]


def test_latent_injection_makes_poison_alone(dax: FaultyDevice, heard: list[Event]) -> None:
    """R2."""
    dax.inject(Extent(BAD_SECTOR.offset + 100, 1), latent=True)
    line = Extent(BAD_SECTOR.offset + 64, CACHELINE)
    assert record(dax) == []
    assert list(dax.poison(ALL)) == [line]
    assert heard == [FaultInjected(line, "latent")]


def test_uninjection_takes_poison_and_leaves_the_record(
    dax: FaultyDevice, heard: list[Event]
) -> None:
    """R2."""
    dax.inject(BAD_SECTOR)
    heard.clear()
    dax.uninject(Extent(BAD_SECTOR.offset, 1))
    line = Extent(BAD_SECTOR.offset, CACHELINE)
    assert record(dax) == [BAD_SECTOR]
    assert list(dax.poison(ALL)) == [Extent.between(line.end, BAD_SECTOR.end)]
    assert heard == [FaultRemoved(line)]


def test_a_fault_for_once_fails_one_load_and_leaves_no_trace(dax: FaultyDevice) -> None:
    dax.inject_once(Extent(BAD_SECTOR.offset, 1))
    window = dax.direct_access(BAD_PAGE, NORMAL)
    with pytest.raises(MediaError):
        window.load(0, PAGE)
    assert_only(dax, Extent(0, 0), b"")


def test_a_scrub_records_what_it_finds_in_its_range_and_shows_its_progress(
    dax: FaultyDevice, heard: list[Event]
) -> None:
    """R4."""
    inside, outside = Extent(BAD_SECTOR.offset + 64, 1), Extent(8 * PAGE, 1)
    dax.inject(inside, latent=True)
    dax.inject(outside, latent=True)
    heard.clear()
    asked = Extent(0, 8 * PAGE)
    progress = list(dax.scrub(asked))
    assert progress[0].offset == asked.offset
    assert progress[-1].end == asked.end
    assert sum(part.length for part in progress) == asked.length
    assert record(dax) == [BAD_SECTOR]
    assert heard == [PoisonFound(BAD_SECTOR), ScrubDone(asked, SECTOR)]
    heard.clear()
    list(dax.scrub(asked))
    assert heard == [ScrubDone(asked, 0)]


# -- who is told (R41, R42) --------------------------------------------------------------------


class Witness:
    """A holder that notes what it is told."""

    def __init__(self) -> None:
        self.told: list[Extent] = []

    def notify_failure(self, extent: Extent) -> None:
        self.told.append(extent)


def test_the_holder_hears_of_every_new_failure_until_it_lets_go(dax: FaultyDevice) -> None:
    """R42: injected, consumed, and found by a scrub."""
    witness = Witness()
    dax.set_holder(witness)
    dax.inject(BAD_SECTOR)
    dax.inject(Extent(5 * PAGE, 1), latent=True)
    dax.recovery_read(Extent(5 * PAGE, PAGE))
    dax.recovery_read(Extent(5 * PAGE, PAGE))
    dax.inject(Extent(6 * PAGE, 1), latent=True)
    list(dax.scrub(ALL))
    expected = [BAD_SECTOR, Extent(5 * PAGE, SECTOR), Extent(6 * PAGE, SECTOR)]
    assert witness.told == expected
    dax.set_holder(None)
    dax.inject(Extent(0, 1))
    assert witness.told == expected


@pytest.mark.parametrize("extent", [ALL, Extent(PAGE, 3 * PAGE), Extent(0, PAGE)])
def test_capabilities_cover_the_question_without_gaps(dax: FaultyDevice, extent: Extent) -> None:
    """R41."""
    found = dax.capabilities(extent)
    position = extent.offset
    for capability in found:
        assert capability.extent.offset == position
        position = capability.extent.end
        assert capability.can_recover
        assert capability.can_zero
        assert capability.can_scrub
    assert position == extent.end


# -- memory that was handed out (R27, R28) -----------------------------------------------------


def test_memory_handed_out_sees_injection_and_heal_without_remapping(dax: FaultyDevice) -> None:
    """R27."""
    exposed = dax.direct_access(BAD_PAGE, RECOVERY).expose()
    try:
        assert bytes(exposed.memory[:PAGE]) == CONTENT[BAD_PAGE.offset : BAD_PAGE.end]
        dax.inject(BAD_SECTOR)
        assert exposed.faulting == [Extent(0, PAGE)]  # type: ignore[attr-defined]
        data = NEW[BAD_PAGE.offset : BAD_PAGE.end]
        dax.recovery_write(BAD_PAGE.offset, data)
        assert exposed.faulting == []  # type: ignore[attr-defined]
        assert bytes(exposed.memory[:PAGE]) == data
    finally:
        exposed.close()
