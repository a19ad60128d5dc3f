"""Media errors in files: R10–R18, R23, R29–R32 in process, and who is told of them (R42)."""

import random
import stat
from collections.abc import Callable, Iterator

import pytest

from daxmend.dax.api import Recovery, SectorState
from daxmend.errors import BadBlockError, MediaError
from daxmend.events import Event, FileDamaged, MetadataHealed, RecoveryRefused, SpaceCleared
from daxmend.extent import Extent
from daxmend.fs import FileSystem, OwnerKind, make_file_system
from daxmend.media.pool import MediumKind, create_memory_pool
from daxmend.pmem.device import PmemDevice
from daxmend.units import CACHELINE, MIB, PAGE, SECTOR
from fswalk import bad_owners, content

MakeFile = Callable[..., int]
NOISE = random.Random(4).randbytes(8 * PAGE)
SIZE = 4 * PAGE


@pytest.fixture
def ino(make_file: MakeFile) -> int:
    """A file of four pages in one extent."""
    return make_file(NOISE[:SIZE], b"victim")


def place(fs: FileSystem, ino: int, offset: int) -> int:
    """Where a byte of a file lies on the device."""
    ((_, found),) = fs.device_extents(ino, Extent(offset, 1))
    return found.offset


def hurt(fs: FileSystem, ino: int, offset: int, length: int, *, latent: bool = False) -> Extent:
    """Make a range of a file bad; returns where on the device."""
    extent = Extent(place(fs, ino, offset), length)
    fs.device.inject(extent, latent=latent)  # type: ignore[attr-defined]
    return extent


def scrub(fs: FileSystem) -> None:
    for _ in fs.device.scrub(Extent(0, fs.device.size)):
        pass


def tidy(fs: FileSystem) -> None:
    while fs.tidy():
        pass


def record(fs: FileSystem) -> list[Extent]:
    return [run for run, _ in fs.device.badblocks(Extent(0, fs.device.size))]


def shape(fs: FileSystem, ino: int) -> list[tuple[int, ...]]:
    return [tuple(mapping) for mapping in fs.extents(ino)]


# -- reading -----------------------------------------------------------------------------------


@pytest.mark.parametrize("latent", [False, True])
def test_a_read_stops_before_a_bad_sector_and_fails_at_it_r10_r11(
    fs: FileSystem, ino: int, latent: bool
) -> None:
    hurt(fs, ino, PAGE + 2 * SECTOR, CACHELINE, latent=latent)
    assert fs.read(ino, 0, SIZE) == NOISE[: PAGE + 2 * SECTOR]
    with pytest.raises(MediaError):
        fs.read(ino, PAGE + 2 * SECTOR, 10)
    rest = PAGE + 3 * SECTOR
    assert fs.read(ino, rest, SIZE) == NOISE[rest:SIZE]
    assert fs.bad_ranges(ino) == [Extent(PAGE + 2 * SECTOR, SECTOR)]


def test_a_read_stops_at_an_extent_that_begins_with_a_bad_sector_r11(
    fs: FileSystem, make_file: MakeFile
) -> None:
    ino = make_file(NOISE[:PAGE])
    fs.write(ino, 2 * PAGE, NOISE[:PAGE])
    hurt(fs, ino, 2 * PAGE, 1)
    assert fs.read(ino, 10, 3 * PAGE) == NOISE[10:PAGE] + bytes(PAGE)
    with pytest.raises(MediaError):
        fs.read(ino, 2 * PAGE, PAGE)


def test_a_view_of_bad_bytes_is_refused(fs: FileSystem, ino: int) -> None:
    assert fs.read(ino, 0, 10) == NOISE[:10]
    hurt(fs, ino, 0, SECTOR)
    assert fs.view(ino, 0, 100) is None


