"""The `events` file, and polling: nothing is lost, nothing comes twice, nobody hangs (R48)."""

import contextlib
import errno
import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable
from typing import Any

import pytest
from rawmount import NEW, PAGE, SECTOR, Mounted, in_child, program, shell, wait, wait_until

pytestmark = pytest.mark.timeout(60, method="signal")

# Opens of control files are all the same: the device's open mode does not matter here.
one_mode = pytest.mark.parametrize("open_mode", ["direct"], indirect=True)
CHANGED = select.POLLPRI | select.POLLERR


def parsed(data: bytes) -> list[dict[str, Any]]:
    assert data.endswith(b"\n")
    return [json.loads(line) for line in data.splitlines()]


def opened_events(raw: Mounted, flags: int = os.O_NONBLOCK) -> int:
    return os.open(raw.control / "events", os.O_RDONLY | flags)


def sleeps(pid: int) -> bool:
    """Whether a process sleeps in a system call."""
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0] in "SD"


def ready(fd: int, events: int, timeout_ms: int = 0) -> int:
    """The events that poll(2) finds."""
    poller = select.poll()
    poller.register(fd, events)
    found = poller.poll(timeout_ms)
    return found[0][1] if found else 0


def blocked_reader(raw: Mounted, body: Callable[[int], object]) -> int:
    """A child that runs `body` with a blocking open of the events; returns when it waits."""
    reader, writer = os.pipe()

    def child() -> None:
        fd = opened_events(raw, 0)
        os.write(writer, b"x")
        body(fd)

    pid = in_child(child)
    assert os.read(reader, 1) == b"x"
    os.close(reader)
    os.close(writer)
    wait_until(lambda: sleeps(pid), "the reader waits")
    return pid


@one_mode
def test_every_event_is_one_json_line_with_a_number_and_a_time(raw: Mounted) -> None:
    fd = opened_events(raw)
    before = time.time_ns()
    raw.write_control("badblocks", "208 1\n")
    raw.write_control("poison", f"{9 * PAGE} 64\n-{9 * PAGE} 64\n")
    raw.pwrite(NEW, 26 * PAGE)
    raw.write_control("poison", f"{11 * PAGE} 64\n")
    with pytest.raises(OSError):
        raw.pread(PAGE, 11 * PAGE)
    events = parsed(os.read(fd, 1 << 16))
    assert [event["event"] for event in events] == [
        "fault_injected",
        "fault_injected",
        "fault_removed",
        "recovery_done",
        "fault_injected",
        "poison_consumed",
    ]
    assert [(event["offset"], event["length"]) for event in events] == [
        (208 * SECTOR, SECTOR),
        (9 * PAGE, 64),
        (9 * PAGE, 64),
        (26 * PAGE, PAGE),
        (11 * PAGE, 64),
        (11 * PAGE, SECTOR),
    ]
    numbers = [event["sequence"] for event in events]
    assert numbers == list(range(numbers[0], numbers[0] + 6))
    times = [event["time_ns"] for event in events]
    assert times == sorted(times)
    assert before <= times[0] <= times[-1] <= time.time_ns()


@one_mode
def test_a_refused_write_is_an_event_that_names_what_to_write_r16(raw: Mounted) -> None:
    raw.make_bad(26)
    fd = opened_events(raw)
    with pytest.raises(OSError):
        raw.pwrite(b"x", 26 * PAGE + 700)
    (event,) = parsed(os.read(fd, 1 << 16))
    assert event["event"] == "recovery_refused"
    assert event["offset"] <= 26 * PAGE + 700 < event["offset"] + event["length"]
    assert event["reason"]


@one_mode
def test_no_event_is_lost_between_open_and_first_read(raw: Mounted) -> None:
    raw.write_control("badblocks", "8 1\n")  # before: not for this open
    fd = opened_events(raw)
    for page in range(100):
        raw.make_bad(page)
    events = parsed(os.read(fd, 1 << 20))
    assert [event["offset"] for event in events] == [page * PAGE for page in range(100)]


