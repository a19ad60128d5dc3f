"""Stops at every persist point of what mutates a device, and what must be true after the restart.

The judge of interrupted recoveries runs at attach, and is itself stopped at each of its points
(`daxmend.testing.CrashExplorer`). R18 is checked sector by sector: a page that was bad is still
bad, and everything readable in it is what it was, or it holds the new data whole.
"""

from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from daxmend.dax import io
from daxmend.dax.api import AccessMode, Recovery, SectorState, Window
from daxmend.errors import MediaError
from daxmend.extent import Extent, ExtentSet
from daxmend.media import journal
from daxmend.media.backing import Durability
from daxmend.media.pool import MediumKind, create_pool, open_pool
from daxmend.pmem.device import PmemDevice
from daxmend.testing import CrashExplorer
from daxmend.units import CACHELINE, CLEAR_UNIT, PAGE, SECTOR

PAGES = 8
SIZE = PAGES * PAGE
ALL = Extent(0, SIZE)
OLD = (bytes(range(1, 252)) * (SIZE // 251 + 1))[:SIZE]
NEW = bytes(b ^ 0xFF for b in OLD)
NEWER = bytes(b ^ 0x0F for b in OLD)
SEED = 20240601


class Rehearsal:
    """An image with old data and damage; an operation on it; and what is allowed afterwards.

    `latest[i]` is what the operation last wrote to byte i, and `acknowledged` the ranges of which
    it was told that they are durable. Both are the operation's to keep.
    """

    def __init__(
        self,
        directory: Path,
        medium: MediumKind = MediumKind.PLAIN,
        clear_unit: int = CLEAR_UNIT,
    ) -> None:
        self.directory = directory
        self.image = directory / "image.pool"
        create_pool(
            self.image,
            SIZE,
            durability=Durability.PROCESS,
            medium=medium,
            clear_unit=clear_unit,
        )
        self.allowed: list[bytes] = [OLD]  # whole contents, oldest first
        self.acknowledged: dict[Extent, int] = {}  # range → index in `allowed` from which on
        self.device = PmemDevice(open_pool(self.image))
        io.write(self.device, 0, OLD)

    def damage(self, *extents: Extent, latent: Iterable[Extent] = ()) -> "Rehearsal":
        for extent in extents:
            self.device.inject(extent)
        for extent in latent:
            self.device.inject(extent, latent=True)
        return self

    def ready(self) -> "Rehearsal":
        """The damage is done: close the image, and note what was bad and what is readable."""
        self.was_recorded = ExtentSet(SECTOR, (run for run, _ in self.device.badblocks(ALL)))
        self.was_poisoned = ExtentSet(CACHELINE, self.device.poison(ALL))
        self.device.close()
        return self

    def explore(
        self, operation: Callable[[PmemDevice], object], touched: Extent, samples: int = 2
    ) -> int:
        """Stop it everywhere; returns at how many points."""
        self.touched = touched

        def begin(device: PmemDevice) -> object:
            self.acknowledged.clear()
            return operation(device)

        def look(device: PmemDevice) -> None:
            try:
                self.check(device)
            finally:
                self.acknowledged.clear()

        print(f"seed {SEED}")
        return CrashExplorer(self.image, self.directory, SEED).explore(begin, look, samples)

    # -- what must hold --------------------------------------------------------------------

    def check(self, device: PmemDevice) -> None:
        record = ExtentSet(SECTOR, (run for run, _ in device.badblocks(ALL)))
        for page in range(PAGES):
            self.check_page(device, record, Extent(page * PAGE, PAGE))
        for extent, since in self.acknowledged.items():
            assert not record.overlaps(extent), f"{extent} was healed, and is bad again"
            data = io.read(device, extent)
            wanted = [content[extent.offset : extent.end] for content in self.allowed[since:]]
            assert all(
                data[at : at + CACHELINE] in [w[at : at + CACHELINE] for w in wanted]
                for at in range(0, extent.length, CACHELINE)
            ), f"{extent} was healed, and does not hold what it was given"
        assert device._record.intents == {}
        self.check_again(device, list(record))

    def check_page(self, device: PmemDevice, record: ExtentSet, page: Extent) -> None:
        was_bad = self.was_recorded.overlaps(page)
        if not page.overlaps(self.touched):
            assert list(record.extents(page)) == list(self.was_recorded.extents(page))
            self.assert_readable(device, record, page, [OLD])
        elif not was_bad:
            assert not record.overlaps(page) or self.was_poisoned.overlaps(page)
            self.assert_readable(device, record, page, self.allowed)
        elif record.overlaps(page):
            for run in self.was_recorded.extents(page):
                assert record.covers(run), f"the record forgot {run}, and its page is not healed"
            self.assert_readable(device, record, page, [OLD])
            self.assert_salvage(device, page)
        else:
            data = io.read(device, page)
            assert any(
                data == content[page.offset : page.end] for content in self.allowed[1:]
            ) or self.is_acknowledged(page), f"{page} is a mix, or zeros"

    def is_acknowledged(self, page: Extent) -> bool:
        """Healed before, and then written again by ordinary stores, which may tear."""
        return any(extent.covers(page) for extent in self.acknowledged)

    def assert_readable(
        self, device: PmemDevice, record: ExtentSet, page: Extent, contents: list[bytes]
    ) -> None:
        """Each line that can be read holds what one of the contents has there."""
        unreadable = ExtentSet(CACHELINE, record.extents(page))
        unreadable.update(self.was_poisoned.extents(page))
        for run in gaps(page, unreadable):
            data = io.read(device, run)
            if data in [content[run.offset : run.end] for content in contents]:
                continue
            for at in range(0, run.length, CACHELINE):
                lines = [content[run.offset :][at : at + CACHELINE] for content in contents]
                assert data[at : at + CACHELINE] in lines, run.offset + at

    def assert_salvage(self, device: PmemDevice, page: Extent) -> None:
        """R12: what salvage calls good in a bad page is what was there and could be read."""
        salvage = device.recovery_read(page)
        for good in gaps(page, ExtentSet(1, salvage.lost)):
            start = good.offset - page.offset
            assert salvage.data[start : start + good.length] == new(good, OLD), good
            assert not self.was_poisoned.overlaps(good), good

    def check_again(self, device: PmemDevice, record: list[Extent]) -> None:
        """A second restart finds the same, and nothing to repair."""
        device.close()
        pool = open_pool(Path(device.name))
        again = PmemDevice(pool)
        try:
            assert list(ExtentSet(SECTOR, (run for run, _ in again.badblocks(ALL)))) == record
            assert pool.repairs == again._record.repairs == again._medium.journal.repairs == []
        finally:
            again.close()


@pytest.fixture
def rehearsal(shm: Path) -> Rehearsal:
    return Rehearsal(shm)


@pytest.fixture(params=[MediumKind.CLEARS_LINES, MediumKind.HEALS_ON_WRITE])
def helpful(request: pytest.FixtureRequest, shm: Path) -> Rehearsal:
    """On a medium that heals by itself too (R6)."""
    return Rehearsal(shm, request.param)


@pytest.fixture(params=["appends", "compactions"])
def log(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With `compactions` the journals compact at nearly every append."""
    if request.param == "compactions":
        monkeypatch.setattr(journal, "_COMPACT_ABOVE", 0)
    return str(request.param)


def gaps(extent: Extent, holes: ExtentSet) -> list[Extent]:
    """The parts of `extent` that are not in `holes`."""
    rest = ExtentSet(holes.grain, [extent])
    for hole in holes.extents(extent):
        rest.discard(hole)
    return list(rest)


def new(extent: Extent, content: bytes = NEW) -> bytes:
    return content[extent.offset : extent.end]


def overlay(base: bytes, extent: Extent, content: bytes = NEW) -> bytes:
    return base[: extent.offset] + new(extent, content) + base[extent.end :]


# -- recovery of whole pages -------------------------------------------------------------------

ALL_LINES_OF_SOME_SECTORS = [Extent(3 * PAGE, 3 * SECTOR), Extent(3 * PAGE + 7 * SECTOR, SECTOR)]


@pytest.mark.parametrize(
    "damage",
    [
        [Extent(2 * PAGE, PAGE)],
        [Extent(2 * PAGE + SECTOR, SECTOR)],
        [Extent(PAGE, PAGE), Extent(2 * PAGE + SECTOR, SECTOR), Extent(4 * PAGE, PAGE)],
        ALL_LINES_OF_SOME_SECTORS,
    ],
    ids=["a whole page", "one sector", "several runs", "some sectors"],
)
def test_a_page_is_still_bad_or_holds_the_new_data(
    rehearsal: Rehearsal, log: str, damage: list[Extent]
) -> None:
    """R18, R8: whole pages, in one or several runs, with good pages between."""
    extent = Extent(PAGE, 4 * PAGE)
    rehearsal.damage(*damage).ready()
    rehearsal.allowed.append(overlay(OLD, extent))

    def operation(device: PmemDevice) -> None:
        assert device.recovery_write(extent.offset, new(extent)) == extent.length
        rehearsal.acknowledged[extent] = 1

    assert rehearsal.explore(operation, extent) > 50


def test_recovery_is_atomic_on_media_that_heal_by_themselves_too(helpful: Rehearsal) -> None:
    """R6, R18: the line that a recovery's own store heals is no more proven than any other."""
    extent = Extent(PAGE, 4 * PAGE)
    helpful.damage(Extent(2 * PAGE + SECTOR, SECTOR), Extent(4 * PAGE, PAGE)).ready()
    helpful.allowed.append(overlay(OLD, extent))

    def operation(device: PmemDevice) -> None:
        assert device.recovery_write(extent.offset, new(extent)) == extent.length
        helpful.acknowledged[extent] = 1

    assert helpful.explore(operation, extent) > 50


def test_a_partial_heal_is_atomic_on_media_that_heal_by_themselves_too(helpful: Rehearsal) -> None:
    """R6, R16, R18."""
    page, covered = Extent(2 * PAGE, PAGE), Extent(2 * PAGE + 100, 1000)
    helpful.damage(Extent(2 * PAGE + SECTOR, SECTOR)).ready()
    helpful.allowed.append(overlay(OLD, covered))

    def operation(device: PmemDevice) -> None:
        assert io.write(device, covered.offset, new(covered)) == covered.length
        helpful.acknowledged[page] = 1

    helpful.explore(operation, page)


def test_recovery_over_poison_that_nobody_knew_of(rehearsal: Rehearsal, log: str) -> None:
    """R3, R18: the write finds it, records it, and heals it with the rest."""
    page = Extent(2 * PAGE, PAGE)
    rehearsal.damage(latent=[Extent(page.offset + 3 * SECTOR, 2 * CACHELINE)]).ready()
    rehearsal.was_recorded = ExtentSet(SECTOR, [Extent(page.offset + 3 * SECTOR, SECTOR)])
    rehearsal.allowed.append(overlay(OLD, page))
    found = Extent(page.offset + 3 * SECTOR, SECTOR)

    def operation(device: PmemDevice) -> None:
        assert device.recovery_write(page.offset, new(page)) == PAGE
        rehearsal.acknowledged[page] = 1

    def check(device: PmemDevice) -> None:
        if not rehearsal.acknowledged and not list(device.badblocks(ALL)):
            list(device.scrub(page))  # stopped before it was found, it is latent; or all is healed
        if not list(device.badblocks(ALL)):
            assert io.read(device, page) == new(page)
        else:
            assert not rehearsal.acknowledged
            assert [run for run, _ in device.badblocks(ALL)] in ([found], [page])
        Rehearsal.check(rehearsal, device)

    rehearsal.check = check  # type: ignore[method-assign]
    rehearsal.explore(operation, page)


def test_what_could_be_salvaged_before_is_right_or_lost_after(rehearsal: Rehearsal) -> None:
    """R12, R18: every sector is recorded for one bad line; the other lines can be salvaged.

    A stop between clear and data must not leave zeros where salvage finds nothing wrong.
    """
    page = Extent(2 * PAGE, PAGE)
    lines = [Extent(page.offset + at, CACHELINE) for at in range(0, PAGE, SECTOR)]
    rehearsal.damage(latent=lines)
    rehearsal.device.recovery_read(page)
    rehearsal.ready()
    assert rehearsal.was_recorded.covers(page)
    rehearsal.allowed.append(overlay(OLD, page))

    def operation(device: PmemDevice) -> None:
        device.recovery_write(page.offset, new(page))
        rehearsal.acknowledged[page] = 1

    rehearsal.explore(operation, page)


def test_a_page_of_zeros_with_bad_lines_is_not_called_salvageable_when_cleared(
    rehearsal: Rehearsal,
) -> None:
    """R12: cleared lines read as zeros; beside old zeros they must not pass for content."""
    page = Extent(2 * PAGE, PAGE)
    zeros = OLD[: page.offset] + bytes(PAGE) + OLD[page.end :]
    io.write(rehearsal.device, page.offset, bytes(PAGE))
    rehearsal.damage(Extent(page.offset, SECTOR)).ready()
    rehearsal.allowed = [zeros, overlay(zeros, page)]

    def check(device: PmemDevice) -> None:
        if list(device.badblocks(page)):
            lost = device.recovery_read(page).lost
            assert lost, "a bad line became a good line of zeros"
            assert lost[0].offset == page.offset

    CrashExplorer(rehearsal.image, rehearsal.directory, SEED).explore(
        lambda device: device.recovery_write(page.offset, new(page)), check
    )


# -- a part of a page (R16) --------------------------------------------------------------------


@pytest.mark.parametrize(
    "covered",
    [
        Extent(2 * PAGE, SECTOR + 100),
        Extent(2 * PAGE + SECTOR - 100, 2 * SECTOR),
        Extent(3 * PAGE - 3 * SECTOR - 7, 3 * SECTOR + 7),
    ],
    ids=["head", "middle", "tail"],
)
def test_good_bytes_that_a_partial_heal_keeps_survive_every_stop(
    rehearsal: Rehearsal, log: str, covered: Extent
) -> None:
    """R16, R18, R46: kept byte by byte, whatever happens to the page."""
    page = Extent(2 * PAGE, PAGE)
    bad = covered.narrowed(SECTOR)
    rehearsal.damage(Extent(bad.offset, SECTOR)).ready()
    rehearsal.allowed.append(overlay(OLD, covered))

    def operation(device: PmemDevice) -> None:
        assert io.write(device, covered.offset, new(covered)) == covered.length
        rehearsal.acknowledged[page] = 1

    def check_kept(device: PmemDevice) -> None:
        salvage = device.recovery_read(page)
        for kept in (
            Extent.between(page.offset, covered.offset),
            Extent.between(covered.end, page.end),
        ):
            assert not any(lost.overlaps(kept) for lost in salvage.lost), salvage.lost
            start = kept.offset - page.offset
            assert salvage.data[start : start + kept.length] == new(kept, OLD)
        Rehearsal.check(rehearsal, device)

    rehearsal.check = check_kept  # type: ignore[method-assign]
    rehearsal.explore(operation, page)


def test_a_write_over_many_pages_with_unaligned_ends(rehearsal: Rehearsal) -> None:
    """R15–R18: a partial head, whole pages and a partial tail, all of them bad."""
    extent = Extent.between(PAGE + 1000, 5 * PAGE - 1000)
    rehearsal.damage(
        Extent(PAGE + 4 * SECTOR, SECTOR), Extent(2 * PAGE, PAGE), Extent(4 * PAGE, SECTOR)
    ).ready()
    rehearsal.allowed.append(overlay(OLD, extent))

    def operation(device: PmemDevice) -> None:
        assert io.write(device, extent.offset, new(extent)) == extent.length
        device.flush(extent)
        device.fence()
        rehearsal.acknowledged[extent] = 1

    rehearsal.explore(operation, extent.widened(PAGE))


# -- the block path (R33) ----------------------------------------------------------------------


def test_sectors_are_still_bad_or_hold_the_new_data_each_for_itself(
    rehearsal: Rehearsal, log: str
) -> None:
    """R18 with the sector as the unit: two runs and a good sector in one write."""
    extent = Extent(2 * PAGE + SECTOR, 5 * SECTOR)
    bad = [Extent(2 * PAGE + SECTOR, 2 * SECTOR), Extent(2 * PAGE + 4 * SECTOR, 3 * SECTOR)]
    rehearsal.damage(*bad).ready()

    def operation(device: PmemDevice) -> None:
        rehearsal.acknowledged.clear()
        device.write_sectors(extent.offset // SECTOR, new(extent))
        rehearsal.acknowledged[extent] = 0

    def check(device: PmemDevice) -> None:
        record = ExtentSet(SECTOR, (run for run, _ in device.badblocks(ALL)))
        for at in range(0, SIZE, SECTOR):
            sector = Extent(at, SECTOR)
            was_bad = any(run.overlaps(sector) for run in bad)
            is_bad = record.overlaps(sector)
            if not extent.covers(sector):
                assert is_bad == was_bad, sector
            assert was_bad or not is_bad, f"the record made up {sector}"
            if is_bad:
                assert not rehearsal.acknowledged or not extent.covers(sector)
                continue
            data = io.read(device, sector)
            if not extent.covers(sector):
                assert data == new(sector, OLD), sector
            elif was_bad or rehearsal.acknowledged:
                assert data == new(sector), sector
            else:  # a good sector: an ordinary store, which may tear
                for line in range(0, SECTOR, CACHELINE):
                    part = slice(line, line + CACHELINE)
                    assert data[part] in (new(sector)[part], new(sector, OLD)[part]), sector
        rehearsal.acknowledged.clear()

    CrashExplorer(rehearsal.image, rehearsal.directory, SEED).explore(operation, check)


@pytest.mark.parametrize("clear_unit", [1024, PAGE])
def test_a_sector_heals_or_not_and_its_neighbours_can_be_read_or_salvaged(
    shm: Path, log: str, clear_unit: int
) -> None:
    """R7, R18, R33, R46: the medium clears good and bad neighbours with the sector."""
    page = Extent(2 * PAGE, PAGE)
    sector = Extent(page.offset + 2 * SECTOR, SECTOR)
    line = Extent(page.offset + 3 * SECTOR + CACHELINE, CACHELINE)
    rehearsal = Rehearsal(shm, clear_unit=clear_unit).damage(sector, latent=[line])
    rehearsal.device.recovery_read(page)
    rehearsal.ready()
    beside = line.widened(SECTOR)
    done: list[bool] = []

    def operation(device: PmemDevice) -> None:
        done.clear()
        device.write_sectors(sector.offset // SECTOR, new(sector))
        done.append(True)

    def check(device: PmemDevice) -> None:
        record = ExtentSet(SECTOR, (run for run, _ in device.badblocks(ALL)))
        assert record.covers(beside), "not what was written"
        assert not done or list(record) == [beside]
        assert all(run.widened(clear_unit) == sector.widened(clear_unit) for run in record)
        for at in range(0, SIZE, SECTOR):
            one = Extent(at, SECTOR)
            salvage = device.recovery_read(one)
            if one == sector:
                assert record.overlaps(one) or io.read(device, one) == new(one)
                continue
            assert salvage.lost == ([line] if one == beside else [])
            expected = overlay(OLD, line, bytes(SIZE))
            assert salvage.data == new(one, expected), "a good line was lost"
            assert record.overlaps(one) or io.read(device, one) == new(one, OLD)
        assert device._record.intents == {}
        done.clear()

    CrashExplorer(rehearsal.image, rehearsal.directory, SEED).explore(operation, check)


# -- healed is healed --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "how", ["store", "recovery", "sectors", "raw", "always", "kept window", "line of a kept window"]
)
def test_a_healed_page_stays_healed_while_it_is_written_again(
    rehearsal: Rehearsal, log: str, how: str
) -> None:
    """R8, R18: the record's last append is not fenced when the write returns; a leftover intent
    must not take the stores that follow for an unfinished recovery."""
    page = Extent(2 * PAGE, PAGE)
    rehearsal.damage(Extent(page.offset + SECTOR, SECTOR)).ready()
    rehearsal.allowed += [overlay(OLD, page), overlay(OLD, page, NEWER)]
    again: dict[str, Callable[[PmemDevice], object]] = {
        "store": lambda device: io.write(device, page.offset, new(page, NEWER)),
        "recovery": lambda device: device.recovery_write(page.offset, new(page, NEWER)),
        "sectors": lambda device: device.write_sectors(
            page.offset // SECTOR, new(page, NEWER)[: 3 * SECTOR]
        ),
        "raw": lambda device: io.write_raw(device, page.offset, new(page, NEWER)),
        "always": lambda device: io.write(device, page.offset, new(page, NEWER), Recovery.ALWAYS),
        "kept window": lambda _: kept[-1].store(0, new(page, NEWER)),
        "line of a kept window": lambda _: kept[-1].store_line(64, new(page, NEWER)[64:128]),
    }
    kept: list[Window] = []

    def operation(device: PmemDevice) -> None:
        kept.append(device.direct_access(page, AccessMode.RECOVERY))  # R49
        device.recovery_write(page.offset, new(page))
        rehearsal.acknowledged[page] = 1
        again[how](device)

    rehearsal.explore(operation, page, samples=8 if "window" in how else 2)  # few points, much luck


def test_what_was_healed_before_the_stop_stays_healed(rehearsal: Rehearsal) -> None:
    """R8: five recoveries one after the other; each that returned is there for good."""
    pages = [Extent(page * PAGE, PAGE) for page in range(1, 6)]
    rehearsal.damage(*(Extent(page.offset + SECTOR, SECTOR) for page in pages)).ready()
    rehearsal.allowed.append(overlay(OLD, Extent(PAGE, 5 * PAGE)))

    def operation(device: PmemDevice) -> None:
        for page in pages:
            device.recovery_write(page.offset, new(page))
            rehearsal.acknowledged[page] = 1

    rehearsal.explore(operation, Extent(PAGE, 5 * PAGE), samples=2)


def test_zeroinit_is_a_recovery_like_any_other(rehearsal: Rehearsal) -> None:
    """R29, R18: zeros are the new data here, and come with the record's word for them."""
    extent = Extent(PAGE, 3 * PAGE)
    rehearsal.damage(Extent(2 * PAGE, SECTOR)).ready()
    zeros = OLD[: extent.offset] + bytes(extent.length) + OLD[extent.end :]
    rehearsal.allowed.append(zeros)

    def operation(device: PmemDevice) -> None:
        device.zeroinit(extent)
        rehearsal.acknowledged[extent] = 1

    rehearsal.explore(operation, extent)


# -- faults that come while the machine stops (R2, R3) -----------------------------------------


@pytest.mark.parametrize("latent", [False, True])
def test_an_interrupted_injection_never_leaves_wrong_bytes_that_can_be_read(
    rehearsal: Rehearsal, log: str, latent: bool
) -> None:
    """R2: a line is good with its content, or poisoned; the pattern is never read as data."""
    fault = Extent(2 * PAGE + SECTOR, SECTOR)
    before = Extent(5 * PAGE, SECTOR)
    rehearsal.damage(before).ready()
    done: list[bool] = []

    def operation(device: PmemDevice) -> None:
        done.clear()
        device.inject(fault, latent=latent)
        done.append(True)

    def check(device: PmemDevice) -> None:
        record = ExtentSet(SECTOR, (run for run, _ in device.badblocks(ALL)))
        poison = ExtentSet(CACHELINE, device.poison(ALL))
        assert record.covers(before)
        assert poison.covers(before)
        assert not done or poison.covers(fault), "durable on return"
        assert not done or latent or record.covers(fault), "durable on return"
        record.discard(before)
        assert not record or list(record) == [fault], "the record made something up"
        for at in range(0, SIZE, CACHELINE):
            line = Extent(at, CACHELINE)
            if not poison.overlaps(line) and not record.overlaps(line):
                assert io.read(device, line) == new(line, OLD), line
        done.clear()

    CrashExplorer(rehearsal.image, rehearsal.directory, SEED).explore(operation, check)


def test_consumed_poison_is_in_the_record_before_the_reader_has_its_error(
    rehearsal: Rehearsal, log: str
) -> None:
    """R3, R8: who was told EIO finds the sector in the record after any stop."""
    line = Extent(2 * PAGE + SECTOR, CACHELINE)
    rehearsal.damage(latent=[line]).ready()
    told: list[bool] = []

    def operation(device: PmemDevice) -> None:
        told.clear()
        with pytest.raises(MediaError):
            io.read(device, line)
        told.append(True)

    def check(device: PmemDevice) -> None:
        record = [run for run, _ in device.badblocks(ALL)]
        assert record in ([], [line.widened(SECTOR)])
        assert record or not told
        assert list(device.poison(ALL)) == [line]
        told.clear()

    CrashExplorer(rehearsal.image, rehearsal.directory, SEED).explore(operation, check)


@pytest.mark.parametrize("kind", [MediumKind.CLEARS_LINES, MediumKind.HEALS_ON_WRITE])
def test_lines_that_the_medium_heals_by_itself_leave_the_record_with_their_data(
    shm: Path, kind: MediumKind
) -> None:
    """R6, R8: a sector leaves the record only when what was stored there is durable."""
    image = shm / "image.pool"
    create_pool(image, SIZE, durability=Durability.PROCESS, medium=kind)
    device = PmemDevice(open_pool(image))
    io.write(device, 0, OLD)
    sector = Extent(2 * PAGE, SECTOR)
    device.inject(sector)
    device.close()
    done: list[bool] = []

    def operation(device: PmemDevice) -> None:
        done.clear()
        window = device.direct_access(sector, AccessMode.RECOVERY)
        for at in range(0, SECTOR, CACHELINE):
            window.store_line(at, new(sector)[at : at + CACHELINE])
        device.fence()
        device.fence()  # the record follows with the fence; what it then says needs one of its own
        done.append(True)

    def check(device: PmemDevice) -> None:
        record = [run for run, _ in device.badblocks(ALL)]
        assert record in ([], [sector])
        assert not (done and record)
        if not record:
            assert io.read(device, sector) == new(sector)
        for page in (Extent(PAGE, PAGE), Extent(3 * PAGE, PAGE)):
            assert io.read(device, page) == new(page, OLD)
        done.clear()

    CrashExplorer(image, shm, SEED).explore(operation, check)


def test_what_is_held_for_a_writer_is_named_after_any_stop_and_is_no_content(
    rehearsal: Rehearsal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R50: the half of a cut write is durable when it is acknowledged; after a stop it is dropped,
    with a word for whoever attaches."""
    sector = Extent(2 * PAGE, SECTOR)
    half = Extent(2 * PAGE, 200)
    rehearsal.damage(sector).ready()
    held: list[bool] = []
    named: list[Extent] = []
    release = PmemDevice._release_leftovers

    def listen(device: PmemDevice) -> None:
        named.extend(hold.kept.extent for hold in device._record.holds)
        release(device)

    monkeypatch.setattr(PmemDevice, "_release_leftovers", listen)

    def operation(device: PmemDevice) -> None:
        held.clear()
        named.clear()
        device.hold(half.offset, new(half), SECTOR)
        held.append(True)
        device.write_sectors(sector.offset // SECTOR, new(sector))
        held.clear()

    def check(device: PmemDevice) -> None:
        if list(device.badblocks(sector)):
            assert half in named or not held
            salvage = device.recovery_read(sector)
            assert salvage.data[:200] != new(half)
            assert salvage.lost
        else:
            assert io.read(device, sector) == new(sector)
            assert device.recovery_read(sector).data == new(sector)
        assert device._record.holds == []
        held.clear()

    CrashExplorer(rehearsal.image, rehearsal.directory, SEED).explore(operation, check)


def test_bytes_that_were_given_up_stay_so_and_no_other_is_forgotten(shm: Path, log: str) -> None:
    """R32, R12: a failed recovery left a page lost and kept its good bytes; some are given up."""
    page = Extent(2 * PAGE, PAGE)
    bad = Extent(page.offset + 2 * SECTOR, SECTOR)
    given_up = Extent.between(page.offset + 700, page.end - 100)
    rehearsal = Rehearsal(shm, MediumKind.LIES).damage(bad)
    whole = new(page, OLD)
    with pytest.raises(MediaError):
        rehearsal.device.recovery_write(
            page.offset, whole, [Extent.between(page.offset, bad.offset)]
        )
    rehearsal.ready()
    keep_length = bad.offset - page.offset
    before = whole[:keep_length] + bytes(PAGE - keep_length)
    after = whole[:700] + bytes(PAGE - 700)
    forgotten: list[bool] = []

    def operation(device: PmemDevice) -> None:
        forgotten.clear()
        device.keep_zeros(given_up)
        device.fence()
        forgotten.append(True)

    def check(device: PmemDevice) -> None:
        assert list(device.badblocks(ALL)) == [(page, SectorState.LOST)]
        salvage = device.recovery_read(page)
        found = (bytes(salvage.data), salvage.lost)
        old = (before, [Extent.between(bad.offset, page.end)])
        assert found in [(after, [Extent(given_up.end, 100)]), *([] if forgotten else [old])]
        forgotten.clear()

    CrashExplorer(rehearsal.image, shm, SEED).explore(operation, check)


# -- a pool that is only read after the stop ---------------------------------------------------


def test_a_reader_of_a_stopped_pool_sees_no_cleared_page_as_good(rehearsal: Rehearsal) -> None:
    """R18: it may not write, and still must judge what the stop left."""
    page = Extent(2 * PAGE, PAGE)
    rehearsal.damage(Extent(page.offset + SECTOR, SECTOR)).ready()
    rehearsal.allowed.append(overlay(OLD, page))
    rehearsal.touched = page

    class ReadingExplorer(CrashExplorer):
        """Attaches for reading instead."""

        def _restart_and_check(self, *_: object) -> None:
            pool = open_pool(self._pool, writable=False)
            before = self._pool.read_bytes()
            device = PmemDevice(pool)
            record = ExtentSet(SECTOR, (run for run, _ in device.badblocks(ALL)))
            for number in range(PAGES):
                rehearsal.check_page(device, record, Extent(number * PAGE, PAGE))
            device.close()
            assert self._pool.read_bytes() == before

    ReadingExplorer(rehearsal.image, rehearsal.directory, SEED).explore(
        lambda device: device.recovery_write(page.offset, new(page)), lambda device: None
    )


def test_kept_bytes_of_a_lost_page_never_stand_in_for_those_of_a_good_one(
    rehearsal: Rehearsal,
) -> None:
    """R12, R18: what is kept spans two bad pages; one comes out complete and is written again."""
    extent = Extent(2 * PAGE, 3 * PAGE)
    pages = [Extent(2 * PAGE, PAGE), Extent(4 * PAGE, PAGE)]
    keep = Extent(3 * PAGE - 1000, PAGE + 2000)
    rehearsal.damage(Extent(2 * PAGE, SECTOR), Extent(5 * PAGE - SECTOR, SECTOR)).ready()
    merged = overlay(NEW, keep, OLD)
    mixed: set[int] = set()

    def operation(device: PmemDevice) -> None:
        device.recovery_write(extent.offset, new(extent, merged), [keep])

    def check(device: PmemDevice) -> None:
        good = [page for page in pages if not list(device.badblocks(page))]
        mixed.add(len(good))
        for page in good:
            io.write(device, page.offset, new(page, NEWER))
            salvage = device.recovery_read(page)
            assert (bytes(salvage.data), salvage.lost) == (new(page, NEWER), [])
        for page in pages:
            if page not in good:
                salvage = device.recovery_read(page)
                part = keep.intersection(page)
                start = part.offset - page.offset
                assert salvage.data[start : start + part.length] == new(part, OLD)

    CrashExplorer(rehearsal.image, rehearsal.directory, SEED).explore(operation, check)
    assert mixed == {0, 1, 2}, "no stop left one page complete and the other not"
