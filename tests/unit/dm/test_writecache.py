"""writecache without errors: where blocks are, what is written back, what a restart finds."""

import random
from itertools import pairwise

import pytest
from members import Members, in_pages, mapped, pages

from daxmend.dax import io
from daxmend.dax.api import AccessMode
from daxmend.dm import MappedDevice
from daxmend.dm.cacheformat import (
    DIRTY,
    Entry,
    Layout,
    MapLine,
    Superblock,
    pack_entry,
    pack_map_line,
    unpack_entry,
    unpack_map_line,
    unpack_superblock,
)
from daxmend.dm.writecache import Writecache
from daxmend.errors import CorruptionError, TableError, UsageError
from daxmend.extent import Extent
from daxmend.units import KIB, MIB, PAGE

TABLE = "0 {64} writecache p origin cache 4096 0"
NORMAL = AccessMode.NORMAL


def cache_of(device: MappedDevice) -> Writecache:
    target = device.targets[0]
    assert isinstance(target, Writecache)
    return target


def counts(device: MappedDevice) -> dict[str, int]:
    words = cache_of(device).status().split()
    return {name: int(value) for name, value in zip(words[::2], words[1::2], strict=True)}


def restart(members: Members, table: str = TABLE) -> MappedDevice:
    """A new device over the same members, as after a stop."""
    return MappedDevice.from_table("top", in_pages(table), members)


# -- where blocks are --------------------------------------------------------------------------


def test_a_write_is_in_the_cache_and_the_origin_has_the_rest() -> None:
    with mapped(TABLE) as (device, members):
        io.write(members.devices["origin"], 0, b"o" * 3 * PAGE)
        io.write(device, PAGE + 100, b"n" * 50)
        device.fence()
        expected = b"o" * (PAGE + 100) + b"n" * 50 + b"o" * (2 * PAGE - 150)
        assert io.read(device, pages(0, 3)) == expected
        assert io.read(members.devices["origin"], pages(0, 3)) == b"o" * 3 * PAGE
        assert counts(device)["dirty"] == 1


def test_a_flush_brings_everything_to_the_origin_and_keeps_it_cached() -> None:
    with mapped(TABLE) as (device, members):
        io.write(device, 0, b"n" * 5 * PAGE)
        device.message(0, ["flush"])
        assert io.read(members.devices["origin"], pages(0, 5)) == b"n" * 5 * PAGE
        assert counts(device) | {"blocks": 0} == {
            "blocks": 0, "cached": 5, "dirty": 0, "lost": 0, "unknown": 0, "errors": 0,
        }  # fmt: skip
        io.write(device, 10, b"m")
        device.fence()
        assert counts(device)["dirty"] == 1
        assert io.read(device, pages(0)) == b"n" * 10 + b"m" + b"n" * (PAGE - 11)


def test_what_was_fenced_is_there_after_a_restart() -> None:
    with mapped(TABLE) as (device, members):
        io.write(device, 7 * PAGE, b"n" * 100)
        device.fence()
        again = restart(members)
        assert io.read(again, Extent(7 * PAGE, 101)) == b"n" * 100 + b"\0"
        assert counts(again)["dirty"] == 1
        assert cache_of(again).notices == []
        again.message(0, ["flush"])
        last = restart(members)
        assert counts(last)["cached"] == 0, "clean blocks are the origin's after a restart"
        assert io.read(last, Extent(7 * PAGE, 101)) == b"n" * 100 + b"\0"


def test_fences_write_back_above_the_high_watermark_down_to_the_low_one() -> None:
    members = Members(32 * PAGE)
    table = "0 {32} writecache p origin cache 4096 4 high_watermark 40 low_watermark 20"
    with mapped(table, members) as (device, _):
        blocks = counts(device)["blocks"]
        for page in range(32):
            io.write(device, page * PAGE, bytes([page + 1]) * PAGE)
            device.fence()
            assert counts(device)["dirty"] * 100 <= 40 * blocks
        for page in range(32):
            assert io.read(device, pages(page)) == bytes([page + 1]) * PAGE


def test_a_cache_of_few_blocks_serves_any_number() -> None:
    rng = random.Random(11)
    members = Members(64 * PAGE)
    table = (
        "0 {64} writecache cache origin 8 high_watermark 100 low_watermark 100 start_sector {50}"
    )
    with mapped(table, members) as (device, _):
        assert counts(device)["blocks"] < 10
        model = bytearray(64 * PAGE)
        for _ in range(300):
            offset, length = rng.randrange(60 * PAGE), rng.randrange(1, 3 * PAGE)
            data = rng.randbytes(length)
            assert io.write(device, offset, data) == length
            model[offset : offset + length] = data
            if rng.random() < 0.3:
                device.fence()
            at = rng.randrange(60 * PAGE)
            assert io.read(device, Extent(at, 2 * PAGE)) == model[at : at + 2 * PAGE]
        device.fence()
        again = restart(members, table)
        assert io.read(again, Extent(0, len(model))) == model
        again.message(0, ["flush"])
        assert io.read(members.devices["origin"], Extent(0, len(model))) == model


def test_memory_that_is_handed_out_is_the_origins_and_stays_coherent() -> None:
    with mapped(TABLE) as (device, members):
        io.write(device, 0, b"a" * 4 * PAGE)
        exposed = device.direct_access(pages(2, 1), NORMAL).expose()
        assert bytes(exposed.memory[:3]) == b"aaa"
        exposed.memory[0:2] = b"zz"
        assert io.read(device, Extent(2 * PAGE, 3)) == b"zza"
        io.write(device, 2 * PAGE + 1, b"y")
        assert bytes(exposed.memory[:3]) == b"zya"
        exposed.close()
        io.write(device, 2 * PAGE, b"x")
        assert io.read(members.devices["origin"], Extent(2 * PAGE, 2)) == b"zy"
        assert io.read(device, Extent(2 * PAGE, 2)) == b"xy"