@one_mode
def test_a_nonblocking_read_without_events_is_eagain(raw: Mounted) -> None:
    fd = opened_events(raw)
    for _ in range(2):
        with pytest.raises(BlockingIOError):
            os.read(fd, 4096)
        raw.make_bad(1)
        assert len(parsed(os.read(fd, 4096))) == 1


@one_mode
def test_a_read_blocks_until_there_is_an_event(raw: Mounted) -> None:
    def body(fd: int) -> None:
        (event,) = parsed(os.read(fd, 4096))
        assert event["offset"] == 26 * PAGE

    reader = blocked_reader(raw, body)
    raw.make_bad(26)
    assert wait(reader) == 0


@one_mode
def test_tail_like_programs_follow_the_events(raw: Mounted) -> None:
    with subprocess.Popen(["cat", raw.control / "events"], stdout=subprocess.PIPE) as cat:
        assert cat.stdout is not None
        wait_until(lambda: sleeps(cat.pid) and holds_open(cat.pid, "events"), "cat waits")
        for page in (1, 2, 3):
            raw.make_bad(page)
            assert json.loads(cat.stdout.readline())["offset"] == page * PAGE
        cat.kill()
    ran = shell(f"timeout 0.3 head -n 1 {raw.control}/events")
    assert ran.status == 124  # nothing new, and it could be killed


def holds_open(pid: int, name: str) -> bool:
    with contextlib.suppress(OSError):
        return any(
            os.readlink(f"/proc/{pid}/fd/{fd}").endswith(name)
            for fd in os.listdir(f"/proc/{pid}/fd")
        )
    return False


@one_mode
def test_a_signal_interrupts_a_blocked_read_and_no_event_is_lost(raw: Mounted) -> None:
    def interrupt(_signal: int, _frame: object) -> None:
        raise InterruptedError(errno.EINTR, "else Python would read again")

    def body(fd: int) -> None:
        signal.signal(signal.SIGUSR1, interrupt)
        os.kill(parent, signal.SIGUSR2)
        with pytest.raises(InterruptedError):
            os.read(fd, 4096)
        (event,) = parsed(os.read(fd, 4096))
        assert event["offset"] == 5 * PAGE

    parent = os.getpid()
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
    reader = blocked_reader(raw, body)
    signal.sigwait([signal.SIGUSR2])
    wait_until(lambda: sleeps(reader), "the reader waits")
    os.kill(reader, signal.SIGUSR1)
    raw.make_bad(5)
    assert wait(reader) == 0


@one_mode
def test_a_blocked_reader_can_be_killed_and_others_go_on(raw: Mounted) -> None:
    readers = [blocked_reader(raw, lambda fd: os.read(fd, 4096)) for _ in range(4)]
    for reader in readers[:2]:
        os.kill(reader, signal.SIGKILL)
        assert wait(reader) == -signal.SIGKILL
    raw.make_bad(5)
    assert [wait(reader) for reader in readers[2:]] == [0, 0]


@one_mode
def test_every_open_gets_every_event(raw: Mounted) -> None:
    fds = [opened_events(raw) for _ in range(5)]
    for page in range(20):
        raw.make_bad(page)
    expected = [page * PAGE for page in range(20)]
    for fd in fds:
        assert [event["offset"] for event in parsed(os.read(fd, 1 << 16))] == expected


@one_mode
def test_readers_of_one_open_share_its_events_and_wait_their_turn(raw: Mounted) -> None:
    fd = opened_events(raw, 0)

    def body() -> None:
        assert len(parsed(os.read(fd, 4096))) == 1

    readers = {in_child(body) for _ in range(3)}
    for page in range(3):
        raw.make_bad(page)
        pid, status = os.wait()  # one of them was answered, with this event
        assert status == 0
        readers.remove(pid)
    assert not readers


