"""The control directory without a kernel: parked readers, places in the log, lines."""

import errno
import json
import os
import select
import threading
from collections.abc import Callable, Iterator

import pytest
from mountkernel import PAGE, SECTOR, Mounted

from daxmend.errors import UsageError
from daxmend.events import CopyHealed, FaultInjected, IntentReplayed
from daxmend.extent import Extent
from daxmend.fuse import PENDING
from daxmend.fuse.protocol import FUSE_POLL_SCHEDULE_NOTIFY
from daxmend.mounts.eventlog import BACKLOG_EVENTS, EventLog
from daxmend.pmem.device import PmemDevice


@pytest.fixture
def raw() -> Mounted:
    return Mounted()


def park(raw: Mounted, nodeid: int, fh: int, unique: int, size: int = 4096) -> None:
    raw.session.unique = unique
    assert raw.handler.read(nodeid, fh, 0, size, 0, 0) is PENDING


def sequences(data: object) -> list[int]:
    assert isinstance(data, bytes)
    return [json.loads(line)["sequence"] for line in data.splitlines()]


def test_parked_reads_of_one_open_are_answered_in_turn(raw: Mounted) -> None:
    nodeid, fh = raw.control("events")
    for unique in (101, 102, 103):
        park(raw, nodeid, fh, unique)
    raw.session.unique = 200
    for sector in (0, 8, 16):
        raw.tell("badblocks", f"{sector} 1\n")
    assert [sequences(raw.session.answers[unique]) for unique in (101, 102, 103)] == [[1], [2], [3]]


def test_an_answer_that_came_too_late_loses_no_event(raw: Mounted) -> None:
    nodeid, fh = raw.control("events")
    park(raw, nodeid, fh, 101)
    raw.session.gone.add(101)  # a signal, and the kernel has had its answer
    raw.session.unique = 200
    raw.tell("badblocks", "0 1\n")
    assert sequences(bytes(raw.handler.read(nodeid, fh, 0, 4096, 0, 0))) == [1]  # type: ignore[arg-type]


def test_an_interrupted_read_is_forgotten_and_the_next_in_turn_answered(raw: Mounted) -> None:
    nodeid, fh = raw.control("events")
    park(raw, nodeid, fh, 101)
    park(raw, nodeid, fh, 102)
    assert raw.handler.interrupted(101)
    raw.session.unique = 200
    raw.tell("badblocks", "0 1\n")
    assert 101 not in raw.session.answers
    assert sequences(raw.session.answers[102]) == [1]


def test_a_parked_read_that_is_too_small_is_einval_and_the_next_gets_the_event(
    raw: Mounted,
) -> None:
    nodeid, fh = raw.control("events")
    park(raw, nodeid, fh, 101, size=10)
    park(raw, nodeid, fh, 102)
    raw.session.unique = 200
    raw.tell("badblocks", "0 1\n")
    assert raw.session.answers[101] == errno.EINVAL
    assert sequences(raw.session.answers[102]) == [1]