# -- the table ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        "s origin cache 4096 0",
        "p origin cache 512 0",
        "p origin cache 4096",
        "p origin cache 4096 1",
        "p origin cache 4096 2 high_watermark x",
        "p origin cache 4096 2 high_watermark 101",
        "p origin cache 4096 4 high_watermark 10 low_watermark 20",
        "p origin cache 4096 1 cleaner",
        "p origin cache 4096 1 what",
        "p origin cache 4096 1 high_watermark",
        "p origin cache 4096 2 start_sector 9",
        "p origin cache 4096 2 start_sector {255}",
        "p origin cache 4096 2 start_sector {9999}",
        "cache origin 1",
        "cache origin",
        "p same same 4096 0",
    ],
)
def test_tables_that_cannot_be_are_refused(arguments: str) -> None:
    members = Members()
    with pytest.raises(TableError):
        MappedDevice.from_table("top", in_pages(f"0 {{64}} writecache {arguments}"), members)
    for device in members.devices.values():
        assert not any(io.read(device, Extent(0, MIB))), "nothing was written"
    members.close()


def test_dmsetups_tuning_words_are_taken() -> None:
    options = "8 writeback_jobs 1 autocommit_blocks 64 autocommit_time 1000 fua nofua"
    with mapped(f"0 {{64}} writecache p origin cache 4096 {options}") as (device, _):
        assert device.table.endswith(f"{options}\n")


def test_unknown_messages_are_refused() -> None:
    with mapped(TABLE) as (device, _):
        for words in ([], ["what"], ["flush", "now"]):
            with pytest.raises(UsageError, match="flush"):
                device.message(0, words)


# -- the medium --------------------------------------------------------------------------------


def test_something_that_is_no_cache_is_not_overwritten() -> None:
    members = Members()
    cache = members.open_member("cache")
    io.write(cache, 0, b"precious" * 100)
    with pytest.raises(UsageError, match="no write cache"):
        restart(members)
    assert io.read(cache, Extent(0, 800)) == b"precious" * 100
    members.close()


def test_the_cache_of_another_table_is_refused() -> None:
    with mapped(TABLE) as (_, members), pytest.raises(UsageError, match="another table"):
        restart(members, "0 {32} writecache p origin cache 4096 0")


@pytest.mark.parametrize("area", [Extent(0, MIB), Extent(9 * PAGE, 8 * PAGE), Extent(0, 64 * MIB)])
def test_the_layout_fills_its_area_without_overlaps(area: Extent) -> None:
    layout = Layout.of_area(area, 70_000) if area.length > 100 * PAGE else Layout.of_area(area, 9)
    places = sorted([*layout.superblock, *layout.entries, *layout.map, layout.slots])
    assert places[0].offset == area.offset
    assert places[-1].end <= area.end
    for one, other in pairwise(places):
        assert one.end == other.offset
    assert area.end - places[-1].end < 3 * PAGE
    assert layout.entries[0].length // 64 >= layout.slot_count


def test_an_area_without_room_is_refused() -> None:
    with pytest.raises(UsageError, match="needs"):
        Layout.of_area(Extent(0, 6 * PAGE), 1)


def test_structures_prove_themselves_and_their_place() -> None:
    """A validator is proven by planted damage: every bit counts, and so does the place."""
    entry = pack_entry(5, Entry(DIRTY, 77, 9))
    line = pack_map_line(5, MapLine(3, b"m" * 48))
    assert unpack_entry(5, entry) == Entry(DIRTY, 77, 9)
    assert unpack_map_line(5, line) == MapLine(3, b"m" * 48)
    assert unpack_entry(6, entry) is None
    assert unpack_map_line(6, line) is None
    assert unpack_map_line(5, entry) is None
    for bit in range(64 * 8):
        flipped = bytearray(entry)
        flipped[bit // 8] ^= 1 << bit % 8
        assert unpack_entry(5, bytes(flipped)) is None
        flipped = bytearray(line)
        flipped[bit // 8] ^= 1 << bit % 8
        assert unpack_map_line(5, bytes(flipped)) is None


def test_superblocks_prove_themselves() -> None:
    packed = Superblock(1, 2, 3, b"u" * 16).pack()
    assert unpack_superblock(packed, "c", 0) == Superblock(1, 2, 3, b"u" * 16)
    for byte, error in ((0, UsageError), (8, CorruptionError), (30, CorruptionError)):
        damaged = bytearray(packed)
        damaged[byte] ^= 1
        with pytest.raises(error):
            unpack_superblock(bytes(damaged), "c", 0)


def test_every_block_of_an_origin_larger_than_one_line_of_the_map_is_found_again() -> None:
    members = Members(8 * MIB)
    table = f"0 {8 * MIB // 512} writecache p origin cache 4096 0"
    with mapped(table, members) as (device, _):
        for page in (0, 383, 384, 500, 767, 768, 2047):
            io.write(device, page * PAGE, bytes([page % 251]) * KIB)
        device.fence()
        again = restart(members, table)
        assert counts(again)["dirty"] == 7
        for page in (0, 383, 384, 500, 767, 768, 2047):
            assert io.read(again, Extent(page * PAGE, KIB)) == bytes([page % 251]) * KIB
