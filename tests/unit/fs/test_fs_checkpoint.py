"""Checkpoints, journals and superblocks: two copies, of which one is enough (R43)."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from xxhash import xxh3_64_intdigest

from daxmend.errors import CorruptionError, MediaError, UnsupportedError
from daxmend.extent import Extent
from daxmend.fs import make_file_system, superblock
from daxmend.fs.checkpoint import (
    NO_RECORD,
    PAYLOAD,
    heal_checkpoint,
    pages_for,
    read_checkpoint,
    write_checkpoint,
)
from daxmend.fs.journal import FsJournal
from daxmend.fs.mirror import COPIES, Mirror
from daxmend.fs.superblock import (
    Superblock,
    read_superblock,
    superblock_mirror,
    write_superblock,
)
from daxmend.media.pool import MediumKind, create_memory_pool
from daxmend.pmem.device import PmemDevice
from daxmend.units import KIB, MIB, PAGE, SECTOR

GENERATION = 77


@pytest.fixture
def mirror(device: PmemDevice) -> Mirror:
    """Two copies of 30 pages, in pieces of different length."""
    first = [Extent(0, 20 * PAGE), Extent(30 * PAGE, 10 * PAGE)]
    second = [Extent(100 * PAGE, 5 * PAGE), Extent(60 * PAGE, 25 * PAGE)]
    return Mirror(device, (first, second))


def place(mirror: Mirror, copy: int, page: int) -> Extent:
    return next(mirror.device_extents(copy, Extent(page * PAGE, PAGE)))


def flip(device: PmemDevice, offset: int) -> None:
    at = device.pool.header.layout.data.offset + offset
    backing = device.pool.backing
    backing.store(at, bytes([backing.load(at, 1)[0] ^ 0xFF]))


# -- mirrors -----------------------------------------------------------------------------------


def test_a_mirror_reads_across_its_pieces_what_was_written(mirror: Mirror) -> None:
    data = random.Random(1).randbytes(30 * PAGE)
    mirror.write(0, 0, data)
    assert mirror.read(0, Extent(0, 30 * PAGE)) == data
    assert mirror.read(0, Extent(18 * PAGE, 5 * PAGE)) == data[18 * PAGE : 23 * PAGE]
    assert mirror.read(1, Extent(0, PAGE)) == bytes(PAGE)
    assert [each.length for each in mirror.device_extents(1, Extent(3 * PAGE, 4 * PAGE))] == [
        2 * PAGE,
        2 * PAGE,
    ]


def test_pages_of_a_mirror_that_cannot_be_read_are_zeros(
    device: PmemDevice, mirror: Mirror
) -> None:
    mirror.write(0, 0, b"m" * 4 * PAGE)
    device.inject(Extent(PAGE + SECTOR, SECTOR))
    device.inject(Extent(2 * PAGE, 64), latent=True)
    found = mirror.read(0, Extent(0, 4 * PAGE))
    assert found == b"m" * PAGE + bytes(2 * PAGE) + b"m" * PAGE


def test_writing_a_mirror_heals_it_and_fails_where_the_medium_does() -> None:
    for kind, heals in ((MediumKind.PLAIN, True), (MediumKind.REFUSES, False)):
        device = PmemDevice(create_memory_pool(MIB, kind))
        mirror = Mirror(device, ([Extent(0, 2 * PAGE)], [Extent(4 * PAGE, 2 * PAGE)]))
        device.inject(Extent(PAGE, SECTOR))
        if heals:
            mirror.write(0, 0, b"w" * 2 * PAGE)
            assert mirror.read(0, Extent(0, 2 * PAGE)) == b"w" * 2 * PAGE
        else:
            with pytest.raises(MediaError):
                mirror.write(0, 0, b"w" * 2 * PAGE)
        device.close()


# -- checkpoints -------------------------------------------------------------------------------


def records(seed: int = 3) -> list[bytes]:
    rng = random.Random(seed)
    return [rng.randbytes(rng.choice([50, 300, 2000, 9000])) for _ in range(20)]


def test_a_checkpoint_gives_its_records_back(mirror: Mirror) -> None:
    made = records()
    length = write_checkpoint(mirror, made, GENERATION)
    assert length == sum(map(len, made))
    reading = read_checkpoint(mirror, length, GENERATION)
    assert reading.damaged == []
    assert b"".join(page.payload for page in reading.pages if page) == b"".join(made)
    assert len(reading.pages) == pages_for(length)


def test_each_page_says_where_its_first_record_begins(mirror: Mirror) -> None:
    made = records()
    length = write_checkpoint(mirror, made, GENERATION)
    starts = [sum(map(len, made[:count])) for count in range(len(made))]
    for index, page in enumerate(read_checkpoint(mirror, length, GENERATION).pages):
        inside = [
            each - index * PAYLOAD for each in starts if 0 <= each - index * PAYLOAD < PAYLOAD
        ]
        assert page is not None
        assert page.first_record == (inside[0] if inside else NO_RECORD)


@pytest.mark.parametrize("copy", COPIES)
def test_any_wrong_byte_in_one_copy_costs_nothing_and_is_healed(
    device: PmemDevice, mirror: Mirror, copy: int
) -> None:
    length = write_checkpoint(mirror, records(), GENERATION)
    good = read_checkpoint(mirror, length, GENERATION).pages
    for at in [*range(32), 33, 1000, PAGE - 1]:
        for page in (0, 1):
            flip(device, place(mirror, copy, page).offset + at)
            reading = read_checkpoint(mirror, length, GENERATION)
            assert reading.pages == good, at
            assert reading.damaged == [(copy, page)], at
            heal_checkpoint(mirror, reading.damaged, GENERATION)
            assert read_checkpoint(mirror, length, GENERATION).damaged == []


def test_a_page_bad_in_both_copies_is_lost_alone(device: PmemDevice, mirror: Mirror) -> None:
    length = write_checkpoint(mirror, records(), GENERATION)
    good = read_checkpoint(mirror, length, GENERATION).pages
    flip(device, place(mirror, 0, 2).offset + 100)
    device.inject(Extent(place(mirror, 1, 2).offset, SECTOR))
    reading = read_checkpoint(mirror, length, GENERATION)
    assert reading.pages == [*good[:2], None, *good[3:]]
    assert reading.damaged == [(0, 2), (1, 2)]
    heal_checkpoint(mirror, reading.damaged, GENERATION)
    assert read_checkpoint(mirror, length, GENERATION).pages == reading.pages


def test_a_checkpoint_of_another_generation_is_none(mirror: Mirror) -> None:
    length = write_checkpoint(mirror, records(), GENERATION)
    assert set(read_checkpoint(mirror, length, GENERATION + 1).pages) == {None}


def test_an_empty_checkpoint_has_a_page(mirror: Mirror) -> None:
    assert write_checkpoint(mirror, [], GENERATION) == 0
    reading = read_checkpoint(mirror, 0, GENERATION)
    assert len(reading.pages) == 1
    assert reading.damaged == []


# -- the journal -------------------------------------------------------------------------------

AREAS = (Extent(PAGE, 16 * KIB), Extent(40 * PAGE, 16 * KIB))


def reopened(device: PmemDevice, generation: int = GENERATION) -> FsJournal:
    return FsJournal(device, AREAS, generation)


@given(st.lists(st.binary(max_size=3000), max_size=12))
def test_entries_come_back_in_order_over_page_boundaries(payloads: list[bytes]) -> None:
    device = PmemDevice(create_memory_pool(MIB))
    journal = reopened(device)
    written = []
    for payload in payloads:
        if journal.has_room(len(payload)):
            journal.append(payload)
            written.append(payload)
    again = reopened(device)
    replay = again.read()
    assert replay.payloads == written
    assert (replay.damaged, replay.lost) == ([], "")
    if again.has_room(5):
        again.append(b"after")
        assert reopened(device).read().payloads == [*written, b"after"]
    device.close()


def test_an_entry_fits_exactly_or_not_at_all(device: PmemDevice) -> None:
    journal = reopened(device)
    head = journal.mirror.length
    while not journal.has_room(head):
        head -= 1
    journal.append(b"f" * head)
    assert not journal.has_room(0)
    assert reopened(device).read().payloads == [b"f" * head]


def test_entries_of_an_older_generation_are_no_entries(device: PmemDevice) -> None:
    journal = reopened(device)
    for number in range(20):
        journal.append(b"old %d" % number * 30)
    journal.restart(GENERATION + 1)
    assert journal.is_empty
    assert reopened(device, GENERATION + 1).read() == ([], [], "", b"")
    journal.append(b"new")
    replay = reopened(device, GENERATION + 1).read()
    assert (replay.payloads, replay.lost) == ([b"new"], "")


def entry_offsets(device: PmemDevice) -> list[int]:
    """Where each entry begins, from the area's start."""
    log = reopened(device).read().log
    return [at for at in range(0, len(log), 8) if log[at : at + 4] == b"DMFJ"]


