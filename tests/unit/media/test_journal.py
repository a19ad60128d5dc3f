"""The mirrored log: what was fenced survives stops and damage (format.md §3)."""

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from daxmend.errors import CorruptionError, DaxmendError
from daxmend.extent import Extent
from daxmend.media.backing import Backing, Durability
from daxmend.media.journal import Entry, Journal, format_journal
from daxmend.testing import CrashBacking, PowerLoss
from daxmend.testing.crash import Survival
from daxmend.units import KIB

AREA = 16 * KIB
AREAS = (Extent(4 * KIB, AREA), Extent(4 * KIB + AREA, AREA))
SIZE = 4 * KIB + 2 * AREA
RULES = [(Survival.NONE, 0), (Survival.ALL, 0), *((Survival.SOME, seed) for seed in range(6))]


class Owner:
    """Somebody with a state of numbered texts, kept in a journal: kind is the number."""

    def __init__(self, backing: Backing, areas: tuple[Extent, Extent] = AREAS) -> None:
        self.state: dict[int, bytes] = {}
        self.journal = Journal(backing, areas, "the log", self.snapshot)
        self.entries = self.journal.read()
        for kind, payload in self.entries:
            self.apply(kind, payload)

    def snapshot(self) -> Iterator[Entry]:
        return (Entry(kind, payload) for kind, payload in self.state.items())

    def apply(self, kind: int, payload: bytes) -> None:
        self.state[kind] = payload
        if not payload:
            del self.state[kind]

    def set(self, kind: int, payload: bytes) -> None:
        """Change the state; an empty text removes."""
        self.journal.append(kind, payload)
        self.apply(kind, payload)

    def set_fenced(self, kind: int, payload: bytes) -> None:
        """Change the state, durably."""
        self.set(kind, payload)
        self.journal.fence()


@pytest.fixture
def path(shm: Path) -> Path:
    """A file with an empty journal."""
    path = shm / "journal"
    path.touch()
    os.truncate(path, SIZE)
    backing = open_backing(path)
    format_journal(backing, AREAS, "the log")
    backing.close()
    return path


def open_backing(path: Path) -> Backing:
    return Backing(os.open(path, os.O_RDWR), str(path), Durability.PROCESS)


@pytest.fixture
def reopen(path: Path) -> Iterator[Callable[[], Owner]]:
    """Reads the journal as a new process does, and heals it."""
    backings: list[Backing] = []

    def opened() -> Owner:
        while backings:
            backings.pop().close()
        backings.append(open_backing(path))
        owner = Owner(backings[0])
        owner.journal.heal()
        return owner

    yield opened
    while backings:
        backings.pop().close()


def flip(path: Path, *offsets: int) -> None:
    """Damage: turn the bits of one byte at each offset."""
    with open(path, "r+b") as file:
        for offset in offsets:
            file.seek(offset)
            (byte,) = file.read(1)
            file.seek(offset)
            file.write(bytes([byte ^ 0xFF]))


def copy_of(path: Path, copy: int) -> bytes:
    """One copy as it stands in the file."""
    area = AREAS[copy]
    return path.read_bytes()[area.offset : area.end]


