"""log-writes: what is in the log, in which order, and what a replay makes of it (R39)."""

import random
import struct

import pytest
from members import Members, in_pages, mapped, pages

from daxmend.dax import io
from daxmend.dax.api import AccessMode
from daxmend.dm import MappedDevice
from daxmend.dm.log_writes import LogWrites
from daxmend.dm.logformat import MAGIC, MAX_MARK, Entry, LogFlag, iter_entries, read_super
from daxmend.dm.logreplay import replay
from daxmend.errors import CorruptionError, MediaError, UnsupportedError, UsageError
from daxmend.extent import Extent
from daxmend.media.pool import create_memory_pool
from daxmend.pmem.device import PmemDevice
from daxmend.units import KIB, MIB, PAGE, SECTOR

TABLE = "0 {16} log-writes data log"
ALL = pages(0, 16)
NORMAL, RECOVERY = AccessMode.NORMAL, AccessMode.RECOVERY
DURABLE = LogFlag.FLUSH | LogFlag.FUA
FLUSH = Entry(Extent(0, 0), LogFlag.FLUSH)


def log_of(members: Members) -> list[Entry]:
    return [placed.entry for placed in iter_entries(members.devices["log"])]


def copy_until(members: Members, until: str | int | None = None) -> bytes:
    """What a replay onto an empty device gives."""
    target = PmemDevice(create_memory_pool(MIB))
    replay(members.devices["log"], target, until)
    data = io.read(target, ALL)
    target.close()
    return data


# -- what is in the log ------------------------------------------------------------------------


def test_stores_wait_for_the_fence_and_come_in_their_order() -> None:
    with mapped(TABLE) as (device, members):
        io.write(device, 3 * PAGE, b"a" * PAGE)
        io.write(device, 100, b"b" * 10)
        io.write(device, 3 * PAGE, b"c" * 10)
        assert log_of(members) == []
        device.fence()
        assert log_of(members) == [
            Entry(pages(3), LogFlag(0)),
            Entry(Extent(0, SECTOR), LogFlag(0)),
            Entry(Extent(3 * PAGE, SECTOR), LogFlag(0)),
            FLUSH,
        ]
        device.fence()
        assert len(log_of(members)) == 4, "a fence without stores says nothing"


def test_recovery_zeroinit_and_sectors_are_writes_that_are_durable_at_once() -> None:
    """R39; what was stored before them is durable before them."""
    with mapped(TABLE) as (device, members):
        members.devices["data"].inject(pages(4, 3))
        io.write(device, 0, b"a" * SECTOR)
        assert device.recovery_write(4 * PAGE, b"r" * PAGE) == PAGE
        assert device.zeroinit(pages(5)) == PAGE
        assert device.write_sectors(6 * 8, b"s" * SECTOR) == SECTOR
        assert log_of(members) == [
            Entry(Extent(0, SECTOR), LogFlag(0)),
            Entry(pages(4), DURABLE),
            Entry(pages(5), DURABLE),
            Entry(Extent(6 * PAGE, SECTOR), DURABLE),
        ]
        expected = b"a" * SECTOR + bytes(4 * PAGE - SECTOR) + b"r" * PAGE + bytes(PAGE)
        assert copy_until(members)[: 6 * PAGE] == expected


def test_what_did_not_heal_is_not_logged() -> None:
    with mapped("0 {16} log-writes refusing log") as (device, members):
        members.devices["refusing"].inject(pages(4))
        assert device.recovery_write(3 * PAGE, b"r" * 3 * PAGE) == PAGE
        assert log_of(members) == [Entry(pages(3), DURABLE)]
        with pytest.raises(MediaError):
            device.recovery_write(4 * PAGE, b"r" * PAGE)
        assert log_of(members) == [Entry(pages(3), DURABLE)]


