"""Errors that appear while a write cache is in use, in each part of it and in its origin (R38)."""

import pytest
from cacheimage import CLEAN, DIRTY, NEW, SIZE, Image, page, part

from daxmend.dax import io
from daxmend.dm import MappedDevice
from daxmend.dm.writecache import Writecache
from daxmend.errors import MediaError
from daxmend.events import DirtyLost, PoisonConsumed, PoisonFound
from daxmend.extent import Extent
from daxmend.fs import FileSystem, check, make_file_system
from daxmend.media.pool import MediumKind, create_memory_pool
from daxmend.pmem.device import PmemDevice
from daxmend.units import CACHELINE, MIB, PAGE, SECTOR

LATENT = pytest.mark.parametrize("latent", [False, True], ids=["recorded", "latent"])
ALL = Extent(0, SIZE)


class Witness:
    """A holder that notes what it is told."""

    def __init__(self, image: Image) -> None:
        self.told: list[Extent] = []
        image.device.set_holder(self)

    def notify_failure(self, extent: Extent) -> None:
        self.told.append(extent)


@LATENT
def test_a_clean_block_is_read_from_the_origin_and_nobody_is_told(latent: bool) -> None:
    image = Image()
    witness = Witness(image)
    image.events.clear()
    for block in CLEAN:
        image.cache.inject(image.slot(block), latent=latent)
    image.assert_content()
    assert witness.told == []
    assert image.events == []
    assert image.counts()["cached"] == len(DIRTY)
    for block in CLEAN:
        io.write(image.device, block * PAGE + 9, b"again")
        image.model[block * PAGE + 9 : block * PAGE + 14] = b"again"
    image.device.fence()
    image.assert_content()


@LATENT
def test_a_store_to_a_clean_block_that_went_bad_is_not_lost(latent: bool) -> None:
    image = Image()
    image.cache.inject(image.slot(2), latent=latent)
    io.write(image.device, 2 * PAGE + 100, b"new")
    image.model[2 * PAGE + 100 : 2 * PAGE + 103] = b"new"
    image.device.fence()
    image.assert_content()
    image.open()
    image.assert_content()


def test_a_dirty_block_that_goes_bad_is_told_upwards_by_its_own_range() -> None:
    """R42."""
    image = Image()
    witness = Witness(image)
    image.events.clear()
    image.cache.inject(Extent(image.slot(6).offset + 3 * SECTOR, SECTOR))
    lost = Extent(6 * PAGE + 3 * SECTOR, SECTOR)
    assert witness.told == [lost]
    image.assert_content(lost)
    assert image.counts()["lost"] == 1
    image.allow()
    assert io.write(image.device, 6 * PAGE, b"w" * PAGE) == PAGE
    image.model[6 * PAGE : 7 * PAGE] = b"w" * PAGE
    image.device.fence()
    image.assert_content()
    image.open()
    image.assert_content()


def test_latent_poison_in_a_dirty_block_is_consumed_under_its_own_range() -> None:
    """R3."""
    image = Image()
    image.cache.inject(Extent(image.slot(6).offset + 3 * SECTOR, CACHELINE), latent=True)
    image.events.clear()
    with pytest.raises(MediaError) as caught:
        io.read(image.device, Extent(6 * PAGE + 3 * SECTOR, 10))
    assert caught.value.filename == "top"
    lost = Extent(6 * PAGE + 3 * SECTOR, SECTOR)
    assert image.events == [PoisonConsumed(lost)]
    image.assert_content(lost)


@LATENT
@pytest.mark.parametrize("copies", [(0,), (1,), (0, 1)])
@pytest.mark.parametrize("structure", ["superblock", "entries", "map"])
def test_metadata_is_written_again_from_memory(
    structure: str, copies: tuple[int, ...], latent: bool
) -> None:
    """Both copies too: while it runs, memory has it all."""
    image = Image()
    for copy in copies:
        image.cache.inject(getattr(image.layout, structure)[copy], latent=latent)
    for _ in image.device.scrub(ALL):
        pass
    image.device.fence()
    metadata = image.target.blocks.table.metadata()
    assert not [run for area in metadata for run in image.cache.poison(area)]
    image.assert_content()
    image.open()
    assert image.target.notices == []
    image.assert_content()


@LATENT
@pytest.mark.parametrize("block", [CLEAN.start, DIRTY.start])
def test_a_bad_origin_under_a_cached_block_heals_from_the_cache(block: int, latent: bool) -> None:
    image = Image()
    witness = Witness(image)
    image.events.clear()
    image.origin.inject(page(block), latent=latent)
    image.assert_content()
    assert witness.told == []
    if latent and block in CLEAN:
        for _ in image.origin.scrub(page(block)):
            pass
    image.device.message(0, ["flush"])
    assert io.read(image.origin, page(block)) == part(NEW, page(block))
    assert list(image.origin.badblocks(ALL)) == []
    assert list(image.origin.poison(ALL)) == []
    image.assert_content()


