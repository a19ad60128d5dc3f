"""What is recorded as bad below a device, through a sysfs of our own (R9, R44)."""

import os
from pathlib import Path

import pytest

from daxmend.extent import Extent
from daxmend.host import devicemapper
from daxmend.host.devicemapper import TableLine
from daxmend.host.unknown import Unknown
from daxmend.rescue.hostrecord import Findings, HostRecords
from daxmend.rescue.target import Place, Range
from sysfstree import MIB, SysfsTree


@pytest.fixture
def tree(tmp_path: Path) -> SysfsTree:
    return SysfsTree(tmp_path / "sys")


def ask(tree: SysfsTree, number: int) -> Findings:
    return HostRecords(lambda path: None, tree.root).of_device(number)


def extents(found: Findings) -> list[Extent]:
    assert found.unknown == []
    return [bad.extent for bad in found.bad]


def tables(monkeypatch: pytest.MonkeyPatch, **tables: list[TableLine]) -> None:
    """What the ioctl says of `dm9=`, the device with minor 9."""
    monkeypatch.setattr(
        devicemapper,
        "read_table",
        lambda number: tables.get(f"dm{os.minor(number)}", Unknown("only root may ask")),
    )


def test_a_disk_has_what_its_driver_recorded(tree: SysfsTree) -> None:
    disk = tree.disk("pmem0", 0, 64 * MIB, "8 2\n100 1\n")
    found = ask(tree, disk)
    assert extents(found) == [Extent(4096, 1024), Extent(51200, 512)]
    assert [bad.places for bad in found.bad] == [
        (Place("/dev/pmem0", 4096),),
        (Place("/dev/pmem0", 51200),),
    ]


def test_clean_and_unknown_are_two_answers_r44(tree: SysfsTree) -> None:
    assert ask(tree, tree.disk("pmem0", 0, MIB, "")) == Findings([], [])
    found = ask(tree, tree.disk("sda", 1, MIB, None))
    assert found.bad == []
    assert "/dev/sda" in found.unknown[0]
    assert ask(tree, os.makedev(8, 99)).unknown


def test_a_partition_has_what_lies_in_it(tree: SysfsTree) -> None:
    disk = tree.disk("pmem0", 0, 64 * MIB, "2040 16\n5000 1\n")
    part = tree.partition(disk, "pmem0p1", 1, MIB, MIB)
    found = ask(tree, part)
    assert extents(found) == [Extent(0, 8 * 512)]
    assert found.bad[0].places == (Place("/dev/pmem0", MIB), Place("/dev/pmem0p1", 0))


