"""The scrub of a bus of persistent memory, through a sysfs of our own (R4)."""

import errno
from pathlib import Path

import pytest

from daxmend.errors import UnknownStateError
from daxmend.host import ndbus
from daxmend.host.topology import BlockDevice, find_block_device
from daxmend.rescue import busscrub
from daxmend.rescue.busscrub import BusScrub, bus_scrub
from daxmend.rescue.hostrecord import HostRecords
from daxmend.rescue.hosttarget import HostDevice
from sysfstree import MIB, SysfsTree


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SysfsTree:
    made = SysfsTree(tmp_path / "sys")
    made.plant_region(512 * MIB)
    made.namespace("namespace0.0", "memory", 0, 512 * MIB, "pfn0.1")
    made.claim("pfn0.1", "namespace0.0", 8 * MIB, 504 * MIB)
    monkeypatch.setattr(busscrub, "_ASK_AGAIN_MS", 1)
    return made


def scrub_file(tree: SysfsTree) -> Path:
    return tree.region.parent / "nfit" / "scrub"


def target(tree: SysfsTree, number: int) -> HostDevice:
    device = find_block_device(number, tree.root)
    assert isinstance(device, BlockDevice)
    return HostDevice("pmem0", device, HostRecords(lambda path: None, tree.root))


def scrub_of(tree: SysfsTree) -> BusScrub:
    tree.write(scrub_file(tree).parent, scrub="4")
    found = bus_scrub(target(tree, tree.pmem_disk("pmem0", 0, "pfn0.1", 504 * MIB, "")))
    assert found is not None
    return found


def test_only_what_lies_on_one_bus_with_a_scrub_has_one(tree: SysfsTree) -> None:
    pmem = tree.pmem_disk("pmem0", 0, "pfn0.1", 504 * MIB, "")
    assert bus_scrub(target(tree, pmem)) is None  # the bus has none
    tree.write(scrub_file(tree).parent, scrub="0")
    found = bus_scrub(target(tree, pmem))
    assert found is not None
    assert found.name == "ndbus0"
    assert bus_scrub(target(tree, tree.disk("sda", 1, MIB, ""))) is None
    assert bus_scrub(target(tree, tree.disk("sdb", 2, MIB, None))) is None  # keeps no record


def test_one_that_runs_is_followed_to_its_end(tree: SysfsTree) -> None:
    scrub = scrub_of(tree)
    scrub_file(tree).write_text("4+\n")
    assert scrub.start()
    scrub_file(tree).write_text("5\n")
    scrub.wait()


def test_one_is_started_and_waited_for(tree: SysfsTree, monkeypatch: pytest.MonkeyPatch) -> None:
    scrub = scrub_of(tree)
    states = iter(["4+\n", "4+\n", "5\n"])
    read = ndbus.read_scrub

    def next_state(bus: ndbus.Bus) -> object:
        scrub_file(tree).write_text(next(states))
        return read(bus)

    assert not scrub.start()
    assert scrub_file(tree).read_text().startswith("1")
    monkeypatch.setattr(ndbus, "read_scrub", next_state)
    scrub.wait()
    assert list(states) == []


def test_one_that_was_started_by_another_meanwhile_is_followed(
    tree: SysfsTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    def is_busy(bus: ndbus.Bus) -> None:
        raise OSError(errno.EBUSY, "busy")

    scrub = scrub_of(tree)
    monkeypatch.setattr(ndbus, "start_scrub", is_busy)
    assert scrub.start()


def test_who_may_not_start_it_is_told_what_else_there_is(
    tree: SysfsTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    def is_forbidden(bus: ndbus.Bus) -> None:
        raise OSError(errno.EACCES, "Permission denied")

    scrub = scrub_of(tree)
    monkeypatch.setattr(ndbus, "start_scrub", is_forbidden)
    with pytest.raises(UnknownStateError, match="--read"):
        scrub.start()


def test_a_state_that_makes_no_sense_is_unknown(tree: SysfsTree) -> None:
    scrub = scrub_of(tree)
    scrub_file(tree).write_text("busy\n")
    with pytest.raises(UnknownStateError):
        scrub.start()


def test_the_status_of_a_disk_of_persistent_memory_names_its_mode(tree: SysfsTree) -> None:
    tree.write(scrub_file(tree).parent, scrub="4")
    status = target(tree, tree.pmem_disk("pmem0", 0, "pfn0.1", 504 * MIB, "8 1\n")).status()
    assert status == {
        "device": "pmem0",
        "region": "region0",
        "namespace": "namespace0.0",
        "mode": "fsdax",
        "clear_unit": None,
        "scrubs": "4",
        "size": 504 * MIB,
        "recorded": 512,
        "unknown": [],
    }
