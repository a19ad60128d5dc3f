"""The emulated medium: poison by the line, and no way to read past it (R1–R7)."""

import array
import ctypes
import faulthandler
import os
import resource
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from daxmend import _native
from daxmend.errors import MediaError, PoisonError, UsageError
from daxmend.extent import Extent
from daxmend.media.backing import Durability
from daxmend.media.medium import LEAK_PATTERN, Medium
from daxmend.media.pool import MediumKind, Pool, create_memory_pool, create_pool, open_pool
from daxmend.units import CACHELINE, CLEAR_UNIT, MIB, PAGE

LINE = Extent(4096 + 5 * CACHELINE, CACHELINE)
ALL = Extent(0, MIB)

MakeMedium = Callable[..., Medium]


@pytest.fixture
def make_medium() -> Iterator[MakeMedium]:
    """Makes media of memory, of any kind, filled with a pattern that is not zeros."""
    made: list[tuple[Medium, Pool]] = []

    def make(kind: MediumKind = MediumKind.PLAIN) -> Medium:
        pool = create_memory_pool(MIB, kind)
        medium = Medium(pool)
        made.append((medium, pool))
        medium.journal.heal()
        medium.store(0, bytes(range(1, 251)) * 100)
        return medium

    yield make
    for medium, pool in made:
        medium.close()
        pool.close()


@pytest.fixture
def medium(make_medium: MakeMedium) -> Medium:
    return make_medium()


def content(offset: int, length: int) -> bytes:
    """What `make_medium` put there."""
    return (bytes(range(1, 251)) * 100).ljust(MIB, b"\0")[offset : offset + length]


def poison_of(medium: Medium) -> list[Extent]:
    return list(medium.find_poison(ALL))


def load_into(medium: Medium, offset: int, length: int) -> bytes:
    target = bytearray(length)
    medium.load_into(offset, target)
    return bytes(target)


def load_into_words(medium: Medium, offset: int, length: int) -> bytes:
    """Into a buffer whose length is not its size in bytes."""
    target = array.array("Q", bytes(length))
    medium.load_into(offset, target)
    return target.tobytes()


def view(medium: Medium, offset: int, length: int) -> bytes:
    return bytes(medium.view(offset, length))


READERS = [Medium.load, load_into, load_into_words, view]


# -- reading -----------------------------------------------------------------------------------


@pytest.mark.parametrize("read", READERS)
def test_every_way_of_reading_refuses_poison(
    medium: Medium, read: Callable[[Medium, int, int], bytes]
) -> None:
    """R3. Ranges of every position relative to the line; the gap is warm from the read before."""
    medium.inject([LINE])
    for offset in range(LINE.offset - 128, LINE.end + 128, 8):
        for length in (8, 64, 192):
            assert read(medium, 0, 64) == content(0, 64)
            if LINE.overlaps(Extent(offset, length)):
                with pytest.raises(PoisonError) as caught:
                    read(medium, offset, length)
                met = Extent(caught.value.offset, caught.value.length)
                assert met == LINE.intersection(Extent(offset, length))
            else:
                assert read(medium, offset, length) == content(offset, length)


@pytest.mark.parametrize("read", READERS)
def test_the_machine_check_hears_of_the_line_before_the_access_fails(
    medium: Medium, read: Callable[[Medium, int, int], bytes]
) -> None:
    """R3: the first run of poison, in whole lines, and not what lies beyond the access."""
    met: list[Extent] = []
    medium.on_consumed = met.append
    medium.inject([LINE, Extent(LINE.end, CACHELINE), Extent(LINE.end + 3 * CACHELINE, 64)])
    with pytest.raises(PoisonError):
        read(medium, LINE.offset + 8, 512)
    with pytest.raises(PoisonError):
        read(medium, LINE.offset - 8, 16)
    assert met == [Extent(LINE.offset, 2 * CACHELINE), LINE]


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("extent", [Extent(MIB - 8, 16), Extent(MIB, 8), Extent(-8, 16)])
def test_nothing_outside_the_medium_is_read(
    medium: Medium, read: Callable[[Medium, int, int], bytes], extent: Extent
) -> None:
    read(medium, 0, 64)
    with pytest.raises(UsageError, match="ram"):
        read(medium, *extent)