def test_memory_that_was_handed_out_is_logged_when_it_is_flushed() -> None:
    with mapped(TABLE) as (device, members):
        exposed = device.direct_access(pages(2, 4), NORMAL).expose()
        exposed.memory[PAGE + 700 : PAGE + 710] = b"x" * 10
        exposed.memory[3 * PAGE : 3 * PAGE + 5] = b"later"
        device.flush(pages(2, 2))
        device.fence()
        assert log_of(members) == [Entry(Extent(3 * PAGE + SECTOR, SECTOR), LogFlag(0)), FLUSH]
        device.flush(ALL)
        device.fence()
        assert log_of(members)[2] == Entry(Extent(5 * PAGE, SECTOR), LogFlag(0))
        assert copy_until(members) == io.read(device, ALL)
        exposed.close()


def test_marks_come_behind_what_is_durable() -> None:
    with mapped(TABLE) as (device, members):
        io.write(device, 0, b"a" * SECTOR)
        device.fence()
        io.write(device, 0, b"b" * SECTOR)
        assert device.message(0, ["mark", "here"]) == ""
        device.fence()
        marks = [entry.mark for entry in log_of(members)]
        assert marks == ["", "", "here", "", ""]
        assert copy_until(members, "here")[:SECTOR] == b"a" * SECTOR
        assert copy_until(members)[:SECTOR] == b"b" * SECTOR


@pytest.mark.parametrize("words", [[], ["mark"], ["mark", "a", "b"], ["what", "x"], ["mark", ""]])
def test_other_messages_are_refused(words: list[str]) -> None:
    with mapped(TABLE) as (device, members):
        with pytest.raises(UsageError):
            device.message(0, words)
        assert log_of(members) == []


def test_a_mark_has_room_in_its_sector_or_is_refused() -> None:
    with mapped(TABLE) as (device, members):
        device.message(0, ["mark", "m" * MAX_MARK])
        with pytest.raises(UsageError):
            device.message(0, ["mark", "m" * (MAX_MARK + 1)])
        assert [entry.mark for entry in log_of(members)] == ["m" * MAX_MARK]


# -- its end -----------------------------------------------------------------------------------


def test_a_log_is_gone_on_with() -> None:
    with mapped(TABLE) as (device, members):
        io.write(device, 0, b"a" * SECTOR)
        device.close()
        again = MappedDevice.from_table("top", in_pages(TABLE), members)
        io.write(again, SECTOR, b"b" * SECTOR)
        again.close()
        assert [entry.mark for entry in log_of(members)] == [
            "", "dm-log-writes-end", "", "dm-log-writes-end",
        ]  # fmt: skip
        assert copy_until(members) == io.read(again, ALL)


def test_a_log_that_was_not_ended_says_so() -> None:
    with mapped(TABLE) as (device, members):
        io.write(device, 0, b"a" * SECTOR)
        device.fence()
        MappedDevice.from_table("top", in_pages(TABLE), members)
        assert log_of(members)[-1].mark == "daxmend-log-cut"


def test_a_full_log_ends_logging_and_nothing_else() -> None:
    members = Members()
    members.devices["log"] = PmemDevice(create_memory_pool(4 * PAGE))
    with mapped(TABLE, members) as (device, _):
        for page in range(4):
            io.write(device, page * PAGE, bytes([page + 1]) * PAGE)
            device.fence()
        assert io.read(device, pages(3)) == b"\4" * PAGE
        assert device.status().rstrip().endswith("logging_disabled")
        with pytest.raises(UsageError, match="full"):
            device.message(0, ["mark", "x"])
        assert copy_until(members)[: 2 * PAGE] == b"\1" * PAGE + b"\2" * PAGE


def test_status_counts_as_the_kernel_does() -> None:
    with mapped(TABLE) as (device, _):
        io.write(device, 0, b"a" * PAGE)
        device.fence()
        assert device.status().split()[-2:] == ["2", "10"]


# -- bad blocks --------------------------------------------------------------------------------


@pytest.mark.parametrize("latent", [False, True])
def test_bad_blocks_in_the_log_heal_as_it_grows(latent: bool) -> None:
    with mapped(TABLE) as (device, members):
        members.devices["log"].inject(Extent(0, MIB), latent=latent)
        for page in range(3):
            io.write(device, page * PAGE, bytes([page + 1]) * PAGE)
            device.fence()
        assert "disabled" not in device.status()
        assert copy_until(members) == io.read(device, ALL)