def test_nobody_reads_of_an_event_before_its_invalidations_are_done_r27(
    raw: Mounted, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodeid, fh = raw.control("events")
    badblocks, badblocks_fh = raw.control("badblocks")
    queue: list[Callable[[], object]] = []
    monkeypatch.setattr(raw.session.notifier, "then", queue.append)
    with pytest.raises(BlockingIOError):
        raw.handler.read(nodeid, fh, 0, 4096, 0, os.O_NONBLOCK)
    for unique, line in ((101, b"0 1\n"), (102, b"8 1\n")):
        raw.session.unique = 200
        raw.handler.write(badblocks, badblocks_fh, 0, memoryview(line), 0, 0)
        raw.session.unique = unique
        assert raw.handler.read(nodeid, fh, 0, 4096, 0, os.O_NONBLOCK) is PENDING
        assert not raw.handler.poll(nodeid, fh, 1, 0, 0)
    first, *rest = queue
    first()
    assert sequences(raw.session.answers[101]) == [1]
    assert 102 not in raw.session.answers
    for callback in rest:
        callback()
    assert sequences(raw.session.answers[102]) == [2]


def test_a_reader_that_asks_again_at_once_gets_no_event_twice(raw: Mounted) -> None:
    """The next read is handled while the answer to the last is still being sent."""
    nodeid, fh = raw.control("events")
    got: list[int] = []
    said = bytearray()
    asked = threading.Event()

    def ask_again() -> None:
        data = raw.handler.read(nodeid, fh, len(said), 4096, 0, 0)
        if data is not PENDING:
            got.extend(sequences(bytes(data)))  # type: ignore[arg-type]
        asked.set()

    def reply(unique: int, payload: bytes = b"") -> bool:
        if unique == 101:
            said.extend(bytes(payload))
            got.extend(sequences(bytes(payload)))
            raw.session.unique = 102
            threading.Thread(target=ask_again, daemon=True).start()
            asked.wait(0.05)  # it may have to wait until this answer is done
        return True

    park(raw, nodeid, fh, 101)
    raw.session.reply = reply  # type: ignore[method-assign]
    raw.session.unique = 200
    badblocks, badblocks_fh = raw.control("badblocks")
    raw.handler.write(badblocks, badblocks_fh, 0, memoryview(b"0 1\n"), 0, 0)
    assert asked.wait(5)
    assert got == [1]


def test_a_file_that_is_read_from_its_middle_has_content(raw: Mounted) -> None:
    raw.tell("badblocks", "0 1\n100 1\n")
    nodeid, fh = raw.control("badblocks")
    assert raw.handler.read(nodeid, fh, 4, 100, 0, 0) == b"100 1\n"


def test_only_a_change_of_the_record_is_news_of_badblocks(raw: Mounted) -> None:
    nodeid, fh = raw.control("badblocks")
    changed = select.POLLPRI | select.POLLERR
    raw.handler.read(nodeid, fh, 0, 4096, 0, 0)
    raw.tell("poison", "0 64\n-0 64\n64 64\n")
    assert not raw.handler.poll(nodeid, fh, 1, 0, 0) & changed
    raw.tell("badblocks", "8 1\n")
    assert raw.handler.poll(nodeid, fh, 1, 0, 0) & changed == changed
    raw.handler.read(nodeid, fh, 0, 4096, 0, 0)
    assert not raw.handler.poll(nodeid, fh, 1, 0, 0) & changed


@pytest.mark.parametrize(
    "text", ["0 1\n16 1", "0 1\n1", "0 1\n\n16 1", "0 1\n16 1\0", "0 1\rx\n", "0 1\x0b8 1\n"]
)
def test_several_lines_must_each_have_an_end(raw: Mounted, text: str) -> None:
    nodeid, fh = raw.control("badblocks")
    with pytest.raises(UsageError) as info:
        raw.handler.write(nodeid, fh, 0, memoryview(text.encode()), 0, 0)
    assert info.value.errno == errno.EINVAL
    assert raw.ask("badblocks") == ""


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("badblocks", "0 1\nx 1\n", "'x 1' is not a 'SECTOR COUNT' line"),
        ("badblocks", "9999 1\n", "[5119488, 5120000) reaches beyond"),
        ("poison", "0\x1b[31m 64\n", "'0\N{REPLACEMENT CHARACTER}[31m 64' is not an"),
        ("scrub", "1" + " " * 5000 + "x\n", "'1 "),
    ],
)
def test_why_a_write_was_refused_stands_in_status_until_the_next_one_is(
    raw: Mounted, name: str, text: str, reason: str
) -> None:
    """The kernel passes the errno on, and nothing else."""

    def refused() -> object:
        return json.loads(raw.ask("status"))["refused"]

    assert refused() is None
    nodeid, fh = raw.control(name)
    with pytest.raises(UsageError):
        raw.handler.write(nodeid, fh, 0, memoryview(text.encode()), 0, 0)
    said = refused()
    assert isinstance(said, str)
    assert said.startswith(f"{name}: ")
    assert reason in said
    assert len(said) <= 301
    raw.tell("badblocks", "0 1\n")
    assert refused() == said
    with pytest.raises(UsageError):
        raw.handler.write(nodeid, fh, 0, memoryview(b"once more"), 0, 0)
    assert "once more" in str(refused())


def test_an_injection_without_space_is_named_too(
    raw: Mounted, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "pool: [0, 512) is not injected, or not wholly: free space")

    monkeypatch.setattr(raw.device, "inject", fail)
    nodeid, fh = raw.control("badblocks")
    with pytest.raises(OSError, match="free space"):
        raw.handler.write(nodeid, fh, 0, memoryview(b"0 1\n"), 0, 0)
    assert "free space" in json.loads(raw.ask("status"))["refused"]


def test_a_line_written_to_badblocks_makes_record_and_poison_r2(raw: Mounted) -> None:
    raw.tell("badblocks", "9 2\n")
    assert raw.ask("badblocks") == "9 2\n"
    assert raw.ask("poison") == f"{9 * SECTOR} {2 * SECTOR}\n"
    raw.tell("poison", f"-{9 * SECTOR} {2 * SECTOR}\n")
    assert (raw.ask("badblocks"), raw.ask("poison")) == ("9 2\n", "")


