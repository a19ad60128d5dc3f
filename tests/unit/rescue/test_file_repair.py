"""The repair of a file: planned, journalled, stopped at every step, finished or taken back."""

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from disk import Clock, Disk, DiskFile, Killed

from daxmend.cli.repair_report import iter_lines
from daxmend.errors import ChangedError, CorruptionError, DaxmendError, UsageError
from daxmend.extent import Extent
from daxmend.rescue import repairrun
from daxmend.rescue.repair import State, bad_ranges
from daxmend.rescue.repairjournal import JournalPlace, RepairJournal
from daxmend.rescue.repairplan import BadPage, Strategy, find_bad_pages, plan_file_repair
from daxmend.rescue.repairrun import RepairReport
from daxmend.units import PAGE, SECTOR

SIZE = 6 * PAGE + 700
DATA = random.Random(3).randbytes(SIZE)
BAD = [(SECTOR, SECTOR), (2 * PAGE, PAGE), (3 * PAGE, SECTOR), (6 * PAGE + SECTOR, SECTOR)]


def quiet(_: int) -> None:
    pass


def hurt(data: bytes = DATA) -> Disk:
    disk = Disk(data)
    for offset, length in BAD:
        disk.hurt(offset, length)
    return disk


def with_zeros(data: bytes = DATA) -> bytes:
    rest = bytearray(data)
    for offset, length in BAD:
        end = min(offset + length, len(rest))
        rest[offset:end] = bytes(end - offset)
    return bytes(rest)


class Bench:
    """A damaged file, a good copy, and a directory for journals."""

    def __init__(self, directory: Path) -> None:
        self.disk = hurt()
        self.copy = DiskFile(Disk(DATA), directory / "copy")
        self.directory = directory

    def opened(self) -> tuple[DiskFile, JournalPlace]:
        file = DiskFile(self.disk, self.directory / "file")
        return file, JournalPlace(file, None)

    def apply(self, strategy: Strategy, *, with_copy: bool) -> RepairReport:
        file, place = self.opened()
        copy = self.copy if with_copy else None
        return repairrun.apply(file, copy, strategy, place, quiet, lambda _: None)

    def undo(self) -> RepairReport:
        return repairrun.undo(*self.opened())

    @property
    def content(self) -> bytes:
        return bytes(self.disk.bytes[: self.disk.size])

    @property
    def journals(self) -> list[Path]:
        return sorted(self.directory.glob("file.daxmend-repair.*"))


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


# -- planning ------------------------------------------------------------------------------


def test_every_bad_page_is_found_and_cut_at_the_end_of_the_file(bench: Bench) -> None:
    file, _ = bench.opened()
    assert find_bad_pages(file, quiet) == [
        BadPage(Extent(0, PAGE), [Extent(SECTOR, SECTOR)]),
        BadPage(Extent(2 * PAGE, PAGE), [Extent(2 * PAGE, PAGE)]),
        BadPage(Extent(3 * PAGE, PAGE), [Extent(3 * PAGE, SECTOR)]),
        BadPage(Extent(6 * PAGE, 700), [Extent(6 * PAGE + SECTOR, 700 - SECTOR)]),
    ]


def test_progress_counts_the_whole_file(bench: Bench) -> None:
    counted: list[int] = []
    find_bad_pages(bench.opened()[0], counted.append)
    assert sum(counted) == SIZE


def test_a_copy_is_checked_before_anything_is_changed_r46(bench: Bench) -> None:
    file, _ = bench.opened()
    before = bytes(bench.disk.bytes)
    with pytest.raises(UsageError, match="itself"):
        plan_file_repair(file, DiskFile(bench.disk, file.location[0]), Strategy.WRITE, quiet)
    short = DiskFile(Disk(DATA[:-1]), Path("short"))
    with pytest.raises(UsageError, match="no copy"):
        plan_file_repair(file, short, Strategy.WRITE, quiet)
    bench.copy.disk.hurt(2 * PAGE + SECTOR)
    bench.copy.disk.hurt(0)  # the file is good there
    plan = plan_file_repair(file, bench.copy, Strategy.WRITE, quiet)
    assert [page.extent.offset for page, _ in plan.refused] == [2 * PAGE]
    assert [page.extent.offset for page in plan.pages] == [0, 3 * PAGE, 6 * PAGE]
    assert bytes(bench.disk.bytes) == before