@one_mode
def test_a_stream_of_events_reaches_a_fast_reader_once_each_and_in_order(raw: Mounted) -> None:
    """The reader is answered and asks again while the next event is on its way."""
    count = 400

    def body(fd: int) -> None:
        numbers: list[int] = []
        while len(numbers) < count:
            numbers += [event["sequence"] for event in parsed(os.read(fd, 4096))]
        assert numbers == list(range(numbers[0], numbers[0] + count))

    readers = [blocked_reader(raw, body) for _ in range(3)]
    fd = os.open(raw.control / "poison", os.O_WRONLY)
    for number in range(count):
        os.write(fd, f"{number * 64} 64\n".encode())
    os.close(fd)
    assert [wait(reader) for reader in readers] == [0, 0, 0]


@one_mode
def test_a_read_that_is_too_small_for_an_event_is_einval_and_loses_nothing(raw: Mounted) -> None:
    def body(fd: int) -> None:
        with pytest.raises(OSError) as info:
            os.read(fd, 10)  # parked, and the event comes later
        assert info.value.errno == errno.EINVAL
        with pytest.raises(OSError) as info:
            os.read(fd, 10)
        assert info.value.errno == errno.EINVAL
        assert len(parsed(os.read(fd, 4096))) == 1

    reader = blocked_reader(raw, body)
    raw.make_bad(5)
    assert wait(reader) == 0


@one_mode
def test_a_reader_that_fell_behind_is_told_how_many_events_it_missed(raw: Mounted) -> None:
    fd = opened_events(raw)
    lines = "".join(f"{line * 64 % raw.size} 64\n" for line in range(1050))
    for _ in range(4):
        raw.write_control("poison", lines)
    with pytest.raises(OSError) as info:
        os.read(fd, 20)  # not even the notice fits
    assert info.value.errno == errno.EINVAL
    data = b""
    with contextlib.suppress(BlockingIOError):
        while chunk := os.read(fd, 1 << 17):
            data += chunk
    first, *rest = parsed(data)
    assert first["event"] == "lost_events"
    assert first["count"] + len(rest) == 4 * 1050
    numbers = [event["sequence"] for event in rest]
    assert numbers == list(range(numbers[0], numbers[0] + len(rest)))


@one_mode
def test_poll_and_select_on_events_say_when_there_is_one(raw: Mounted) -> None:
    fd = opened_events(raw)
    assert ready(fd, select.POLLIN) == 0
    assert select.select([fd], [], [], 0) == ([], [], [])

    def body() -> None:
        assert ready(fd, select.POLLIN, 20_000) == select.POLLIN

    waiters = [in_child(body) for _ in range(3)]
    wait_until(lambda: all(map(sleeps, waiters)), "all wait")
    raw.make_bad(5)
    assert [wait(waiter) for waiter in waiters] == [0, 0, 0]
    assert select.select([fd], [], [], 0) == ([fd], [], [])
    os.read(fd, 4096)
    assert ready(fd, select.POLLIN) == 0


@one_mode
def test_epoll_wakes_again_for_every_event(raw: Mounted) -> None:
    fd = opened_events(raw)
    with select.epoll() as epoll:
        epoll.register(fd, select.EPOLLIN)
        for page in range(20):
            raw.make_bad(page)
            assert epoll.poll(10) == [(fd, select.EPOLLIN)]
            assert len(parsed(os.read(fd, 4096))) == 1
            assert epoll.poll(0) == []


@one_mode
def test_badblocks_can_be_polled_for_change_as_sysfs_files_can_r9(raw: Mounted) -> None:
    fd = os.open(raw.control / "badblocks", os.O_RDONLY)
    os.read(fd, 4096)
    assert not ready(fd, CHANGED) & CHANGED
    assert ready(fd, select.POLLIN) == select.POLLIN  # a file can always be read

    def body() -> None:
        assert ready(fd, select.POLLPRI, 20_000) & CHANGED == CHANGED
        assert os.pread(fd, 4096, 0) == b"40 8\n"

    waiter = in_child(body)
    wait_until(lambda: sleeps(waiter), "it waits")
    raw.make_bad(5)
    assert wait(waiter) == 0
    assert not ready(fd, CHANGED) & CHANGED  # the child read through this open
    raw.pwrite(NEW, 5 * PAGE)
    assert ready(fd, CHANGED, 10_000) & CHANGED == CHANGED
    assert os.pread(fd, 4096, 0) == b""
    assert not ready(fd, CHANGED) & CHANGED