@pytest.fixture
def filled(device: PmemDevice) -> list[bytes]:
    journal = reopened(device)
    payloads = [b"entry %d " % number * 20 for number in range(40)]
    for payload in payloads:
        journal.append(payload)
    return payloads


@pytest.mark.parametrize("copy", COPIES)
def test_any_wrong_byte_in_one_journal_is_healed(
    device: PmemDevice, filled: list[bytes], copy: int
) -> None:
    starts = entry_offsets(device)
    for start in (starts[0], starts[20], starts[-1]):
        for at in range(0, 60, 3):
            flip(device, AREAS[copy].offset + start + at)
            journal = reopened(device)
            replay = journal.read()
            assert replay.payloads == filled
            assert [each for each, _ in replay.damaged] == [copy]
            journal.heal(replay)
            assert reopened(device).read().damaged == []


def test_the_last_page_is_written_again_with_good_bytes_only(
    device: PmemDevice, filled: list[bytes]
) -> None:
    """What a damaged copy holds of the last page must not reach the other one."""
    starts = entry_offsets(device)
    neighbours = [at for at in starts if at // PAGE == starts[-1] // PAGE]
    for at in neighbours[:-1]:
        flip(device, AREAS[0].offset + at + 12)
    journal = reopened(device)
    assert journal.read().payloads == filled
    journal.append(b"more")
    assert reopened(device).read().payloads == [*filled, b"more"]


def test_healing_takes_each_entry_from_where_it_is_good(
    device: PmemDevice, filled: list[bytes]
) -> None:
    starts = entry_offsets(device)
    flip(device, AREAS[0].offset + starts[1] + 12)
    flip(device, AREAS[1].offset + starts[2] + 12)
    journal = reopened(device)
    replay = journal.read()
    assert replay.payloads == filled
    journal.heal(replay)
    replay = reopened(device).read()
    assert (replay.payloads, replay.damaged) == (filled, [])


def test_an_entry_that_both_copies_lost_before_another_is_reported(
    device: PmemDevice, filled: list[bytes]
) -> None:
    starts = entry_offsets(device)
    for area in AREAS:
        flip(device, area.offset + starts[5] + 12)
    replay = reopened(device).read()
    assert replay.payloads == filled[:5]
    assert "commits 6" in replay.lost


def test_an_end_that_neither_copy_can_show_is_reported(
    device: PmemDevice, filled: list[bytes]
) -> None:
    """R44: the last entry may be there or not; nobody knows."""
    starts = entry_offsets(device)
    for area in AREAS:
        device.inject(Extent(area.offset + starts[-1], SECTOR))
    replay = reopened(device).read()
    ends = [*starts[1:], MIB]
    before = [end <= starts[-1] // PAGE * PAGE for end in ends]
    assert replay.payloads == filled[: sum(before)]
    assert "if there was any" in replay.lost
    device.recovery_write((AREAS[0].offset + starts[-1]) // PAGE * PAGE, bytes(PAGE))
    assert reopened(device).read().lost == "", "one copy shows that the log ends here"


def test_a_torn_entry_at_the_end_is_none(device: PmemDevice, filled: list[bytes]) -> None:
    """A crash in `append` leaves this; the next entry takes its place."""
    journal = reopened(device)
    journal.read()
    journal.append(b"torn " * 500)
    end = len(reopened(device).read().log)
    for area in AREAS:
        flip(device, area.offset + end - 20)
    journal = reopened(device)
    replay = journal.read()
    assert (replay.payloads, replay.damaged, replay.lost) == (filled, [], "")
    journal.append(b"next")
    assert reopened(device).read().payloads == [*filled, b"next"]


# -- the superblock ----------------------------------------------------------------------------


def test_a_superblock_comes_back_as_it_was(device: PmemDevice) -> None:
    make_file_system(device)
    found, stale = read_superblock(device)
    assert stale == []
    assert found.size == device.size
    assert Superblock.unpack(found.pack(), 0) == found


def test_any_wrong_byte_of_one_superblock_is_survived_and_of_both_refused(
    device: PmemDevice,
) -> None:
    make_file_system(device)
    good, _ = read_superblock(device)
    places = [copies[0].offset for copies in superblock_mirror(device).copies]
    length = len(good.pack().rstrip(b"\0"))
    for at in range(length):
        for copy in COPIES:
            flip(device, places[copy] + at)
            found, stale = read_superblock(device)
            assert found == good, at
            assert [each for each, _ in stale] == [copy], at
            flip(device, places[copy] + at)
        for offset in places:
            flip(device, offset + at)
        with pytest.raises(CorruptionError, match="superblock"):
            read_superblock(device)
        for offset in places:
            flip(device, offset + at)
    assert read_superblock(device) == (good, [])


def test_of_two_superblocks_the_newer_one_counts(device: PmemDevice) -> None:
    make_file_system(device)
    old, _ = read_superblock(device)
    new = old._replace(generation=old.generation + 1)
    mirror = superblock_mirror(device)
    for copy in COPIES:
        write_superblock(device, old)
        mirror.write(copy, 0, new.pack())
        assert read_superblock(device) == (new, [(1 - copy, "is behind")])


def test_another_version_is_refused_by_name(
    device: PmemDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_file_system(device)
    with monkeypatch.context() as patch:
        patch.setattr(superblock, "FS_VERSION", 7)
        page = read_superblock_of_any_version(device).pack()
    superblock_mirror(device).write(0, 0, page)
    with pytest.raises(UnsupportedError, match="version 7"):
        read_superblock(device)


def read_superblock_of_any_version(device: PmemDevice) -> Superblock:
    page = superblock_mirror(device).read(1, Extent(0, PAGE))
    page = bytearray(page)
    page[8] = 7
    body = page[: int.from_bytes(page[12:16], "little") - 8]
    page[len(body) : len(body) + 8] = xxh3_64_intdigest(bytes(body)).to_bytes(8, "little")
    return Superblock.unpack(bytes(page), 0)


def test_a_device_of_another_size_is_refused(device: PmemDevice) -> None:
    make_file_system(device)
    found, _ = read_superblock(device)
    write_superblock(device, found._replace(size=found.size * 2))
    with pytest.raises(CorruptionError, match="size"):
        read_superblock(device)


def test_a_medium_that_takes_one_superblock_has_one() -> None:
    device = PmemDevice(create_memory_pool(MIB, MediumKind.REFUSES))
    make_file_system(device)
    found, _ = read_superblock(device)
    newer = found._replace(generation=found.generation + 1)
    device.inject(Extent(0, SECTOR))
    assert write_superblock(device, newer) == [1]
    assert read_superblock(device)[0] == newer
    device.inject(Extent(device.size - PAGE, SECTOR))
    with pytest.raises(MediaError):
        write_superblock(device, newer)
    device.close()


@given(st.sampled_from([b"", b"DMFILES\0"]), st.binary(max_size=200))
def test_garbage_is_no_superblock(start: bytes, garbage: bytes) -> None:
    with pytest.raises(CorruptionError):
        Superblock.unpack((start + garbage).ljust(PAGE, b"\0"), 0)
