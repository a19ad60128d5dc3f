"""The raw mount's handler, called as the kernel would (R11, R27, R33)."""

import errno
import os
from typing import Any

import pytest
from mountkernel import PAGE, SECTOR, Mounted

from daxmend.extent import Extent
from daxmend.fuse import SetAttr
from daxmend.fuse.protocol import FATTR_FH, FATTR_SIZE, FUSE_READ_LOCKOWNER, FUSE_WRITE_CACHE
from daxmend.host.zeroing import FALLOC_FL_PUNCH_HOLE, FALLOC_FL_ZERO_RANGE
from daxmend.mounts.devicemount import DEVICE_NODEID
from daxmend.mounts.option import OpenMode

NEW = b"n" * PAGE


@pytest.fixture
def raw() -> Mounted:
    mounted = Mounted()
    fh = mounted.open()
    for page in range(16):
        mounted.write(fh, page * PAGE, bytes([page]) * PAGE)
    mounted.handler.release(DEVICE_NODEID, fh, 0, 0, 0)
    return mounted


def setattr_of(valid: int, size: int) -> SetAttr:
    values = dict.fromkeys(SetAttr._fields, 0)
    return SetAttr(**{**values, "valid": valid, "size": size})


def test_a_read_of_read_2_may_be_short_and_one_of_a_mapping_may_not_r11(raw: Mounted) -> None:
    raw.tell("badblocks", "40 8\n")
    assert len(raw.read(3 * PAGE, 4 * PAGE, FUSE_READ_LOCKOWNER)) == 2 * PAGE
    with pytest.raises(OSError) as info:
        raw.read(3 * PAGE, 4 * PAGE)
    assert info.value.errno == errno.EIO


def test_a_write_back_stores_every_page_that_can_be_and_reports_the_others_once_r27(
    raw: Mounted,
) -> None:
    """A short count would be taken for success, and what is behind it be dropped."""
    raw.tell("badblocks", "40 1\n72 8\n")
    owner, reader = raw.open(), raw.open(os.O_RDONLY)
    raw.session.notifier.done.clear()
    assert raw.write(owner, 0, b"w" * 16 * PAGE, FUSE_WRITE_CACHE) == 16 * PAGE
    for page in set(range(16)) - {5, 9}:
        assert raw.read(page * PAGE, PAGE) == b"w" * PAGE
    assert raw.ask("badblocks") == "40 1\n72 8\n"
    assert raw.read(5 * PAGE + SECTOR, SECTOR, FUSE_READ_LOCKOWNER) == b"\5" * SECTOR
    invalidated = {(offset, length) for _, _, offset, length in raw.session.notifier.done}
    assert invalidated == {(5 * PAGE, PAGE), (9 * PAGE, PAGE)}
    raw.handler.flush(DEVICE_NODEID, reader, 0)
    for attempt in (raw.handler.flush, raw.handler.flush, raw.handler.fsync):
        with pytest.raises(OSError) as info:
            attempt(DEVICE_NODEID, owner, 0)
        assert info.value.errno == errno.EIO
    raw.handler.fsync(DEVICE_NODEID, owner, 0)  # said once to whoever asked
    raw.handler.flush(DEVICE_NODEID, owner, 0)
    late = raw.open()
    raw.handler.fsync(DEVICE_NODEID, late, 0)


def test_a_write_back_never_heals_even_if_it_covers_the_whole_page_r27(raw: Mounted) -> None:
    raw.tell("badblocks", "40 8\n")
    assert raw.write(raw.open(), 5 * PAGE, NEW, FUSE_WRITE_CACHE) == PAGE
    assert raw.ask("badblocks") == "40 8\n"
    assert raw.write(raw.open(), 5 * PAGE, NEW) == PAGE
    assert raw.ask("badblocks") == ""


def test_what_changes_is_invalidated_before_those_who_wait_for_the_event_are_answered(
    raw: Mounted,
) -> None:
    nodeid, fh = raw.control("events")
    raw.session.unique = 77
    raw.handler.read(nodeid, fh, 0, 4096, 0, 0)  # parked
    order: list[Any] = raw.session.notifier.done
    order.clear()
    reply = raw.session.reply
    raw.session.reply = lambda unique, payload=b"": (  # type: ignore[method-assign]
        order.append(("answer", unique)) or reply(unique, payload)
    )
    raw.session.unique = 78
    badblocks, badblocks_fh = raw.control("badblocks")
    raw.handler.write(badblocks, badblocks_fh, 0, memoryview(b"40 8\n"), 0, 0)
    kinds = [(what, number) for what, number, *_ in order]
    assert kinds.index(("inval", DEVICE_NODEID)) < kinds.index(("answer", 77))
    assert kinds[-1] == ("answer", 78)


