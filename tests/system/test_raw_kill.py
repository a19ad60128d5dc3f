"""kill -9 of the server at any moment: what was damaged is known, what was acknowledged is there
(R8, R18; the pool's durability is `machine`, as on a disk)."""

import contextlib
import mmap
import os
import random
import signal
import struct
import time

import pytest
from rawmount import (
    NEW,
    PAGE,
    SECTOR,
    Mounted,
    Ran,
    User,
    abort_mounts,
    call,
    cli,
    in_child,
    pattern,
    wait,
    wait_until,
)

from daxmend.fuse import find_mount
from daxmend.media.pool import read_owner

pytestmark = pytest.mark.timeout(60, method="signal")
DIAGONAL = True

PAGES = 32
ROUNDS = 20

# What the client is about to do with a page, or has done; kept in memory that it shares with us.
GOOD, INJECTING, BAD, HEALING = range(4)


class Ledger:
    """The state and the version of each page; the client writes it, its parent reads it."""

    _ENTRY = struct.Struct("=QQQ")  # state, version, next version

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, PAGES * self._ENTRY.size + 8)

    def __getitem__(self, page: int) -> tuple[int, int, int]:
        return self._ENTRY.unpack_from(self._memory, page * self._ENTRY.size)

    def __setitem__(self, page: int, entry: tuple[int, int, int]) -> None:
        self._ENTRY.pack_into(self._memory, page * self._ENTRY.size, *entry)

    @property
    def steps(self) -> int:
        return int.from_bytes(self._memory[-8:], "little")

    def step(self) -> None:
        self._memory[-8:] = (self.steps + 1).to_bytes(8, "little")