def test_a_view_cannot_be_written(medium: Medium) -> None:
    with pytest.raises(TypeError):
        medium.view(0, 8)[0] = 1


def test_poison_that_comes_later_ends_the_gap(medium: Medium) -> None:
    medium.load(0, MIB)
    medium.inject([LINE])
    with pytest.raises(PoisonError):
        medium.load(LINE.offset, 1)
    medium.uninject([LINE])
    medium.load(0, MIB)


# -- injection (R2) ----------------------------------------------------------------------------


def test_injection_widens_to_lines_and_overwrites_them_with_a_pattern(medium: Medium) -> None:
    medium.inject([Extent(LINE.offset + 10, 60)])
    two = Extent(LINE.offset, 2 * CACHELINE)
    assert poison_of(medium) == [two]
    medium.uninject([two])
    assert medium.load(*two) == LEAK_PATTERN * 2
    assert len(LEAK_PATTERN) == CACHELINE
    assert medium.load(0, two.offset) == content(0, two.offset)
    assert medium.load(two.end, 4096) == content(two.end, 4096)


def test_uninjection_leaves_the_bytes(medium: Medium) -> None:
    medium.inject([LINE])
    medium.store(LINE.offset, b"new".ljust(64))
    medium.uninject([Extent(LINE.offset + 1, 1)])
    assert poison_of(medium) == []
    assert medium.load(*LINE) == b"new".ljust(64)


def test_injecting_no_bytes_poisons_nothing(medium: Medium) -> None:
    medium.inject([Extent(100, 0)])
    assert poison_of(medium) == []


@pytest.mark.parametrize("extent", [Extent(MIB - 64, 65), Extent(-1, 1), Extent(MIB, 1)])
def test_injection_outside_the_medium_changes_nothing(medium: Medium, extent: Extent) -> None:
    for change in (medium.inject, medium.uninject):
        with pytest.raises(UsageError):
            change([LINE, extent])
    assert poison_of(medium) == []


def test_poison_survives_reopening(shm: Path) -> None:
    path = shm / "p"
    create_pool(path, MIB, durability=Durability.PROCESS)
    lines = [Extent(0, 64), Extent(640, 128), Extent(MIB - 64, 64)]
    changes: list[Callable[[Medium], object]] = [
        lambda medium: medium.inject(lines),
        lambda medium: medium.uninject([Extent(704, 64)]),
        lambda medium: medium.clear(0, CLEAR_UNIT),
        lambda medium: medium.journal.compact(),
    ]
    expected = [
        lines,
        [lines[0], Extent(640, 64), lines[2]],
        [Extent(640, 64), lines[2]],
        [Extent(640, 64), lines[2]],
    ]
    for change, after in zip(changes, expected, strict=True):
        for step in (change, lambda medium, after=after: assert_poison(medium, after)):
            pool = open_pool(path)
            medium = Medium(pool)
            step(medium)
            medium.close()
            pool.close()


def assert_poison(medium: Medium, expected: list[Extent]) -> None:
    assert poison_of(medium) == expected


def test_a_fault_for_once_fails_one_access_and_poisons_nothing(medium: Medium) -> None:
    met: list[Extent] = []
    medium.on_consumed = met.append
    medium.load(0, MIB)
    medium.inject_once(LINE)
    medium.store(LINE.offset, content(*LINE))
    with pytest.raises(MediaError) as caught:
        medium.load(0, MIB)
    assert not isinstance(caught.value, PoisonError)
    assert (caught.value.offset, caught.value.length) == LINE
    assert medium.load(0, MIB) == content(0, MIB)
    assert met == []
    assert poison_of(medium) == []


Meanwhile = Callable[[Medium], object]

# What happens to `LINE` while somebody copies it, and what the load then must give: None is EIO.
MEANWHILE: dict[str, tuple[Meanwhile, bytes | None]] = {
    "poison": (lambda medium: medium.inject([LINE]), None),
    "clear and store": (
        lambda medium: medium.clear_and_store(PAGE, b"n" * CLEAR_UNIT * 2),
        b"n" * CACHELINE,
    ),
    "clear": (lambda medium: medium.clear(PAGE, CLEAR_UNIT * 2), bytes(CACHELINE)),
    "nothing": (lambda medium: None, content(*LINE)),
}