def test_a_copy_of_another_version_is_told_by_the_good_bytes(bench: Bench) -> None:
    file, _ = bench.opened()
    assert plan_file_repair(file, bench.copy, Strategy.WRITE, quiet).warnings == []
    bench.copy.disk.bytes[PAGE + 1] ^= 1  # beside a bad page
    (warning,) = plan_file_repair(file, bench.copy, Strategy.WRITE, quiet).warnings
    assert "same version" in warning


# -- apply and undo ------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", list(Strategy))
@pytest.mark.parametrize("with_copy", [True, False])
def test_a_repair_heals_and_its_undo_puts_back_what_was_good(
    bench: Bench, strategy: Strategy, with_copy: bool
) -> None:
    report = bench.apply(strategy, with_copy=with_copy)
    assert {result.state for result in report.results} == {State.HEALED}
    assert bench.content == (DATA if with_copy else with_zeros())
    assert not bench.disk.bad
    again = bench.apply(strategy, with_copy=with_copy)
    assert again.results == []
    assert len(bench.journals) == 1
    report = bench.undo()
    assert {result.state for result in report.results} == {State.UNDONE}
    assert bench.content == with_zeros()
    assert bench.journals == []


def test_a_page_that_cannot_be_written_stays_bad_and_the_others_heal_r17(bench: Bench) -> None:
    bench.disk.refuses = {2 * PAGE // SECTOR}
    report = bench.apply(Strategy.WRITE, with_copy=True)
    states = {result.page.extent.offset: result.state for result in report.results}
    assert states.pop(2 * PAGE) is State.BAD
    assert set(states.values()) == {State.HEALED}
    assert bad_ranges(report.results) == [Extent(2 * PAGE, PAGE)]
    bench.disk.refuses = set()
    report = bench.apply(Strategy.WRITE, with_copy=True)
    assert [result.state for result in report.results] == [State.HEALED]
    assert bench.content == DATA


def test_good_bytes_that_the_attempt_lost_come_from_the_journal(bench: Bench) -> None:
    """A write that fails in mid-page, and takes a good sector with it."""
    file, place = bench.opened()
    write = file.write

    def fail(offset: int, data: bytes) -> int:
        if offset == 0:
            bench.disk.hurt(5 * SECTOR)
            raise OSError(5, "Input/output error")
        return write(offset, data)

    file.write = fail  # type: ignore[method-assign]
    report = repairrun.apply(file, bench.copy, Strategy.WRITE, place, quiet, lambda _: None)
    assert report.results[0].state is State.TORN
    bench.copy.disk.hurt(5 * SECTOR)  # only the journal has it now
    report = bench.apply(Strategy.ZERO, with_copy=False)
    assert report.stopped is not None
    assert {result.state for result in report.results} == {State.HEALED}
    assert bench.content == DATA


def test_what_somebody_wrote_meanwhile_is_left_alone(bench: Bench) -> None:
    bench.disk.clock = Clock()
    file, place = bench.opened()
    write = file.write

    def intrude(offset: int, data: bytes) -> int:
        bench.disk.bytes[3 * PAGE + 5 * SECTOR] ^= 1  # before our write, in a page of a later batch
        return write(offset, data)

    file.write = intrude  # type: ignore[method-assign]
    repairrun.apply(file, bench.copy, Strategy.PUNCH, place, quiet, lambda _: None)
    assert bench.disk.size == SIZE


def test_a_page_that_can_be_read_again_is_left_as_it_is(bench: Bench) -> None:
    file, place = bench.opened()
    salvage = file.salvage
    bench.disk.clock = Clock()
    sync = os.fsync

    def heal(fd: int) -> None:  # while the journal is written, somebody repairs a page
        bench.disk.bad.discard(1)
        sync(fd)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", heal)
        report = repairrun.apply(file, bench.copy, Strategy.WRITE, place, quiet, lambda _: None)
    assert salvage(Extent(SECTOR, SECTOR)).data == b"\xee" * SECTOR
    assert report.results[0].state is State.READABLE


def test_a_file_that_changed_its_size_is_not_touched(bench: Bench) -> None:
    file, place = bench.opened()
    bench.disk.size += 1
    with pytest.raises(ChangedError):
        repairrun.apply(file, bench.copy, Strategy.WRITE, place, quiet, lambda _: None)
    assert bench.journals == []
    assert bench.disk.bad


def test_an_undo_keeps_what_was_written_since(bench: Bench) -> None:
    bench.apply(Strategy.WRITE, with_copy=True)
    bench.disk.bytes[2 * PAGE] ^= 1
    report = bench.undo()
    assert [r.page.extent.offset for r in report.results if r.state is State.CHANGED] == [2 * PAGE]
    assert len(bench.journals) == 1


def test_there_is_nothing_to_take_back_without_a_journal(bench: Bench) -> None:
    with pytest.raises(UsageError, match="no journal"):
        bench.undo()


# -- a page that cannot be read for what lies behind the end of the file (R10, R16) ---------

TAIL = Extent(6 * PAGE, 700)


@pytest.fixture
def tail(bench: Bench) -> Bench:
    """A file in DAX mode: every byte of it can be read from below, and its last page cannot."""
    bench.disk = Disk(DATA)
    bench.disk.is_dax = True
    bench.disk.hurt(6 * PAGE + 3 * SECTOR)
    assert not DiskFile(bench.disk, Path("x")).salvage(Extent(0, SIZE)).lost
    return bench


def test_a_last_page_that_fails_for_what_is_behind_the_end_is_planned(tail: Bench) -> None:
    file, place = tail.opened()
    assert find_bad_pages(file, quiet) == [BadPage(TAIL, [])]
    tail.copy.disk.bytes[6 * PAGE : SIZE] = bytes(700)  # no hint that it was saved from a bad file
    report = repairrun.plan(file, tail.copy, Strategy.WRITE, place, quiet)
    assert [warning for warning in report.warnings if "zeros" in warning] == []
    assert bad_ranges(report.results) == [TAIL]
    (line, _, row, *_) = iter_lines("file", report)
    assert "nothing is lost, and 1 page cannot be read as before" in line
    assert "0 bytes from" in row
    assert "700 kept" in row


@pytest.mark.parametrize("strategy", list(Strategy))
def test_such_a_page_is_written_whole_and_can_be_read(tail: Bench, strategy: Strategy) -> None:
    report = tail.apply(strategy, with_copy=strategy is Strategy.WRITE)
    assert [result.state for result in report.results] == [State.HEALED]
    assert (tail.content, tail.disk.bad) == (DATA, set())
    assert tail.apply(strategy, with_copy=False).results == []
    assert {result.state for result in tail.undo().results} == {State.UNDONE}
    assert tail.content == DATA


def test_a_repair_is_verified_through_the_file_and_not_only_below_it_r45(tail: Bench) -> None:
    file, place = tail.opened()
    file.keeps_the_tail = True
    report = repairrun.apply(file, None, Strategy.ZERO, place, quiet, lambda _: None)
    (result,) = report.results
    assert result.state is State.BAD
    assert "cannot be read through the file" in result.how
    assert bad_ranges(report.results) == [TAIL]


# -- the journal ---------------------------------------------------------------------------


def stopped(bench: Bench, steps: int) -> None:
    bench.disk.clock = Clock(steps)
    with pytest.raises(Killed):
        bench.apply(Strategy.WRITE, with_copy=True)
    bench.disk.clock = Clock()


def test_a_damaged_journal_is_refused_wherever_it_is_damaged(bench: Bench) -> None:
    stopped(bench, 3)
    (path,) = bench.journals
    good = path.read_bytes()
    for at in [0, 9, 13, 20, 50, 60, 3000, len(good) - 3]:
        path.write_bytes(good[:at] + bytes([good[at] ^ 0x40]) + good[at + 1 :])
        with pytest.raises((CorruptionError, DaxmendError)):
            RepairJournal(path)
    for length in (0, 10, 47, 4000, len(good) - 1):
        path.write_bytes(good[:length])
        with pytest.raises(CorruptionError):
            RepairJournal(path)
    before = bytes(bench.disk.bytes)
    with pytest.raises(CorruptionError, match="move it away"):
        bench.apply(Strategy.ZERO, with_copy=False)
    assert bytes(bench.disk.bytes) == before


def test_a_stopped_repair_of_a_file_that_was_replaced_is_not_applied_to_the_new_one(
    bench: Bench,
) -> None:
    stopped(bench, 3)
    file, _ = bench.opened()
    file.identity = 8
    with pytest.raises(ChangedError, match="move it away"):
        repairrun.apply(file, None, Strategy.ZERO, JournalPlace(file, None), quiet, lambda _: None)


def test_a_plan_tells_of_a_stopped_repair(bench: Bench) -> None:
    stopped(bench, 3)
    file, place = bench.opened()
    report = repairrun.plan(file, None, Strategy.ZERO, place, quiet)
    assert report.stopped is not None
    assert report.stopped.source == bench.copy.name


@pytest.mark.parametrize("failing", ["fsync", "rename"])
def test_without_a_journal_nothing_is_written(
    bench: Bench, failing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    before = bytes(bench.disk.bytes)
    monkeypatch.setattr(os, failing, fail)
    with pytest.raises(DaxmendError, match=r"No space left on device; nothing was changed.*--jour"):
        bench.apply(Strategy.WRITE, with_copy=True)
    assert bytes(bench.disk.bytes) == before
    assert os.listdir(bench.directory) == []


def test_a_long_name_gets_a_journal_too(tmp_path: Path) -> None:
    file = DiskFile(hurt(), tmp_path / ("x" * 250))
    place = JournalPlace(file, None)
    report = repairrun.apply(file, None, Strategy.ZERO, place, quiet, lambda _: None)
    assert {result.state for result in report.results} == {State.HEALED}
    assert report.journal is not None
    assert report.journal.exists()


# -- stopped at every step -----------------------------------------------------------------


def dying(clock: Clock, function: Callable[..., object]) -> Callable[..., object]:
    """The system call, as a step of the clock."""

    def step(*arguments: object, **options: object) -> object:
        clock.step()
        return function(*arguments, **options)

    return step


CALLS = ("fsync", "rename", "pwrite", "unlink", "open")


def run_until(bench: Bench, stop_at: int, action: Callable[[], object]) -> bool:
    """Run the action on a machine that stops before step `stop_at`; whether it stopped."""
    clock = bench.disk.clock = Clock(stop_at)
    with pytest.MonkeyPatch.context() as patch:
        for name in CALLS:
            patch.setattr(os, name, dying(clock, getattr(os, name)))
        try:
            action()
        except Killed:
            return True
        finally:
            bench.disk.clock = Clock()
    return False


def every_stop(tmp_path: Path, action: Callable[[Bench], object]) -> list[Bench]:
    """A bench stopped before each step of the action."""
    benches: list[Bench] = []
    while True:
        directory = tmp_path / str(len(benches))
        directory.mkdir()
        bench = Bench(directory)
        if not run_until(bench, len(benches), lambda bench=bench: action(bench)):  # type: ignore[misc]
            assert len(benches) > 20
            return benches
        benches.append(bench)


def readable_or_journalled(bench: Bench, offset: int) -> bool:
    """Whether the good byte at an offset is there, or will come from the journal."""
    if offset // SECTOR not in bench.disk.bad and bench.disk.bytes[offset] == DATA[offset]:
        return True
    return any(not path.name.endswith(".tmp") for path in bench.journals)


def is_good(offset: int) -> bool:
    return not any(start <= offset < start + length for start, length in BAD)


def test_a_page_that_was_cleared_and_not_written_when_the_machine_stopped_is_written(
    bench: Bench,
) -> None:
    """As Linux 6.1 does it: clear, then copy (R18)."""
    stopped(bench, 3)
    bench.disk.bytes[: 4 * SECTOR] = bytes(4 * SECTOR)
    bench.disk.bad -= set(range(4))
    bench.apply(Strategy.WRITE, with_copy=True)
    assert bench.content == DATA


@pytest.mark.parametrize("strategy", list(Strategy))
def test_a_repair_that_was_stopped_anywhere_is_finished_r18_r46(
    tmp_path: Path, strategy: Strategy
) -> None:
    for bench in every_stop(tmp_path, lambda bench: bench.apply(strategy, with_copy=True)):
        assert all(readable_or_journalled(bench, at) for at in range(0, SIZE, 64) if is_good(at))
        report = bench.apply(strategy, with_copy=True)
        assert {result.state for result in report.results} <= {State.HEALED}
        assert bench.content == DATA
        assert all(sector * SECTOR >= SIZE for sector in bench.disk.bad)
        assert not list(bench.directory.glob("*.tmp"))


@pytest.mark.parametrize("strategy", list(Strategy))
def test_a_repair_that_was_stopped_anywhere_is_taken_back_without_losing_a_good_byte(
    tmp_path: Path, strategy: Strategy
) -> None:
    for bench in every_stop(tmp_path, lambda bench: bench.apply(strategy, with_copy=True)):
        try:
            report = bench.undo()
        except UsageError:  # stopped before the journal was there
            assert bench.content == bytes(hurt().bytes[:SIZE])
            continue
        states = {result.state for result in report.results}
        assert states <= {State.UNDONE, State.BAD, State.TORN}
        assert bench.disk.size == SIZE
        for at in (at for at in range(0, SIZE, 64) if is_good(at)):
            assert readable_or_journalled(bench, at)
        if State.TORN not in states:
            assert bench.journals == []
        bench.apply(strategy, with_copy=True)
        if State.TORN in states:
            bench.undo()
            bench.undo() if bench.journals else None


def test_an_undo_that_was_stopped_anywhere_is_finished_by_another(tmp_path: Path) -> None:
    def both(bench: Bench) -> None:
        bench.undo()

    count = 0
    while True:
        directory = tmp_path / str(count)
        directory.mkdir()
        bench = Bench(directory)
        bench.apply(Strategy.WRITE, with_copy=True)
        if not run_until(bench, count, lambda bench=bench: both(bench)):  # type: ignore[misc]
            break
        count += 1
        if bench.disk.bad:  # the sector that was being written when the machine stopped
            states = {result.state for result in bench.undo().results}
            assert states <= {State.UNDONE, State.BAD}  # bad is what was bad before
        elif bench.journals:
            bench.undo()
        assert bench.disk.size == SIZE
        for at in range(0, SIZE, 64):
            assert not is_good(at) or bench.disk.bytes[at] == DATA[at]
    assert count > 10


# -- attacks -------------------------------------------------------------------------------


def test_a_journal_with_the_only_good_bytes_is_not_hidden_by_a_later_repair(bench: Bench) -> None:
    """It stays the last one: zeros for what it has would be a good byte lost."""
    file, place = bench.opened()
    write = file.write

    def fail(offset: int, data: bytes) -> int:
        if offset == 0:
            bench.disk.hurt(5 * SECTOR)
            raise OSError(5, "Input/output error")
        return write(offset, data)

    file.write = fail  # type: ignore[method-assign]
    first = repairrun.apply(file, bench.copy, Strategy.WRITE, place, quiet, lambda _: None)
    assert first.results[0].state is State.TORN
    bench.disk.hurt(4 * PAGE)
    file, place = bench.opened()
    write = file.write
    file.write = fail  # type: ignore[method-assign]
    again = repairrun.apply(file, None, Strategy.ZERO, place, quiet, lambda _: None)
    states = {result.page.extent.offset: result.state for result in again.results}
    assert states[0] is State.TORN
    assert states[4 * PAGE] is State.REFUSED
    assert len(bench.journals) == 1
    report = bench.apply(Strategy.ZERO, with_copy=False)
    assert {result.state for result in report.results} == {State.HEALED}
    assert bench.content[: 4 * PAGE] == DATA[: 4 * PAGE]
    assert bench.disk.note is None


def test_a_page_that_cannot_be_written_is_zeroed_first_r34(bench: Bench) -> None:
    """A kernel whose writes never clear poison, and whose zeroing does."""
    file, place = bench.opened()
    write = file.write

    def refuse(offset: int, data: bytes) -> int:
        first = offset // SECTOR
        if bench.disk.bad & set(range(first, first + -(-len(data) // SECTOR))):
            raise OSError(5, "Input/output error")
        return write(offset, data)

    def zero(extent: Extent) -> str:
        write(extent.offset, bytes(extent.length))
        return "a verb"

    file.write, file.zero = refuse, zero  # type: ignore[method-assign]
    report = repairrun.apply(file, bench.copy, Strategy.WRITE, place, quiet, lambda _: None)
    assert {result.state for result in report.results} == {State.HEALED}
    assert {result.how for result in report.results} == {"a verb, then write"}
    assert bench.content == DATA


def test_a_page_whose_zeroing_worked_and_whose_write_did_not_is_told_and_finished(
    bench: Bench,
) -> None:
    file, place = bench.opened()
    write = file.write

    def refuse(offset: int, data: bytes) -> int:
        if offset == 0:
            raise OSError(5, "Input/output error")
        return write(offset, data)

    def zero(extent: Extent) -> str:
        write(extent.offset, bytes(extent.length))
        return "a verb"

    file.write, file.zero = refuse, zero  # type: ignore[method-assign]
    report = repairrun.apply(file, bench.copy, Strategy.WRITE, place, quiet, lambda _: None)
    assert report.results[0].state is State.TORN
    assert "zeroing first" in report.results[0].how
    assert bad_ranges(report.results)
    assert bench.disk.note is not None
    report = bench.apply(Strategy.WRITE, with_copy=True)
    assert {result.state for result in report.results} == {State.HEALED}
    assert bench.content == DATA


def test_a_verb_that_lies_is_not_believed_r45(bench: Bench) -> None:
    file, place = bench.opened()
    file.write = lambda offset, data: len(data)  # type: ignore[method-assign]
    report = repairrun.apply(file, bench.copy, Strategy.WRITE, place, quiet, lambda _: None)
    assert {result.state for result in report.results} == {State.BAD}
    assert all("still unreadable" in result.how for result in report.results)
