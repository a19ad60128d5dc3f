"""The mapfile of GNU ddrescue, by its manual."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daxmend.errors import UsageError
from daxmend.extent import Extent
from daxmend.rescue.mapfile import RescueMap, Status, format_mapfile, parse_mapfile

# The example of the manual, "Mapfile structure".
EXAMPLE = """\
# Mapfile. Created by GNU ddrescue version 1.27
# Command line: ddrescue -d -c18 /dev/fd0 fdimage mapfile
# Start time:   2015-07-21 09:37:44
# Current time: 2015-07-21 09:38:19
# Copying non-tried blocks... Pass 1 (forwards)
# current_pos  current_status  current_pass
0x00120000     ?               1
#      pos        size  status
0x00000000  0x00117000  +
0x00117000  0x00000200  -
0x00117200  0x00001000  /
0x00118200  0x00007E00  *
0x00120000  0x00048000  ?
"""
STATUSES = list(Status)


def test_the_example_of_the_manual_is_understood() -> None:
    rescue = parse_mapfile(EXAMPLE, 0x168000, "map")
    assert list(rescue.blocks()) == [
        (Extent(0, 0x117000), Status.SAVED),
        (Extent(0x117000, 0x200), Status.BAD),
        (Extent(0x117200, 0x1000), Status.UNSCRAPED),
        (Extent(0x118200, 0x7E00), Status.UNTRIMMED),
        (Extent(0x120000, 0x48000), Status.UNTRIED),
    ]


def test_old_maps_octal_decimal_and_late_beginnings_are_understood() -> None:
    rescue = parse_mapfile("0 +\n512 01000 + # a comment\n1024 0x200 -\n", 4096, "map")
    assert rescue.extents(Status.SAVED) == [Extent(512, 512)]
    assert rescue.extents(Status.BAD) == [Extent(1024, 512)]
    assert rescue.extents(Status.UNTRIED) == [Extent(0, 512), Extent(1536, 2560)]


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "empty"),
        ("# nothing\n", "empty"),
        ("x\n", "line 1"),
        ("0 + 1\n0 512\n", "line 2"),
        ("0 + 1\n0 512 x\n", "line 2"),
        ("0 + 1\n-1 512 +\n", "line 2"),
        ("0 + 1\n0 512 +\n511 1 +\n", "does not follow"),
        ("0 + 1\n0 512 +\n513 1 +\n", "does not follow"),
        ("0 + 1\n0 4097 +\n", "another file"),
    ],
)
def test_what_is_no_map_is_refused_with_its_line(text: str, word: str) -> None:
    with pytest.raises(UsageError, match=word):
        parse_mapfile(text, 4096, "map")


def test_a_map_of_an_empty_file_has_no_blocks() -> None:
    rescue = RescueMap(0)
    rescue.set(Extent(0, 10), Status.SAVED)
    assert list(rescue.blocks()) == []
    assert list(parse_mapfile(format_mapfile(rescue, []), 0, "map").blocks()) == []


@given(
    st.integers(1, 60),
    st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60), st.sampled_from(STATUSES))),
)
def test_a_map_is_what_an_array_of_statuses_is(
    size: int, changes: list[tuple[int, int, Status]]
) -> None:
    rescue, model = RescueMap(size), [Status.UNTRIED] * size
    for offset, length, status in changes:
        rescue.set(Extent(offset, length), status)
        for at in range(offset, min(offset + length, size)):
            model[at] = status
    blocks = list(rescue.blocks())
    assert [status for extent, status in blocks for _ in range(extent.length)] == model
    assert all(a[1] != b[1] and a[0].end == b[0].offset for a, b in itertools.pairwise(blocks))
    for status in STATUSES:
        told = {at for run in rescue.extents(status) for at in range(run.offset, run.end)}
        assert told == {at for at in range(size) if model[at] is status}
    again = parse_mapfile(format_mapfile(rescue, ["a comment"]), size, "map")
    assert list(again.blocks()) == blocks