def test_bad_ranges_are_cut_to_the_file(fs: FileSystem, ino: int) -> None:
    fs.truncate(ino, SIZE - 100)
    hurt(fs, ino, SIZE - 2 * SECTOR, 2 * SECTOR)
    assert fs.bad_ranges(ino) == [Extent(SIZE - 2 * SECTOR, 2 * SECTOR - 100)]


def test_holes_and_unwritten_pages_read_as_zeros_over_bad_ones_r13(
    fs: FileSystem, make_file: MakeFile
) -> None:
    ino = make_file()
    fs.fallocate(ino, 0, SIZE)
    (mapping,) = fs.extents(ino)
    fs.device.inject(Extent(mapping.device_offset, SIZE))  # type: ignore[attr-defined]
    assert content(fs, ino) == bytes(SIZE)
    assert fs.bad_ranges(ino) == []
    assert fs.write(ino, PAGE + 10, b"partly") == 6
    assert fs.read(ino, PAGE, PAGE) == bytes(10) + b"partly" + bytes(PAGE - 16)
    assert shape(fs, ino)[0][1] == mapping.device_offset
    assert sum(run.length for run in record(fs)) == SIZE - PAGE


# -- writing -----------------------------------------------------------------------------------


@pytest.mark.parametrize("latent", [False, True])
def test_an_aligned_write_heals_without_new_extents_r14(
    fs: FileSystem, ino: int, latent: bool
) -> None:
    hurt(fs, ino, PAGE, 2 * PAGE, latent=latent)
    if latent:
        scrub(fs)
    before = shape(fs, ino)
    assert fs.write(ino, PAGE, b"h" * 2 * PAGE) == 2 * PAGE
    assert shape(fs, ino) == before
    assert record(fs) == []
    assert content(fs, ino) == NOISE[:PAGE] + b"h" * 2 * PAGE + NOISE[3 * PAGE : SIZE]


def test_unaligned_ends_around_bad_pages_heal_them_r15(fs: FileSystem, ino: int) -> None:
    hurt(fs, ino, PAGE + SECTOR, PAGE)
    assert fs.write(ino, 100, b"h" * (3 * PAGE)) == 3 * PAGE
    assert record(fs) == []
    assert content(fs, ino) == NOISE[:100] + b"h" * 3 * PAGE + NOISE[3 * PAGE + 100 : SIZE]


def test_a_write_that_covers_all_that_is_bad_keeps_the_rest_r16(fs: FileSystem, ino: int) -> None:
    hurt(fs, ino, PAGE + SECTOR, SECTOR)
    assert fs.write(ino, PAGE + SECTOR, b"h" * SECTOR) == SECTOR
    assert record(fs) == []
    middle = NOISE[PAGE : PAGE + SECTOR] + b"h" * SECTOR + NOISE[PAGE + 2 * SECTOR : 2 * PAGE]
    assert fs.read(ino, PAGE, PAGE) == middle


def test_a_write_that_covers_less_is_refused_with_a_warning_r16(
    fs: FileSystem, ino: int, events: list[Event]
) -> None:
    bad = hurt(fs, ino, PAGE + SECTOR, SECTOR)
    with pytest.raises(BadBlockError):
        fs.write(ino, PAGE, b"h" * SECTOR)
    assert fs.read(ino, PAGE, SECTOR) == NOISE[PAGE : PAGE + SECTOR]
    refused = [event for event in events if isinstance(event, RecoveryRefused)]
    assert [event.extent for event in refused] == [bad.widened(PAGE)]


def test_bytes_behind_the_end_of_the_file_count_as_covered_r16(
    fs: FileSystem, make_file: MakeFile
) -> None:
    ino = make_file(NOISE[: PAGE + 100])
    hurt(fs, ino, PAGE, PAGE)
    assert fs.write(ino, PAGE, b"t" * 100) == 100
    assert record(fs) == []
    fs.truncate(ino, 2 * PAGE)
    assert fs.read(ino, PAGE, PAGE) == b"t" * 100 + bytes(PAGE - 100)