def test_a_linear_table_over_two_disks_moves_both(
    tree: SysfsTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = tree.disk("pmem0", 0, 64 * MIB, "0 1\n2048 1\n")
    two = tree.disk("pmem1", 1, 64 * MIB, "7 1\n")
    mapped = tree.mapped("dm-0", 9, 64 * MIB, one, two)
    tables(
        monkeypatch,
        dm9=[
            TableLine(Extent(0, MIB), "linear", "259:0 2048"),
            TableLine(Extent(MIB, MIB), "linear", "259:1 0"),
        ],
    )
    found = ask(tree, mapped)
    assert extents(found) == [Extent(0, 512), Extent(MIB + 7 * 512, 512)]
    assert found.bad[0].places == (Place("/dev/pmem0", MIB), Place("/dev/dm-0", 0))
    assert found.bad[1].places == (Place("/dev/pmem1", 3584), Place("/dev/dm-0", MIB + 3584))


def test_a_range_that_spans_stripes_is_split(
    tree: SysfsTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = tree.disk("pmem0", 0, 64 * MIB, "7 2\n")
    two = tree.disk("pmem1", 1, 64 * MIB, "")
    mapped = tree.mapped("dm-0", 9, 64 * MIB, one, two)
    striped = TableLine(Extent(0, 64 * MIB), "striped", "2 8 259:0 0 259:1 0")
    tables(monkeypatch, dm9=[striped])
    found = ask(tree, mapped)
    assert extents(found) == [Extent(3584, 512), Extent(8192, 512)]
    assert found.bad[1].places == (Place("/dev/pmem0", 4096), Place("/dev/dm-0", 8192))


def test_a_stack_that_may_not_be_followed_is_clean_only_if_all_below_is(
    tree: SysfsTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = tree.disk("pmem0", 0, MIB, ""), tree.disk("pmem1", 1, MIB, "")
    mapped = tree.mapped("dm-0", 9, MIB, one, two)
    tables(monkeypatch)
    assert ask(tree, mapped) == Findings([], [])
    (tree.directory(two) / "badblocks").write_text("3 1\n")
    found = ask(tree, mapped)
    assert found.bad == []
    assert any("only root may ask" in why for why in found.unknown)
    assert any("bad" in why for why in found.unknown)
    (tree.directory(two) / "badblocks").write_text("\n")
    assert ask(tree, mapped).unknown
    assert ask(tree, tree.mapped("dm-1", 10, MIB)).unknown  # nothing below is shown


def test_an_array_of_unknown_layout_is_unknown_where_a_member_is_bad(tree: SysfsTree) -> None:
    member = tree.disk("pmem0", 0, MIB, "3 1\n")
    array = tree.disk("md0", 5, MIB, None)
    (tree.directory(array) / "slaves" / "pmem0").symlink_to(tree.directory(member))
    found = ask(tree, array)
    assert found.bad == []
    assert "/dev/md0" in found.unknown[0]


def test_of_a_record_that_was_cut_the_rest_is_unknown(tree: SysfsTree) -> None:
    text = "".join(f"{sector} 1\n" for sector in range(1000, 9000, 10))[:4095]
    found = ask(tree, tree.disk("pmem0", 0, 64 * MIB, text))
    assert found.bad
    assert "page" in found.unknown[0]


def test_a_loop_device_over_a_mount_of_ours_has_the_mounts_record(
    tree: SysfsTree, tmp_path: Path
) -> None:
    path = tmp_path / "device"
    path.write_bytes(b"")
    loop = tree.loop("loop0", 8, MIB, path, offset=4096)

    class Own:
        def ranges(self) -> list[Range]:
            return [
                Range(Extent(4096, 512), "recorded", 4096),
                Range(Extent(8192, 64), "poison", 8192),  # latent: in no record
                Range(Extent(2 * MIB, 512), "lost", 2 * MIB),  # behind the device's end
            ]

        def close(self) -> None:
            pass

    records = HostRecords(lambda name: Own() if name == str(path) else None, tree.root)  # type: ignore[arg-type,return-value]
    found = records.of_device(loop)
    assert extents(found) == [Extent(0, 512)]
    assert found.bad[0].places == (Place(str(path), 4096), Place("/dev/loop0", 0))
    assert records.own_paths == [str(path)]


def test_a_loop_device_whose_file_may_not_be_opened_is_unknown(
    tree: SysfsTree, tmp_path: Path
) -> None:
    loop = tree.loop("loop0", 8, MIB, tmp_path / "gone")
    assert "gone" in ask(tree, loop).unknown[0]


def test_a_loop_of_devices_ends(tree: SysfsTree, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel refuses one, but sysfs is read a file at a time."""
    one = tree.mapped("dm-0", 9, MIB)
    tables(monkeypatch, dm9=[TableLine(Extent(0, MIB), "linear", "259:9 0")])
    assert ask(tree, one).unknown


# -- persistent memory -----------------------------------------------------------------------


@pytest.fixture
def memory(tree: SysfsTree) -> SysfsTree:
    tree.plant_region(512 * MIB, f"{(386 * MIB + 4096) // 512} 8\n0 1\n{300 * MIB // 512} 1\n")
    tree.namespace("namespace0.1", "safe", 256 * MIB, 128 * MIB, "btt0.1")
    tree.namespace("namespace0.2", "dax", 384 * MIB, 64 * MIB, "dax0.1")
    tree.claim("btt0.1", "namespace0.1", 256 * MIB, 128 * MIB)
    tree.claim("dax0.1", "namespace0.2", 386 * MIB, 62 * MIB)
    return tree


def test_a_dax_device_has_what_the_regions_record_has_of_it(memory: SysfsTree) -> None:
    number = memory.dax_device("dax0.0", 1, "dax0.1", 386 * MIB, 62 * MIB)
    found = HostRecords(lambda path: None, memory.root).of_dax(number)
    assert extents(found) == [Extent(4096, 4096)]
    assert found.bad[0].places == (
        Place("region0", 386 * MIB + 4096),
        Place("/dev/dax0.0", 4096),
    )


def test_a_user_who_may_not_know_where_a_dax_device_lies_is_told_so(memory: SysfsTree) -> None:
    """`ndctl list -M` silently shows nothing there."""
    number = memory.dax_device("dax0.0", 1, "dax0.1", 386 * MIB, 62 * MIB)
    (memory.region / "resource").unlink()
    records = HostRecords(lambda path: None, memory.root)
    assert records.of_dax(number).unknown
    (memory.region / "badblocks").write_text("")
    assert records.of_dax(number) == Findings([], [])  # nothing in the region is bad at all


def test_in_sector_mode_which_sectors_are_bad_is_unknown_but_clean_is_clean(
    memory: SysfsTree,
) -> None:
    disk = memory.pmem_disk("pmem0s", 4, "btt0.1", 120 * MIB, None)
    found = ask(memory, disk)
    assert found.bad == []
    assert "sector mode" in found.unknown[0]
    assert "512 bytes" in found.unknown[0]
    (memory.region / "badblocks").write_text("0 1\n")  # not in this namespace
    assert ask(memory, disk) == Findings([], [])


def test_an_fsdax_disk_has_a_record_of_its_own(memory: SysfsTree) -> None:
    disk = memory.pmem_disk("pmem0", 5, "pfn0.1", 100 * MIB, "16 1\n")
    assert extents(ask(memory, disk)) == [Extent(8192, 512)]