@one_mode
def test_what_leaves_the_record_as_it_is_wakes_nobody_who_polls_badblocks_r3(raw: Mounted) -> None:
    raw.make_bad(5)
    fd = os.open(raw.control / "badblocks", os.O_RDONLY)
    os.read(fd, 4096)
    raw.write_control("poison", f"{9 * PAGE} 64\n-{10 * PAGE} 64\n-{5 * PAGE} {PAGE}\n")
    assert not ready(fd, CHANGED) & CHANGED
    with pytest.raises(OSError):
        raw.pread(PAGE, 9 * PAGE)
    assert ready(fd, CHANGED, 10_000) & CHANGED == CHANGED


def test_whoever_reads_of_an_injection_finds_no_mapping_with_the_old_bytes_r27(
    raw: Mounted,
) -> None:
    with raw.mapped() as mapping:

        def body(fd: int) -> None:
            for page in range(32):
                (event,) = parsed(os.read(fd, 4096))
                assert event["offset"] == page * PAGE
                assert mapping.load(page * PAGE) == (page * PAGE, 2)
                os.write(again, b"x")

        assert isinstance(mapping.load(0, 32 * PAGE), bytes)
        go, again = os.pipe()
        reader = blocked_reader(raw, body)
        for page in range(32):
            raw.make_bad(page)
            assert os.read(go, 1) == b"x"
        assert wait(reader) == 0


@one_mode
def test_events_have_no_size_and_cannot_be_written(raw: Mounted) -> None:
    fd = opened_events(raw)
    with pytest.raises(OSError):
        os.write(fd, b"x")
    assert program("stat", "-c", "%s", raw.control / "events").out == "0\n"


@one_mode
def test_head_takes_one_event_and_leaves_the_others_to_the_next_reader(raw: Mounted) -> None:
    """It reads more than a line and seeks back to the line's end."""
    with open(raw.control / "events", "rb", buffering=0) as events:
        for page in range(4):
            raw.make_bad(page)
        pieces = []
        for count in (1, 2, 1):
            head = ["head", "-n", str(count)]
            ran = subprocess.run(head, stdin=events, capture_output=True, timeout=20, check=False)
            assert (ran.returncode, ran.stderr) == (0, b"")
            pieces.append([event["offset"] for event in parsed(ran.stdout)])
    assert pieces == [[0], [PAGE, 2 * PAGE], [3 * PAGE]]


@one_mode
def test_what_attaching_repaired_is_among_the_events_of_the_mount_r48(raw: Mounted) -> None:
    raw.must_umount()
    with open(raw.pool, "r+b") as file:
        file.seek(40)
        file.write(b"????")
    assert raw.mount().status == 0
    for _ in range(2):  # whoever comes, and however late
        ran = program("head", "-n", "1", raw.control / "events")
        assert (ran.status, ran.err) == (0, "")
        (event,) = parsed(ran.out.encode())
        assert (event["event"], event["structure"], event["sequence"]) == (
            "copy_healed",
            "header",
            1,
        )
    assert json.loads(raw.read_control("status"))["events"] == {"copy_healed": 1}


@one_mode
def test_write_zeroes_is_an_event_of_its_own_and_no_scrub_r48(raw: Mounted) -> None:
    raw.make_bad(5)
    fd = opened_events(raw)
    ran = program("fallocate", "-z", "-o", 4 * PAGE, "-l", 4 * PAGE, raw.device)
    assert ran == (0, "", "")
    events = [(event["event"], event["offset"]) for event in parsed(os.read(fd, 1 << 16))]
    assert events == [("recovery_done", 5 * PAGE), ("zeroinit_done", 4 * PAGE)]


@one_mode
def test_unmounting_ends_when_a_reader_that_waited_is_gone(raw: Mounted) -> None:
    reader = blocked_reader(raw, lambda fd: os.read(fd, 4096))
    ran = raw.umount()
    assert ran.status == 8  # in use
    assert "in use" in ran.complaint
    os.kill(reader, signal.SIGKILL)
    wait(reader)
    raw.must_umount()