@pytest.mark.parametrize("what", MEANWHILE)
def test_a_load_looks_again_if_the_medium_changed_under_its_copy_r3_r19(
    medium: Medium, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    happens, expected = MEANWHILE[what]
    assert medium.load(*LINE) == content(*LINE)  # the gap is warm
    copy, copied = _native.read, list[bytes]()

    def slow_copy(*arguments: Any) -> bytes:
        data = copy(*arguments)
        if not copied:
            copied.append(data)
            happens(medium)
        return data

    monkeypatch.setattr("daxmend.media.medium._native.read", slow_copy)
    if expected is None:
        with pytest.raises(PoisonError):
            medium.load(*LINE)
    else:
        assert medium.load(*LINE) == expected
    assert copied == [content(*LINE)], "it was copied before"


# -- stores (R5, R6) ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [k for k in MediumKind if k is not MediumKind.HEALS_ON_WRITE])
def test_an_ordinary_store_never_clears_poison(make_medium: MakeMedium, kind: MediumKind) -> None:
    """R5, not even one that covers the line."""
    medium = make_medium(kind)
    medium.inject([LINE])
    medium.store(LINE.offset - 64, bytes(192))
    medium.flush(LINE.offset - 64, 192)
    medium.fence()
    with pytest.raises(PoisonError):
        medium.load(*LINE)
    assert medium.load(LINE.end, 64) == bytes(64)
    assert poison_of(medium) == [LINE]


def test_a_controller_that_heals_does_so_for_lines_covered_whole(make_medium: MakeMedium) -> None:
    """R6."""
    medium = make_medium(MediumKind.HEALS_ON_WRITE)
    healed: list[Extent] = []
    medium.on_healed = healed.extend
    medium.inject([Extent(LINE.offset, 3 * CACHELINE)])
    medium.store(LINE.offset + 1, b"x" * 128)
    assert poison_of(medium) == [LINE, Extent(LINE.end + 64, 64)]
    assert healed == [Extent(LINE.end, 64)]
    assert medium.load(LINE.end, 64) == b"x" * 64


@pytest.mark.parametrize("kind", MediumKind)
def test_a_direct_line_store_clears_its_line_where_the_medium_declares_it(
    make_medium: MakeMedium, kind: MediumKind
) -> None:
    """R6."""
    medium = make_medium(kind)
    healed: list[Extent] = []
    medium.on_healed = healed.extend
    medium.inject([Extent(LINE.offset, 2 * CACHELINE)])
    medium.store_line(LINE.offset, b"y" * 64)
    if kind in (MediumKind.CLEARS_LINES, MediumKind.HEALS_ON_WRITE):
        assert healed == [LINE]
        assert poison_of(medium) == [Extent(LINE.end, 64)]
        assert medium.load(*LINE) == b"y" * 64
    else:
        assert healed == []
        with pytest.raises(PoisonError):
            medium.load(*LINE)


@pytest.mark.parametrize(("offset", "length"), [(8, 64), (64, 63), (64, 128), (MIB, 64)])
def test_a_direct_store_is_one_aligned_line(medium: Medium, offset: int, length: int) -> None:
    with pytest.raises(UsageError):
        medium.store_line(offset, bytes(length))


@pytest.mark.parametrize("offset", [-8, MIB - 8, MIB])
def test_nothing_outside_the_medium_is_stored(medium: Medium, offset: int) -> None:
    for data in (bytes(16), array.array("Q", [0, 0])):  # two elements, 16 bytes
        with pytest.raises(UsageError):
            medium.store(offset, data)


# -- the clear command (R7) --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offset", "length"), [(64, 256), (0, 64), (128, 256), (0, 300), (-256, 256), (MIB, 256)]
)
def test_an_unaligned_clear_is_refused_and_changes_nothing(
    medium: Medium, offset: int, length: int
) -> None:
    medium.inject([Extent(0, 512)])
    before = poison_of(medium)
    with pytest.raises(UsageError):
        medium.clear(offset, length)
    assert poison_of(medium) == before
    assert medium.load(512, 512) == content(512, 512)


def test_cleared_media_reads_as_zero_and_nothing_else_changes(medium: Medium) -> None:
    medium.inject([Extent(256, 64), Extent(1024, 64)])
    assert medium.clear(256, 512) == 512
    assert medium.load(256, 512) == bytes(512)
    assert medium.load(0, 256) == content(0, 256)
    assert medium.load(768, 256) == content(768, 256)
    assert poison_of(medium) == [Extent(1024, 64)]