def test_badblocks_is_polled_for_every_change_of_the_record_and_for_no_other_r9(
    raw: Mounted,
) -> None:
    nodeid, fh = raw.control("badblocks")

    def has_changed() -> bool:
        return bool(raw.handler.poll(nodeid, fh, 1, 0, 0) & select.POLLPRI)

    def read() -> str:
        return bytes(raw.handler.read(nodeid, fh, 0, 4096, 0, 0)).decode()  # type: ignore[arg-type]

    assert read() == ""
    raw.tell("poison", f"{PAGE} 64\n")
    assert not has_changed()  # latent: the record knows nothing of it
    for change, after in (
        (lambda: raw.tell("badblocks", "0 1\n"), "0 1\n"),
        (lambda: list(raw.device.scrub(Extent(0, 2 * PAGE))), "0 1\n8 1\n"),
        (lambda: raw.write(raw.open(), 0, bytes(SECTOR)), "8 1\n"),
    ):
        change()
        assert has_changed()
        assert read() == after
        assert not has_changed()
    raw.tell("poison", f"{2 * PAGE} 64\n")
    with pytest.raises(OSError):
        raw.read(2 * PAGE, 64)
    assert has_changed()  # consumed


def test_the_end_of_a_scrub_can_be_polled_for_r4(raw: Mounted) -> None:
    nodeid, fh = raw.control("scrub")
    assert bytes(raw.handler.read(nodeid, fh, 0, 64, 0, 0)) == b"0\n"  # type: ignore[arg-type]
    ready = threading.Event()
    raw.session.notifier.poll_wakeup = lambda kh: ready.set()  # type: ignore[method-assign]
    raw.handler.poll(nodeid, fh, 1, FUSE_POLL_SCHEDULE_NOTIFY, 0)
    raw.tell("scrub", "1\n")
    assert ready.wait(10)
    assert raw.handler.poll(nodeid, fh, 1, 0, 0) & select.POLLPRI