def test_a_write_that_ends_inside_the_file_covers_nothing_more(
    fs: FileSystem, make_file: MakeFile
) -> None:
    ino = make_file(NOISE[: PAGE + 1000])
    hurt(fs, ino, PAGE, 2 * SECTOR)
    with pytest.raises(BadBlockError):
        fs.write(ino, PAGE, b"t" * 999)
    assert fs.write(ino, PAGE, b"t" * 1024) == 1024
    assert record(fs) == []


def test_a_write_gives_the_prefix_before_a_page_it_cannot_heal_r17(
    fs: FileSystem, ino: int
) -> None:
    hurt(fs, ino, 2 * PAGE + 3 * SECTOR, SECTOR)
    assert fs.write(ino, 100, b"p" * (2 * PAGE + SECTOR)) == 2 * PAGE - 100
    with pytest.raises(MediaError):
        fs.write(ino, 2 * PAGE, b"p" * (SECTOR + 100))
    wanted = NOISE[:100] + b"p" * (2 * PAGE - 100) + NOISE[2 * PAGE : 2 * PAGE + 3 * SECTOR]
    assert fs.read(ino, 0, SIZE) == wanted


def test_growing_over_a_page_that_cannot_be_healed_grows_to_the_prefix_r17(
    fs: FileSystem, ino: int
) -> None:
    hurt(fs, ino, SIZE - PAGE, SECTOR)
    count = fs.write(ino, SIZE - PAGE - 10, b"g" * 20)
    assert count == 10
    assert fs.stat(ino).size == SIZE


def test_recovery_can_be_forbidden_and_demanded_r23(fs: FileSystem, ino: int) -> None:
    hurt(fs, ino, PAGE, SECTOR)
    with pytest.raises(MediaError):
        fs.write(ino, PAGE, b"n" * PAGE, Recovery.NEVER)
    assert fs.write(ino, PAGE, b"y" * PAGE, Recovery.ALWAYS) == PAGE
    fs.device.allows_recovery = False
    hurt(fs, ino, PAGE, SECTOR)
    with pytest.raises(MediaError):
        fs.write(ino, PAGE, b"n" * PAGE)
    fs.truncate(ino, PAGE + 10)  # R32: it never fails
    with pytest.raises(MediaError):
        fs.zeroinit(ino, 0, 2 * PAGE)
    fs.device.allows_recovery = True
    assert fs.write(ino, PAGE, b"y" * 10) == 10


@pytest.mark.parametrize("kind", [MediumKind.PLAIN, MediumKind.REFUSES, MediumKind.LIES])
def test_a_truncation_into_a_page_that_cannot_be_healed_does_not_fail_r32(
    kind: MediumKind,
) -> None:
    """What lies bad behind the new end stays so, and is EIO and not old bytes if the file grows."""
    device = PmemDevice(create_memory_pool(MIB, kind))
    make_file_system(device)
    fs = FileSystem(device, commits_each=True)
    ino = fs.make(fs.root, b"f", stat.S_IFREG | 0o644, 0, 0)
    fs.write(ino, 0, NOISE[:SIZE])
    bad = hurt(fs, ino, PAGE + SECTOR, SECTOR)
    device.allows_recovery = kind is not MediumKind.PLAIN
    fs.truncate(ino, PAGE + 10)
    assert fs.stat(ino).size == PAGE + 10
    assert record(fs)[0].offset == bad.offset
    assert fs.read(ino, PAGE, 100) == NOISE[PAGE : PAGE + 10]
    fs.truncate(ino, 2 * PAGE)
    assert fs.read(ino, PAGE, PAGE) == NOISE[PAGE : PAGE + 10] + bytes(SECTOR - 10)
    with pytest.raises(MediaError):
        fs.read(ino, PAGE + SECTOR, SECTOR)
    rest = fs.read(ino, PAGE + 2 * SECTOR, PAGE - 2 * SECTOR)
    assert rest == bytes(len(rest))
    fs.close()
    device.close()