def test_a_medium_that_refuses_changes_nothing(make_medium: MakeMedium) -> None:
    medium = make_medium(MediumKind.REFUSES)
    medium.inject([Extent(0, 64)])
    assert medium.clear(0, 1024) == 0
    assert poison_of(medium) == [Extent(0, 64)]
    assert medium.load(64, 960) == content(64, 960)


def test_a_medium_that_clears_part_says_how_much(make_medium: MakeMedium) -> None:
    medium = make_medium(MediumKind.CLEARS_PART)
    medium.inject([Extent(0, 64), Extent(960, 64)])
    count = medium.clear(0, 1024)
    assert 0 < count < 1024
    assert count % CLEAR_UNIT == 0
    assert medium.load(0, count) == bytes(count)
    assert medium.load(count, 960 - count) == content(count, 960 - count)
    assert poison_of(medium) == [Extent(960, 64)]


def test_a_medium_that_lies_claims_all_and_stays_poisoned(make_medium: MakeMedium) -> None:
    medium = make_medium(MediumKind.LIES)
    medium.inject([Extent(0, 64)])
    assert medium.clear(0, 1024) == 1024
    assert poison_of(medium) == [Extent(0, 64)]


# -- memory for callers (R24, R25, R28) --------------------------------------------------------


def ending(program: Callable[[], object]) -> int:
    """Run it in a fork of this process; its exit status, or minus the signal that killed it."""
    child = os.fork()
    if child == 0:
        faulthandler.disable()
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        status = 99
        try:
            program()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_code_that_knows_nothing_dies_of_sigbus_at_poison_and_lives_beside_it(
    medium: Medium,
) -> None:
    """R24, R25: `ctypes` loads from the window of a poisoned page, and from its neighbours."""
    medium.inject([LINE])
    exposure = medium.expose(Extent(0, 3 * PAGE))
    try:
        for page in range(3):
            address = exposure.address + page * PAGE + 1000

            def load(address: int = address) -> None:
                ctypes.string_at(address, 1)

            assert ending(load) == (-signal.SIGBUS if page == 1 else 0), page
        assert bytes(exposure.memory[:PAGE]) == content(0, PAGE)
        assert bytes(exposure.memory[2 * PAGE :]) == content(2 * PAGE, PAGE)
    finally:
        exposure.close()


def test_poison_reaches_memory_that_was_handed_out_before_and_leaves_it_again(
    medium: Medium,
) -> None:
    exposure = medium.expose(Extent(PAGE, 2 * PAGE))
    try:
        assert exposure.faulting == []
        medium.inject([LINE, Extent(0, 64)])
        assert exposure.faulting == [Extent(0, PAGE)]
        medium.uninject([LINE])
        assert exposure.faulting == []
        assert bytes(exposure.memory[PAGE:]) == content(2 * PAGE, PAGE)
        medium.inject([Extent(3 * PAGE - 1, 1)])
        medium.clear(2 * PAGE, PAGE)
        assert exposure.faulting == []
        assert bytes(exposure.memory[PAGE:]) == bytes(PAGE)
    finally:
        exposure.close()


def test_what_the_driver_keeps_away_faults_without_poison(medium: Medium) -> None:
    """R28: a recorded page without poison is not present either."""
    hidden: list[Extent] = []
    medium.not_present = lambda pages: (e.intersection(pages) for e in hidden)
    exposure = medium.expose(Extent(0, 4 * PAGE))
    try:
        hidden.append(Extent(PAGE + 512, 512))
        medium.show(hidden[0])
        assert exposure.faulting == [Extent(PAGE, PAGE)]
        hidden.clear()
        medium.show(Extent(PAGE, 1))
        assert exposure.faulting == []
    finally:
        exposure.close()


def test_who_holds_memory_is_known_until_it_is_closed(medium: Medium) -> None:
    exposure = medium.expose(Extent(PAGE, PAGE))
    assert medium.is_exposed(Extent(2 * PAGE - 1, 10))
    assert not medium.is_exposed(Extent(2 * PAGE, PAGE))
    assert not medium.is_exposed(Extent(PAGE, 0))
    exposure.close()
    medium.inject([Extent(PAGE, 64)])
