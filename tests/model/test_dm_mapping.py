"""Random tables against arithmetic: every sector of a mapped device, by hand (R36, R37)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daxmend.dax import io
from daxmend.dax.api import DaxDevice
from daxmend.dm import MappedDevice, parse_table
from daxmend.errors import MediaError
from daxmend.extent import Extent, merged
from daxmend.media.pool import create_memory_pool
from daxmend.pmem.device import PmemDevice
from daxmend.units import CACHELINE, PAGE, SECTOR

MEMBER_PAGES = 24
MEMBERS = ("a", "b", "c")


class Place(NamedTuple):
    """Where a page of the mapped device is: in a member, or (`""`) nowhere."""

    member: str
    page: int


class Table(NamedTuple):
    """A table, and where arithmetic says that each of its pages is."""

    text: str
    places: list[Place]


class _Space:
    """Pages of members that no line has yet: handed out from the ends, so never twice."""

    def __init__(self) -> None:
        self.next = dict.fromkeys(MEMBERS, 0)

    def take(self, member: str, count: int, skip: int) -> int | None:
        first = self.next[member] + skip
        if first + count > MEMBER_PAGES:
            return None
        self.next[member] = first + count
        return first


@st.composite
def tables(draw: st.DrawFn) -> Table:
    """Tables of up to eight lines; members in any order, with holes between what is used."""
    space = _Space()
    lines: list[str] = []
    places: list[Place] = []
    for _ in range(draw(st.integers(1, 8))):
        kind = draw(st.sampled_from(["linear", "striped", "zero", "faulty"]))
        found = _line(draw, space, kind)
        if found is None:
            continue
        arguments, line_places = found
        lines.append(f"{len(places) * 8} {len(line_places) * 8} {kind} {arguments}".rstrip())
        places += line_places
    if not lines:
        return Table("0 8 zero\n", [Place("", 0)])
    return Table("\n".join(lines) + "\n", places)


def _line(draw: st.DrawFn, space: _Space, kind: str) -> tuple[str, list[Place]] | None:
    if kind == "zero":
        return "", [Place("", 0)] * draw(st.integers(1, 4))
    skip = draw(st.integers(0, 2))
    if kind == "striped":
        return _striped(draw, space, skip)
    member, count = draw(st.sampled_from(MEMBERS)), draw(st.integers(1, 6))
    first = space.take(member, count, skip)
    if first is None:
        return None
    plan = "- " if kind == "faulty" else ""
    return f"{plan}{member} {first * 8}", [Place(member, first + n) for n in range(count)]


def _striped(draw: st.DrawFn, space: _Space, skip: int) -> tuple[str, list[Place]] | None:
    members = draw(st.lists(st.sampled_from(MEMBERS), min_size=1, max_size=3))
    chunk, rows = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    firsts = []
    for member in members:
        first = space.take(member, chunk * rows, skip)
        if first is None:
            return None
        firsts.append(first)
    places = [
        Place(member, first + row * chunk + page)
        for row in range(rows)
        for member, first in zip(members, firsts, strict=True)
        for page in range(chunk)
    ]
    words = " ".join(f"{m} {f * 8}" for m, f in zip(members, firsts, strict=True))
    return f"{len(members)} {chunk * 8} {words}", places


class Members:
    """A `dm.Context`."""

    def __init__(self) -> None:
        self.devices = {
            name: PmemDevice(create_memory_pool(MEMBER_PAGES * PAGE)) for name in MEMBERS
        }

    def open_member(self, spec: str) -> DaxDevice:
        return self.devices[spec]

    def read_text(self, path: str) -> str:
        raise AssertionError(path)


@contextmanager
def mapped(table: Table) -> Iterator[tuple[MappedDevice, Members]]:
    members = Members()
    for number, device in enumerate(members.devices.values()):
        for page in range(MEMBER_PAGES):
            device.direct_access(Extent(page * PAGE, PAGE), io._NORMAL).store(
                0, bytes([number * MEMBER_PAGES + page + 1]) * PAGE
            )
        device.fence()
    yield MappedDevice.from_table("top", table.text, members), members
    for device in members.devices.values():
        device.close()


def content_of(place: Place) -> bytes:
    """What `mapped` stored there."""
    if not place.member:
        return bytes(PAGE)
    return bytes([MEMBERS.index(place.member) * MEMBER_PAGES + place.page + 1]) * PAGE


@settings(max_examples=40, deadline=None)
@given(tables())
def test_every_page_is_where_arithmetic_says(table: Table) -> None:
    with mapped(table) as (device, _):
        assert device.size == len(table.places) * PAGE
        expected = b"".join(map(content_of, table.places))
        assert io.read(device, Extent(0, device.size)) == expected
        assert device.recovery_read(Extent(0, device.size)).data == expected
        assert device.read_sectors(0, device.size // SECTOR) == expected
        printed = parse_table(device.table)
        assert [line[1:] for line in printed] == [line[1:] for line in parse_table(table.text)]


@settings(max_examples=40, deadline=None)
@given(tables(), st.data())
def test_a_write_of_any_alignment_lands_there_and_nowhere_else(
    table: Table, data: st.DataObject
) -> None:
    with mapped(table) as (device, members):
        start = data.draw(st.integers(0, device.size - 1))
        length = data.draw(st.integers(1, device.size - start))
        assert io.write(device, start, b"\xff" * length) == length
        device.fence()
        written = bytearray(b"".join(map(content_of, table.places)))
        written[start : start + length] = b"\xff" * length
        for name, member in members.devices.items():
            expected = [content_of(Place(name, page)) for page in range(MEMBER_PAGES)]
            for at, place in enumerate(table.places):
                if place.member == name:
                    expected[place.page] = bytes(written[at * PAGE : (at + 1) * PAGE])
            assert io.read(member, Extent(0, member.size)) == b"".join(expected), name


@settings(max_examples=40, deadline=None)
@given(tables(), st.data())
def test_damage_in_members_shows_where_they_are_mapped_and_heals_from_above(
    table: Table, data: st.DataObject
) -> None:
    sectors = st.tuples(
        st.sampled_from(MEMBERS), st.integers(0, MEMBER_PAGES - 1), st.integers(0, 7)
    )
    with mapped(table) as (device, members):
        witness = _Witness()
        device.set_holder(witness)
        expected = set()
        for member, page, sector in data.draw(st.sets(sectors, max_size=6)):
            at = Extent(page * PAGE + sector * SECTOR, SECTOR)
            members.devices[member].inject(at)
            expected |= {
                Extent(top * PAGE + sector * SECTOR, SECTOR)
                for top, place in enumerate(table.places)
                if place == Place(member, page)
            }
        whole = Extent(0, device.size)
        assert [run for run, _ in device.badblocks(whole)] == merged(sorted(expected))
        assert list(device.poison(whole)) == merged(sorted(expected))
        assert sorted(witness.told) == sorted(expected)
        assert device.recovery_read(whole).lost == merged(sorted(expected))
        start = data.draw(st.integers(0, len(table.places) - 1)) * PAGE
        length = data.draw(st.integers(0, (device.size - start) // PAGE)) * PAGE
        assert device.recovery_write(start, b"n" * length) == length
        healed = Extent(start, length)
        rest = sorted(run for run in expected if not run.overlaps(healed))
        assert [run for run, _ in device.badblocks(whole)] == merged(rest)
        here = table.places[start // PAGE : (start + length) // PAGE]
        expected_data = b"".join(b"n" * PAGE if place.member else bytes(PAGE) for place in here)
        assert io.read(device, healed) == expected_data


@settings(max_examples=40, deadline=None)
@given(tables(), st.data())
def test_damage_from_above_lands_in_the_members(table: Table, data: st.DataObject) -> None:
    if any(not place.member for place in table.places) or "faulty" in table.text:
        return  # these take no faults, or keep them
    with mapped(table) as (device, members):
        start = data.draw(st.integers(0, device.size - 1))
        length = data.draw(st.integers(1, device.size - start))
        device.inject(Extent(start, length), latent=True)
        lines = Extent(start, length).widened(CACHELINE)
        assert list(device.poison(Extent(0, device.size))) == [lines]
        found = sum(
            run.length
            for member in members.devices.values()
            for run in member.poison(Extent(0, member.size))
        )
        assert found == lines.length
        list(device.scrub(Extent(0, device.size)))
        assert [run for run, _ in device.badblocks(Extent(0, device.size))] == [
            lines.widened(SECTOR)
        ]
        with pytest.raises(MediaError) as caught:
            io.read(device, lines)
        error = Extent(caught.value.offset, caught.value.length)
        assert error.overlaps(lines.widened(SECTOR))


class _Witness:
    def __init__(self) -> None:
        self.told: list[Extent] = []

    def notify_failure(self, extent: Extent) -> None:
        self.told.append(extent)