@pytest.mark.parametrize("how", ["inject", "latent", "uninject", "consume", "heal", "zero"])
def test_whatever_changes_what_bytes_say_drops_the_pages_of_the_cache_r27(
    raw: Mounted, how: str
) -> None:
    """From outside of the mount, too: the kernel drops nothing that it is not told of."""
    raw.device.inject(Extent(8 * SECTOR, SECTOR), latent=how == "consume")
    done: list[Any] = raw.session.notifier.done
    done.clear()
    if how == "inject":
        raw.device.inject(Extent(9 * SECTOR, SECTOR))
    elif how == "latent":
        raw.device.inject(Extent(9 * SECTOR, 64), latent=True)
    elif how == "uninject":
        raw.device.uninject(Extent(8 * SECTOR, 64))
    elif how == "consume":
        raw.device.recovery_read(Extent(PAGE, PAGE))
    elif how == "heal":
        raw.device.recovery_write(PAGE, NEW)
    else:
        raw.device.zeroinit(Extent(PAGE, PAGE))
    assert ("inval", DEVICE_NODEID, PAGE, PAGE) in done


def test_o_trunc_is_ignored_and_a_truncation_refused(raw: Mounted) -> None:
    """O_TRUNC is a size of 0 on no file handle; ftruncate(2) has one."""
    badblocks, _ = raw.control("badblocks")
    caller: Any = None
    size = raw.device.size
    assert raw.handler.setattr(caller, DEVICE_NODEID, setattr_of(FATTR_SIZE, 0)).attr.size == size
    raw.handler.setattr(caller, badblocks, setattr_of(FATTR_SIZE, 0))
    raw.handler.setattr(caller, DEVICE_NODEID, setattr_of(FATTR_SIZE | FATTR_FH, size))
    for valid, length in ((FATTR_SIZE | FATTR_FH, 0), (FATTR_SIZE, 1), (FATTR_SIZE, size + 1)):
        with pytest.raises(OSError) as info:
            raw.handler.setattr(caller, DEVICE_NODEID, setattr_of(valid, length))
        assert info.value.errno == errno.EINVAL
    with pytest.raises(PermissionError):
        raw.handler.setattr(caller, badblocks, setattr_of(FATTR_SIZE | FATTR_FH, 0))


@pytest.mark.parametrize("mode", OpenMode)
def test_the_open_mode_decides_how_the_device_is_opened(mode: OpenMode) -> None:
    mounted = Mounted(open_mode=mode)
    caller: Any = None
    flags = mounted.handler.open(caller, DEVICE_NODEID, 2, 0).open_flags
    assert flags == (0 if mode is OpenMode.CACHED else 1)  # FOPEN_DIRECT_IO


def test_every_open_has_a_handle_of_its_own(raw: Mounted) -> None:
    assert len({raw.open() for _ in range(100)}) == 100


def test_verified_writes_fail_at_once_over_latent_poison_but_not_on_a_held_half_r45() -> None:
    mounted = Mounted(verify_writes=True)
    mounted.tell("poison", "4096 64\n")
    fh = mounted.open()
    with pytest.raises(OSError) as info:
        mounted.write(fh, PAGE, NEW)
    assert info.value.errno == errno.EIO
    assert mounted.ask("badblocks") == "8 1\n"
    assert mounted.write(fh, PAGE - 10, b"h" * 100) == 100  # its last 90 bytes are held
    assert mounted.write(fh, PAGE + 90, b"i" * (PAGE - 90)) == PAGE - 90
    assert mounted.ask("badblocks") == ""
    assert mounted.read(PAGE, PAGE) == b"h" * 90 + b"i" * (PAGE - 90)


