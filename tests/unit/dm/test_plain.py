"""Devices without error management: RAM, and a window of a file (R40)."""

import os
from collections.abc import Iterator
from pathlib import Path
from threading import RLock
from typing import NoReturn

import pytest

from daxmend.dax import io
from daxmend.dax.api import AccessMode, FaultInjection
from daxmend.errors import (
    BusyError,
    MediaError,
    NoRecoveryError,
    TruncatedError,
    UnsupportedError,
    UsageError,
)
from daxmend.events import Event, ScrubDone, ZeroinitDone
from daxmend.extent import Extent
from daxmend.fs import FileSystem, check, make_file_system
from daxmend.stack.plain import PlainDevice, open_ram, open_window
from daxmend.units import MIB, PAGE, SECTOR

ALL = Extent(0, MIB)
NORMAL = AccessMode.NORMAL


@pytest.fixture(params=["ram", "window-on-tmpfs", "window-on-disk"])
def plain(request: pytest.FixtureRequest, shm: Path, tmp_path: Path) -> Iterator[PlainDevice]:
    if request.param == "ram":
        device = open_ram(MIB, "it")
    else:
        path = (shm if "tmpfs" in request.param else tmp_path) / "w"
        path.write_bytes(bytes(MIB + 7))
        device = open_window(path, "it")
    yield device
    device.close()


def test_it_stores_and_loads_and_keeps_no_record(plain: PlainDevice) -> None:
    assert plain.size == MIB
    assert io.write(plain, 100, b"hello") == 5
    plain.flush(Extent(100, 5))
    plain.fence()
    assert io.read(plain, Extent(100, 5)) == b"hello"
    assert bytes(plain.direct_access(ALL, NORMAL).view(100, 5)) == b"hello"
    assert plain.read_sectors(0, 1)[100:105] == b"hello"
    assert plain.recovery_read(Extent(99, 7)) == (b"\0hello\0", [])
    assert list(plain.badblocks(ALL)) == []
    assert not isinstance(plain, FaultInjection)


def test_it_answers_that_it_cannot_recover(plain: PlainDevice) -> None:
    """R40, R41, R44: and that it cannot look, either."""
    (answer,) = plain.capabilities(ALL)
    assert answer[:4] == (ALL, False, False, False)
    assert "no error management" in answer.reason
    with pytest.raises(UnsupportedError, match="no error management"):
        plain.hold(0, bytes(10), SECTOR)
    plain.drop_hold(ALL)


def test_what_can_be_stored_is_not_refused(plain: PlainDevice) -> None:
    heard: list[Event] = []
    plain.events.subscribe(heard.append)
    assert plain.recovery_write(PAGE, b"n" * PAGE) == PAGE
    assert plain.write_sectors(8, b"s" * SECTOR) == SECTOR
    assert io.read(plain, Extent(PAGE, 2 * SECTOR)) == b"s" * SECTOR + b"n" * SECTOR
    assert plain.zeroinit(Extent(PAGE, PAGE)) == PAGE
    assert list(plain.scrub(ALL)) == [ALL]
    assert heard == [ZeroinitDone(Extent(PAGE, PAGE)), ScrubDone(ALL, 0)]