def test_a_log_that_went_bad_cannot_be_replayed_past_that() -> None:
    """R44: not a shorter log, but an error."""
    with mapped(TABLE) as (device, members):
        for page in range(3):
            io.write(device, page * PAGE, bytes([page + 1]) * PAGE)
            device.fence()
        members.devices["log"].inject(Extent(12 * SECTOR, SECTOR))
        assert copy_until(members, 2)[:PAGE] == b"\1" * PAGE
        with pytest.raises(MediaError):
            copy_until(members)


def test_poison_under_a_store_leaves_a_log_that_can_be_replayed() -> None:
    with mapped(TABLE) as (device, members):
        device.inject(Extent(0, 64), latent=True)
        io.write(device, 10, b"over")
        device.fence()
        assert copy_until(members)[10:14] == b"over"


# -- the format --------------------------------------------------------------------------------


def kernel_log(sectorsize: int) -> bytes:
    """A log as Linux writes it, by hand: every kind of entry."""

    def entry(sector: int, count: int, flags: int, inline: bytes = b"", data: bytes = b"") -> bytes:
        header = struct.pack("<QQQQ", sector, count, flags, len(inline)) + inline
        return header.ljust(sectorsize, b"\0") + data

    entries = [
        entry(1, 1, 0, data=b"a" * sectorsize),
        entry(0, 0, 1),
        entry(0, 2, 2 | 16, data=b"b" * 2 * sectorsize),
        entry(0, 0, 8, b"first"),
        entry(1, 1, 4),
        entry(0, 0, 8, b"second"),
    ]
    head = struct.pack("<QQQI", 0x6A736677736872, 1, len(entries), sectorsize)
    return head.ljust(sectorsize, b"\0") + b"".join(entries)


@pytest.mark.parametrize("sectorsize", [512, 4096])
def test_a_kernels_log_is_replayed(sectorsize: int) -> None:
    log, target = (PmemDevice(create_memory_pool(MIB)) for _ in range(2))
    io.write(log, 0, kernel_log(sectorsize))
    io.write(target, 0, b"o" * 4 * sectorsize)
    expected = {
        1: b"oaoo", 2: b"oaoo", "first": b"bboo", "second": b"b\0oo", None: b"b\0oo",
    }  # fmt: skip
    for until, blocks in expected.items():
        io.write(target, 0, b"o" * 4 * sectorsize)
        replay(log, target, until)
        wanted = b"".join(bytes([block]) * sectorsize for block in blocks)
        assert io.read(target, Extent(0, 4 * sectorsize)) == wanted, until


def test_our_log_is_the_kernels_format_byte_by_byte() -> None:
    with mapped(TABLE) as (device, members):
        io.write(device, 2 * SECTOR, b"d" * SECTOR)
        device.fence()
        device.message(0, ["mark", "m"])
        raw = io.read(members.devices["log"], Extent(0, 5 * SECTOR))
    assert struct.unpack_from("<QQQI", raw) == (MAGIC, 1, 3, 512)
    assert struct.unpack_from("<QQQQ", raw, SECTOR) == (2, 1, 0, 0)
    assert raw[2 * SECTOR : 3 * SECTOR] == b"d" * SECTOR
    assert struct.unpack_from("<QQQQ", raw, 3 * SECTOR) == (0, 0, 1, 0)
    assert struct.unpack_from("<QQQQ2s", raw, 4 * SECTOR) == (0, 0, 8, 1, b"m\0")