def test_a_bad_origin_under_an_uncached_block_is_bad_and_heals_there() -> None:
    image = Image()
    witness = Witness(image)
    image.origin.inject(Extent(10 * PAGE, SECTOR))
    assert witness.told == [Extent(10 * PAGE, SECTOR)]
    image.assert_content(Extent(10 * PAGE, SECTOR))
    assert io.write(image.device, 10 * PAGE, b"h" * PAGE) == PAGE
    image.model[10 * PAGE : 11 * PAGE] = b"h" * PAGE
    image.assert_content()
    image.device.inject(Extent(11 * PAGE, CACHELINE), latent=True)
    image.events.clear()
    for _ in image.device.scrub(ALL):
        pass
    assert image.events[0] == PoisonFound(Extent(11 * PAGE, SECTOR))


def test_an_origin_that_heals_nothing_leaves_its_block_in_the_cache() -> None:
    origin = PmemDevice(create_memory_pool(SIZE, MediumKind.REFUSES))
    cache = PmemDevice(create_memory_pool(40 * PAGE))
    target = Writecache(SIZE, cache, origin)
    device = MappedDevice("top", [target])
    io.write(device, 4 * PAGE, b"y" * 3 * PAGE)
    origin.inject(page(5))
    device.fence()
    with pytest.raises(MediaError, match="stays in the cache"):
        device.message(0, ["flush"])
    assert "dirty 1 lost 0 unknown 0 errors 1" in target.status()
    assert io.read(device, Extent(4 * PAGE, 3 * PAGE)) == b"y" * 3 * PAGE
    device.message(0, ["clear_stats"])
    assert "errors 0" in target.status()


@pytest.mark.parametrize("seed", range(4))
def test_free_slots_that_are_bad_heal_when_they_are_used(seed: int) -> None:
    image = Image(slots=12)
    for slot in range(12):
        if slot % 4 == seed:
            place = image.layout.slot(slot)
            if not image.target.blocks.owners(place):
                image.cache.inject(place, latent=bool(slot & 1))
    for block in range(16):
        io.write(image.device, block * PAGE + block, b"free" * 20)
        image.model[block * PAGE + block : block * PAGE + block + 80] = b"free" * 20
        image.device.fence()
    image.assert_content()
    image.open()
    image.assert_content()


def test_a_cache_that_heals_nothing_is_gone_round() -> None:
    image = Image(MediumKind.REFUSES)
    for slot in range(image.counts()["blocks"]):
        place = image.layout.slot(slot)
        if not image.target.blocks.owners(place):
            image.cache.inject(place)
    for block in range(8, 16):
        io.write(image.device, block * PAGE, part(NEW, page(block)))
    image.model[8 * PAGE :] = NEW[8 * PAGE :]
    image.device.fence()
    image.assert_content()
    image.open()
    image.assert_content()
    assert not [each for each in image.events if isinstance(each, DirtyLost)]


def test_entries_that_can_be_written_no_more_send_their_blocks_to_the_origin() -> None:
    image = Image(MediumKind.REFUSES)
    for area in image.layout.entries:
        image.cache.inject(area)
    io.write(image.device, 12 * PAGE, b"m" * PAGE)
    image.model[12 * PAGE : 13 * PAGE] = b"m" * PAGE
    image.device.fence()
    assert io.read(image.origin, page(12)) == b"m" * PAGE
    image.assert_content()


def test_a_file_system_on_a_write_cache_lives_through_errors_in_the_cache() -> None:
    cache, origin = (PmemDevice(create_memory_pool(2 * MIB)) for _ in range(2))
    device = MappedDevice("top", [Writecache(2 * MIB, cache, origin)])
    make_file_system(device)
    fs = FileSystem(device, commits_each=False)
    ino = fs.make(fs.root, b"file", 0o100644, 0, 0)
    assert fs.write(ino, 0, b"f" * 20 * PAGE) == 20 * PAGE
    fs.sync()
    device.message(0, ["flush"])
    cache.inject(Extent(0, cache.size))
    device.fence()
    assert fs.read(ino, 0, 20 * PAGE) == b"f" * 20 * PAGE, "all of it was clean"
    assert fs.write(ino, 3 * PAGE, b"g" * PAGE) == PAGE
    fs.sync()
    fs.close()
    assert list(check(device)) == []
    again = MappedDevice("top", [Writecache(2 * MIB, cache, origin)])
    assert list(check(again)) == []
    fs = FileSystem(again, commits_each=False)
    assert fs.read(fs.lookup(fs.root, b"file"), 3 * PAGE, PAGE) == b"g" * PAGE
    fs.close()
