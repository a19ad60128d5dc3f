"""A pool file with wrong bytes in it: healed and said so, or refused; never silently different."""

import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from daxmend.dax.api import SectorState
from daxmend.errors import CorruptionError, UsageError
from daxmend.extent import Extent
from daxmend.media.backing import Durability
from daxmend.media.pool import Layout, create_pool, open_pool
from daxmend.pmem.device import PmemDevice
from daxmend.units import KIB, MIB, PAGE, SECTOR

ALL = Extent(0, MIB)
HEADERS = (0, 4 * KIB)
HEADER_LENGTH = 120
LAYOUT = Layout.of_size(MIB)

State = tuple[list[tuple[Extent, SectorState]], list[Extent]]


@pytest.fixture
def pool(shm: Path) -> Path:
    """A pool with a snapshot and appended entries in both journals, closed in good order."""
    path = shm / "p"
    create_pool(path, MIB, durability=Durability.PROCESS)
    device = PmemDevice(open_pool(path))
    device.inject(Extent(0, SECTOR))
    device.inject(Extent(10 * PAGE, 3 * SECTOR))
    device._record._journal.compact()
    device._medium.journal.compact()
    device.inject(Extent(20 * PAGE, PAGE))
    device.inject(Extent(30 * PAGE + 64, 64), latent=True)
    device.recovery_write(20 * PAGE, bytes(PAGE))
    device.inject(Extent(40 * PAGE, SECTOR))
    device.fence()
    device.close()
    return path


def attach(path: Path) -> tuple[State, list[tuple[str, int]]]:
    """What the device says is bad, and which copies had to be healed."""
    opened = open_pool(path)
    try:
        device = PmemDevice(opened)
        repairs = {
            "header": opened.repairs,
            "record": device._record.repairs,
            "poison": device._medium.journal.repairs,
        }
        healed = [(name, repair.copy) for name, found in repairs.items() for repair in found]
        state = list(device.badblocks(ALL)), list(device.poison(ALL))
        device.close()
        return state, healed
    finally:
        opened.close()


def flip(path: Path, *offsets: int, mask: int = 0xFF) -> None:
    """Turn bits of one byte at each offset."""
    with open(path, "r+b") as file:
        for offset in offsets:
            file.seek(offset)
            (byte,) = file.read(1)
            file.seek(offset)
            file.write(bytes([byte ^ mask]))


