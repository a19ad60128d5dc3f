"""What a recovery means to do, as bytes and back (R18, R46; format.md §5)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from xxhash import xxh3_64_intdigest

from daxmend.extent import Extent
from daxmend.pmem.intent import Intent, Kept, Request, pack_id, unpack_id
from daxmend.units import PAGE, SECTOR

U64 = st.integers(0, (1 << 64) - 1)


@st.composite
def intents(draw: st.DrawFn) -> Intent:
    grain = draw(st.sampled_from([SECTOR, PAGE]))
    counts = draw(st.lists(st.integers(1, 4), max_size=4))
    runs, unit = [], draw(st.integers(0, 1 << 40))
    for count in counts:
        runs.append(Extent(unit * grain, count * grain))
        unit += count + draw(st.integers(1, 3))
    digests = st.binary(min_size=8 * sum(counts), max_size=8 * sum(counts))
    kept = draw(
        st.lists(
            st.builds(
                lambda offset, data: Kept(Extent(offset, len(data)), data),
                st.integers(0, 1 << 50),
                st.binary(max_size=100),
            ),
            max_size=3,
        )
    )
    return Intent(draw(U64), grain, tuple(runs), draw(digests), draw(digests), tuple(kept))


@given(intents())
def test_an_intent_comes_back_as_it_was(intent: Intent) -> None:
    assert Intent.unpack(intent.pack()) == intent
    assert unpack_id(intent.pack()) == intent.id == unpack_id(pack_id(intent.id))


def u64(*numbers: int) -> bytes:
    return b"".join(number.to_bytes(8, "little") for number in numbers)


def request(data: bytes, *keep: Extent, offset: int = 0, grain: int = PAGE) -> Request:
    return Request(Extent(offset, len(data)), memoryview(data), keep, grain)


def test_an_intent_holds_the_checksum_of_every_unit_as_it_will_be() -> None:
    data = b"".join(bytes([page]) * PAGE for page in range(5))
    runs = (Extent(4 * PAGE, PAGE), Extent(6 * PAGE, 2 * PAGE))
    intent = Intent.to_write(7, request(data, offset=3 * PAGE), runs, u64(1, 2, 3))
    assert list(intent.units()) == [
        (Extent(4 * PAGE, PAGE), u64(xxh3_64_intdigest(bytes([1]) * PAGE)), u64(1)),
        (Extent(6 * PAGE, PAGE), u64(xxh3_64_intdigest(bytes([3]) * PAGE)), u64(2)),
        (Extent(7 * PAGE, PAGE), u64(xxh3_64_intdigest(bytes([4]) * PAGE)), u64(3)),
    ]


def test_an_intent_keeps_what_lies_in_its_runs_and_nothing_else() -> None:
    """What is kept outside a bad unit would later be taken for the content of a good one."""
    data = bytes(range(256)) * 48  # three pages
    keep = (Extent(PAGE - 10, 20), Extent(2 * PAGE - 5, 10), Extent(0, 5))
    intent = Intent.to_write(1, request(data, *keep), (Extent(PAGE, PAGE),), u64(0))
    assert intent.kept == (
        Kept(Extent(PAGE, 10), data[PAGE : PAGE + 10]),
        Kept(Extent(2 * PAGE - 5, 5), data[2 * PAGE - 5 : 2 * PAGE]),
    )


def test_units_are_those_of_the_runs_in_order() -> None:
    runs = (Extent(0, 2 * SECTOR), Extent(5 * SECTOR, SECTOR))
    intent = Intent(1, SECTOR, runs, u64(1, 2, 3), u64(4, 5, 6))
    assert list(intent.parts()) == [
        (runs[0], u64(1, 2), u64(4, 5)),
        (runs[1], u64(3), u64(6)),
    ]
    assert [unit for unit, _, _ in intent.units()] == [
        Extent(0, SECTOR),
        Extent(SECTOR, SECTOR),
        Extent(5 * SECTOR, SECTOR),
    ]


@pytest.mark.parametrize("offset", range(14))
@pytest.mark.parametrize("length", [0, 1, 3, 20])
def test_a_kept_piece_is_cut_where_it_is_asked_to_be(offset: int, length: int) -> None:
    kept = Kept(Extent(4, 6), b"456789")
    cut = Extent(offset, length)
    inside = kept.inside(cut)
    pieces = [inside, *kept.outside(cut)]
    assert {
        piece.extent.offset + i: byte for piece in pieces for i, byte in enumerate(piece.data)
    } == {4 + i: byte for i, byte in enumerate(b"456789")}
    assert sum(len(piece.data) for piece in pieces) == 6
    assert all(len(piece.data) == piece.extent.length for piece in pieces)
    assert inside.extent.length == 0 or cut.covers(inside.extent)
    assert not any(piece.extent.overlaps(cut) for piece in kept.outside(cut))
    assert all(piece.data for piece in kept.outside(cut))