def used(path: Path) -> int:
    """How much of an area the log takes: to the last byte that is not zero, and its padding."""
    return -(-len(copy_of(path, 0).rstrip(b"\0")) // 8) * 8


def filled(owner: Owner) -> Owner:
    """A journal with a snapshot and appended entries, all of them fenced."""
    for kind in range(1, 4):
        owner.set(kind, b"snapshot" * kind)
    owner.journal.compact()
    for kind in range(4, 7):
        owner.set_fenced(kind, bytes([kind]) * (kind + 6))
    return owner


# -- what is written is read -------------------------------------------------------------------


def test_a_new_journal_is_empty(reopen: Callable[[], Owner]) -> None:
    owner = reopen()
    assert owner.entries == []
    assert owner.journal.repairs == []


def test_entries_come_back_in_order(reopen: Callable[[], Owner]) -> None:
    written = [Entry(kind, bytes([kind]) * length) for kind, length in enumerate([0, 1, 8, 999], 1)]
    owner = reopen()
    for kind, payload in written:
        owner.journal.append(kind, payload)
    assert reopen().entries == written
    assert reopen().journal.repairs == []


def test_both_copies_hold_the_same_bytes(reopen: Callable[[], Owner], path: Path) -> None:
    filled(reopen())
    assert copy_of(path, 0) == copy_of(path, 1)


def test_a_compaction_keeps_the_state_and_drops_the_history(
    reopen: Callable[[], Owner], path: Path
) -> None:
    owner = reopen()
    for round_ in range(20):
        owner.set(1, bytes([round_]))
    owner.journal.compact()
    owner = reopen()
    assert owner.state == {1: bytes([19])}
    assert len(owner.entries) == 1
    owner.set(2, b"after")
    assert reopen().state == {1: bytes([19]), 2: b"after"}


def test_a_full_area_compacts_by_itself(reopen: Callable[[], Owner]) -> None:
    owner = reopen()
    for round_ in range(3000):
        owner.set(1 + round_ % 7, b"%d" % round_)
    expected = {1 + round_ % 7: b"%d" % round_ for round_ in range(2993, 3000)}
    assert owner.state == expected
    assert reopen().state == expected


def test_an_entry_that_cannot_fit_is_refused_and_changes_nothing(
    reopen: Callable[[], Owner],
) -> None:
    owner = filled(reopen())
    state = dict(owner.state)
    with pytest.raises(DaxmendError, match="the log: no room"):
        owner.set(9, bytes(AREA))
    assert reopen().state == state
    with pytest.raises(DaxmendError, match="no room"):
        reopen().set(9, bytes(AREA - 100))


def test_a_state_that_cannot_fit_is_refused_and_changes_nothing(
    reopen: Callable[[], Owner],
) -> None:
    owner = filled(reopen())
    state = dict(owner.state)
    owner.state[9] = bytes(AREA)
    with pytest.raises(DaxmendError, match="its state takes"):
        owner.journal.compact()
    assert reopen().state == state


# -- damage ------------------------------------------------------------------------------------


@pytest.mark.parametrize("copy", [0, 1])
def test_any_damaged_byte_of_one_copy_is_healed_and_reported(
    reopen: Callable[[], Owner], path: Path, copy: int
) -> None:
    state = dict(filled(reopen()).state)
    reopen()
    image = copy_of(path, 0)
    assert image == copy_of(path, 1)
    for at in range(used(path)):
        flip(path, AREAS[copy].offset + at)
        owner = reopen()
        assert owner.state == state, at
        assert [repair.copy for repair in owner.journal.repairs] == [copy], at
        assert copy_of(path, 0) == copy_of(path, 1) == image, at
        assert reopen().journal.repairs == [], at


def test_a_byte_damaged_in_both_copies_is_never_a_different_state(
    reopen: Callable[[], Owner], path: Path
) -> None:
    """The last entry is the exception: damaged in both copies it looks like an unfenced append."""
    owner = filled(reopen())
    state, last = dict(owner.state), max(owner.state)
    reopen()
    original = path.read_bytes()
    refused = 0
    for at in range(used(path)):
        flip(path, *(area.offset + at for area in AREAS))
        try:
            found = reopen().state
        except CorruptionError:
            refused += 1
        else:
            assert found in (state, {k: v for k, v in state.items() if k != last}), at
        path.write_bytes(original)
    assert refused > used(path) // 2


def test_a_sealed_log_is_never_a_different_state_without_a_word(
    reopen: Callable[[], Owner], path: Path
) -> None:
    """After an orderly end even the entries of the last fence are provably all there."""
    owner = filled(reopen())
    owner.set(20, b"one fence")
    owner.set_fenced(21, b"for two")
    state = dict(owner.state)
    owner.journal.seal()
    length = used(path)
    owner.journal.seal()
    assert used(path) == length, "one seal is enough"
    assert reopen().state == state
    reopen().journal.seal()
    assert used(path) == length
    original = path.read_bytes()
    seal = copy_of(path, 0).rindex(b"DMJE")
    for at in range(seal):
        flip(path, *(area.offset + at for area in AREAS))
        with pytest.raises(CorruptionError):
            reopen()
        path.write_bytes(original)
    flip(path, *(area.offset + seal for area in AREAS))
    assert reopen().state == state


def test_a_compacted_log_needs_no_seal(reopen: Callable[[], Owner], path: Path) -> None:
    owner = filled(reopen())
    owner.journal.compact()
    length = used(path)
    owner.journal.seal()
    reopen().journal.seal()
    assert used(path) == length


def test_a_change_after_a_seal_needs_another(reopen: Callable[[], Owner], path: Path) -> None:
    owner = filled(reopen())
    owner.journal.seal()
    owner.set(20, b"later")
    length = used(path)
    owner.journal.seal()
    assert used(path) > length
    assert reopen().state == owner.state


def test_what_one_copy_cannot_prove_the_other_may(reopen: Callable[[], Owner], path: Path) -> None:
    """Copy 0 has lost its header, copy 1 one entry; every fact still has a proof."""
    state = dict(filled(reopen()).state)
    reopen()
    original = path.read_bytes()
    appended = copy_of(path, 0).rindex(bytes([4]) * 10)
    for at in range(appended - 40, used(path)):
        flip(path, AREAS[0].offset + 16, AREAS[1].offset + at)
        assert reopen().state == state, at
        assert reopen().journal.repairs == []
        assert copy_of(path, 0) == copy_of(path, 1)
        path.write_bytes(original)


def test_both_headers_damaged_is_corruption_and_not_an_empty_log(
    reopen: Callable[[], Owner], path: Path
) -> None:
    filled(reopen())
    flip(path, AREAS[0].offset, AREAS[1].offset + 30)
    with pytest.raises(CorruptionError, match="both copies"):
        reopen()


@pytest.mark.parametrize("blank", [b"\0", b"\xff"])
def test_a_promised_entry_that_is_wiped_in_both_copies_is_corruption(
    reopen: Callable[[], Owner], path: Path, blank: bytes
) -> None:
    """R8: a sector of zeros in the middle of the log must not pass for its end."""
    filled(reopen())
    start = copy_of(path, 0).rindex(bytes([4]) * 10) - 40
    with open(path, "r+b") as file:
        for area in AREAS:
            file.seek(area.offset + start)
            file.write(blank * 64)
    with pytest.raises(CorruptionError, match="damaged in both"):
        reopen()


def test_a_damaged_snapshot_is_replaced_by_the_other_copy(
    reopen: Callable[[], Owner], path: Path
) -> None:
    state = dict(filled(reopen()).state)
    with open(path, "r+b") as file:
        file.seek(AREAS[0].offset)
        file.write(os.urandom(AREA))
    owner = reopen()
    assert owner.state == state
    assert [repair.copy for repair in owner.journal.repairs] == [0]


# -- stops -------------------------------------------------------------------------------------


def run_until(
    path: Path, stop_at: int, rule: tuple[Survival, int], operation: Callable[[Owner], object]
) -> bool:
    """Run the operation on the journal and stop at a persist point; False if it got to its end."""
    survival, seed = rule
    backing = CrashBacking(
        os.open(path, os.O_RDWR),
        str(path),
        Durability.PROCESS,
        stop_at=stop_at,
        survival=survival,
        seed=seed,
    )
    try:
        owner = Owner(backing)
        owner.journal.heal()
        operation(owner)
    except PowerLoss:
        return True
    else:
        return False
    finally:
        backing.is_down = True
        backing.close()


def each_stop(
    path: Path, operation: Callable[[Owner], object], acknowledged: list[int] | None = None
) -> Iterator[tuple[Survival, int, int]]:
    """Stops the operation at every point under every rule; the file is as the stop left it.

    `acknowledged` is emptied before each run; the operation notes there what was done.
    """
    image = path.read_bytes()
    for rule in RULES:
        stop_at = 0
        while True:
            path.write_bytes(image)
            if acknowledged is not None:
                acknowledged.clear()
            if not run_until(path, stop_at, rule, operation):
                break
            yield (*rule, stop_at)
            stop_at += 1
    path.write_bytes(image)


def test_a_fenced_entry_survives_every_stop_and_an_unfenced_one_is_whole_or_absent(
    reopen: Callable[[], Owner], path: Path
) -> None:
    before = dict(filled(reopen()).state)
    states = [before]
    changes = [(10, b"one" * 30), (11, b"two" * 50), (4, b""), (12, b"three" * 9)]
    for kind, payload in changes:
        states.append({k: v for k, v in (states[-1] | {kind: payload}).items() if v})
    fenced: list[int] = []

    def operation(owner: Owner) -> None:
        for kind, payload in changes[:2]:
            owner.set_fenced(kind, payload)
            fenced.append(kind)
        for kind, payload in changes[2:]:
            owner.set(kind, payload)

    for stop in each_stop(path, operation, fenced):
        found = reopen().state
        assert found in states[len(fenced) :], stop
        assert reopen().state == found, stop
        assert reopen().journal.repairs == [], stop


def test_a_compaction_stopped_anywhere_changes_nothing(
    reopen: Callable[[], Owner], path: Path
) -> None:
    state = dict(filled(reopen()).state)
    stops = 0
    for stop in each_stop(path, lambda owner: owner.journal.compact()):
        assert reopen().state == state, stop
        assert reopen().journal.repairs == [], stop
        assert copy_of(path, 0)[: used(path)] == copy_of(path, 1)[: used(path)], stop
        stops += 1
    assert stops > 50


def test_a_heal_stopped_anywhere_loses_no_proof(reopen: Callable[[], Owner], path: Path) -> None:
    """Copy 0 has lost its header and copy 1 its last entry: each holds what the other needs."""
    state = dict(filled(reopen()).state)
    reopen()
    last = used(path) - 8
    flip(path, AREAS[0].offset + 16, AREAS[1].offset + last)
    for stop in each_stop(path, lambda owner: None):
        assert reopen().state == state, stop
        assert reopen().journal.repairs == [], stop


def test_remains_of_an_unfenced_append_never_come_to_life(
    reopen: Callable[[], Owner], path: Path
) -> None:
    """R8. Two unfenced entries; the first vanished without a trace, the second is there whole.

    The next life writes an entry of the first's length: the old second must not follow it.
    """
    filled(reopen())
    reopen()
    start = used(path)
    owner = reopen()
    first, second = b"a" * 200, b"zombie" * 10
    owner.set(20, first)
    middle = used(path)
    owner.set(21, second)
    with open(path, "r+b") as file:
        for area in AREAS:
            file.seek(area.offset + start)
            file.write(bytes(middle - start))
    owner = reopen()
    assert 20 not in owner.state
    assert 21 not in owner.state
    owner.set_fenced(20, first)
    assert 21 not in reopen().state


def test_remains_of_an_interrupted_compaction_never_come_to_life(
    reopen: Callable[[], Owner], path: Path
) -> None:
    """A compaction stopped after its entries; then the state shrank, and it compacts again.

    Its snapshot is longer than the log (as that of lost sectors is), so the log's repair does not
    overwrite all of it.
    """
    owner = reopen()
    for kind in range(1, 41):
        owner.set(kind, b"x" * 100)

    def compact_at_length(owner: Owner) -> None:
        twice = [entry for entry in owner.snapshot() for _ in range(2)]
        owner.snapshot = lambda: iter(twice)  # type: ignore[method-assign]
        owner.journal._snapshot = owner.snapshot
        owner.journal.compact()

    stops = 0
    for stop in each_stop(path, compact_at_length):
        owner = reopen()
        for kind in range(6, 41):
            owner.state.pop(kind)
        owner.journal.compact()
        assert reopen().state.keys() == set(range(1, 6)), stop
        stops += 1
    assert stops > 50


# -- a disk that fails while it is written -----------------------------------------------------


class FailingBacking(Backing):
    """Lets some stores through, then has space only for what was stored to before."""

    room: int | None = None

    def __init__(self, path: Path) -> None:
        super().__init__(os.open(path, os.O_RDWR), str(path), Durability.PROCESS)
        self.taken: set[int] = set()

    def store(self, offset: int, data: bytes) -> None:
        if self.room is not None and offset not in self.taken:
            if self.room == 0:
                raise OSError(errno.ENOSPC, "no space")
            self.room -= 1
        self.taken.add(offset)
        super().store(offset, data)


@pytest.mark.parametrize("room", [0, 1])
def test_an_append_without_space_changes_nothing_now_or_later(
    reopen: Callable[[], Owner], path: Path, room: int
) -> None:
    """R8: entries after a failed append must not be cut off by its missing number."""
    state = dict(filled(reopen()).state)
    backing = FailingBacking(path)
    owner = Owner(backing)
    owner.journal.heal()
    backing.room = room
    with pytest.raises(OSError, match="no space"):
        owner.set(30, b"never")
    backing.room = None
    assert reopen().state == state, "the caller was told that it failed"
    owner.set_fenced(31, b"after")
    owner.set_fenced(32, b"and after")
    assert reopen().state == state | {31: b"after", 32: b"and after"}
    backing.close()


@pytest.mark.parametrize("room", range(4))
def test_a_compaction_without_space_loses_nothing_now_or_later(
    reopen: Callable[[], Owner], path: Path, room: int
) -> None:
    state = dict(filled(reopen()).state)
    backing = FailingBacking(path)
    owner = Owner(backing)
    owner.journal.heal()
    backing.room = room
    with pytest.raises(OSError, match="no space"):
        owner.journal.compact()
    backing.room = None
    owner.set_fenced(31, b"after")
    backing.close()
    assert reopen().state == state | {31: b"after"}
    assert reopen().journal.repairs == []