def used(path: Path, area: Extent) -> int:
    """How long the log in an area is."""
    with open(path, "rb") as file:
        file.seek(area.offset)
        return -(-len(file.read(64 * KIB).rstrip(b"\0")) // 8) * 8


# -- the header --------------------------------------------------------------------------------


@pytest.mark.parametrize("copy", [0, 1])
def test_any_wrong_byte_of_a_header_copy_is_healed_from_the_other(pool: Path, copy: int) -> None:
    good, healed = attach(pool)
    assert healed == []
    header = pool.read_bytes()[:HEADER_LENGTH]
    for at in range(HEADER_LENGTH):
        flip(pool, HEADERS[copy] + at)
        assert attach(pool) == (good, [("header", copy)]), at
        with open(pool, "rb") as file:
            for offset in HEADERS:
                file.seek(offset)
                assert file.read(HEADER_LENGTH) == header, at
        assert attach(pool) == (good, []), at


def test_the_same_wrong_byte_in_both_header_copies_is_refused(pool: Path) -> None:
    before = pool.read_bytes()
    for at in range(HEADER_LENGTH):
        for mask in (0xFF, 0x01):
            flip(pool, *(offset + at for offset in HEADERS), mask=mask)
            with pytest.raises((CorruptionError, UsageError)) as caught:
                open_pool(pool)
            assert str(pool) in str(caught.value), at
            is_magic = at < 8
            assert isinstance(caught.value, UsageError) == is_magic, at
            flip(pool, *(offset + at for offset in HEADERS), mask=mask)
    assert pool.read_bytes() == before, "a refused pool is not touched"


def test_different_wrong_bytes_in_both_header_copies_are_refused(pool: Path) -> None:
    for one, other in ((0, 100), (100, 0), (8, 56), (20, 112)):
        flip(pool, HEADERS[0] + one, HEADERS[1] + other)
        with pytest.raises(CorruptionError, match=r"header.*other copy.*restore"):
            open_pool(pool)
        flip(pool, HEADERS[0] + one, HEADERS[1] + other)


# -- record and poison journal -----------------------------------------------------------------

JOURNALS = {"record": LAYOUT.record, "poison": LAYOUT.poison}


@pytest.mark.parametrize("copy", [0, 1])
@pytest.mark.parametrize("name", JOURNALS)
def test_any_wrong_byte_of_a_journal_copy_is_healed_and_said(
    pool: Path, name: str, copy: int
) -> None:
    """R8: the record is what it was, whichever byte of one copy is wrong."""
    areas = JOURNALS[name]
    good, healed = attach(pool)
    assert healed == []
    length = used(pool, areas[0])
    assert length > 300
    for at in range(length):
        flip(pool, areas[copy].offset + at)
        assert attach(pool) == (good, [(name, copy)]), at
        assert attach(pool) == (good, []), at


@pytest.mark.parametrize("name", JOURNALS)
def test_a_byte_wrong_in_both_copies_is_refused_or_changes_nothing(pool: Path, name: str) -> None:
    """R8. Everything was fenced and the pool was closed: nothing of it may vanish without a word.

    The seal at the end may: it is what makes the rest provable, and holds nothing itself.
    """
    areas = JOURNALS[name]
    good, _ = attach(pool)
    original = pool.read_bytes()[: LAYOUT.data.offset]
    seal = last_entry(original, areas[0])
    for at in range(used(pool, areas[0])):
        flip(pool, *(area.offset + at for area in areas))
        if at < seal:
            with pytest.raises(CorruptionError, match=f"{name} journal"):
                attach(pool)
            flip(pool, *(area.offset + at for area in areas))
        else:
            assert attach(pool)[0] == good, at
            restore(pool, original)


def last_entry(image: bytes, area: Extent) -> int:
    """Where the last entry of a log begins."""
    return image[area.offset : area.end].rindex(struct.pack("<I", 0x454A4D44))


def restore(path: Path, image: bytes) -> None:
    with open(path, "r+b") as file:
        file.write(image)


@pytest.mark.parametrize("name", JOURNALS)
def test_a_sector_of_garbage_in_one_copy_is_healed(pool: Path, name: str) -> None:
    good, _ = attach(pool)
    for copy, area in enumerate(JOURNALS[name]):
        for fill in (b"\0", b"\xff", b"DMJE"):
            with open(pool, "r+b") as file:
                file.seek(area.offset)
                file.write(fill * (SECTOR // len(fill)))
            assert attach(pool) == (good, [(name, copy)])


def test_damage_in_every_structure_at_once_is_healed_if_the_copies_differ(pool: Path) -> None:
    good, _ = attach(pool)
    flip(pool, 50, LAYOUT.record[0].offset + 100, LAYOUT.poison[1].offset + 70)
    assert attach(pool) == (good, [("header", 0), ("record", 0), ("poison", 1)])
    assert attach(pool) == (good, [])


def test_a_reader_takes_the_good_copy_and_repairs_nothing(pool: Path) -> None:
    good, _ = attach(pool)
    flip(pool, LAYOUT.record[0].offset + 100, LAYOUT.poison[1].offset + 70)
    before = pool.read_bytes()
    opened = open_pool(pool, writable=False)
    device = PmemDevice(opened)
    assert (list(device.badblocks(ALL)), list(device.poison(ALL))) == good
    device.close()
    assert pool.read_bytes() == before


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: flip(path, *(area.offset for area in LAYOUT.record)),
        lambda path: flip(path, *(area.offset for area in LAYOUT.poison)),
    ],
    ids=["record", "poison"],
)
def test_a_refused_device_leaves_the_file_as_it_was(
    pool: Path, damage: Callable[[Path], None]
) -> None:
    damage(pool)
    before = pool.read_bytes()
    with pytest.raises(CorruptionError):
        attach(pool)
    after = bytearray(pool.read_bytes())
    after[8 * KIB : 12 * KIB] = before[8 * KIB : 12 * KIB]  # the owner block
    assert after == before