def test_nothing_outside_is_reached(plain: PlainDevice) -> None:
    for extent in (Extent(MIB, PAGE), Extent(-PAGE, PAGE), Extent(MIB - PAGE, 2 * PAGE)):
        for call in (
            lambda e=extent: plain.direct_access(e, NORMAL),
            lambda e=extent: plain.recovery_read(e),
            lambda e=extent: plain.recovery_write(e.offset, bytes(e.length)),
            lambda e=extent: plain.zeroinit(e),
            lambda e=extent: plain.read_sectors(e.offset // SECTOR, e.length // SECTOR),
            lambda e=extent: plain.write_sectors(e.offset // SECTOR, bytes(e.length)),
            lambda e=extent: list(plain.badblocks(e)),
            lambda e=extent: list(plain.scrub(e)),
            lambda e=extent: plain.capabilities(e),
        ):
            with pytest.raises(UsageError, match="it"):
                call()
    with pytest.raises(UsageError, match="whole sectors"):
        plain.write_sectors(0, b"x")
    with pytest.raises(UsageError, match="aligned"):
        plain.zeroinit(Extent(1, PAGE))


def test_memory_can_be_handed_out(plain: PlainDevice) -> None:
    exposed = plain.direct_access(Extent(PAGE, PAGE), NORMAL).expose()
    exposed.memory[:5] = b"hello"
    assert io.read(plain, Extent(PAGE, 5)) == b"hello"
    exposed.close()


def test_a_file_system_lives_on_it(plain: PlainDevice) -> None:
    """R40."""
    make_file_system(plain)
    fs = FileSystem(plain, commits_each=False)
    ino = fs.make(fs.root, b"f", 0o100644, 0, 0)
    fs.write(ino, 0, b"x" * 100_000)
    fs.close()
    assert list(check(plain)) == []
    fs = FileSystem(plain, commits_each=False)
    assert fs.read(fs.lookup(fs.root, b"f"), 0, 200_000) == b"x" * 100_000
    fs.close()


def test_a_stack_can_give_it_its_lock(plain: PlainDevice) -> None:
    lock = RLock()
    plain.share_lock(lock)
    assert plain.lock is lock


def test_a_window_shows_the_file_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "w"
    path.write_bytes(bytes(2 * PAGE))
    window = open_window(path, "w")
    with path.open("r+b") as file:
        file.write(b"from outside")
    assert io.read(window, Extent(0, 12)) == b"from outside"
    io.write(window, PAGE, b"from inside")
    window.close()
    assert path.read_bytes()[PAGE : PAGE + 11] == b"from inside"


def test_a_file_that_shrinks_is_an_error_and_no_signal(shm: Path) -> None:
    path = shm / "w"
    path.write_bytes(b"x" * 4 * PAGE)
    window = open_window(path, "w")
    os.truncate(path, 2 * PAGE)
    with pytest.raises(TruncatedError):
        io.read(window, Extent(0, 4 * PAGE))
    data, lost = window.recovery_read(Extent(PAGE, 3 * PAGE))
    assert lost == [Extent(2 * PAGE, 2 * PAGE)]
    assert data == b"x" * PAGE + bytes(2 * PAGE)
    window.close()


def test_what_the_file_below_cannot_store_is_refused_with_the_range(
    shm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R37."""
    window = open_ram(4 * PAGE, "w")

    def fail(offset: int, data: bytes) -> NoReturn:
        raise MediaError("w", offset, len(data))

    monkeypatch.setattr(window._backing, "store", fail)
    with pytest.raises(NoRecoveryError, match="no error management") as caught:
        window.recovery_write(PAGE, bytes(PAGE))
    assert (caught.value.offset, caught.value.length, caught.value.errno) == (PAGE, PAGE, 95)
    window.close()


def test_what_cannot_be_a_window_is_refused(tmp_path: Path) -> None:
    (tmp_path / "small").write_bytes(bytes(PAGE - 1))
    with pytest.raises(UsageError, match="smaller than the page"):
        open_window(tmp_path / "small", "w")
    with pytest.raises(UsageError, match="neither"):
        open_window(tmp_path, "w")
    with pytest.raises(UsageError, match="positive multiple"):
        open_ram(PAGE + 1, "r")
    (tmp_path / "w").write_bytes(bytes(PAGE))
    window = open_window(tmp_path / "w", "w")
    with pytest.raises(BusyError):
        open_window(tmp_path / "w", "w")
    window.close()
    readers = [open_window(tmp_path / "w", "w", writable=False) for _ in range(2)]
    with pytest.raises(OSError, match="read-only"):
        io.write(readers[0], 0, b"x")
    for reader in readers:
        reader.close()


def test_a_device_that_is_no_devdax_device_is_not_even_opened(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "open", lambda *_: pytest.fail("a watchdog would run now"))
    with pytest.raises(UsageError, match="/dev/zero is not a devdax device"):
        open_window(Path("/dev/zero"), "w")
