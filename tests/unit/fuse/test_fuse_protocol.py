"""The layouts against the sizes that linux/fuse.h has."""

import re
from pathlib import Path
from struct import Struct

import pytest

from daxmend.fuse import protocol as p

SIZES = {
    "IN_HEADER": 40,
    "INIT_IN": 16,
    "FORGET_ONE": 16,
    "GETATTR_IN": 16,
    "SETATTR_IN": 88,
    "MKNOD_IN": 16,
    "MKDIR_IN": 8,
    "RENAME2_IN": 16,
    "OPEN_IN": 8,
    "CREATE_IN": 16,
    "READ_IN": 40,
    "WRITE_IN": 40,
    "RELEASE_IN": 24,
    "FLUSH_IN": 24,
    "FSYNC_IN": 16,
    "SETXATTR_IN": 8,
    "GETXATTR_IN": 8,
    "IOCTL_IN": 32,
    "POLL_IN": 24,
    "FALLOCATE_IN": 32,
    "LSEEK_IN": 24,
    "COPY_FILE_RANGE_IN": 56,
    "OUT_HEADER": 16,
    "INIT_OUT": 64,
    "ATTR": 88,
    "OPEN_OUT": 16,
    "KSTATFS": 80,
    "IOCTL_OUT": 16,
    "DIRENT": 24,
    "NOTIFY_INVAL_INODE_OUT": 24,
    "NOTIFY_INVAL_ENTRY_OUT": 16,
    "BACKING_MAP": 16,
}


@pytest.mark.parametrize(("name", "size"), SIZES.items())
def test_a_layout_has_the_size_of_the_kernels_struct(name: str, size: int) -> None:
    layout = getattr(p, name)
    assert isinstance(layout, Struct)
    assert layout.size == size


def test_a_compound_reply_has_the_size_of_the_kernels_struct() -> None:
    assert p.ATTR_OUT.size + p.ATTR.size == 104  # struct fuse_attr_out
    assert p.ENTRY_OUT.size + p.ATTR.size == 128  # struct fuse_entry_out


def test_the_hot_paths_layout_is_the_header_and_read_in() -> None:
    header = p.IN_HEADER.pack(80, p.FUSE_READ, 10, 20, 30, 40, 50)
    body = p.READ_IN.pack(60, 70, 80, 90, 100, 110)
    expected = (p.FUSE_READ, 10, 20, 60, 70, 80, 90, 110)
    assert p.IO_REQUEST.unpack(header + body) == expected


HEADER = Path("/usr/include/linux/fuse.h")
NEWER_THAN_THE_HEADER = {
    "FUSE_DIRECT_IO_ALLOW_MMAP": 1 << 36,
    "FUSE_PASSTHROUGH": 1 << 37,
    "FOPEN_PASSTHROUGH": 1 << 7,
    "FUSE_DEV_IOC_BACKING_OPEN": 1 << 30 | 16 << 16 | 229 << 8 | 1,
    "FUSE_DEV_IOC_BACKING_CLOSE": 1 << 30 | 4 << 16 | 229 << 8 | 2,
}
OURS = {"FUSE_KERNEL_MINOR_VERSION", "OLDEST_MINOR_VERSION"}


@pytest.mark.skipif(not HEADER.exists(), reason="linux/fuse.h is not installed")
def test_every_number_is_that_of_the_kernels_header() -> None:
    text = HEADER.read_text()
    kernels = {name: int(number) for name, number in re.findall(r"\b(FUSE_\w+)\s*= (\d+)", text)}
    for name, bit in re.findall(r"#define\s+(F\w+)\s+\(1(?:ULL)? << (\d+)\)", text):
        kernels[name] = 1 << int(bit)
    for name, number in re.findall(r"#define\s+(FUSE_\w+)\s+(\d+)$", text, re.MULTILINE):
        kernels[name] = int(number)
    numbers = {name: value for name, value in vars(p).items() if isinstance(value, int)}
    for name, value in numbers.items():
        if name not in OURS:
            assert value == NEWER_THAN_THE_HEADER.get(name, kernels.get(name)), name
