"""A write cache starts with bad blocks anywhere in its cache device (R38), where Linux refuses."""

import pytest
from cacheimage import CLEAN, DIRTY, NEW, SIZE, Image, page, part

from daxmend.dax import io
from daxmend.dax.api import AccessMode
from daxmend.dm.cacheformat import pack_entry
from daxmend.errors import MediaError
from daxmend.events import CopyHealed, DirtyLost
from daxmend.extent import Extent
from daxmend.media.pool import MediumKind
from daxmend.units import CACHELINE, PAGE, SECTOR

LATENT = pytest.mark.parametrize("latent", [False, True], ids=["recorded", "latent"])
STRUCTURES = ("superblock", "entries", "map")


def damage(image: Image, structure: str, copies: tuple[int, ...], *, latent: bool) -> None:
    for copy in copies:
        image.cache.inject(getattr(image.layout, structure)[copy], latent=latent)


def assert_whole(image: Image) -> None:
    """Repair is proven by checking again."""
    image.open()
    assert image.target.notices == []
    assert not [each for each in image.events if isinstance(each, CopyHealed)]
    metadata = image.target.blocks.table.metadata()
    assert not [run for area in metadata for run in image.cache.poison(area)]


@LATENT
@pytest.mark.parametrize("copy", [0, 1])
@pytest.mark.parametrize("structure", STRUCTURES)
def test_metadata_bad_in_one_copy_is_rewritten_from_the_other(
    structure: str, copy: int, latent: bool
) -> None:
    image = Image()
    damage(image, structure, (copy,), latent=latent)
    image.open()
    image.assert_content()
    assert [each for each in image.events if isinstance(each, CopyHealed)] == [
        CopyHealed(f"cache: cache {structure}", copy, "damaged; rewritten")
    ]
    assert image.counts()["dirty"] == len(DIRTY)
    assert_whole(image)
    image.assert_content()


@LATENT
@pytest.mark.parametrize("structure", ["superblock", "map"])
def test_superblocks_and_map_bad_in_both_copies_are_rebuilt(structure: str, latent: bool) -> None:
    image = Image()
    damage(image, structure, (0, 1), latent=latent)
    image.open()
    image.assert_content()
    assert image.counts()["unknown"] == image.counts()["lost"] == 0
    assert_whole(image)
    image.assert_content()


@LATENT
def test_entries_bad_in_both_copies_are_named_by_the_map(latent: bool) -> None:
    """Which blocks were dirty is known from the map: they are lost, and no others."""
    image = Image()
    damage(image, "entries", (0, 1), latent=latent)
    image.open()
    lost = Extent(DIRTY.start * PAGE, len(DIRTY) * PAGE)
    image.assert_content(lost)
    assert image.target.losses() == [lost]
    assert DirtyLost(lost, "its entry is bad") in image.events
    assert image.counts()["lost"] == len(DIRTY)
    assert image.counts()["unknown"] == image.counts()["blocks"]
    assert image.device.message(0, ["losses"]) == f"{lost.offset} {lost.length}\n"


def test_one_entry_bad_in_both_copies_loses_one_block() -> None:
    image = Image()
    slot = image.layout.slots_in(image.slot(5))[0]
    for area in image.layout.entries:
        image.cache.inject(Extent(area.offset + slot * CACHELINE, CACHELINE), latent=True)
    image.open()
    assert image.target.losses()[0].overlaps(page(5))
    # The loads entered whole sectors, and the pages were healed from what had been read.
    image.assert_content(page(5))
    assert image.counts()["unknown"] == 1


def test_a_bad_entry_of_a_slot_that_was_not_dirty_loses_nothing() -> None:
    image = Image()
    clean = image.layout.slots_in(image.slot(CLEAN.start))[0]
    for area in image.layout.entries:
        image.cache.inject(Extent(area.offset + clean * CACHELINE, CACHELINE), latent=True)
    image.open()
    image.assert_content()
    assert image.counts()["unknown"] == 0
    assert_whole(image)


@pytest.mark.parametrize("medium", [MediumKind.PLAIN, MediumKind.REFUSES])
def test_what_is_lost_stays_so_over_restarts_until_it_is_written(medium: MediumKind) -> None:
    image = Image(medium)
    damage(image, "entries", (0, 1), latent=False)
    for _ in range(3):
        image.open()
        image.assert_content(Extent(DIRTY.start * PAGE, len(DIRTY) * PAGE))
    for block in DIRTY:
        with pytest.raises(MediaError):
            io.read(image.device, page(block))
        with pytest.raises(MediaError):
            io.write(image.device, block * PAGE + 5, b"part")
        assert io.write(image.device, block * PAGE, part(NEW, page(block))) == PAGE
        assert io.read(image.device, page(block)) == part(NEW, page(block))
    image.device.fence()
    image.assert_content()
    if medium is MediumKind.PLAIN:
        assert image.counts()["unknown"] == 0
        assert_whole(image)
        image.assert_content()


def test_everything_that_says_what_was_dirty_is_gone() -> None:
    """Then nobody knows: the whole line is named, and a write brings it back."""
    image = Image()
    for structure in STRUCTURES:
        damage(image, structure, (0, 1), latent=False)
    image.open()
    assert image.target.losses() == [Extent(0, SIZE)]
    assert image.counts()["unknown"] == image.counts()["blocks"]
    with pytest.raises(MediaError):
        io.read(image.device, page(0))
    assert io.write(image.device, 0, NEW) == SIZE
    image.device.fence()
    image.model[:] = NEW
    image.assert_content()
    assert_whole(image)
    image.assert_content()