@pytest.mark.parametrize("allows_recovery", [True, False])
@pytest.mark.parametrize("kind", list(MediumKind))
def test_what_was_truncated_away_of_bad_sectors_is_not_salvaged_r32_r12(
    kind: MediumKind, allows_recovery: bool
) -> None:
    """A repair once brought it back, for it keeps the good lines of a bad sector."""
    for line in range(3 * SECTOR // CACHELINE):
        device = PmemDevice(create_memory_pool(MIB, kind))
        make_file_system(device)
        fs = FileSystem(device, commits_each=False)
        ino = fs.make(fs.root, b"f", stat.S_IFREG | 0o644, 0, 0)
        fs.write(ino, 0, b"A" * SIZE)
        hurt(fs, ino, PAGE + line * CACHELINE, CACHELINE, latent=True)
        scrub(fs)
        device.allows_recovery = allows_recovery
        fs.truncate(ino, PAGE + 700)
        fs.truncate(ino, 2 * PAGE)
        page = Extent(place(fs, ino, PAGE), PAGE)
        salvage = device.recovery_read(page)
        wanted = b"A" * 700 + bytes(PAGE - 700)
        lost = bytearray(PAGE)
        for run in salvage.lost:
            lost[run.offset - page.offset : run.end - page.offset] = b"\1" * run.length
        assert lost.count(1) in (0, CACHELINE, SECTOR)
        assert not any(
            found != byte and not is_lost
            for found, byte, is_lost in zip(salvage.data, wanted, lost, strict=True)
        )
        fs.close()
        device.close()


@pytest.mark.parametrize("allows_recovery", [True, False])
@pytest.mark.parametrize("kind", [MediumKind.LIES, MediumKind.CLEARS_PART])
def test_what_a_failed_recovery_kept_is_zeros_where_it_was_truncated_away_r32_r12(
    kind: MediumKind, allows_recovery: bool
) -> None:
    """It once came back with a salvage, and with a repair into the file that had grown again."""
    device = PmemDevice(create_memory_pool(MIB, kind))
    make_file_system(device)
    fs = FileSystem(device, commits_each=False)
    ino = fs.make(fs.root, b"f", stat.S_IFREG | 0o644, 0, 0)
    fs.write(ino, 0, b"A" * SIZE)
    hurt(fs, ino, PAGE + 2 * SECTOR + CACHELINE, CACHELINE, latent=True)
    scrub(fs)
    with pytest.raises(MediaError):
        fs.write(ino, PAGE + 2 * SECTOR, b"n" * SECTOR)
    device.allows_recovery = allows_recovery
    page = Extent(place(fs, ino, PAGE), PAGE)
    assert device.recovery_read(page).data.count(b"A") == PAGE - SECTOR
    fs.truncate(ino, PAGE + 700)
    assert device.recovery_read(page) == (b"A" * 700 + bytes(PAGE - 700), [])
    fs.truncate(ino, 2 * PAGE)
    assert device.recovery_read(page) == (b"A" * 700 + bytes(PAGE - 700), [])
    with pytest.raises(MediaError):
        fs.read(ino, PAGE, PAGE)
    fs.close()
    device.close()


def test_a_hole_is_never_filled_with_bad_pages(fs: FileSystem, make_file: MakeFile) -> None:
    for extent in list(fs._space._free)[:1]:
        for page in range(0, 60, 2):
            fs.device.inject(Extent(extent.offset + page * PAGE, SECTOR))  # type: ignore[attr-defined]
    ino = make_file(NOISE * 10)
    assert content(fs, ino) == NOISE * 10
    assert fs.bad_ranges(ino) == []


@pytest.mark.parametrize("kind", [MediumKind.REFUSES, MediumKind.LIES])
def test_what_the_medium_does_not_clear_stays_bad_and_nothing_is_lost_r21(
    kind: MediumKind,
) -> None:
    device = PmemDevice(create_memory_pool(MIB, kind))
    make_file_system(device)
    fs = FileSystem(device, commits_each=True)
    ino = fs.make(fs.root, b"f", stat.S_IFREG | 0o644, 0, 0)
    fs.write(ino, 0, NOISE[:SIZE])
    hurt(fs, ino, PAGE, SECTOR)
    with pytest.raises(MediaError):
        fs.write(ino, PAGE, b"h" * PAGE)
    assert fs.bad_ranges(ino)[0].offset == PAGE
    free = fs.statfs().bfree
    fs.fallocate(ino, SIZE, 2 * PAGE)
    hurt_unwritten = next(each for each in fs.extents(ino) if not each.is_written)
    device.inject(Extent(hurt_unwritten.device_offset, SECTOR))
    with pytest.raises(MediaError):
        fs.write(ino, SIZE, b"u" * PAGE)
    assert fs.read(ino, SIZE, PAGE) == bytes(PAGE), "unwritten still"
    fs.truncate(ino, PAGE + 10)
    fs.truncate(ino, 0)
    tidy(fs)
    assert fs.statfs().bfree == free + SIZE // PAGE
    assert fs.quarantined(), "never to be used again"
    fs.close()
    device.close()


# -- zeroing and freeing -----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["zeroinit", "zero_range"])
def test_zeroing_heals_in_place_r29(fs: FileSystem, ino: int, name: str) -> None:
    hurt(fs, ino, PAGE, SECTOR)
    hurt(fs, ino, 2 * PAGE, CACHELINE, latent=True)
    before = shape(fs, ino)
    getattr(fs, name)(ino, 0, SIZE)
    assert shape(fs, ino) == before
    assert content(fs, ino) == bytes(SIZE)
    assert record(fs) == []


@pytest.mark.parametrize("name", ["zeroinit", "zero_range", "punch"])
def test_an_edge_that_cannot_be_healed_fails_and_nothing_changed_r30(
    fs: FileSystem, ino: int, name: str
) -> None:
    for bad in (100, SIZE - 100):
        hurt(fs, ino, bad, 1)
        before = fs.stat(ino)
        with pytest.raises(MediaError):
            getattr(fs, name)(ino, 1000, SIZE - 2000)
        good = fs.read(ino, SECTOR, SIZE)
        assert good == NOISE[SECTOR : SECTOR + len(good)]
        assert len(good) >= SIZE - 2 * SECTOR
        assert fs.stat(ino) == before
        fs.write(ino, bad // PAGE * PAGE, NOISE[bad // PAGE * PAGE :][:PAGE])


@pytest.mark.parametrize("name", ["zeroinit", "zero_range", "punch"])
@pytest.mark.parametrize("recovery", [True, False])
def test_what_is_bad_behind_the_end_stops_no_zeroing_before_it_r16_r30(
    fs: FileSystem, ino: int, name: str, recovery: bool
) -> None:
    fs.truncate(ino, 3 * PAGE + 1000)
    hurt(fs, ino, 3 * PAGE + 999, 1)  # of a sector that is the file's in part: it heals as a whole
    fs.write(ino, 3 * PAGE + 512, NOISE[:488])
    fs.device.inject(Extent(place(fs, ino, 3 * PAGE) + 7 * SECTOR, SECTOR))  # type: ignore[attr-defined]
    fs.device.allows_recovery = recovery
    if recovery:
        getattr(fs, name)(ino, 3 * PAGE + 100, 200)
        assert record(fs) == []
        wanted = NOISE[3 * PAGE :][:100] + bytes(200) + NOISE[3 * PAGE + 300 :][:212] + NOISE[:488]
        assert fs.read(ino, 3 * PAGE, PAGE) == wanted
    else:
        with pytest.raises(MediaError):
            getattr(fs, name)(ino, 3 * PAGE + 100, 200)
        assert fs.read(ino, 3 * PAGE, 512) == NOISE[3 * PAGE :][:512]
        fs.device.allows_recovery = True


def test_a_failure_of_pages_that_changed_hands_is_not_the_readers(
    fs: FileSystem, ino: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader beside a truncation, whose pages somebody else got meanwhile."""
    fs.read(ino, 0, PAGE)
    read = fs.device.read_clean
    calls: list[Extent] = []

    def read_late(offset: int, length: int) -> bytes | None:
        if not calls:
            calls.append(Extent(offset, length))
            fs.truncate(ino, 0)
            fs.sync()
            fs.device.inject(calls[0])  # type: ignore[attr-defined]
        return read(offset, length)

    monkeypatch.setattr(fs.device, "read_clean", read_late)
    assert fs.read(ino, 0, PAGE) == b""
    assert calls


def test_a_punched_bad_page_is_quarantined_cleared_and_only_then_reused_r31(
    device: PmemDevice, fs: FileSystem, ino: int, events: list[Event]
) -> None:
    bad = hurt(fs, ino, PAGE, SECTOR)
    fs.punch(ino, PAGE, PAGE)
    fs.sync()
    assert fs.quarantined() == [bad.widened(PAGE)]
    assert fs.owners(bad)[0].kind is OwnerKind.FREE
    assert bad_owners(fs)[0].kind is OwnerKind.FREE
    assert fs.read(ino, PAGE, PAGE) == bytes(PAGE)
    tidy(fs)
    assert fs.quarantined() == []
    assert record(fs) == []
    assert list(device.poison(Extent(0, MIB))) == []
    assert SpaceCleared(bad.widened(PAGE)) in events
    assert fs._space._free.covers(bad.widened(PAGE))


def test_quarantine_is_found_again_after_a_restart_r31(
    device: PmemDevice, fs: FileSystem, ino: int
) -> None:
    bad = hurt(fs, ino, PAGE, SECTOR)
    fs.unlink(fs.root, b"victim")
    fs.close()
    again = FileSystem(device, commits_each=True)
    assert bad_owners(again)[0].kind is OwnerKind.FREE
    tidy(again)
    assert record(again) == []
    assert again._space._free.covers(bad.widened(PAGE))
    again.close()


def test_latent_poison_in_free_space_is_found_and_cleared_r31(
    device: PmemDevice, fs: FileSystem
) -> None:
    free = next(iter(fs._space._free))
    device.inject(Extent(free.offset + 5 * PAGE, CACHELINE), latent=True)
    scrub(fs)
    assert fs.quarantined() == [Extent(free.offset + 5 * PAGE, PAGE)]
    tidy(fs)
    assert list(device.poison(Extent(0, MIB))) == []
    assert fs.quarantined() == []


def test_a_record_of_any_size_is_looked_at_in_slices_r31(monkeypatch: pytest.MonkeyPatch) -> None:
    device = PmemDevice(create_memory_pool(64 * MIB))
    make_file_system(device)
    for at in range(9 * MIB, 60 * MIB, MIB):
        device.inject(Extent(at, SECTOR))
    fs = FileSystem(device, commits_each=False)
    asked: list[int] = []
    badblocks = device.badblocks

    def ask(extent: Extent) -> Iterator[tuple[Extent, SectorState]]:
        asked.append(extent.length)
        return badblocks(extent)

    monkeypatch.setattr(device, "badblocks", ask)
    assert fs.tidy(), "others have their turn"
    tidy(fs)
    assert max(asked) <= 8 * MIB
    assert record(fs) == fs.quarantined() == []
    fs.close()
    device.close()


@pytest.mark.parametrize("size", [PAGE + 1, PAGE + SECTOR, PAGE + 3 * SECTOR + 7, 2 * PAGE - 1])
@pytest.mark.parametrize("bad", [0, 3, 7])
def test_truncation_into_a_bad_page_keeps_what_is_bad_and_zeroes_the_rest_r32(
    fs: FileSystem, ino: int, size: int, bad: int
) -> None:
    sector = Extent(PAGE + bad * SECTOR, SECTOR)
    hurt(fs, ino, sector.offset, SECTOR)
    fs.truncate(ino, size)
    is_kept = sector.offset < size
    assert fs.bad_ranges(ino) == ([sector.intersection(Extent(0, size))] if is_kept else [])
    assert record(fs) == ([sector.shifted(place(fs, ino, PAGE) - PAGE)] if is_kept else [])
    fs.truncate(ino, 2 * PAGE)
    model = bytearray(NOISE[:size] + bytes(2 * PAGE - size))
    if is_kept:
        assert fs.read(ino, 0, SIZE) == model[: sector.offset]
        with pytest.raises(MediaError):
            fs.read(ino, sector.offset, 1)
        assert fs.read(ino, sector.end, SIZE) == model[sector.end :]
    else:
        assert content(fs, ino) == model


def test_what_goes_bad_behind_the_end_is_zeros_when_the_file_grows_r32(
    fs: FileSystem, ino: int
) -> None:
    fs.truncate(ino, PAGE + 10)
    device_page = place(fs, ino, PAGE)
    fs.device.inject(Extent(device_page + 2 * SECTOR, SECTOR))  # type: ignore[attr-defined]
    assert fs.bad_ranges(ino) == []
    fs.truncate(ino, PAGE + 2 * SECTOR + 5)
    assert content(fs, ino) == NOISE[: PAGE + 10] + bytes(2 * SECTOR - 5)
    assert record(fs) == []


# -- news --------------------------------------------------------------------------------------


def test_damage_names_file_offset_and_length_r42(
    fs: FileSystem, make_file: MakeFile, events: list[Event]
) -> None:
    directory = fs.make(fs.root, b"dir", stat.S_IFDIR | 0o755, 0, 0)
    ino = fs.make(directory, b"f\xff", stat.S_IFREG | 0o644, 0, 0)
    fs.write(ino, 3 * PAGE, NOISE[: 2 * PAGE])
    bad = hurt(fs, ino, 4 * PAGE + SECTOR, SECTOR)
    path = "/dir/f\udcff"
    assert [event for event in events if isinstance(event, FileDamaged)] == [
        FileDamaged(bad, path, ino, 4 * PAGE + SECTOR, SECTOR)
    ]
    (owner,) = fs.owners(bad)
    assert owner == (bad, OwnerKind.FILE, ino, 4 * PAGE + SECTOR, b"/dir/f\xff")


def test_consumed_latent_poison_is_told_like_any_other_r3(
    fs: FileSystem, ino: int, events: list[Event]
) -> None:
    bad = hurt(fs, ino, 100 * CACHELINE, CACHELINE, latent=True)
    assert not [event for event in events if isinstance(event, FileDamaged)]
    assert len(fs.read(ino, 0, SIZE)) == 100 * CACHELINE // SECTOR * SECTOR
    (event,) = [event for event in events if isinstance(event, FileDamaged)]
    assert (event.extent, event.ino) == (bad.widened(SECTOR), ino)


def test_one_range_is_split_between_its_owners_r42(
    fs: FileSystem, make_file: MakeFile, events: list[Event]
) -> None:
    first, second = make_file(NOISE[:PAGE], b"1"), make_file(NOISE[:PAGE], b"2")
    start = place(fs, first, 0)
    assert place(fs, second, 0) == start + PAGE
    fs.device.inject(Extent(start + SECTOR, 3 * PAGE))  # type: ignore[attr-defined]
    told = [
        (event.path, event.file_offset, event.file_length)
        for event in events
        if isinstance(event, FileDamaged)
    ]
    assert told == [("/1", SECTOR, PAGE - SECTOR), ("/2", 0, PAGE)]
    owners = fs.owners(Extent(start + SECTOR, 3 * PAGE))
    assert [owner.kind for owner in owners] == [OwnerKind.FILE, OwnerKind.FILE, OwnerKind.FREE]
    assert [owner.extent.length for owner in owners] == [PAGE - SECTOR, PAGE, PAGE + SECTOR]


def test_bytes_that_nobody_can_read_are_no_damage_to_a_file_r13_r16(
    fs: FileSystem, make_file: MakeFile, events: list[Event]
) -> None:
    """Behind the end, and allocated but not written: neither is said to be damaged."""
    ino = make_file(NOISE[: 2 * PAGE])
    fs.truncate(ino, PAGE + 3 * SECTOR + 100)
    page = place(fs, ino, PAGE)
    fs.device.inject(Extent(page + 4 * SECTOR, SECTOR))  # type: ignore[attr-defined]
    sparse = make_file()
    fs.fallocate(sparse, 0, 3 * PAGE)
    (unwritten,) = fs.extents(sparse)
    fs.device.inject(Extent(unwritten.device_offset, 3 * PAGE))  # type: ignore[attr-defined]
    assert not [event for event in events if isinstance(event, FileDamaged)]
    bad = Extent(page + 2 * SECTOR, 2 * SECTOR)
    fs.device.inject(bad)  # type: ignore[attr-defined]
    assert [event for event in events if isinstance(event, FileDamaged)] == [
        FileDamaged(
            Extent(bad.offset, SECTOR + 100),
            fs.path(ino).decode(),
            ino,
            PAGE + 2 * SECTOR,
            SECTOR + 100,
        )
    ]


def test_paths_follow_renames_and_end_with_the_last_name(fs: FileSystem, ino: int) -> None:
    assert fs.path(fs.root) == b"/"
    assert fs.path(ino) == b"/victim"
    directory = fs.make(fs.root, b"d", stat.S_IFDIR | 0o755, 0, 0)
    fs.rename(fs.root, b"victim", directory, b"x")
    assert fs.path(ino) == b"/d/x"
    fs.use(ino)
    fs.unlink(directory, b"x")
    assert fs.path(ino) == b""
    bad = hurt(fs, ino, 0, SECTOR)
    assert fs.owners(bad)[0].path == b""
    fs.release(ino)


def test_owners_are_right_after_any_number_of_changes(fs: FileSystem) -> None:
    """The index is made again where too much has changed."""
    inos = [fs.make(fs.root, b"%d" % each, stat.S_IFREG | 0o644, 0, 0) for each in range(300)]
    fs.owners(Extent(0, MIB))
    for number, ino in enumerate(inos):
        if number % 2:
            fs.write(ino, 0, b"x")
        if number % 50 == 1:
            (owner,) = fs.owners(Extent(place(fs, ino, 0), 1))
            assert (owner.ino, owner.path) == (ino, b"/%d" % number)
        if number % 4 == 1:
            fs.unlink(fs.root, b"%d" % number)
    owned = {owner.ino for owner in fs.owners(Extent(0, MIB)) if owner.kind is OwnerKind.FILE}
    assert owned == {ino for number, ino in enumerate(inos) if number % 4 == 3}


def test_metadata_is_told_from_files_and_heals_in_use_r43(
    device: PmemDevice, fs: FileSystem, ino: int, events: list[Event]
) -> None:
    for extent in (Extent(0, SECTOR), Extent(PAGE, SECTOR), Extent(MIB - 1, 1)):
        assert fs.is_metadata(extent)
        assert fs.owners(extent)[0].kind is OwnerKind.METADATA
        device.inject(extent)
    assert not fs.is_metadata(Extent(place(fs, ino, 0), SIZE))
    assert not [event for event in events if isinstance(event, FileDamaged)]
    tidy(fs)
    assert record(fs) == []
    healed = [event.extent for event in events if isinstance(event, MetadataHealed)]
    assert sorted(healed) == [Extent(0, PAGE), Extent(PAGE, PAGE), Extent(MIB - PAGE, PAGE)]
    assert content(fs, ino) == NOISE[:SIZE]
