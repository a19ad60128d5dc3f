"""Reads, writes and zeroing over a device: one sentence a rule (the model checks combinations)."""

import errno
from collections.abc import Callable

import pytest

from daxmend.dax import io
from daxmend.dax.api import AccessMode, Recovery, Window
from daxmend.errors import BadBlockError, DaxmendError, MediaError, UsageError
from daxmend.events import Event, PoisonConsumed, RecoveryDone, RecoveryRefused
from daxmend.extent import Extent
from daxmend.pmem.device import PmemDevice
from daxmend.units import CACHELINE, MIB, PAGE, SECTOR

ALL = Extent(0, MIB)
OLD = (bytes(range(1, 252)) * (MIB // 251 + 1))[:MIB]
NEW = bytes(b ^ 0xFF for b in OLD[: 16 * PAGE])
BAD = Extent(PAGE + 2 * SECTOR, SECTOR)
BAD_PAGE = Extent(PAGE, PAGE)


@pytest.fixture
def device(device: PmemDevice) -> PmemDevice:
    """Filled with `OLD`."""
    io.write(device, 0, OLD)
    return device


def record(device: PmemDevice) -> list[Extent]:
    return [run for run, _ in device.badblocks(ALL)]


def old(extent: Extent) -> bytes:
    return OLD[extent.offset : extent.end]


def new(extent: Extent) -> bytes:
    return NEW[extent.offset : extent.end]


def assert_content(device: PmemDevice, changed: Extent, content: bytes) -> None:
    """All of the device is good, and changed only there."""
    expected = OLD[: changed.offset] + content + OLD[changed.end :]
    assert io.read(device, ALL) == expected
    assert record(device) == []


# -- reading -----------------------------------------------------------------------------------


@pytest.mark.parametrize("extent", [Extent(PAGE, 2 * SECTOR), Extent(BAD.end, 3 * SECTOR)])
def test_a_read_beside_a_bad_sector_of_its_page_returns_its_data(
    device: PmemDevice, extent: Extent
) -> None:
    """R10."""
    device.inject(BAD)
    assert io.read(device, extent) == old(extent)


def test_a_read_ends_before_the_bad_sector_and_the_next_one_fails(device: PmemDevice) -> None:
    """R11."""
    device.inject(BAD)
    assert io.read(device, Extent(0, MIB)) == OLD[: BAD.offset]
    with pytest.raises(BadBlockError) as caught:
        io.read(device, Extent.between(BAD.offset, MIB))
    assert (caught.value.errno, caught.value.offset) == (errno.EIO, BAD.offset)


def test_a_read_of_latent_poison_is_short_at_its_sector_and_told(device: PmemDevice) -> None:
    """R3, R11."""
    device.inject(Extent(BAD.offset + 64, CACHELINE), latent=True)
    seen: list[Event] = []
    device.events.subscribe(seen.append)
    assert io.read(device, Extent(0, MIB)) == OLD[: BAD.offset]
    assert seen == [PoisonConsumed(BAD)]
    assert record(device) == [BAD]


def test_a_read_of_nothing_returns_nothing_wherever_it_is(device: PmemDevice) -> None:
    device.inject(BAD)
    assert io.read(device, Extent(BAD.offset, 0)) == b""
    assert io.read(device, Extent(MIB, 0)) == b""


def test_the_normal_path_never_looks_at_the_record(
    device: PmemDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R22: away from what is bad, a read is a window and a copy."""
    device.inject(BAD)
    io.read(device, Extent(8 * PAGE, PAGE))
    for name in ("badblocks", "recovery_read", "recovery_write", "_find_gap"):
        monkeypatch.setattr(device, name, None)
    assert io.read(device, Extent(9 * PAGE + 7, 5000)) == old(Extent(9 * PAGE + 7, 5000))
    assert io.write(device, 10 * PAGE, b"x" * 100) == 100


# -- writing -----------------------------------------------------------------------------------


@pytest.mark.parametrize("where", [BAD, Extent(PAGE, SECTOR), BAD_PAGE, Extent(PAGE + 700, 1)])
def test_an_aligned_write_over_a_bad_page_heals_it(device: PmemDevice, where: Extent) -> None:
    """R14."""
    device.inject(where)
    assert io.write(device, PAGE, new(BAD_PAGE)) == PAGE
    assert_content(device, BAD_PAGE, new(BAD_PAGE))


def test_a_write_with_unaligned_ends_heals_the_pages_it_covers(device: PmemDevice) -> None:
    """R15: whichever sector of the page is the bad one."""
    device.inject(BAD)
    extent = Extent.between(100, 3 * PAGE - 100)
    assert io.write(device, extent.offset, new(extent)) == extent.length
    assert_content(device, extent, new(extent))


def test_a_partial_write_heals_a_page_whose_bad_bytes_it_covers(device: PmemDevice) -> None:
    """R16: and the good lines are kept."""
    device.inject(BAD)
    extent = Extent(BAD.offset - 3, BAD.length + 10)
    assert io.write(device, extent.offset, new(extent)) == extent.length
    assert_content(device, extent, new(extent))


@pytest.mark.parametrize("extent", [Extent(PAGE, SECTOR), Extent(BAD.offset + 1, SECTOR)])
def test_a_partial_write_that_leaves_bad_bytes_out_is_refused_with_a_warning(
    device: PmemDevice, extent: Extent
) -> None:
    """R16: EIO, nothing changed, and the page to write is named."""
    device.inject(BAD)
    seen: list[Event] = []
    device.events.subscribe(seen.append)
    with pytest.raises(BadBlockError, match="write all of this range"):
        io.write(device, extent.offset, new(extent))
    assert [event.extent for event in seen if isinstance(event, RecoveryRefused)] == [BAD_PAGE]
    assert record(device) == [BAD]
    assert io.read(device, Extent(0, BAD.offset)) == OLD[: BAD.offset]
    rest = Extent.between(BAD.end, MIB)
    assert io.read(device, rest) == old(rest)


def test_a_write_counts_up_to_the_page_it_cannot_heal(device: PmemDevice) -> None:
    """R17."""
    device.inject(Extent(2 * PAGE, SECTOR))
    device.inject(Extent(3 * PAGE, SECTOR))
    extent = Extent(PAGE, 2 * PAGE + 100)
    assert io.write(device, extent.offset, new(extent)) == 2 * PAGE
    assert record(device) == [Extent(3 * PAGE, SECTOR)]
    assert io.read(device, Extent(PAGE, 2 * PAGE)) == new(Extent(PAGE, 2 * PAGE))
    with pytest.raises(MediaError):
        io.write(device, 3 * PAGE, new(Extent(3 * PAGE, 100)))


def test_a_write_over_latent_poison_succeeds_and_the_next_read_fails(device: PmemDevice) -> None:
    """R5."""
    device.inject(BAD, latent=True)
    assert io.write(device, PAGE, new(BAD_PAGE)) == PAGE
    with pytest.raises(MediaError):
        io.read(device, BAD)


@pytest.mark.parametrize("write", [io.write, io.write_raw])
def test_without_recovery_a_bad_page_is_eio_and_good_pages_are_written(
    device: PmemDevice, write: io.Write
) -> None:
    """R23."""
    device.inject(BAD)
    with pytest.raises(BadBlockError):
        write(device, PAGE, new(BAD_PAGE), Recovery.NEVER)
    assert write(device, 0, new(Extent(0, 3 * PAGE)), Recovery.NEVER) == PAGE
    assert record(device) == [BAD]


def test_always_skips_the_normal_attempt(
    device: PmemDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R23."""
    modes: list[AccessMode] = []
    normal = device.direct_access

    def direct_access(extent: Extent, mode: AccessMode) -> Window:
        modes.append(mode)
        return normal(extent, mode)

    monkeypatch.setattr(device, "direct_access", direct_access)
    device.inject(BAD)
    assert io.write(device, 0, new(Extent(0, 4 * PAGE)), Recovery.ALWAYS) == 4 * PAGE
    assert AccessMode.NORMAL not in modes
    assert record(device) == []


def test_pages_in_a_row_heal_as_one_operation(device: PmemDevice) -> None:
    """R14: one recovery for a stretch of bad pages, not one for each."""
    stretch = Extent(PAGE, 6 * PAGE)
    device.inject(stretch)
    seen: list[Event] = []
    device.events.subscribe(seen.append)
    io.write(device, 0, NEW)
    assert seen == [RecoveryDone(stretch)]


@pytest.mark.parametrize("write", [io.write, io.write_raw])
@pytest.mark.parametrize("recovery", Recovery)
def test_a_write_past_the_end_is_refused_before_it_changes_anything(
    device: PmemDevice, write: io.Write, recovery: Recovery
) -> None:
    with pytest.raises(UsageError):
        write(device, MIB - PAGE, bytes(PAGE + 1), recovery)
    assert_content(device, Extent(0, 0), b"")


# -- the raw device (R33) ----------------------------------------------------------------------


def test_a_sector_write_heals_its_sector_and_leaves_the_next_one_bad(device: PmemDevice) -> None:
    device.inject(Extent(BAD.offset, 2 * SECTOR))
    assert io.write_raw(device, BAD.offset, new(BAD)) == SECTOR
    assert record(device) == [Extent(BAD.end, SECTOR)]
    assert io.read(device, BAD) == new(BAD)


def test_less_than_a_sector_of_a_bad_one_is_refused_and_of_a_good_one_is_written(
    device: PmemDevice,
) -> None:
    device.inject(BAD)
    seen: list[Event] = []
    device.events.subscribe(seen.append)
    with pytest.raises(BadBlockError):
        io.write_raw(device, BAD.offset + 1, bytes(SECTOR - 1))
    assert isinstance(seen[-1], RecoveryRefused)
    beside = Extent(BAD.end + 10, 100)
    assert io.write_raw(device, beside.offset, new(beside)) == 100
    assert io.read(device, beside) == new(beside)
    assert record(device) == [BAD]


def test_a_raw_write_counts_up_to_the_sector_it_cannot_heal(device: PmemDevice) -> None:
    """R17 with the sector as the unit."""
    device.inject(BAD)
    extent = Extent.between(BAD.offset - 1000, BAD.offset + 100)
    assert io.write_raw(device, extent.offset, new(extent)) == 1000
    assert record(device) == [BAD]


# -- zeroing (R29, R30) ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "extent",
    [
        Extent(PAGE, PAGE),
        Extent(100, 3 * PAGE),
        Extent(PAGE + 10, PAGE - 20),
        Extent(BAD.offset, SECTOR),
        Extent(0, MIB),
        Extent(7 * PAGE, 0),
    ],
    ids=str,
)
def test_zeroing_sets_exactly_its_range_to_zeros_and_heals(
    device: PmemDevice, extent: Extent
) -> None:
    """R29: poison that nobody knew of goes too where the page is zeroed whole."""
    if extent.length:
        device.inject(BAD)
    if extent.length >= PAGE:
        device.inject(Extent(PAGE, CACHELINE), latent=True)
    io.zeroinit(device, extent)
    assert_content(device, extent, bytes(extent.length))
    assert list(device.poison(ALL)) == []


@pytest.mark.parametrize(
    ("extent", "bad"),
    [
        (Extent(PAGE - 100, 3 * PAGE), Extent(0, SECTOR)),
        (Extent(PAGE, 2 * PAGE + 100), Extent(3 * PAGE + 2 * SECTOR, SECTOR)),
        (Extent(PAGE + 600, 50), Extent(PAGE + SECTOR, SECTOR)),
    ],
    ids=["head", "tail", "inside one page"],
)
def test_an_edge_that_cannot_be_healed_stops_the_zeroing_before_it_begins(
    device: PmemDevice, extent: Extent, bad: Extent
) -> None:
    """R30."""
    device.inject(bad)
    device.inject(Extent(2 * PAGE, SECTOR))
    before = record(device)
    with pytest.raises(MediaError):
        io.zeroinit(device, extent)
    assert record(device) == before
    device.uninject(ALL)
    for run in before:
        device.recovery_write(run.widened(PAGE).offset, old(run.widened(PAGE)))
    assert_content(device, Extent(0, 0), b"")


# -- devices that break their word, and records that change (R19) ------------------------------


class Meddled:
    """A device that something happens to at each load through its windows."""

    def __init__(self, device: PmemDevice) -> None:
        self._device = device
        self.at_load: Callable[[], object] = lambda: None
        self.length: int | None = None  # of every window, if not None

    def __getattr__(self, name: str) -> object:
        return getattr(self._device, name)

    def read_clean(self, offset: int, length: int) -> None:
        """It knows of no clean range: every read goes through a window."""

    def direct_access(self, extent: Extent, mode: AccessMode) -> Window:
        window = self._device.direct_access(extent, mode)
        length = window.length if self.length is None else self.length
        return MeddledWindow(window, length, self)


class MeddledWindow(Window):
    """Copies, and then something happens."""

    def __init__(self, window: Window, length: int, meddled: Meddled) -> None:
        super().__init__(window._memory, window._offset, length)
        self.meddled = meddled

    def load(self, offset: int, length: int) -> bytes:
        data = super().load(offset, length)
        self.meddled.at_load()
        return data


@pytest.mark.parametrize("is_beside", [False, True], ids=["clean page", "beside a bad sector"])
def test_a_read_whose_record_changed_under_the_copy_looks_again(
    device: PmemDevice, is_beside: bool
) -> None:
    """R19: what was copied may be the zeros of a recovery that has failed by now."""
    meddled = Meddled(device)
    if is_beside:
        device.inject(Extent(BAD_PAGE.end - SECTOR, SECTOR))
    changes: list[Callable[[], object]] = [lambda: device.inject(BAD)]

    def change() -> None:
        if changes:
            changes.pop()()

    meddled.at_load = change
    extent = Extent(PAGE, 4 * SECTOR)
    assert io.read(meddled, extent) == OLD[PAGE : BAD.offset]  # type: ignore[arg-type]
    changes.append(lambda: device.recovery_write(PAGE, new(BAD_PAGE)))
    short = Extent(PAGE, SECTOR)
    assert io.read(meddled, short) == new(short)  # type: ignore[arg-type]


@pytest.mark.parametrize("healed", [False, True])
def test_a_straight_copy_whose_record_changed_meanwhile_is_not_used(
    device: PmemDevice, monkeypatch: pytest.MonkeyPatch, healed: bool
) -> None:
    """R19: without a window, too; also if the record is what it was by then."""
    extent = Extent(PAGE, 4 * SECTOR)
    assert io.read(device, extent) == device.read_clean(*extent) == OLD[PAGE : extent.end]
    load_clean = device._medium.load_clean

    def change(offset: int, length: int) -> bytes | None:
        monkeypatch.undo()
        data = load_clean(offset, length)
        device.inject(BAD)
        if healed:
            device.recovery_write(PAGE, new(BAD_PAGE))
        return data

    monkeypatch.setattr(device._medium, "load_clean", change)
    assert device.read_clean(*extent) is None
    assert io.read(device, extent) == (new(extent) if healed else OLD[PAGE : BAD.offset])


@pytest.mark.parametrize("extent", [Extent(-1, 2), Extent(2, -1), Extent(MIB, 1)], ids=str)
def test_a_straight_copy_of_what_is_no_range_of_the_device_is_refused(
    device: PmemDevice, extent: Extent
) -> None:
    io.read(device, Extent(0, MIB))
    assert device.read_clean(*extent) is device.view_clean(*extent) is None
    with pytest.raises(UsageError):
        io.read(device, extent)


def test_a_recovery_begins_with_a_new_sequence(
    device: PmemDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R19: a reader that copies while the medium clears must look again, and wait for the end."""
    device.inject(BAD)
    before, seen = device.sequence, []
    write = device._healer.write
    monkeypatch.setattr(
        device._healer, "write", lambda request: seen.append(device.sequence) or write(request)
    )
    device.recovery_write(PAGE, new(BAD_PAGE))
    assert before < seen[0] < device.sequence


@pytest.mark.parametrize("offset", [0, PAGE])
def test_a_device_that_gives_an_empty_window_is_an_error_and_no_endless_loop(
    device: PmemDevice, offset: int
) -> None:
    device.inject(BAD)
    meddled = Meddled(device)
    meddled.length = 0
    for access in (
        lambda: io.read(meddled, Extent(offset, SECTOR)),  # type: ignore[arg-type]
        lambda: io.write(meddled, 8 * PAGE + offset, bytes(PAGE)),  # type: ignore[arg-type]
        lambda: io.write_raw(meddled, 8 * PAGE, bytes(7)),  # type: ignore[arg-type]
    ):
        with pytest.raises(DaxmendError, match="empty window"):
            access()
    assert io.read(meddled, Extent(offset, 0)) == b""  # type: ignore[arg-type]


def test_what_lies_behind_the_owned_end_becomes_zeros_in_a_page_that_heals_r16(
    device: PmemDevice,
) -> None:
    """What was there is nobody's, or was somebody else's: a longer file must not show it."""
    device.inject(Extent(PAGE + 2 * SECTOR, SECTOR))  # behind the end, and so it is covered
    end = PAGE + SECTOR + 7
    assert io.write(device, PAGE + 5, b"n" * (end - PAGE - 5), owned_end=end) == SECTOR + 2
    expected = old(Extent(PAGE, 5)) + b"n" * (SECTOR + 2) + bytes(2 * PAGE - end)
    assert_content(device, BAD_PAGE, expected)