@pytest.mark.parametrize(
    ("offset", "value", "error"),
    [
        (0, b"x", UsageError),
        (8, b"\2", UnsupportedError),
        (24, b"\1", CorruptionError),
        (SECTOR + 16, b"\xff", CorruptionError),
        (SECTOR + 14, b"\1", CorruptionError),
        (16, b"\xff" * 3, CorruptionError),
    ],
)
def test_wrong_logs_are_refused_before_anything_is_written(
    offset: int, value: bytes, error: type[Exception]
) -> None:
    log, target = (PmemDevice(create_memory_pool(MIB)) for _ in range(2))
    io.write(log, 0, kernel_log(512))
    io.write(log, 9 * SECTOR + 16, b"\xff")  # what comes after the log is no entry
    io.write(log, offset, value)
    with pytest.raises(error):
        replay(log, target)
    assert not any(io.read(target, Extent(0, MIB)))


def test_something_else_on_the_log_device_is_not_overwritten() -> None:
    members = Members()
    io.write(members.open_member("log"), 0, b"precious")
    with pytest.raises(UsageError, match="no log"):
        MappedDevice.from_table("top", in_pages(TABLE), members)
    assert io.read(members.devices["log"], Extent(0, 8)) == b"precious"


def test_a_log_with_other_sectors_is_not_gone_on_with() -> None:
    members = Members()
    io.write(members.open_member("log"), 0, kernel_log(4096))
    with pytest.raises(UnsupportedError, match="4096"):
        MappedDevice.from_table("top", in_pages(TABLE), members)


@pytest.mark.parametrize("until", ["nothing", 99, -1])
def test_a_replay_to_nowhere_writes_nothing(until: str | int) -> None:
    log, target = (PmemDevice(create_memory_pool(MIB)) for _ in range(2))
    io.write(log, 0, kernel_log(512))
    with pytest.raises(UsageError):
        replay(log, target, until)
    assert not any(io.read(target, Extent(0, MIB)))


def test_a_target_too_small_for_the_log_is_not_begun() -> None:
    with mapped(TABLE) as (device, members):
        io.write(device, 0, b"a" * PAGE)
        io.write(device, 15 * PAGE, b"z" * PAGE)
        device.fence()
        target = PmemDevice(create_memory_pool(8 * PAGE))
        with pytest.raises(UsageError, match="ends at"):
            replay(members.devices["log"], target)
        assert not any(io.read(target, pages(0, 8)))


def test_an_empty_log_replays_to_nothing() -> None:
    empty = PmemDevice(create_memory_pool(MIB))
    assert read_super(empty) is None
    assert replay(empty, empty) == 0


def test_a_replay_heals_what_it_writes_over() -> None:
    with mapped(TABLE) as (device, members):
        io.write(device, 0, b"a" * PAGE)
        device.fence()
        target = PmemDevice(create_memory_pool(MIB))
        target.inject(pages(0))
        replay(members.devices["log"], target)
        assert io.read(target, pages(0)) == b"a" * PAGE


@pytest.mark.parametrize("seed", range(5))
def test_a_replay_to_any_mark_gives_the_state_at_that_mark(seed: int) -> None:
    rng = random.Random(seed)
    members = Members()
    members.devices["log"] = PmemDevice(create_memory_pool(8 * MIB))
    with mapped(TABLE, members) as (device, _):
        states: dict[str, bytes] = {}
        for number in range(12):
            for _ in range(rng.randrange(6)):
                offset = rng.randrange(15 * PAGE)
                io.write(device, offset, rng.randbytes(rng.randrange(1, 2 * KIB)))
            page = rng.randrange(16)
            if rng.random() < 0.5:
                members.devices["data"].inject(pages(page))
                io.write(device, page * PAGE, rng.randbytes(PAGE))
            if rng.random() < 0.3:
                io.zeroinit(device, pages(page))
            device.fence()
            device.message(0, ["mark", f"m{number}"])
            states[f"m{number}"] = io.read(device, ALL)
        for mark, state in states.items():
            assert copy_until(members, mark) == state, mark


def test_the_api_marks_too() -> None:
    with mapped(TABLE) as (device, members):
        target = device.targets[0]
        assert isinstance(target, LogWrites)
        target.mark("by hand")
        assert log_of(members)[-1].mark == "by hand"
        window = device.direct_access(pages(0), RECOVERY)
        window.store_line(64, b"l" * 64)
        device.fence()
        assert copy_until(members)[64:128] == b"l" * 64
