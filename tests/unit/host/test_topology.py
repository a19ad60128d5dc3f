"""What lies below and above a device, through a sysfs of our own; the table of a dm device."""

import os
import struct
from pathlib import Path

import pytest

from daxmend.extent import Extent
from daxmend.host import devicemapper
from daxmend.host.devicemapper import Striped, TableLine, parse_target, unpack_table
from daxmend.host.devicenumber import decode_device, encode_device
from daxmend.host.topology import (
    BlockDevice,
    Linear,
    OnFile,
    Piece,
    dm_layout,
    find_block_device,
    holders,
    layout,
    slaves,
)
from daxmend.host.unknown import Unknown
from sysfstree import MIB, SysfsTree


@pytest.fixture
def tree(tmp_path: Path) -> SysfsTree:
    return SysfsTree(tmp_path / "sys")


def found(tree: SysfsTree, number: int) -> BlockDevice:
    device = find_block_device(number, tree.root)
    assert isinstance(device, BlockDevice)
    return device


def pieces(tree: SysfsTree, number: int) -> list[Piece] | Unknown:
    return layout(found(tree, number))


def test_a_disk_lies_on_nothing_and_a_partition_on_its_disk(tree: SysfsTree) -> None:
    disk = tree.disk("pmem0", 0, 64 * MIB)
    part = tree.partition(disk, "pmem0p1", 1, MIB, 10 * MIB)
    assert found(tree, disk)[:3] == (disk, "pmem0", 64 * MIB)
    assert found(tree, part).node == "/dev/pmem0p1"
    assert pieces(tree, disk) == []
    assert pieces(tree, part) == [Linear(Extent(0, 10 * MIB), disk, MIB)]
    assert holders(found(tree, disk), tree.root) == [part]
    assert holders(found(tree, part), tree.root) == []


def test_what_the_kernel_does_not_show_is_unknown(tree: SysfsTree) -> None:
    assert isinstance(find_block_device(os.makedev(0, 40), tree.root), Unknown)
    assert isinstance(find_block_device(os.makedev(7, 7), tree.root), Unknown)


def test_a_loop_device_lies_on_its_file(tree: SysfsTree, tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(b"")
    loop = tree.loop("loop0", 8, MIB, tmp_path / "image", offset=8192)
    assert pieces(tree, loop) == [OnFile(Extent(0, MIB), str(tmp_path / "image"), 8192)]


def test_a_loop_device_whose_file_was_removed_cannot_be_followed(
    tree: SysfsTree, tmp_path: Path
) -> None:
    loop = tree.loop("loop0", 8, MIB, tmp_path / "image (deleted)")
    answer = pieces(tree, loop)
    assert isinstance(answer, Unknown)
    assert "image" in answer.why


def test_the_table_of_a_dm_device_says_where_it_lies(
    tree: SysfsTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = tree.disk("pmem0", 0, 64 * MIB), tree.disk("pmem1", 1, 64 * MIB)
    mapped = tree.mapped("dm-0", 9, 64 * MIB, one, two)
    table = [
        TableLine(Extent(0, MIB), "linear", "259:0 2048"),
        TableLine(Extent(MIB, MIB), "zero", ""),
        TableLine(Extent(2 * MIB, 2 * MIB), "striped", "2 8 259:0 0 259:1 16"),
    ]
    monkeypatch.setattr(devicemapper, "read_table", lambda number: table)
    assert pieces(tree, mapped) == [
        Linear(Extent(0, MIB), one, MIB),
        Striped(Extent(2 * MIB, 2 * MIB), 4096, ((one, 0), (two, 8192))),
    ]
    assert slaves(found(tree, mapped)) == [one, two]
    assert holders(found(tree, one), tree.root) == [mapped]


def test_a_table_that_may_not_be_read_is_unknown(
    tree: SysfsTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    mapped = tree.mapped("dm-0", 9, MIB)
    monkeypatch.setattr(devicemapper, "read_table", lambda number: Unknown("not for you"))
    answer = pieces(tree, mapped)
    assert isinstance(answer, Unknown)
    assert "/dev/dm-0" in answer.why
    assert "not for you" in answer.why


@pytest.mark.parametrize(
    ("target", "arguments"),
    [
        ("thin", "253:0 1"),
        ("crypt", "aes key 0 259:0 0"),
        ("linear", "259:0"),
        ("linear", "pmem0 0"),
        ("striped", "2 8 259:0 0"),
        ("striped", "0 8"),
    ],
)
def test_a_target_without_fixed_places_and_nonsense_are_unknown(
    target: str, arguments: str
) -> None:
    answer = dm_layout([TableLine(Extent(0, MIB), target, arguments)], "/dev/dm-7")
    assert isinstance(answer, Unknown)
    assert "/dev/dm-7" in answer.why
    assert target in answer.why


def test_targets_that_pass_through_lie_where_their_device_does() -> None:
    for target, arguments, offset in (
        ("flakey", "259:0 8 5 0", 4096),
        ("delay", "259:0 8 100", 4096),
        ("log-writes", "259:0 259:1", 0),
    ):
        line = TableLine(Extent(0, MIB), target, arguments)
        assert parse_target(line) == (line.extent, os.makedev(259, 0), offset)


def test_stripes_are_found_from_below_for_every_byte() -> None:
    one, two, three = (os.makedev(259, minor) for minor in range(3))
    striped = Striped(Extent(8192, 3 * 4 * 4096), 4096, ((one, 0), (two, 512), (three, 8192)))
    for index, (member, offset) in enumerate(striped.members):
        for row in range(4):
            at = offset + row * 4096 + 512
            (above, below), *rest = striped.up(member, Extent(at, 512))
            assert (above.offset, below) == (8192 + (row * 3 + index) * 4096 + 512, at)
            assert rest == []
    across = list(striped.up(one, Extent(4000, 200)))
    assert across == [
        (Extent(8192 + 4000, 96), 4000),
        (Extent(8192 + 3 * 4096, 104), 4096),
    ]
    assert list(striped.up(one, Extent(4 * 4096, 512))) == []  # behind its share
    assert list(striped.up(os.makedev(259, 9), Extent(0, 512))) == []


def test_the_answer_of_device_mapper_is_unpacked() -> None:
    def spec(sector: int, length: int, following: int, kind: bytes, text: bytes) -> bytes:
        row = struct.pack("=QQiI16s", sector, length, 0, following, kind) + text + b"\0"
        return row + bytes(-len(row) % 8)

    first = spec(0, 2048, 64, b"linear", b"259:0 0")
    assert len(first) <= 64
    first += bytes(64 - len(first))
    second = spec(2048, 2048, 128, b"error", b"")
    head = struct.pack("=3I", 4, 0, 0) + struct.pack("=IIIiIII", 500, 312, 2, 0, 0, 0, 0)
    head += bytes(312 - len(head))
    assert unpack_table(head + first + second) == [
        TableLine(Extent(0, MIB), "linear", "259:0 0"),
        TableLine(Extent(MIB, MIB), "error", ""),
    ]


def test_device_numbers_are_the_kernels_and_back() -> None:
    for major, minor, encoded in ((8, 1, 0x801), (259, 0, 0x10300), (253, 300, 0x10FD2C)):
        assert encode_device(os.makedev(major, minor)) == encoded
        assert decode_device(encoded) == os.makedev(major, minor)


def test_no_device_mapper_is_unknown_and_says_why() -> None:
    answer = devicemapper.read_table(os.makedev(253, 250))
    assert isinstance(answer, Unknown)  # no such device, no permission, or no dm at all
    assert answer.why