def content(page: int, version: int) -> bytes:
    return struct.pack("<QQ", page, version) * (PAGE // 16)


def injure_and_heal(raw: Mounted, ledger: Ledger, seed: int) -> None:
    """Until the server dies: make random pages bad, and heal most of them."""
    chosen = random.Random(seed)
    control = os.open(raw.control / "badblocks", os.O_WRONLY)
    fd = os.open(raw.device, os.O_RDWR)
    with contextlib.suppress(OSError):
        while True:
            page = chosen.randrange(PAGES)
            state, version, _ = ledger[page]
            if state == GOOD:
                ledger[page] = INJECTING, version, version
                os.write(control, f"{page * 8 + chosen.randrange(8)} 1\n".encode())
                ledger[page] = BAD, version, version
            elif chosen.random() < 0.7:
                ledger[page] = HEALING, version, version + 1
                assert os.pwrite(fd, content(page, version + 1), page * PAGE) == PAGE
                ledger[page] = GOOD, version + 1, version + 1
            ledger.step()
    os._exit(0)


def mount_again(raw: Mounted) -> None:
    """Mount; an entry of which only one copy was written when the server died is no error."""
    ran = raw.mount()
    assert (ran.status, ran.out) == (0, "")
    assert all(line.endswith("rewritten from the other copy") for line in ran.err.splitlines()), ran


def page_or_none(raw: Mounted, page: int) -> bytes | None:
    try:
        data = raw.pread(PAGE, page * PAGE)
    except OSError:
        return None
    return data if len(data) == PAGE else None  # direct: the sectors before the bad one


@pytest.fixture
def durable(raw: Mounted, user: User) -> Mounted:
    """A mount whose pool survives the machine, too."""

    def prepare() -> None:
        raw.must_umount()
        raw.pool.unlink()
        raw.create("--durability", "machine")
        raw.must_mount()

    call(prepare, user, 20, lambda: abort_mounts(raw.base))
    return raw


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_after_the_servers_death_at_any_moment_pages_are_bad_or_hold_what_was_written_r18(
    durable: Mounted, number: signal.Signals
) -> None:
    raw = durable
    seed = time.time_ns() & 0xFFFFFFFF
    print("seed", seed)
    chosen = random.Random(seed)
    ledger = Ledger()
    for page in range(PAGES):
        raw.pwrite(content(page, 1), page * PAGE)
        ledger[page] = GOOD, 1, 1
    for turn in range(ROUNDS):
        server, first = raw.server, ledger.steps
        client = in_child(lambda turn=turn: injure_and_heal(raw, ledger, seed + turn))
        target = first + chosen.randrange(5, 80)
        wait_until(lambda t=target: ledger.steps >= t, "the client gets on")
        moment = time.perf_counter_ns() + chosen.randrange(1_000_000)
        while time.perf_counter_ns() < moment:  # somewhere inside an operation
            pass
        os.kill(server, number)
        assert wait(client) == 0
        if number is signal.SIGKILL:
            raw.must_umount()  # cleans the dead mount up
        wait_until(lambda: read_owner(raw.pool) is None, "the pool is free")
        wait_until(lambda: find_mount(raw.mountpoint) is None, "the mount is gone")
        mount_again(raw)
        for page in range(PAGES):
            check_page(raw, ledger, page)
    assert cli("list", raw.mountpoint).status in (0, 4)


def check_page(raw: Mounted, ledger: Ledger, page: int) -> None:
    """One page against the ledger; what was open is settled then."""
    state, version, next_version = ledger[page]
    data = page_or_none(raw, page)
    if data is None:
        assert state != GOOD, (page, version)
        ledger[page] = BAD, version, version
    elif state == HEALING:
        assert data == content(page, next_version)
        ledger[page] = GOOD, next_version, next_version
    else:
        assert state in (GOOD, INJECTING), (page, version)
        assert data == content(page, version)
        ledger[page] = GOOD, version, version


def test_a_dead_mount_is_taken_away_by_umount_and_by_mounting_again(raw: Mounted) -> None:
    raw.make_bad(5)
    raw.kill_server()
    with pytest.raises(OSError):
        raw.pread(PAGE, 0)
    raw.must_mount()
    assert raw.badblocks == "40 8\n"
    raw.kill_server()
    raw.must_umount()
    assert find_mount(raw.mountpoint) is None
    raw.must_mount()
    assert raw.badblocks == "40 8\n"
    assert raw.pread(PAGE, 0) == pattern(0)


def test_the_pool_of_a_dead_mount_can_be_asked_at_once_and_the_mount_is_unknown_r44(
    raw: Mounted,
) -> None:
    raw.make_bad(5)
    raw.kill_server()
    assert cli("list", raw.pool).status == 4
    ran = cli("list", raw.mountpoint)
    assert ran.status == 2
    assert f"daxmend umount {raw.mountpoint}" in ran.complaint
    ran = cli("inject", raw.mountpoint, "--offset", "0", "--length", "512")
    assert ran.status == 8
    assert ran.complaint


def test_kill_9_with_files_open_and_mapped_can_be_cleaned_up_and_old_opens_stay_dead(
    raw: Mounted,
) -> None:
    fd = os.open(raw.device, os.O_RDWR)
    with raw.mapped() as mapping:
        assert mapping.load(0, 8) == pattern(0)[:8]
        raw.kill_server()
        raw.must_umount()
        raw.must_mount()
        raw.pwrite(NEW, 0)
        for attempt in (lambda: os.pread(fd, PAGE, 100 * PAGE), lambda: os.pwrite(fd, b"x", 0)):
            with pytest.raises(OSError):
                attempt()
        mapping.store(0, 0x42)  # into the old server's cache, if that is still there
        assert mapping.fsync().startswith("errno")
    with contextlib.suppress(OSError):
        os.close(fd)
    assert raw.pread(PAGE, 0) == NEW


def test_a_forced_umount_frees_the_pool_of_a_stopped_server(raw: Mounted) -> None:
    raw.make_bad(5)
    server = raw.server
    os.kill(server, signal.SIGSTOP)
    try:
        assert raw.umount("-F") == Ran(0, "", "")
        assert find_mount(raw.mountpoint) is None
    finally:
        os.kill(server, signal.SIGCONT)
    wait_until(lambda: cli("list", raw.pool).status == 4, "the server lets go of the pool")
    raw.must_mount()
    assert raw.badblocks == "40 8\n"
    with pytest.raises(OSError):
        raw.pread(SECTOR, 5 * PAGE)
