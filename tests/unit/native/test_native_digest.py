"""Checksums of units, whichever instructions of the processor make them."""

import random

import pytest
from native_memory import PAGE, open_pages, pattern
from xxhash import xxh3_64_intdigest

from daxmend import _native
from daxmend._native import fallback

DIGESTS = [_native.digest, fallback.digest]


def expected(data: bytes, grain: int) -> list[int]:
    return [xxh3_64_intdigest(data[at : at + grain]) for at in range(0, len(data), grain)]


def numbers(digests: bytes) -> list[int]:
    return memoryview(digests).cast("Q").tolist()


@pytest.mark.parametrize("digest", DIGESTS)
@pytest.mark.parametrize("grain", [1, 16, 64, 128, 240, 241, 512, 1000, PAGE, 3 * PAGE])
def test_each_unit_has_the_checksum_that_the_library_gives_it(digest: object, grain: int) -> None:
    """Of every length class of XXH3, at any address."""
    assert callable(digest)
    data = random.Random(grain).randbytes(7 * grain + 64)
    for offset in (0, 1, 31, 64):
        unit = data[offset : offset + 7 * grain]
        assert numbers(digest(data, offset, 7 * grain, grain)) == expected(unit, grain)


@pytest.mark.parametrize("digest", DIGESTS)
def test_a_length_that_is_not_whole_units_is_refused(digest: object) -> None:
    assert callable(digest)
    for length, grain in ((100, 64), (64, 0), (64, -64)):
        with pytest.raises(ValueError, match="units"):
            digest(pattern(PAGE), 0, length, grain)


@pytest.mark.parametrize("bad", range(3))
def test_memory_that_faults_is_an_exception(bad: int) -> None:
    with open_pages(3) as pages:
        pages.break_page(bad)
        with pytest.raises(_native.MemoryFault) as caught:
            _native.digest(pages.memory, 0, 3 * PAGE, PAGE)
        assert caught.value.done == bad * PAGE
