import os
from pathlib import Path

from daxmend.fuse import find_mount, iter_mounts
from daxmend.host.mountinfo import parse_mountinfo

TEXT = rb"""22 1 8:1 / / rw,relatime shared:1 master:2 - ext4 /dev/root rw
40 22 0:52 / /mnt/a\040b\011c\012d\134e rw,nosuid - fuse.daxmend pool\0401 rw,user_id=0
41 22 0:53 / /mnt/no\-tag rw - fuse src rw
42 22 0:54 / /blk rw - fuseblk /dev/sda rw
43 22 0:55 / /ctl rw - fusectl none
"""


def test_fields_are_found_with_and_without_tags_and_unescaped() -> None:
    mounts = list(parse_mountinfo(TEXT))
    assert mounts[0].mount_point == "/"
    assert (mounts[0].fstype, mounts[0].source) == ("ext4", "/dev/root")
    assert mounts[0].device == os.makedev(8, 1)
    assert mounts[1].mount_point == "/mnt/a b\tc\nd\\e"
    assert mounts[1].source == "pool 1"
    assert mounts[1].super_options == "rw,user_id=0"
    assert (mounts[1].mount_id, os.minor(mounts[1].device)) == (40, 52)
    assert mounts[4].super_options == ""


def test_only_servers_of_files_count_as_fuse() -> None:
    assert [mount.is_fuse for mount in parse_mountinfo(TEXT)] == [False, True, True, False, False]


def test_bytes_that_are_no_utf8_survive() -> None:
    (mount,) = parse_mountinfo(b"1 1 0:1 / /\xff rw - fuse x rw\n")
    assert os.fsencode(mount.mount_point) == b"/\xff"


def test_the_mounts_of_this_process_are_found() -> None:
    proc = find_mount("/proc")
    assert proc is not None
    assert proc.fstype == "proc"
    assert proc in list(iter_mounts())
    assert find_mount("/proc/") == proc
    root = find_mount("/")
    assert root is not None
    assert root.mount_point == "/"


def test_what_is_no_mount_point_is_not_found(tmp_path: Path) -> None:
    assert find_mount(tmp_path) is None
    assert find_mount(tmp_path / "missing") is None
    assert find_mount("/proc/self") is None


def test_a_fuse_mount_tells_who_mounted_it() -> None:
    assert [mount.user_id for mount in parse_mountinfo(TEXT)] == [None, 0, None, None, None]
    (mount,) = parse_mountinfo(b"1 1 0:1 / /x rw - fuse.x x rw,user_id=65534,group_id=0\n")
    assert mount.user_id == 65534
