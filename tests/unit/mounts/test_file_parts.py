"""The parts of a file system's mount, alone: owners, xattrs, lost stores, the janitor."""

import errno
import threading
from types import SimpleNamespace
from urllib.parse import unquote_to_bytes

import pytest

from daxmend.extent import Extent
from daxmend.fs import Mapping, Owner, OwnerKind
from daxmend.mounts import janitor
from daxmend.mounts.deviceuse import format_owner
from daxmend.mounts.janitor import Janitor
from daxmend.mounts.loststore import LostStores
from daxmend.mounts.xattr import FileXattrs, format_extents

EXTENT = Extent(0, 512)


@pytest.mark.parametrize(
    ("path", "text"),
    [
        (b"/plain", "file:/plain"),
        (b"/a b\tc\nd", "file:/a%20b%09c%0Ad"),
        (b"/100%", "file:/100%25"),
        (b"/\xff\x00\x7f\xc3\xa4", "file:/%FF%00%7F%C3%A4"),
        (b"/!\"#$&'()*+,-.:;<=>?@[\\]^_`{|}~", "file:/!\"#$&'()*+,-.:;<=>?@[\\]^_`{|}~"),
    ],
)
def test_an_owner_is_one_field_that_can_be_read_back(path: bytes, text: str) -> None:
    assert format_owner(Owner(EXTENT, OwnerKind.FILE, 7, 0, path)) == text
    assert len(text.split()) == 1
    assert unquote_to_bytes(text.removeprefix("file:")) == path


def test_owners_without_a_path() -> None:
    nameless = format_owner(Owner(EXTENT, OwnerKind.FILE, 7, 0, b""))
    owners = [nameless, format_owner(Owner(EXTENT, OwnerKind.METADATA))]
    owners.append(format_owner(Owner(EXTENT, OwnerKind.FREE)))
    assert owners == ["file:#7", "metadata", "free"]


def test_the_value_of_the_extents_never_outgrows_an_xattr() -> None:
    for digits in range(1, 9):
        at = 10**digits
        extents = [Mapping(at, at, at, n % 3 == 0) for n in range(10000)]
        value = format_extents(extents)
        assert 65000 < len(value) <= 65536
        assert value.endswith(b"written\nmore\n")
    line = b"0 0 4096 written\n"
    fits = [Mapping(0, 0, 4096, True)] * (65536 // len(line))
    assert format_extents(fits) == line * len(fits)
    assert format_extents([]) == b""


def test_names_are_checked_before_the_file_system_is_asked() -> None:
    xattrs = FileXattrs(SimpleNamespace())  # type: ignore[arg-type]
    for name, number in (
        (b"system.posix_acl_access", errno.EOPNOTSUPP),
        (b"other", errno.EOPNOTSUPP),
        (b"user.daxmend.extents", errno.EPERM),
        (b"user.daxmend.", errno.EPERM),
    ):
        for call in (
            lambda name=name: xattrs.set(1, name, b"", 0),
            lambda name=name: xattrs.remove(1, name),
        ):
            with pytest.raises(OSError) as info:
                call()
            assert info.value.errno == number


def test_every_writer_of_the_file_hears_of_a_lost_store_and_nobody_else() -> None:
    lost = LostStores()
    for nodeid, fh in ((1, 10), (1, 11), (2, 20)):
        lost.open(nodeid, fh)
    lost.lose(1)
    lost.report(20)
    for _ in range(2):
        with pytest.raises(OSError, match="Input/output"):
            lost.report(10)
    with pytest.raises(OSError, match="Input/output"):
        lost.sync(10)
    lost.sync(10)
    lost.release(1, 11)
    lost.open(3, 11)  # the number is used again
    lost.report(11)
    assert sorted(lost.nodeids()) == [1, 2, 3]
    lost.release(2, 20)
    lost.release(2, 20)
    assert sorted(lost.nodeids()) == [1, 3]


@pytest.fixture
def no_period(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(janitor, "PERIOD_SECONDS", 60.0)


def test_the_janitor_works_until_nothing_is_left_and_again_after_a_kick(no_period: None) -> None:
    work = [3]
    idle = threading.Event()

    def tidy() -> bool:
        work[0] -= 1
        if work[0] <= 0:
            idle.set()
        return work[0] > 0

    keeper = Janitor(tidy, print)
    keeper.start()
    for _ in range(2):
        keeper.kick()
        assert idle.wait(5)
        assert work[0] == 0
        idle.clear()
        work[0] = 2
    keeper.stop()
    assert not any(thread.name == "janitor" for thread in threading.enumerate())


def test_the_janitor_comes_without_a_kick_and_complains_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(janitor, "PERIOD_SECONDS", 0.001)
    calls: list[int] = []
    enough = threading.Event()
    said: list[str] = []

    def tidy() -> bool:
        calls.append(1)
        if len(calls) > 5:
            enough.set()
        raise OSError(errno.EIO, "the disk is gone")

    keeper = Janitor(tidy, said.append)
    keeper.start()
    assert enough.wait(5)
    keeper.stop()
    assert said == ["janitor: [Errno 5] the disk is gone"]


def test_a_janitor_that_never_started_can_be_stopped() -> None:
    Janitor(lambda: False, print).stop()
