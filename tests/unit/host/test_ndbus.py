"""The bus of persistent memory, through a sysfs of our own: modes, offsets, scrub, clear unit."""

import os
import struct
from pathlib import Path

import pytest

from daxmend.extent import Extent
from daxmend.host import ndbus
from daxmend.host.badblocks import Recorded
from daxmend.host.ndbus import Mode, Region, ScrubState
from daxmend.host.unknown import Unknown
from sysfstree import MIB, SysfsTree


@pytest.fixture
def tree(tmp_path: Path) -> SysfsTree:
    made = SysfsTree(tmp_path / "sys")
    made.plant_region(512 * MIB)
    made.namespace("namespace0.0", "memory", 0, 256 * MIB, "pfn0.1")
    made.namespace("namespace0.1", "safe", 256 * MIB, 128 * MIB, "btt0.1")
    made.namespace("namespace0.2", "dax", 384 * MIB, 64 * MIB, "dax0.1")
    made.namespace("namespace0.3", "raw", 448 * MIB, 64 * MIB)
    made.namespace("namespace0.4", "raw", 0, 0)  # the kernel keeps a spare one
    made.claim("pfn0.1", "namespace0.0", 4 * MIB, 252 * MIB)
    made.claim("dax0.1", "namespace0.2", 386 * MIB, 62 * MIB)
    return made


def region(tree: SysfsTree) -> Region:
    (found,) = ndbus.iter_regions(tree.root)
    assert isinstance(found, Region)
    return found


def test_namespaces_have_ndctls_modes_and_their_place_in_the_region(tree: SysfsTree) -> None:
    found = list(ndbus.iter_namespaces(region(tree)))
    assert [(n.name, n.mode, n.extent, n.holder) for n in found] == [
        ("namespace0.0", Mode.FSDAX, Extent(0, 256 * MIB), "pfn0.1"),
        ("namespace0.1", Mode.SECTOR, Extent(256 * MIB, 128 * MIB), "btt0.1"),
        ("namespace0.2", Mode.DEVDAX, Extent(384 * MIB, 64 * MIB), "dax0.1"),
        ("namespace0.3", Mode.RAW, Extent(448 * MIB, 64 * MIB), ""),
    ]


def test_the_data_of_a_claim_begins_behind_what_it_keeps_for_itself(tree: SysfsTree) -> None:
    where = region(tree)
    assert ndbus.extent_in_region(tree.region / "pfn0.1", where) == Extent(4 * MIB, 252 * MIB)
    assert ndbus.extent_in_region(tree.region / "dax0.1", where) == Extent(386 * MIB, 62 * MIB)


def test_what_only_root_may_read_is_unknown_and_not_zero_r44(tree: SysfsTree) -> None:
    where = region(tree)
    (tree.region / "resource").unlink()
    assert isinstance(ndbus.extent_in_region(tree.region / "pfn0.1", where), Unknown)
    namespaces = list(ndbus.iter_namespaces(where))
    assert all(isinstance(each.extent, Unknown) for each in namespaces)


def test_a_place_outside_the_region_is_nonsense(tree: SysfsTree) -> None:
    claim = tree.claim("pfn0.2", "namespace0.3", 500 * MIB, 64 * MIB)
    assert isinstance(ndbus.extent_in_region(claim, region(tree)), Unknown)
    claim = tree.claim("pfn0.3", "namespace0.3", -MIB, 64 * MIB)
    assert isinstance(ndbus.extent_in_region(claim, region(tree)), Unknown)


def test_a_mode_of_tomorrow_is_unknown(tree: SysfsTree) -> None:
    tree.namespace("namespace0.0", "quantum", 0, MIB)
    first, *_ = ndbus.iter_namespaces(region(tree))
    assert isinstance(first.mode, Unknown)
    assert "quantum" in first.mode.why


def test_a_regions_record_is_cut_to_a_range_and_counted_from_its_start(tree: SysfsTree) -> None:
    (tree.region / "badblocks").write_text("0 8\n8191 2\n100000 1\n")
    found = ndbus.read_region_badblocks(region(tree), Extent(4 * MIB, 60 * MIB))
    assert found == Recorded([Extent(0, 512), Extent(100000 * 512 - 4 * MIB, 512)], True)
    (tree.region / "badblocks").unlink()
    assert isinstance(ndbus.read_region_badblocks(region(tree), Extent(0, MIB)), Unknown)


def test_a_dax_device_is_told_from_other_character_devices(tree: SysfsTree) -> None:
    number = tree.dax_device("dax0.0", 1, "dax0.1", 386 * MIB, 62 * MIB)
    found = ndbus.find_dax_device(number, tree.root)
    assert not isinstance(found, Unknown)
    assert (found.name, found.size) == ("dax0.0", 62 * MIB)
    assert ndbus.region_of(found.directory) == region(tree)
    (tree.root / "dev" / "char" / "1:3").mkdir()
    assert isinstance(ndbus.find_dax_device(os.makedev(1, 3), tree.root), Unknown)
    assert isinstance(ndbus.find_dax_device(os.makedev(1, 9), tree.root), Unknown)


@pytest.mark.parametrize(
    ("text", "state"),
    [("0\n", ScrubState(0, False)), ("3+\n", ScrubState(3, True)), ("12", ScrubState(12, False))],
)
def test_the_state_of_a_scrub_is_read(text: str, state: ScrubState) -> None:
    assert ndbus.parse_scrub(text) == state


@pytest.mark.parametrize("text", ["", "+", "3+4", "-1", "busy"])
def test_a_state_that_makes_no_sense_is_unknown(text: str) -> None:
    assert isinstance(ndbus.parse_scrub(text), Unknown)


def test_a_bus_without_a_scrub_says_so_and_one_with_it_is_started(tree: SysfsTree) -> None:
    bus = ndbus.bus_of(tree.region)
    assert isinstance(bus, ndbus.Bus)
    assert bus.name == "ndbus0"
    assert isinstance(ndbus.read_scrub(bus), Unknown)
    tree.write(bus.directory / "nfit", scrub="4")
    assert ndbus.read_scrub(bus) == ScrubState(4, False)
    ndbus.start_scrub(bus)
    assert bus.scrub_file.read_text().startswith("1\n")


def test_what_is_no_persistent_memory_has_no_region_and_no_bus(tmp_path: Path) -> None:
    assert isinstance(ndbus.region_of(tmp_path), Unknown)
    assert isinstance(ndbus.bus_of(tmp_path), Unknown)
    assert list(ndbus.iter_regions(tmp_path)) == []


def test_the_clear_unit_is_unpacked_or_unknown(tree: SysfsTree) -> None:
    answer = struct.pack("=QQIIIHH", 0, 0, 0, 4096, 256, 0, 0)
    assert ndbus.unpack_clear_unit(answer) == 256
    for status, unit in ((2, 256), (0, 0)):
        bad = struct.pack("=QQIIIHH", 0, 0, status, 4096, unit, 0, 0)
        assert isinstance(ndbus.unpack_clear_unit(bad), Unknown)
    bus = ndbus.bus_of(tree.region)
    assert isinstance(bus, ndbus.Bus)
    nowhere = bus._replace(name="ndbus4711")
    assert isinstance(ndbus.clear_unit(nowhere, region(tree)), Unknown)
