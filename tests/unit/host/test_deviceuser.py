"""Who has a device or an image, through a sysfs and a /proc/swaps of our own."""

import os
from pathlib import Path

import pytest

from daxmend.host import deviceuser
from daxmend.host.deviceuser import CLAIMED, User, find_device_user, find_file_user, is_claimed
from daxmend.host.mountinfo import Mount
from sysfstree import MIB, SysfsTree


class Machine:
    """Devices, mounts and swap; nobody has anything yet."""

    def __init__(self, directory: Path) -> None:
        self.tree = SysfsTree(directory / "sys")
        self.swaps = directory / "swaps"
        self.swap_on()
        self.mounts: list[Mount] = []

    def mount(self, device: int, where: str, source: str = "none") -> None:
        self.mounts.append(Mount(1, device, where, "rw", "ext4", source, "rw"))

    def swap_on(self, *names: str) -> None:
        lines = [f"{name} partition 65532 0 -2\n" for name in names]
        self.swaps.write_text("Filename Type Size Used Priority\n" + "".join(lines))

    def user(self, number: int) -> str | None:
        found = find_device_user(number, self.tree.root, self.swaps)
        return None if found is None else found.words

    def file_user(self, path: Path) -> User | None:
        return find_file_user(path, self.tree.root, self.swaps)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = Machine(tmp_path)
    monkeypatch.setattr(deviceuser, "iter_mounts", lambda: iter(machine.mounts))
    return machine


def test_a_mount_is_found_through_partition_dm_and_md(machine: Machine) -> None:
    tree = machine.tree
    disk = tree.disk("pmem0", 0, 64 * MIB)
    unused = tree.partition(disk, "pmem0p1", 1, MIB, 10 * MIB)
    part = tree.partition(disk, "pmem0p2", 2, 11 * MIB, 10 * MIB)
    assert [machine.user(each) for each in (disk, unused, part)] == [None] * 3
    mapped = tree.mapped("dm-0", 3, 10 * MIB, part)
    assert machine.user(disk) == "below /dev/pmem0p2, which is below /dev/dm-0"
    top = tree.mapped("dm-1", 4, 10 * MIB, mapped)
    machine.mount(top, "/mnt")
    assert machine.user(top) == "mounted at /mnt"
    assert machine.user(part) == (
        "below /dev/dm-0, which is below /dev/dm-1, which is mounted at /mnt"
    )
    assert machine.user(disk) == f"below /dev/pmem0p2, which is {machine.user(part)}"
    assert machine.user(unused) is None, "the other partition is nobody's"


def test_swap_is_found_on_a_device_and_in_a_file(machine: Machine, tmp_path: Path) -> None:
    device = os.stat("/dev/null").st_rdev  # a node that is there
    machine.swap_on("/dev/null", f"{tmp_path}/a\\040swap")
    assert machine.user(device) == "used as swap"
    found = machine.file_user(tmp_path / "a swap")
    assert found is not None
    assert found.remedy == "first: swapoff"
    assert machine.file_user(tmp_path / "another") is None
    machine.swaps.unlink()  # a container may have none: the kernel still refuses the claim
    assert machine.user(device) is None


def test_a_file_system_with_a_number_of_its_own_is_found_by_its_source(machine: Machine) -> None:
    machine.mount(os.makedev(0, 40), "/mnt/btrfs", "/dev/null")
    assert machine.user(os.stat("/dev/null").st_rdev) == "mounted at /mnt/btrfs"
    assert machine.user(os.stat("/dev/zero").st_rdev) is None


def test_an_image_and_its_loops_are_one_disk(machine: Machine, tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(b"")
    (tmp_path / "link").symlink_to(image)
    one = machine.tree.loop("loop9998", 0, MIB, image)
    other = machine.tree.loop("loop9999", 1, MIB, image)
    assert machine.file_user(image) is None, "nobody has the loop devices"
    machine.mount(one, "/mnt")
    found = machine.file_user(tmp_path / "link")
    assert found is not None
    assert found.words == "the disk of /dev/loop9998, which is mounted at /mnt"
    assert machine.user(other) == f"on {image}, which is {found.words}"
    assert machine.file_user(tmp_path / "else") is None


def test_a_loop_on_a_device_that_is_mounted_has_no_disk_of_its_own(machine: Machine) -> None:
    """A loop device does not claim what it lies on."""
    loop = machine.tree.loop("loop9999", 0, MIB, "/dev/null")
    assert machine.user(loop) is None
    machine.mount(os.stat("/dev/null").st_rdev, "/mnt")
    assert machine.user(loop) == "on /dev/null, which is mounted at /mnt"


def test_an_image_whose_loop_somebody_has_claimed_is_in_use(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = tmp_path / "image"
    image.write_bytes(b"")
    machine.tree.loop("loop9999", 0, MIB, image)
    asked: list[str] = []
    monkeypatch.setattr(deviceuser, "is_claimed", lambda node: not asked.append(node))
    found = machine.file_user(image)
    assert found is not None
    assert CLAIMED.words in found.words
    assert asked == ["/dev/loop9999"]


def test_what_is_no_claim_is_said_as_it_is(tmp_path: Path) -> None:
    assert not is_claimed("/dev/null")
    with pytest.raises(FileNotFoundError):
        is_claimed(tmp_path / "gone")
