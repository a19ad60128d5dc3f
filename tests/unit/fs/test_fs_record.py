"""Inode records and changes: what is packed comes back, and anything else is `CorruptionError`."""

import stat

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daxmend.errors import CorruptionError
from daxmend.fs.change import (
    Change,
    InodeGone,
    InodeSet,
    Mapped,
    NameGone,
    NameSet,
    TargetSet,
    Unmapped,
    Written,
    XattrGone,
    XattrSet,
    pack_change,
    unpack_changes,
)
from daxmend.fs.extentmap import Run
from daxmend.fs.inode import ATTRIBUTES_LENGTH, Attributes, Inode, RecordHead, places_of
from daxmend.fs.state import State

u32 = st.integers(0, 2**32 - 1)
u64 = st.integers(0, 2**64 - 1)
times = st.integers(-(2**63), 2**63 - 1)
kinds = st.sampled_from([stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFSOCK, stat.S_IFBLK])
names = st.binary(min_size=1, max_size=255)
attributes = st.builds(
    Attributes, u64, u32, u32, u32, u32, u32, u32, u64, u64, times, times, times, times
)


@st.composite
def inodes(draw: st.DrawFn) -> Inode:
    inode = Inode(draw(attributes))
    for name, (ino, kind) in draw(
        st.dictionaries(names, st.tuples(u64, kinds), max_size=5)
    ).items():
        inode.set_name(name, ino, kind)
    for name, value in draw(st.dictionaries(names, st.binary(max_size=400), max_size=4)).items():
        inode.set_xattr(name, value)
    inode.target = draw(st.binary(max_size=100))
    at = 0
    for gap, place, count, is_written in draw(
        st.lists(
            st.tuples(st.integers(1, 9), st.integers(0, 2**40), st.integers(1, 9), st.booleans()),
            max_size=6,
        )
    ):
        inode.map.map(Run(at + gap, place, count, is_written))
        at += gap + count
    return inode


def parts(inode: Inode) -> tuple[object, ...]:
    runs = list(inode.map.runs())
    return inode.attributes, inode.names, inode.xattrs, inode.target, runs, inode.names_length


@given(inodes())
def test_a_record_holds_the_whole_inode(inode: Inode) -> None:
    length = inode.record_length
    record = inode.pack()
    assert len(record) == length
    again = Inode.unpack(record)
    assert parts(again) == parts(inode)
    assert again.record_length == length
    again.record = None
    assert again.pack() == record


@given(inodes())
def test_the_head_and_the_places_are_read_without_the_rest(inode: Inode) -> None:
    record = inode.pack()
    head = RecordHead.unpack_from(b"xx" + record + b"yy", 2)
    a = inode.attributes
    assert (head.length, head.ino, head.mode, head.nlink) == (len(record), a.ino, a.mode, a.nlink)
    assert list(places_of(record)) == [(run.place, run.pages) for run in inode.map.runs()]


@given(inodes(), st.data())
def test_a_record_that_was_cut_is_refused(inode: Inode, data: st.DataObject) -> None:
    record = inode.pack()
    cut = record[: data.draw(st.integers(0, len(record) - 1))]
    with pytest.raises(CorruptionError):
        RecordHead.unpack_from(cut)
    with pytest.raises(CorruptionError):
        Inode.unpack(cut)


@given(inodes(), st.lists(st.tuples(st.integers(0), st.integers(0, 255)), min_size=1, max_size=6))
def test_a_record_with_wrong_bytes_is_read_or_refused(
    inode: Inode, changes: list[tuple[int, int]]
) -> None:
    record = bytearray(inode.pack())
    for at, byte in changes:
        record[at % len(record)] = byte
    try:
        head = RecordHead.unpack_from(bytes(record))
        list(places_of(bytes(record[: head.length])))
        Inode.unpack(bytes(record[: head.length]))
    except CorruptionError:
        pass


@given(st.binary(max_size=300))
def test_garbage_is_no_record(garbage: bytes) -> None:
    with pytest.raises(CorruptionError):
        RecordHead.unpack_from(garbage)
    with pytest.raises(CorruptionError):
        Inode.unpack(garbage)


changes = st.one_of(
    st.builds(InodeSet, attributes),
    st.builds(InodeGone, u64),
    st.builds(NameSet, u64, u64, u32, names),
    st.builds(NameGone, u64, names),
    st.builds(Mapped, u64, u64, u64, u64, st.booleans()),
    st.builds(Unmapped, u64, u64, u64),
    st.builds(Written, u64, u64, u64),
    st.builds(XattrSet, u64, names, st.binary(max_size=300)),
    st.builds(XattrGone, u64, names),
    st.builds(TargetSet, u64, st.binary(max_size=300)),
)


@given(st.lists(changes, max_size=8))
def test_changes_come_back_in_order(made: list[Change]) -> None:
    assert list(unpack_changes(b"".join(map(pack_change, made)))) == made


@given(st.lists(changes, min_size=1, max_size=3), st.data())
def test_an_entry_that_was_cut_is_refused(made: list[Change], data: st.DataObject) -> None:
    packed = [pack_change(each) for each in made]
    ends = {sum(map(len, packed[:count])) for count in range(len(packed) + 1)}
    entry = b"".join(packed)
    at = data.draw(st.integers(0, len(entry)).filter(lambda each: each not in ends))
    with pytest.raises(CorruptionError):
        list(unpack_changes(entry[:at]))


@settings(max_examples=300)
@given(
    st.lists(changes, max_size=4),
    st.lists(st.tuples(st.integers(0), st.integers(0, 255)), max_size=6),
    st.binary(max_size=40),
)
def test_wrong_bytes_are_changes_or_refused_and_applying_them_too(
    made: list[Change], wrong: list[tuple[int, int]], rest: bytes
) -> None:
    entry = bytearray(b"".join(map(pack_change, made)) + rest)
    for at, byte in wrong:
        if entry:
            entry[at % len(entry)] = byte
    state = State()
    try:
        for change in unpack_changes(bytes(entry)):
            state.apply(change)
    except CorruptionError:
        pass


@given(st.lists(changes, max_size=12))
def test_the_length_of_the_next_checkpoint_is_kept_right(made: list[Change]) -> None:
    state = State()
    for change in made:
        try:
            state.apply(of_few_inodes(change))
        except CorruptionError:
            continue
        assert state.records_length == sum(map(len, state.records()))


def of_few_inodes(change: Change) -> Change:
    """The same change of inode 0, 1 or 2, so that changes meet."""
    if isinstance(change, InodeSet):
        return InodeSet(change.attributes._replace(ino=change.attributes.ino % 3))
    if isinstance(change, NameSet | NameGone):
        return change._replace(parent=change.parent % 3)
    return change._replace(ino=change.ino % 3)


def test_attributes_have_the_length_that_the_format_says() -> None:
    assert ATTRIBUTES_LENGTH == 80