def test_a_scrub_that_failed_has_ended_too_r4(
    raw: Mounted, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(device: PmemDevice, extent: Extent) -> Iterator[Extent]:
        raise OSError(errno.EIO, "the pool's disk")
        yield extent

    monkeypatch.setattr(PmemDevice, "scrub", fail)
    nodeid, fh = raw.control("scrub")
    assert bytes(raw.handler.read(nodeid, fh, 0, 64, 0, 0)) == b"0\n"  # type: ignore[arg-type]
    ready = threading.Event()
    raw.session.notifier.poll_wakeup = lambda kh: ready.set()  # type: ignore[method-assign]
    raw.handler.poll(nodeid, fh, 1, FUSE_POLL_SCHEDULE_NOTIFY, 0)
    raw.tell("scrub", "1\n")
    assert ready.wait(10)
    assert raw.handler.poll(nodeid, fh, 1, 0, 0) & select.POLLPRI
    assert "disk" in json.loads(raw.ask("status"))["scrub"]["error"]


def test_a_change_while_a_file_is_being_read_is_news_after_it_r9(
    raw: Mounted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A scrub finds something on its own thread, behind what the text already has."""
    nodeid, fh = raw.control("badblocks")
    badblocks = PmemDevice.badblocks

    def slow(device: PmemDevice, extent: Extent) -> list[object]:
        found: list[object] = list(badblocks(device, extent))
        device.inject(Extent(0, SECTOR))
        return found

    monkeypatch.setattr(PmemDevice, "badblocks", slow)
    assert bytes(raw.handler.read(nodeid, fh, 0, 64, 0, 0)) == b""  # type: ignore[arg-type]
    assert raw.handler.poll(nodeid, fh, 1, 0, 0) & select.POLLPRI


def event(offset: int) -> FaultInjected:
    return FaultInjected(Extent(offset, 1), "latent")


def test_the_log_gives_whole_lines_that_fit() -> None:
    log = EventLog()
    for offset in range(3):
        log.append(event(offset))
    assert log.read(1, 1 << 20) == (b"", 1)  # not told yet
    log.told = 4
    line = len(log.read(1, 1 << 20)[0]) // 3
    assert log.read(1, line - 1) == (b"", 1)
    data, sequence = log.read(1, 2 * line + line // 2)
    assert (sequences(data), sequence) == ([1, 2], 3)
    data, sequence = log.read(sequence, 1 << 20)
    assert (sequences(data), sequence) == ([3], 4)
    assert log.read(4, 1 << 20) == (b"", 4)


def test_a_reader_behind_the_backlog_is_told_how_many_it_lost() -> None:
    log = EventLog()
    for offset in range(BACKLOG_EVENTS + 10):
        log.append(event(offset))
    log.told = log.next_sequence
    data, sequence = log.read(1, 1 << 30)
    first, *rest = [json.loads(line) for line in data.splitlines()]
    assert first == {"event": "lost_events", "count": 10}
    assert [found["sequence"] for found in rest] == list(range(11, BACKLOG_EVENTS + 11))
    assert sequence == BACKLOG_EVENTS + 11
    assert log.read(1, 20) == (b"", 1)  # not even the notice fits, and nothing is skipped


def test_the_history_has_what_is_kept_and_says_what_is_not() -> None:
    log = EventLog(ATTACHED)
    assert sequences(log.history().encode()) == [1, 2]
    log.append(event(0))
    assert sequences(log.history().encode()) == [1, 2, 3]
    for offset in range(BACKLOG_EVENTS + 9):
        log.append(event(offset))
    first, second, lost, *rest = map(json.loads, log.history().splitlines())
    assert [first["event"], second["event"]] == ["copy_healed", "intent_replayed"]
    assert lost == {"event": "lost_events", "count": 10}
    assert len(rest) == BACKLOG_EVENTS
    assert rest[-1]["sequence"] == log.next_sequence - 1


def test_the_history_is_read_at_once_and_never_waits(raw: Mounted) -> None:
    nodeid, fh = raw.control("history")
    assert raw.handler.read(nodeid, fh, 0, 4096, 0, 0) == b""
    raw.tell("badblocks", "0 1\n8 1\n")
    assert sequences(bytes(raw.handler.read(nodeid, fh, 0, 4096, 0, 0))) == [1, 2]  # type: ignore[arg-type]
    with pytest.raises(PermissionError):
        raw.tell("history", "1\n")


ATTACHED = [CopyHealed("record", 1, "its checksum is wrong"), IntentReplayed(Extent(0, 1), "bad")]


def test_every_reader_begins_with_the_events_of_attaching() -> None:
    raw = Mounted(attached=ATTACHED)
    raw.tell("badblocks", "0 1\n")  # nobody who opens later reads of this
    for _ in range(2):
        nodeid, fh = raw.control("events")
        raw.tell("badblocks", "8 1\n")
        assert raw.handler.poll(nodeid, fh, 1, 0, 0) == select.POLLIN
        with pytest.raises(OSError) as info:
            raw.handler.read(nodeid, fh, 0, 10, 0, 0)
        assert info.value.errno == errno.EINVAL
        data = bytes(raw.handler.read(nodeid, fh, 0, 150, 0, 0))  # type: ignore[arg-type]
        assert [json.loads(line)["event"] for line in data.splitlines()] == ["copy_healed"]
        more = bytes(raw.handler.read(nodeid, fh, len(data), 4096, 0, 0))  # type: ignore[arg-type]
        assert [json.loads(line)["event"] for line in more.splitlines()] == ["intent_replayed"]
        at = len(data) + len(more)
        last = bytes(raw.handler.read(nodeid, fh, at, 4096, 0, 0))  # type: ignore[arg-type]
        assert [json.loads(line)["event"] for line in last.splitlines()] == ["fault_injected"]
        assert raw.handler.poll(nodeid, fh, 1, 0, 0) == 0
        park(raw, nodeid, fh, 7)


def test_whoever_seeks_back_into_the_last_answer_reads_it_again(raw: Mounted) -> None:
    nodeid, fh = raw.control("events")
    raw.tell("badblocks", "0 1\n8 1\n")

    def read(offset: int, size: int = 4096) -> bytes:
        return bytes(raw.handler.read(nodeid, fh, offset, size, 0, 0))  # type: ignore[arg-type]

    both = read(0)
    first, second = both.splitlines(keepends=True)
    assert read(len(first)) == second
    assert read(len(first) + 1, 10) == second[1:11]
    raw.tell("badblocks", "16 1\n")
    assert sequences(read(len(both))) == [3]
    park(raw, nodeid, fh, 101)  # behind everything, wherever
    raw.session.unique = 200
    raw.tell("badblocks", "24 1\n")
    assert sequences(raw.session.answers[101]) == [4]


def test_a_parked_answer_can_be_sought_back_into_too(raw: Mounted) -> None:
    nodeid, fh = raw.control("events")
    park(raw, nodeid, fh, 101)
    raw.session.unique = 200
    raw.tell("badblocks", "0 1\n")
    said = raw.session.answers[101]
    assert isinstance(said, bytes)
    assert raw.handler.read(nodeid, fh, 5, 4096, 0, 0) == said[5:]
