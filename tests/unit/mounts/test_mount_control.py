"""The control directory without a kernel: parked readers, places in the log, lines."""

import errno
import json
import select
import threading

import pytest
from mountkernel import Mounted

from daxmend.errors import UsageError
from daxmend.events import CopyHealed, FaultInjected, IntentReplayed
from daxmend.extent import Extent
from daxmend.fuse import PENDING
from daxmend.mounts.eventlog import BACKLOG_EVENTS, EventLog


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


def event(offset: int) -> FaultInjected:
    return FaultInjected(Extent(offset, 1), "latent")


def test_the_log_gives_whole_lines_that_fit() -> None:
    log = EventLog()
    for offset in range(3):
        log.append(event(offset))
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
    data, sequence = log.read(1, 1 << 30)
    first, *rest = [json.loads(line) for line in data.splitlines()]
    assert first == {"event": "lost_events", "count": 10}
    assert [found["sequence"] for found in rest] == list(range(11, BACKLOG_EVENTS + 11))
    assert sequence == BACKLOG_EVENTS + 11
    assert log.read(1, 20) == (b"", 1)  # not even the notice fits, and nothing is skipped


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
