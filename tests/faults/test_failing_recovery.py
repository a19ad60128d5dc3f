"""Recovery on media that refuse, clear in part or lie, and on pools whose writes fail (R21)."""

import contextlib
import errno
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from daxmend.dax import io
from daxmend.dax.api import AccessMode, PageState, SectorState
from daxmend.errors import DaxmendError, MediaError
from daxmend.events import Event, RecoveryDone, RecoveryRefused
from daxmend.extent import Extent, ExtentSet
from daxmend.media.backing import Backing, Durability
from daxmend.media.pool import MediumKind, create_memory_pool, create_pool, open_pool
from daxmend.pmem.device import PmemDevice
from daxmend.pmem.intent import Kept
from daxmend.units import CLEAR_UNIT, MIB, PAGE, SECTOR

PAGES = 6
SIZE = PAGES * PAGE
ALL = Extent(0, SIZE)
OLD = (bytes(range(1, 252)) * (SIZE // 251 + 1))[:SIZE]
NEW = bytes(b ^ 0xFF for b in OLD)

BROKEN = [MediumKind.REFUSES, MediumKind.CLEARS_PART, MediumKind.LIES]
MakeDevice = Callable[[MediumKind], PmemDevice]
MakePool = Callable[[MediumKind], Callable[[], PmemDevice]]


@pytest.fixture
def make() -> Iterator[MakeDevice]:
    """Devices filled with `OLD`, on a medium of a kind."""
    made: list[PmemDevice] = []

    def device(kind: MediumKind) -> PmemDevice:
        made.append(PmemDevice(create_memory_pool(SIZE, kind)))
        io.write(made[-1], 0, OLD)
        return made[-1]

    yield device
    for each in made:
        each.close()


def record(device: PmemDevice) -> list[Extent]:
    return list(ExtentSet(SECTOR, (extent for extent, _ in device.badblocks(ALL))))


def is_recorded(device: PmemDevice, extent: Extent) -> bool:
    return any(run.overlaps(extent) for run in record(device))


def assert_nothing_bad_passes_for_good(
    device: PmemDevice, written: Extent, was_bad: list[Extent]
) -> None:
    """R21: sector by sector, what is not in the record holds what was there or what was written.

    What was bad and did not heal is still in the record; outside of `written` nothing changed.
    """
    for at in range(0, SIZE, SECTOR):
        sector = Extent(at, SECTOR)
        if is_recorded(device, sector):
            assert written.overlaps(sector) or any(run.overlaps(sector) for run in was_bad)
            with pytest.raises(MediaError):
                io.read(device, sector)
            continue
        data = io.read(device, sector)
        old, new = OLD[at : at + SECTOR], NEW[at : at + SECTOR]
        if any(run.overlaps(sector) for run in was_bad):
            assert data == new, f"a bad sector at {at} became good without its new data"
        elif written.overlaps(sector):
            assert data in (old, new), f"sector at {at} holds neither old nor new data"
        else:
            assert data == old, f"sector at {at} was not to be written"


# -- media (R7, R21) ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", BROKEN)
@pytest.mark.parametrize("bad", list(itertools.product([False, True], repeat=4))[1:])
def test_a_medium_that_does_not_clear_makes_the_write_fail_at_that_page(
    make: MakeDevice, kind: MediumKind, bad: tuple[bool, ...]
) -> None:
    """R17, R21: pages before it count; it and all that is bad behind it stay in the record.

    A medium that clears in part is asked again for the rest as long as it gets on; it never clears
    the last unit of a run.
    """
    device = make(kind)
    was_bad = [Extent((page + 1) * PAGE + SECTOR, SECTOR) for page in range(4) if bad[page]]
    for run in was_bad:
        device.inject(run)
    seen: list[Event] = []
    device.events.subscribe(seen.append)
    extent = Extent(PAGE, 4 * PAGE)
    written = 0
    with contextlib.suppress(MediaError):
        written = device.recovery_write(extent.offset, NEW[extent.offset : extent.end])
    first_run = next(iter(ExtentSet(PAGE, (run.widened(PAGE) for run in was_bad))))
    part = kind is MediumKind.CLEARS_PART
    assert PAGE + written == (first_run.end - PAGE if part else first_run.offset)
    assert_nothing_bad_passes_for_good(device, extent, was_bad)
    assert written < extent.length
    refused = [event.extent for event in seen if isinstance(event, RecoveryRefused)]
    assert refused == [Extent(PAGE + written, PAGE)], "the page is named, once"
    assert io.read(device, Extent(PAGE, written)) == NEW[PAGE : PAGE + written]


def test_what_a_medium_cleared_only_in_part_is_lost_and_not_good(make: MakeDevice) -> None:
    """R1, R12, R21: the page whose last unit stays poisoned, though the rest of it has new data."""
    device = make(MediumKind.CLEARS_PART)
    device.inject(Extent(PAGE, 4 * PAGE))
    assert device.recovery_write(PAGE, NEW[PAGE : 5 * PAGE]) == 3 * PAGE
    assert io.read(device, Extent(PAGE, 3 * PAGE)) == NEW[PAGE : 4 * PAGE]
    page = Extent(4 * PAGE, PAGE)
    assert list(device.poison(ALL)) == [Extent(page.end - CLEAR_UNIT, CLEAR_UNIT)]
    assert list(device.badblocks(ALL)) == [(page, SectorState.LOST)]
    salvage = device.recovery_read(page)
    assert (bytes(salvage.data), salvage.lost) == (bytes(PAGE), [page])
    with pytest.raises(MediaError):
        io.read(device, Extent(page.offset, SECTOR))


@pytest.mark.parametrize("most", [CLEAR_UNIT, 3 * CLEAR_UNIT, PAGE + CLEAR_UNIT])
def test_a_medium_that_clears_a_little_at_a_time_heals_in_one_write(
    make: MakeDevice, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    """R7, R21: each command is followed by one for the rest, and all of it is one recovery."""
    device = make(MediumKind.PLAIN)
    device.inject(Extent(PAGE, 2 * PAGE))
    device.inject(Extent(4 * PAGE, SECTOR))
    commands: list[Extent] = []

    def clear_some(extent: Extent) -> Extent:
        commands.append(Extent(extent.offset, min(extent.length, most)))
        return commands[-1]

    monkeypatch.setattr(device._medium, "_cleared_by_command", clear_some)
    assert device.recovery_write(0, NEW) == SIZE
    assert list(ExtentSet(CLEAR_UNIT, commands)) == [Extent(PAGE, 2 * PAGE), Extent(4 * PAGE, PAGE)]
    assert sum(command.length for command in commands) == 3 * PAGE
    assert (record(device), list(device.poison(ALL))) == ([], [])
    assert io.read(device, ALL) == NEW


@pytest.mark.parametrize("kind", BROKEN)
def test_a_sector_write_that_does_not_heal_fails_too(make: MakeDevice, kind: MediumKind) -> None:
    """R33."""
    device = make(kind)
    bad = Extent(PAGE + SECTOR, 4 * SECTOR)
    device.inject(bad)
    with pytest.raises(MediaError):
        device.write_sectors(bad.offset // SECTOR, NEW[bad.offset : bad.offset + SECTOR])
    assert record(device) == [bad]
    assert_nothing_bad_passes_for_good(device, Extent(bad.offset, SECTOR), [bad])


@pytest.mark.parametrize("kind", BROKEN)
def test_good_bytes_that_a_failed_partial_heal_kept_can_be_salvaged(
    make: MakeDevice, kind: MediumKind
) -> None:
    """R16, R18, R46: they were durable before anything was cleared, and nothing is made up."""
    device = make(kind)
    device.inject(Extent(PAGE + SECTOR, SECTOR))
    covered = Extent(PAGE + 500, 600)
    with pytest.raises(MediaError):
        io.write(device, covered.offset, NEW[covered.offset : covered.end])
    salvage = device.recovery_read(Extent(PAGE, PAGE))
    kept = [Extent.between(PAGE, covered.offset), Extent.between(covered.end, 2 * PAGE)]
    for part in kept:
        assert not any(lost.overlaps(part) for lost in salvage.lost)
        start = part.offset - PAGE
        assert salvage.data[start : start + part.length] == OLD[part.offset : part.end]
    for lost in salvage.lost:
        start = lost.offset - PAGE
        assert salvage.data[start : start + lost.length] == bytes(lost.length)


@pytest.mark.parametrize("kind", BROKEN)
def test_what_did_not_heal_is_still_bad_after_a_restart(
    kind: MediumKind, shm_pool: MakePool
) -> None:
    restart = shm_pool(kind)
    device = restart()
    io.write(device, 0, OLD)
    device.inject(Extent(PAGE, SECTOR))
    with pytest.raises(MediaError):
        io.write(device, PAGE, NEW[PAGE : 2 * PAGE])
    before = list(device.badblocks(ALL))
    device = restart()
    assert list(device.badblocks(ALL)) == before
    assert_nothing_bad_passes_for_good(device, Extent(PAGE, PAGE), [Extent(PAGE, SECTOR)])


@pytest.fixture
def shm_pool(shm: Path) -> Iterator[MakePool]:
    """Makes a pool file of a kind, and gives what restarts its device."""
    opened: list[PmemDevice] = []

    def pool(kind: MediumKind) -> Callable[[], PmemDevice]:
        path = shm / kind
        create_pool(path, SIZE, durability=Durability.PROCESS, medium=kind)

        def restart() -> PmemDevice:
            while opened:
                opened.pop().close()
            opened.append(PmemDevice(open_pool(path)))
            return opened[0]

        return restart

    yield pool
    while opened:
        opened.pop().close()


def test_a_controller_that_heals_by_itself_empties_the_record(make: MakeDevice) -> None:
    """R6: the normal path heals lines, and a sector without poison leaves the record."""
    device = make(MediumKind.HEALS_ON_WRITE)
    device.inject(Extent(PAGE, SECTOR))
    window = device.direct_access(Extent(PAGE, PAGE), AccessMode.RECOVERY)
    window.store(0, NEW[PAGE : PAGE + SECTOR - 64])
    device.fence()
    assert record(device) == [Extent(PAGE, SECTOR)], "one line of it is still poisoned"
    window.store(SECTOR - 64, NEW[PAGE + SECTOR - 64 : PAGE + SECTOR])
    device.fence()
    assert record(device) == []
    assert io.read(device, Extent(PAGE, SECTOR)) == NEW[PAGE : PAGE + SECTOR]


def test_what_lines_healed_by_themselves_costs_does_not_grow_with_what_is_lost_elsewhere(
    make: MakeDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R6, R8: O(log n) each; lost sectors among them stay (R1)."""
    device = make(MediumKind.HEALS_ON_WRITE)
    device._record.set_lost(Extent(at, SECTOR) for at in range(2 * PAGE, SIZE, 2 * SECTOR))
    device.inject(Extent(2 * PAGE, 2 * SECTOR))
    asked: list[Extent | None] = []
    lost = device._record.badblocks.lost
    extents = type(lost).extents

    def note(self: ExtentSet, within: Extent | None = None) -> Iterator[Extent]:
        if self is lost:
            asked.append(within)
        return extents(self, within)

    monkeypatch.setattr(type(lost), "extents", note)
    window = device.direct_access(Extent(2 * PAGE, PAGE), AccessMode.RECOVERY)
    window.store(0, NEW[2 * PAGE : 2 * PAGE + 2 * SECTOR])
    device.fence()
    assert asked == [Extent(2 * PAGE, 2 * SECTOR)]
    assert is_recorded(device, Extent(2 * PAGE, SECTOR))
    assert not is_recorded(device, Extent(2 * PAGE + SECTOR, SECTOR))


# -- nobody sees a page that is not whole (R19, R28) -------------------------------------------


@pytest.mark.parametrize("grain", [PAGE, SECTOR])
def test_no_reader_sees_a_recovering_page_before_its_data_is_there(
    make: MakeDevice, grain: int
) -> None:
    """R19, R28: at every step below the device, a normal access is refused and the state is UC."""
    device = make(MediumKind.PLAIN)
    device.inject(Extent(PAGE, SECTOR))
    steps: list[str] = []

    def watch(layer: object, name: str) -> None:
        original = getattr(layer, name)

        def watched(*args: object) -> object:
            look(f"before {name}")
            result = original(*args)
            look(f"after {name}")
            return result

        setattr(layer, name, watched)

    def look(step: str) -> None:
        steps.append(step)
        with pytest.raises(MediaError):
            io.read(device, Extent(PAGE, SECTOR))
        with pytest.raises(MediaError):
            device.direct_access(Extent(PAGE, PAGE), AccessMode.NORMAL)
        assert device.page_state(PAGE) is PageState.UNCACHED

    watch(device._medium, "clear_and_store")
    watch(device.pool.backing, "store_flush")
    assert device.page_state(PAGE) is PageState.NOT_PRESENT
    device._write(PAGE, memoryview(NEW[PAGE : PAGE + grain]), (), grain)
    assert len(steps) == 4
    assert device.page_state(PAGE) is PageState.WRITE_BACK
    assert io.read(device, Extent(PAGE, grain)) == NEW[PAGE : PAGE + grain]


@pytest.mark.parametrize("kind", [MediumKind.REFUSES, MediumKind.CLEARS_PART, MediumKind.LIES])
def test_a_page_that_did_not_heal_is_not_present_again_r28(
    make: MakeDevice, kind: MediumKind
) -> None:
    """UC→NP: whatever came of the recovery, its alias does not outlive the call."""
    device = make(kind)
    device.inject(Extent(PAGE, PAGE))
    with pytest.raises(MediaError):
        device.recovery_write(PAGE, bytes(PAGE))
    assert device.page_state(PAGE) is PageState.NOT_PRESENT
    assert device.page_state(2 * PAGE) is PageState.WRITE_BACK


# -- a pool whose own storage fails ------------------------------------------------------------


class Trouble:
    """Makes the n-th store, poke, flush or fence of a backing fail."""

    def __init__(self, backing: Backing, monkeypatch: pytest.MonkeyPatch) -> None:
        self.countdown = -1
        for name in ("store", "store_flush", "flush", "fence"):
            original = getattr(backing, name)
            monkeypatch.setattr(backing, name, lambda *a, o=original: self._pass(o, a))

    def _pass(self, original: Callable[..., object], args: tuple[object, ...]) -> object:
        if self.countdown == 0:
            self.countdown = -1
            raise OSError(errno.ENOSPC, "planted: no space")
        self.countdown -= self.countdown > 0
        return original(*args)


PARTIAL = Extent(PAGE + 100, 1500)
OPERATIONS: dict[str, tuple[Extent, Callable[[PmemDevice], object]]] = {
    "two pages": (
        Extent(PAGE, 2 * PAGE),
        lambda device: device.recovery_write(PAGE, NEW[PAGE : 3 * PAGE]),
    ),
    "part of a page": (
        PARTIAL,
        lambda device: io.write(device, PARTIAL.offset, NEW[PARTIAL.offset : PARTIAL.end]),
    ),
    "one sector": (
        Extent(PAGE + SECTOR, SECTOR),
        lambda device: device.write_sectors(
            PAGE // SECTOR + 1, NEW[PAGE + SECTOR : PAGE + 2 * SECTOR]
        ),
    ),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_recovery_that_fails_half_way_leaves_everything_bad_or_whole(
    name: str,
    shm_pool: MakePool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """R21, R46: every single store, flush and fence fails once, without a stop; then a restart.

    In the running process and after the restart alike, no sector may hold zeros or a mix unseen.
    """
    extent, operation = OPERATIONS[name]
    was_bad = [Extent(PAGE + SECTOR, SECTOR)]
    restart = shm_pool(MediumKind.PLAIN)
    for step in itertools.count():
        device = restart()
        device.uninject(ALL)
        device.recovery_write(0, OLD)
        for run in was_bad:
            device.inject(run)
        seen: list[Event] = []
        device.events.subscribe(seen.append)
        with monkeypatch.context() as patch:
            trouble = Trouble(device.pool.backing, patch)
            trouble.countdown = step
            try:
                operation(device)
                failed = False
            except OSError:
                failed = True
        if not failed and trouble.countdown >= 0:
            break  # the operation has fewer steps
        done = any(isinstance(event, RecoveryDone) for event in seen)
        still_bad = [] if done else was_bad
        assert failed or record(device) == [], step
        assert is_recorded(device, was_bad[0]) or done, step
        changed = extent.widened(PAGE if name == "part of a page" else SECTOR)
        assert_nothing_bad_passes_for_good(device, changed, still_bad)
        assert_kept_is_not_made_up(device, extent)
        before = record(device)
        device = restart()
        assert_nothing_bad_passes_for_good(device, changed, still_bad)
        assert_kept_is_not_made_up(device, extent)
        assert all(is_recorded(device, run) for run in before) or record(device) == []
    assert step > 10


def assert_kept_is_not_made_up(device: PmemDevice, written: Extent) -> None:
    """R12, R18: what salvage calls good is the old or the new content, byte by byte."""
    salvage = device.recovery_read(Extent(PAGE, PAGE))
    for at in range(PAGE, 2 * PAGE):
        byte = salvage.data[at - PAGE]
        if any(lost.offset <= at < lost.end for lost in salvage.lost):
            assert byte == 0
        elif written.offset <= at < written.end:
            assert byte in (OLD[at], NEW[at]), at
        else:
            assert byte == OLD[at], at


def test_a_recovery_that_could_not_be_ended_is_ended_before_its_page_heals_again(
    shm_pool: MakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R18, R21: found at the next attach, its intent would call what was written since lost."""
    restart = shm_pool(MediumKind.PLAIN)
    device = restart()
    io.write(device, 0, OLD)
    device.inject(Extent(PAGE, SECTOR))

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "planted")

    with monkeypatch.context() as patch:
        patch.setattr(device._medium, "flush", fail)
        patch.setattr(device._medium, "clear_and_store", fail)
        patch.setattr(device._record, "complete", fail)
        with pytest.raises(OSError, match="planted"):
            device.recovery_write(PAGE, NEW[PAGE : 2 * PAGE])
    (leftover,) = device._record.intents.values()
    assert is_recorded(device, Extent(PAGE, SECTOR))
    assert device.recovery_write(PAGE, OLD[PAGE : 2 * PAGE]) == PAGE
    assert leftover.id not in device._record.intents
    io.write(device, PAGE, b"since")
    device.fence()
    device = restart()
    assert record(device) == []
    assert io.read(device, Extent(PAGE, PAGE)) == b"since" + OLD[PAGE + 5 : 2 * PAGE]


def test_lost_sectors_heal_like_bad_ones(make: MakeDevice) -> None:
    """R1: lost means in the record; a write ends it."""
    device = make(MediumKind.PLAIN)
    device._record.set_lost([Extent(PAGE, PAGE)])
    device._forget_gap(Extent(PAGE, PAGE))
    assert list(device.badblocks(ALL)) == [(Extent(PAGE, PAGE), SectorState.LOST)]
    with pytest.raises(MediaError):
        io.read(device, Extent(PAGE, PAGE))
    assert device.recovery_read(Extent(PAGE, PAGE)).lost == [Extent(PAGE, PAGE)]
    assert io.write(device, PAGE, NEW[PAGE : 2 * PAGE]) == PAGE
    assert record(device) == []
    assert io.read(device, Extent(PAGE, PAGE)) == NEW[PAGE : 2 * PAGE]


def test_healing_a_sector_of_a_lost_page_ends_what_was_kept_of_it(make: MakeDevice) -> None:
    """R12, R18: the old kept bytes must not come back over a sector that was written since."""
    device = make(MediumKind.PLAIN)
    page = Extent(PAGE, PAGE)
    device._record.set_lost([page])
    device._record.keep([Kept(page, OLD[PAGE : 2 * PAGE])])
    device._forget_gap(page)
    assert device.recovery_read(page).data == OLD[PAGE : 2 * PAGE]
    healed = Extent(PAGE + 3 * SECTOR, SECTOR)
    assert io.write_raw(device, healed.offset, NEW[healed.offset : healed.end]) == SECTOR
    expected = OLD[PAGE : healed.offset] + NEW[healed.offset : healed.end]
    expected += OLD[healed.end : 2 * PAGE]
    for _ in range(2):
        salvage = device.recovery_read(page)
        assert (bytes(salvage.data), salvage.lost) == (expected, [])
        device.inject(Extent(PAGE, 64), latent=True)  # what is kept is not on the medium


def test_a_recovery_that_has_no_room_for_what_it_must_keep_changes_nothing() -> None:
    """R46: decided before anything is cleared."""
    size = 16 * MIB
    device = PmemDevice(create_memory_pool(size))
    device.inject(Extent(0, size))
    with pytest.raises(DaxmendError, match="no room"):
        device.recovery_write(0, bytes(size), [Extent(0, size)])
    whole = Extent(0, size)
    assert [run for run, _ in device.badblocks(whole)] == [whole]
    assert list(device.poison(whole)) == [whole]
    assert device.recovery_write(0, bytes(size)) == size
    assert list(device.badblocks(whole)) == []
    device.close()
