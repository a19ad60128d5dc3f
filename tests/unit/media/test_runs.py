"""Sets as journal payloads: pairs where sparse, bits where dense (format.md §4)."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daxmend.extent import Extent, ExtentSet
from daxmend.media.runs import batched_runs, pack_runs, pack_snapshot, unpack_runs
from daxmend.units import CACHELINE, SECTOR

CHUNK = 32768  # units that one payload of bits covers
PAIRS, BITS = 1, 2
FROM_PAIRS_TO_BITS = 256  # runs in a chunk


def unpack_all(payloads: list[bytes], grain: int) -> ExtentSet:
    """The set that a snapshot's payloads hold together."""
    found = ExtentSet(grain)
    for payload in payloads:
        found.update(unpack_runs(payload, grain))
    return found


def forms(payloads: list[bytes]) -> list[int]:
    """Which form each payload has."""
    return [struct.unpack_from("<I", payload)[0] for payload in payloads]


def scattered(count: int, first: int = 0, step: int = 2, grain: int = SECTOR) -> ExtentSet:
    """`count` single units, `step` apart."""
    return ExtentSet(grain, [Extent((first + i * step) * grain, grain) for i in range(count)])


extents = st.builds(
    lambda first, count: Extent(first * SECTOR, count * SECTOR),
    st.one_of(st.integers(0, 3 * CHUNK), st.integers(0, 1 << 50)),
    st.one_of(st.integers(1, 4), st.integers(1, 2 * CHUNK)),
)


@given(st.lists(extents, max_size=20))
def test_pairs_come_back_as_they_were(runs: list[Extent]) -> None:
    assert list(unpack_runs(pack_runs(runs, SECTOR), SECTOR)) == runs


@given(st.lists(extents, max_size=20))
def test_a_snapshot_holds_the_set(runs: list[Extent]) -> None:
    record = ExtentSet(SECTOR, runs)
    assert unpack_all(list(pack_snapshot(record)), SECTOR) == record


@pytest.mark.parametrize("grain", [CACHELINE, SECTOR])
@pytest.mark.parametrize(
    ("count", "form"),
    [(FROM_PAIRS_TO_BITS - 1, PAIRS), (FROM_PAIRS_TO_BITS, BITS), (CHUNK // 2, BITS)],
)
def test_bits_begin_where_they_are_shorter(grain: int, count: int, form: int) -> None:
    record = scattered(count, grain=grain)
    payloads = list(pack_snapshot(record))
    assert forms(payloads) == [form]
    assert unpack_all(payloads, grain) == record


@pytest.mark.parametrize("first", [0, 1, CHUNK - 1, CHUNK, 5 * CHUNK + 7, (1 << 32) - CHUNK])
@pytest.mark.parametrize("last_unit", [False, True])
def test_bits_hold_first_and_last_unit_of_a_chunk(first: int, last_unit: bool) -> None:
    record = scattered(FROM_PAIRS_TO_BITS + 3, first)
    if last_unit:
        record.add(Extent((first // CHUNK * CHUNK + CHUNK - 1) * SECTOR, SECTOR))
    payloads = list(pack_snapshot(record))
    assert unpack_all(payloads, SECTOR) == record


def test_a_run_across_dense_chunks_stays_one_run() -> None:
    record = scattered(2 * CHUNK // 4, step=4)
    record.add(Extent((CHUNK - 5) * SECTOR, 10 * SECTOR))
    payloads = list(pack_snapshot(record))
    assert forms(payloads) == [BITS, BITS]
    assert unpack_all(payloads, SECTOR) == record


def test_the_worst_set_takes_little_more_than_a_bit_a_unit() -> None:
    record = scattered(2 * CHUNK)
    size = sum(map(len, pack_snapshot(record)))
    assert size <= 4 * CHUNK // 8 * 17 // 16


def test_no_payload_grows_with_the_set() -> None:
    record = scattered(20 * 255, step=CHUNK // 255)  # sparse everywhere: pairs, in many payloads
    assert max(map(len, pack_snapshot(record))) <= 16 * 1024


def test_nothing_takes_no_payload() -> None:
    assert list(pack_snapshot(ExtentSet(SECTOR))) == []
    assert list(unpack_runs(pack_runs([], SECTOR), SECTOR)) == []


def test_batches_hold_every_run_once_and_in_order() -> None:
    runs = [Extent(i, 1) for i in range(10_000)]
    batches = list(batched_runs(runs))
    assert [run for batch in batches for run in batch] == runs
    assert max(map(len, batches)) * 16 <= 64 * 1024
    assert list(batched_runs([])) == []