def test_names_can_neither_be_made_nor_changed_and_the_errno_says_so(raw: Mounted) -> None:
    """EPERM, which programs report as what it is; ENOSYS would blame the kernel."""
    caller: Any = None
    handler = raw.handler
    for attempt in (
        lambda: handler.create(caller, 1, b"x", 0, 0, 0, 0),
        lambda: handler.mknod(caller, 1, b"x", 0, 0, 0),
        lambda: handler.mkdir(caller, 1, b"x", 0, 0),
        lambda: handler.symlink(caller, 1, b"x", b"y"),
        lambda: handler.link(caller, DEVICE_NODEID, 1, b"x"),
        lambda: handler.unlink(caller, 1, b"device"),
        lambda: handler.rmdir(caller, 1, b".daxmend"),
        lambda: handler.rename(caller, 1, b"device", 1, b"x", 0),
    ):
        with pytest.raises(PermissionError) as info:
            attempt()
        assert info.value.errno == errno.EPERM


def happened(raw: Mounted) -> list[tuple[str, object]]:
    """The events from now on, by name and extent."""
    seen: list[tuple[str, object]] = []
    raw.device.events.subscribe(
        lambda event: seen.append((event.name, getattr(event, "extent", None)))
    )
    return seen


@pytest.mark.parametrize(
    "mode", [FALLOC_FL_ZERO_RANGE, FALLOC_FL_PUNCH_HOLE], ids=["write-zeroes", "discard"]
)
def test_write_zeroes_is_one_event_and_no_scrub_and_heals_latent_poison_r33_r48(
    raw: Mounted, mode: int
) -> None:
    raw.tell("badblocks", "40 1\n")
    raw.tell("poison", f"{7 * PAGE} 64\n")
    seen = happened(raw)
    extent = Extent(4 * PAGE + 100, 5 * PAGE)
    raw.handler.fallocate(DEVICE_NODEID, raw.open(), *extent, mode)
    names = [name for name, _ in seen]
    assert names.count("zeroinit_done") == 1
    assert "scrub_done" not in names
    assert seen[-1] == ("zeroinit_done", extent)
    assert raw.ask("ranges") == ""
    assert raw.read(4 * PAGE, 6 * PAGE) == (b"\4" * 100 + bytes(5 * PAGE) + b"\11" * (PAGE - 100))


@pytest.mark.parametrize(("offset", "length"), [(10, 20), (500, 100), (512, 30), (1000, 24)])
def test_write_zeroes_may_be_smaller_than_a_sector(raw: Mounted, offset: int, length: int) -> None:
    raw.tell("badblocks", "4 1\n")  # of the same page
    raw.handler.fallocate(DEVICE_NODEID, raw.open(), offset, length, FALLOC_FL_ZERO_RANGE)
    assert raw.read(0, 4 * SECTOR, FUSE_READ_LOCKOWNER) == bytes(4 * SECTOR)  # page 0 was zeros
    raw.write(raw.open(), 0, b"x" * 4 * SECTOR)
    raw.handler.fallocate(DEVICE_NODEID, raw.open(), offset, length, FALLOC_FL_ZERO_RANGE)
    expected = b"x" * offset + bytes(length) + b"x" * (4 * SECTOR - offset - length)
    assert raw.read(0, 4 * SECTOR, FUSE_READ_LOCKOWNER) == expected
    assert raw.ask("badblocks") == "4 1\n"


def test_write_zeroes_that_ends_in_a_bad_sector_is_eio_and_changes_nothing(raw: Mounted) -> None:
    raw.tell("badblocks", "44 1\n")
    seen = happened(raw)
    with pytest.raises(OSError) as info:
        raw.handler.fallocate(
            DEVICE_NODEID, raw.open(), 4 * PAGE, PAGE + 4 * SECTOR + 1, FALLOC_FL_ZERO_RANGE
        )
    assert info.value.errno == errno.EIO
    assert seen == [("recovery_refused", Extent(44 * SECTOR, SECTOR))]
    assert raw.read(4 * PAGE, PAGE) == b"\4" * PAGE


def test_with_recovery_off_write_zeroes_over_a_bad_sector_is_eio_r23(raw: Mounted) -> None:
    raw.tell("badblocks", "44 1\n")
    raw.device.allows_recovery = False
    with pytest.raises(OSError) as info:
        raw.handler.fallocate(DEVICE_NODEID, raw.open(), 4 * PAGE, 2 * PAGE, FALLOC_FL_ZERO_RANGE)
    assert info.value.errno == errno.EIO
    assert raw.read(4 * PAGE, PAGE) == b"\4" * PAGE
    raw.handler.fallocate(DEVICE_NODEID, raw.open(), 4 * PAGE, PAGE, FALLOC_FL_ZERO_RANGE)
    assert raw.read(4 * PAGE, PAGE) == bytes(PAGE)
    assert raw.ask("badblocks") == "44 1\n"