def test_all_of_the_cache_is_bad() -> None:
    image = Image()
    image.cache.inject(Extent(0, image.cache.size))
    image.open()
    assert image.target.losses() == [Extent(0, SIZE)]
    assert io.write(image.device, 0, NEW) == SIZE
    image.device.fence()
    image.model[:] = NEW
    image.assert_content()
    io.write(image.device, 100, b"again")
    image.model[100:105] = b"again"
    image.device.fence()
    image.open()
    image.assert_content()


# -- data --------------------------------------------------------------------------------------


@LATENT
def test_bad_blocks_in_clean_data_cost_nothing(latent: bool) -> None:
    image = Image()
    for block in CLEAN:
        image.cache.inject(image.slot(block), latent=latent)
    image.open()
    image.assert_content()
    assert image.counts()["lost"] == 0
    assert not [each for each in image.events if isinstance(each, DirtyLost)]
    for block in range(16):  # and every slot can be used
        io.write(image.device, block * PAGE, b"w" * PAGE)
    image.device.fence()
    image.model[:] = b"w" * SIZE
    image.open()
    image.assert_content()


def test_bad_blocks_in_dirty_data_are_named_by_their_origin_range() -> None:
    image = Image()
    bad = Extent(image.slot(5).offset + 2 * SECTOR, SECTOR)
    image.cache.inject(bad)
    image.open()
    lost = Extent(5 * PAGE + 2 * SECTOR, SECTOR)
    image.assert_content(lost)
    assert DirtyLost(lost, "its data is bad") in image.events
    assert any(str(lost) in notice for notice in image.target.notices)
    assert image.counts()["lost"] == 1
    with pytest.raises(MediaError, match="stays in the cache"):
        image.device.message(0, ["flush"])
    assert image.counts()["dirty"] == 1, "the others went"
    assert io.read(image.origin, page(4)) == part(NEW, page(4))
    assert io.read(image.origin, page(5)) != part(NEW, page(5)), "nothing was made up"
    image.allow()  # what follows is a client's recovery, which asks for what is readable
    io.write(image.device, lost.offset, b"h" * SECTOR)
    image.model[lost.offset : lost.end] = b"h" * SECTOR
    image.assert_content()
    image.device.message(0, ["flush"])
    assert io.read(image.origin, Extent(0, SIZE)) == image.model


def test_latent_poison_in_dirty_data_is_found_by_a_scrub_or_a_load() -> None:
    """R3, R4: after a start nobody knows of it yet."""
    image = Image()
    image.cache.inject(Extent(image.slot(6).offset, CACHELINE), latent=True)
    image.open()
    assert image.target.losses() == []
    for _ in image.device.scrub(Extent(0, SIZE)):
        pass
    assert image.target.losses() == [Extent(6 * PAGE, SECTOR)]
    image.assert_content(Extent(6 * PAGE, SECTOR))


@pytest.mark.parametrize("seed", range(6))
def test_bad_blocks_in_all_parts_at_once(seed: int) -> None:
    """One copy of each structure, clean, dirty and free slots."""
    image = Image()
    for number, structure in enumerate(STRUCTURES):
        damage(image, structure, ((seed >> number) & 1,), latent=bool(seed & 1))
    dirty = image.slot(DIRTY.start + seed % 4)
    image.cache.inject(image.slot(seed % 4))
    image.cache.inject(Extent(dirty.offset, SECTOR))
    image.cache.inject(image.layout.slot(20))
    image.open()
    image.assert_content(Extent((DIRTY.start + seed % 4) * PAGE, SECTOR))
    assert image.counts()["lost"] == 1


# -- what is readable and wrong ----------------------------------------------------------------


@pytest.mark.parametrize("copy", [0, 1])
@pytest.mark.parametrize("structure", STRUCTURES)
def test_wrong_bytes_in_one_copy_are_damage_too(structure: str, copy: int) -> None:
    image = Image()
    place = getattr(image.layout, structure)[copy]
    image.cache.direct_access(place, AccessMode.NORMAL).store(20, b"garbage")
    image.open()
    image.assert_content()
    assert_whole(image)


def test_an_entry_beyond_the_origin_is_none() -> None:
    image = Image()
    entry = image.target.blocks.table._entries[0]._replace(state=1, block=1 << 40, sequence=1 << 40)
    for area in image.layout.entries:
        image.cache.direct_access(area, AccessMode.NORMAL).store(0, pack_entry(0, entry))
    image.open()
    image.target.losses()
    assert io.read(image.device, page(9)) == part(image.model, page(9))


def test_a_medium_that_does_not_heal_serves_from_the_other_copy() -> None:
    image = Image(MediumKind.REFUSES)
    for structure in STRUCTURES:
        damage(image, structure, (0,), latent=False)
    image.open()
    image.assert_content()
    assert any("not rewritten" in notice for notice in image.target.notices)
    assert not [each for each in image.events if isinstance(each, CopyHealed)], "none was (R45)"
    io.write(image.device, 9 * PAGE, b"on it goes")
    image.model[9 * PAGE : 9 * PAGE + 10] = b"on it goes"
    image.device.fence()
    image.open()
    image.assert_content()
