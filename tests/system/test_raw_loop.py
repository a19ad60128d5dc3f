"""A real ext4 on a loop device on the mounted raw device: the kernel's own file system meets the
damage, and heals it by overwriting. Needs root and loop devices."""

import contextlib
import mmap
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from rawmount import PAGE, SECTOR, Mounted, loop_device, program

pytestmark = [
    pytest.mark.timeout(60, method="signal"),
    pytest.mark.skipif(os.geteuid() != 0, reason="losetup and mount need root"),
    pytest.mark.skipif(not os.path.exists("/dev/loop-control"), reason="no loop devices here"),
    pytest.mark.parametrize("user", ["root"], indirect=True),
]

FILL = b"ext4 on loop on FUSE on a poisoned pool\n" * 40_000


def must(*command: object) -> str:
    ran = program(*command)
    assert ran.status == 0, (command, ran)
    return ran.out


@contextlib.contextmanager
def mounted_ext4(loop: str, directory: Path) -> Iterator[Path]:
    must("mount", "-t", "ext4", loop, directory)
    try:
        yield directory
    finally:
        program("umount", "-l", directory)


def first_block(path: Path) -> int:
    """The file system block, of 4096 bytes, of the 3rd page of a file: the same on the device."""
    out = must("filefrag", "-v", "-b4096", path)
    row = re.search(r"^\s*0:\s*(\d+)\.\.\s*(\d+):\s*(\d+)\.\.", out, re.MULTILINE)
    assert row, out
    logical, end, physical = (int(number) for number in row.groups())
    assert logical == 0
    assert end >= 3, out
    return physical + 3


def read_direct(path: Path, offset: int) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    try:
        buffer = mmap.mmap(-1, PAGE)
        return buffer[: os.preadv(fd, [buffer], offset)]
    finally:
        os.close(fd)


def evict(path: Path) -> None:
    """Drop the page cache of one file."""
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)


@pytest.fixture
def large(raw: Mounted, base: Path) -> Mounted:
    """As `raw`, of 32 MiB."""
    raw.must_umount()
    raw.pool.unlink()
    raw.size = 32 << 20
    raw.create()
    raw.must_mount()
    (base / "ext4").mkdir()
    return raw


@pytest.mark.parametrize("loop_mode", ["--direct-io=off", "--direct-io=on"])
def test_ext4_on_a_loop_device_meets_the_damage_and_heals_it(
    large: Mounted, base: Path, loop_mode: str
) -> None:
    raw = large
    with loop_device(raw.device, loop_mode) as loop:
        must("mkfs.ext4", "-q", "-b", "4096", loop)
        with mounted_ext4(loop, base / "ext4") as directory:
            file = directory / "file"
            for name in ("file", "other", "third"):
                (directory / name).write_bytes(FILL)
            os.sync()
            block = first_block(file)
            evict(file)

            raw.write_control("badblocks", f"{block * 8} 8\n")
            with pytest.raises(OSError):
                read_direct(file, 3 * PAGE)
            ran = program("cat", file)
            assert ran.status == 1
            assert "Input/output error" in ran.err
            assert FILL.startswith(ran.out.encode("latin-1"))
            assert read_direct(file, 2 * PAGE) == FILL[2 * PAGE : 3 * PAGE]
            assert read_direct(file, 4 * PAGE) == FILL[4 * PAGE : 5 * PAGE]
            assert (directory / "other").read_bytes() == FILL

            good = base / "good"
            good.write_bytes(FILL[3 * PAGE : 4 * PAGE])
            must("dd", f"if={good}", f"of={file}", f"bs={PAGE}", "seek=3", "conv=notrunc",
                 "oflag=direct")  # fmt: skip
            assert raw.badblocks == ""
            assert read_direct(file, 3 * PAGE) == FILL[3 * PAGE : 4 * PAGE]
            evict(file)
            assert file.read_bytes() == FILL

            # and buffered: the kernel writes whole pages back
            raw.write_control("badblocks", f"{block * 8 + 2} 1\n")
            evict(file)
            with open(file, "r+b") as opened:
                opened.seek(3 * PAGE)
                opened.write(FILL[3 * PAGE : 4 * PAGE])
                opened.flush()
                os.fsync(opened.fileno())
            assert raw.badblocks == ""
            evict(file)
            assert file.read_bytes() == FILL
        must("e2fsck", "-f", "-n", loop)
    raw.must_umount()
    raw.must_mount()
    with (
        loop_device(raw.device, loop_mode) as loop,
        mounted_ext4(loop, base / "ext4") as directory,
    ):
        for name in ("file", "other", "third"):
            assert (directory / name).read_bytes() == FILL


def test_discarding_on_the_loop_device_zeroes_in_place_or_is_refused_r33(
    large: Mounted, base: Path
) -> None:
    raw = large
    raw.pwrite(FILL[: 16 * PAGE], 0)
    raw.make_bad(4)
    with loop_device(raw.device) as loop:
        for tool in (["blkdiscard", "-f", "-z"], ["blkdiscard", "-f"]):
            ran = program(*tool, "-o", 3 * PAGE, "-l", 4 * PAGE, loop)
            if ran.status:
                assert "not supported" in ran.err
                continue
            evict(Path(loop))
            assert read_direct(Path(loop), 4 * PAGE) == bytes(PAGE)
            assert raw.badblocks == ""
            assert raw.pread(4 * PAGE, 3 * PAGE) == bytes(4 * PAGE)
        assert raw.pread(SECTOR, 2 * PAGE) == FILL[2 * PAGE : 2 * PAGE + SECTOR]
        assert raw.pread(PAGE, 7 * PAGE) == FILL[7 * PAGE : 8 * PAGE]
