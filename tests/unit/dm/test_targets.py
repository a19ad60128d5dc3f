"""What each target does that the contract does not ask, and stacks of mixed members (R36, R37)."""

import stat
from threading import Event as Event_
from threading import Thread

import pytest
from members import Members, mapped, pages

from daxmend.dax import io
from daxmend.dax.api import AccessMode, FaultInjection, SectorState
from daxmend.dm import MappedDevice
from daxmend.dm.faulty import Faulty
from daxmend.dm.linear import Linear
from daxmend.errors import (
    BadBlockError,
    MediaError,
    NoRecoveryError,
    PoisonError,
    UnsupportedError,
)
from daxmend.events import (
    CopyHealed,
    Event,
    FaultInjected,
    PoisonConsumed,
    RecoveryDone,
    RecoveryRefused,
    ZeroinitDone,
)
from daxmend.extent import Extent
from daxmend.fs import FileSystem, check, make_file_system
from daxmend.units import CACHELINE, MIB, PAGE, SECTOR

NORMAL, RECOVERY = AccessMode.NORMAL, AccessMode.RECOVERY


class Witness:
    """A holder that notes what it is told."""

    def __init__(self) -> None:
        self.told: list[Extent] = []

    def notify_failure(self, extent: Extent) -> None:
        self.told.append(extent)


# -- mapping -----------------------------------------------------------------------------------


def test_stripes_go_round_the_members() -> None:
    with mapped("0 {6} striped 3 {1} a {1} b 0 ram {2}") as (device, members):
        for page in range(6):
            io.write(device, page * PAGE, bytes([page]) * PAGE)
        device.fence()
        for name, first, found in (("a", 1, (0, 3)), ("b", 0, (1, 4)), ("ram", 2, (2, 5))):
            data = io.read(members.devices[name], pages(first, 2))
            assert data == b"".join(bytes([page]) * PAGE for page in found), name


def test_a_window_ends_with_its_chunk_and_a_read_does_not() -> None:
    with mapped("0 {6} striped 3 {1} a 0 b 0 c 0\n{6} {2} linear d 0") as (device, _):
        data = bytes(range(256)) * (8 * PAGE // 256)
        assert io.write(device, 0, data) == len(data)
        assert device.direct_access(Extent(100, 7 * PAGE), NORMAL).length == PAGE - 100
        assert io.read(device, Extent(100, 7 * PAGE)) == data[100 : 100 + 7 * PAGE]
        device.inject(Extent(4 * PAGE + SECTOR, 1))
        assert io.read(device, Extent(100, 7 * PAGE)) == data[100 : 4 * PAGE + SECTOR], "R11"


def test_zero_reads_as_zeros_and_forgets() -> None:
    with mapped("0 {4} zero") as (device, _):
        assert io.write(device, 10, b"forgotten") == 9
        assert device.recovery_write(0, b"x" * PAGE) == PAGE
        assert device.zeroinit(pages(0, 4)) == 4 * PAGE
        assert device.write_sectors(0, b"x" * SECTOR) == SECTOR
        assert device.read_sectors(0, 1) == bytes(SECTOR)
        assert io.read(device, pages(0, 4)) == bytes(4 * PAGE)
        assert device.recovery_read(pages(1)).data == bytes(PAGE)
        assert list(device.badblocks(pages(0, 4))) == []
        with pytest.raises(UnsupportedError, match="no memory"):
            device.direct_access(pages(0), NORMAL).expose()
        with pytest.raises(UnsupportedError):
            device.inject(pages(0))


def test_all_of_an_error_target_is_bad_and_stays_so() -> None:
    """R44: it is said to be bad, not left for each access to find out."""
    with mapped("0 {2} linear a 0\n{2} {2} error\n{4} {1} linear a {2}") as (device, _):
        bad = pages(2, 2)
        assert list(device.badblocks(pages(0, 5))) == [(bad, SectorState.BAD)]
        for mode in AccessMode:
            with pytest.raises(BadBlockError) as caught:
                device.direct_access(bad, mode)
            assert (caught.value.filename, caught.value.offset) == ("top", bad.offset)
        assert device.recovery_read(pages(1, 4)).lost == [bad]
        assert io.read(device, pages(0, 5)) == bytes(2 * PAGE)
        for attempt in (
            lambda: device.recovery_write(bad.offset, bytes(PAGE)),
            lambda: device.zeroinit(bad),
            lambda: device.write_sectors(bad.offset // SECTOR, bytes(SECTOR)),
            lambda: io.write(device, bad.offset, b"x"),
        ):
            with pytest.raises(MediaError):
                attempt()
        assert io.write(device, PAGE, bytes(4 * PAGE)) == PAGE, "R17"
        assert not device.capabilities(bad)[0].can_recover


# -- mixed members (R37) -----------------------------------------------------------------------


def test_recovery_ends_at_the_member_that_cannot_and_names_it() -> None:
    """R37, R17: what lies before it is healed and counts."""
    with mapped("0 {2} linear a 0\n{2} {2} linear unmanaged 0\n{4} {2} linear b 0") as (device, m):
        m.devices["unmanaged"].error_management = None
        device.inject(pages(1, 4))
        assert device.recovery_write(0, b"n" * 6 * PAGE) == 2 * PAGE
        assert io.read(device, pages(0, 2)) == b"n" * 2 * PAGE
        with pytest.raises(NoRecoveryError, match=r"unmanaged: \[0, 8192\).*no error manage") as c:
            device.recovery_write(2 * PAGE, b"n" * 4 * PAGE)
        assert isinstance(c.value, UnsupportedError)
        assert (c.value.filename, c.value.offset, c.value.errno) == ("top", 2 * PAGE, 95)
        assert device.recovery_write(4 * PAGE, b"n" * 2 * PAGE) == 2 * PAGE, "never all or nothing"
        assert [run for run, _ in device.badblocks(pages(0, 6))] == [pages(2, 2)]


def test_the_event_of_a_refusal_names_the_member_at_any_depth() -> None:
    """R37, R48."""
    with mapped("0 {4} linear refusing 0\n{4} {4} error") as (below, _):
        device = MappedDevice("above", [Linear(8 * PAGE, below, 0)])
        heard: list[Event] = []
        device.inject(pages(2))
        device.events.subscribe(heard.append)
        for page in (2, 5):
            with pytest.raises(MediaError):
                io.write(device, page * PAGE, bytes(PAGE))
        assert heard == [
            RecoveryRefused(pages(2), "top: refusing: the medium did not clear it"),
            RecoveryRefused(pages(5), "top: the table has an error target there"),
        ]
        device.close()


def test_writes_and_zeroing_count_the_prefix_too() -> None:
    """R17."""
    with mapped("0 {2} striped 2 {1} a 0 refusing 0") as (device, _):
        device.inject(Extent(0, 1))
        device.inject(Extent(PAGE, 1))
        assert device.write_sectors(0, bytes(9 * SECTOR)) == PAGE
        device.inject(Extent(0, 1))
        assert device.zeroinit(pages(0, 2)) == PAGE
        assert io.write(device, 0, bytes(2 * PAGE)) == PAGE
        with pytest.raises(MediaError, match="on refusing at 0"):
            device.zeroinit(pages(1))


def test_capabilities_answer_range_by_range_and_name_the_member() -> None:
    """R37, R41."""
    with mapped("0 {4} striped 2 {1} a 0 ram 0\n{4} {1} zero\n{5} {1} error") as (device, _):
        found = device.capabilities(Extent(0, 6 * PAGE))
        said = [(each.extent, each.can_recover, each.reason) for each in found]
        why = "ram: the device has no error management"
        assert said == [
            (pages(0), True, ""),
            (pages(1), False, why),
            (pages(2), True, ""),
            (pages(3), False, why),
            (pages(4), True, ""),
            (pages(5), False, "the table has an error target there"),
        ]


def test_what_takes_no_faults_below_a_member_is_found_before_anything_is_injected() -> None:
    with mapped("0 {4} linear ram 0") as (nested, members):
        members.devices["nested"] = nested
        with mapped("0 {4} linear a 0\n{4} {4} linear nested 0", members) as (device, _):
            for fault in (device.inject, device.inject_once, device.uninject):
                with pytest.raises(UnsupportedError, match=r"ram: .* takes no injected faults"):
                    fault(pages(0, 8))
            a = members.devices["a"]
            assert list(a.poison(pages(0, 4))) == []
            assert io.read(a, pages(0, 4)) == bytes(4 * PAGE)


def test_a_member_that_takes_no_faults_is_named_before_anything_is_injected() -> None:
    with mapped("0 {2} linear a 0\n{2} {2} linear ram 0") as (device, _):
        assert isinstance(device, FaultInjection)
        with pytest.raises(UnsupportedError, match=r"ram: \[0, 4096\).*faulty"):
            device.inject(pages(0, 3))
        assert list(device.poison(pages(0, 4))) == []


def test_memory_without_error_management_takes_a_recovery_write_as_a_store() -> None:
    """R40: nothing there is bad, and nothing is refused that can be done."""
    with mapped("0 {1} linear a 0\n{1} {1} linear ram 0") as (device, _):
        device.inject(pages(0))
        assert device.recovery_write(0, b"n" * 2 * PAGE) == 2 * PAGE
        assert io.read(device, pages(0, 2)) == b"n" * 2 * PAGE


# -- what comes up (R42) -----------------------------------------------------------------------


def test_a_failure_in_a_member_that_is_mapped_twice_names_both_places() -> None:
    table = "0 {2} linear a {2}\n{2} {1} zero\n{3} {2} linear a 0"
    with mapped(table) as (device, members):
        witness, heard = Witness(), list[Event]()
        device.set_holder(witness)
        device.events.subscribe(heard.append)
        members.devices["a"].inject(Extent(PAGE, 2 * PAGE))
        assert sorted(witness.told) == [pages(0), pages(4)]
        assert heard == [
            FaultInjected(pages(0), "until-written"),
            FaultInjected(pages(4), "until-written"),
        ] or heard == [
            FaultInjected(pages(4), "until-written"),
            FaultInjected(pages(0), "until-written"),
        ]


def test_what_happens_outside_of_the_mapped_ranges_is_nobodys() -> None:
    with mapped("0 {2} linear a {2}") as (device, members):
        witness, heard = Witness(), list[Event]()
        device.set_holder(witness)
        device.events.subscribe(heard.append)
        members.devices["a"].inject(pages(0))
        members.devices["a"].inject(pages(4))
        assert (witness.told, heard) == ([], [])
        members.devices["a"].inject(pages(1, 2))
        assert witness.told == [pages(0)]
        members.devices["a"].events.publish(CopyHealed("record", 1, "its checksum is wrong"))
        assert heard[-1] == CopyHealed("a: record", 1, "its checksum is wrong")


def test_one_operation_over_many_pieces_tells_of_itself_once() -> None:
    with mapped("0 {8} striped 2 {1} a 0 b 0") as (device, _):
        heard: list[Event] = []
        device.events.subscribe(heard.append)
        device.inject(pages(1, 6))
        assert device.zeroinit(pages(0, 8)) == 8 * PAGE
        assert heard == [
            FaultInjected(pages(1, 6), "until-written"),
            RecoveryDone(pages(1, 6)),
            ZeroinitDone(pages(0, 8)),
        ]


def test_failures_climb_any_number_of_layers() -> None:
    members = Members()
    a = members.open_member("a")
    device = MappedDevice("0", [Linear(MIB - PAGE, a, PAGE)])
    for depth in range(1, 5):
        device = MappedDevice(str(depth), [Linear(device.size - PAGE, device, PAGE)])
    witness = Witness()
    device.set_holder(witness)
    a.inject(Extent(9 * PAGE + SECTOR, 1))  # type: ignore[attr-defined]
    assert witness.told == [Extent(4 * PAGE + SECTOR, SECTOR)]
    with pytest.raises(BadBlockError) as caught:
        device.direct_access(pages(4), NORMAL)
    assert (caught.value.filename, caught.value.offset) == ("4", 4 * PAGE + SECTOR)
    assert "ram" in caught.value.hint or "a at" in caught.value.hint
    assert device.recovery_write(4 * PAGE, b"n" * PAGE) == PAGE
    assert io.read(device, pages(4)) == b"n" * PAGE
    members.close()


def test_the_whole_stack_has_one_lock() -> None:
    members = Members()
    lower = MappedDevice("lower", [Linear(MIB, members.open_member("a"), 0)])
    upper = MappedDevice("upper", [Linear(MIB, lower, 0)])
    assert upper.lock is lower.lock is members.devices["a"].lock
    members.close()


def test_a_load_through_a_kept_window_names_the_mapped_device() -> None:
    with mapped("0 {2} linear ram 0\n{2} {2} linear a {5}") as (device, _):
        window = device.direct_access(pages(3), NORMAL)
        device.inject(Extent(3 * PAGE + 128, 1), latent=True)
        with pytest.raises(PoisonError) as caught:
            window.load(0, PAGE)
        assert (caught.value.filename, caught.value.offset) == ("top", 3 * PAGE + 128)


@pytest.mark.parametrize("table", ["0 {4} striped 2 {1} a 0 b 0", "0 {4} faulty - ram 0"])
def test_readers_beside_a_recovery_see_the_old_error_or_the_new_data(table: str) -> None:
    """R19, through a table."""
    with mapped(table) as (device, _):
        whole, wrong, done = pages(0, 4), list[bytes](), Event_()
        allowed = {bytes([n]) * PAGE for n in range(200)}

        def look() -> None:
            while not done.is_set():
                for page in (1, 2, 3):  # the bad ones; a store to a good page may be seen half done
                    try:
                        data = io.read(device, pages(page))
                    except MediaError:
                        continue
                    if len(data) == PAGE and data not in allowed:
                        wrong.append(data)

        readers = [Thread(target=look) for _ in range(2)]
        for reader in readers:
            reader.start()
        for number in range(1, 200):
            device.inject(Extent(PAGE + SECTOR, 2 * PAGE), latent=bool(number % 2))
            assert device.recovery_write(0, bytes([number]) * whole.length) == whole.length
        done.set()
        for reader in readers:
            reader.join()
        assert wrong == []


# -- faulty ------------------------------------------------------------------------------------


def test_a_plan_makes_ram_fail_until_it_is_written() -> None:
    """R40: over a member without error management or poison of its own."""
    plan = "4096:512:until-written,8192:64:latent,12288:1:once"
    with mapped(f"0 {{8}} faulty {plan} ram {{2}}") as (device, members):
        heard: list[Event] = []
        device.events.subscribe(heard.append)
        assert [run for run, _ in device.badblocks(pages(0, 8))] == [Extent(PAGE, SECTOR)]
        with pytest.raises(BadBlockError):
            io.read(device, pages(1))
        with pytest.raises(MediaError):
            io.read(device, pages(2))
        assert heard == [PoisonConsumed(Extent(2 * PAGE, SECTOR))]
        with pytest.raises(MediaError):
            io.read(device, pages(3))
        assert io.read(device, pages(3)) == bytes(PAGE)
        assert io.write(device, PAGE, b"n" * 2 * PAGE) == 2 * PAGE
        assert list(device.badblocks(pages(0, 8))) == []
        assert io.read(members.devices["ram"], pages(3, 2)) == b"n" * 2 * PAGE


def test_a_sub_page_write_over_ram_follows_the_same_rules() -> None:
    """R16."""
    with mapped("0 {8} faulty - ram 0") as (device, _):
        io.write(device, 0, b"k" * PAGE)
        device.inject(Extent(SECTOR, 1))
        with pytest.raises(BadBlockError):
            io.write(device, SECTOR, b"n" * 100)
        assert io.write(device, SECTOR, b"n" * SECTOR) == SECTOR
        expected = b"k" * SECTOR + b"n" * SECTOR + b"k" * (PAGE - 2 * SECTOR)
        assert io.read(device, pages(0)) == expected


def test_faults_of_the_member_shine_through_and_heal_through() -> None:
    with mapped("0 {8} faulty 0:1:until-written a {1}") as (device, members):
        members.devices["a"].inject(pages(2))
        assert [run for run, _ in device.badblocks(pages(0, 8))] == [Extent(0, SECTOR), pages(1)]
        assert device.recovery_write(0, b"n" * 2 * PAGE) == 2 * PAGE
        assert list(device.badblocks(pages(0, 8))) == []
        assert list(members.devices["a"].badblocks(pages(0, 8))) == []


def test_what_the_member_cannot_heal_faulty_does_not_call_good() -> None:
    """R21, R45."""
    members = Members()
    refusing = members.open_member("refusing")
    device = MappedDevice("top", [Faulty(8 * PAGE, refusing, 0)])
    refusing.inject(Extent(0, 1))  # type: ignore[attr-defined]
    device.inject(Extent(64, CACHELINE))
    heard: list[Event] = []
    device.events.subscribe(heard.append)
    with pytest.raises(MediaError):
        device.recovery_write(0, bytes(PAGE))
    assert [run for run, _ in device.badblocks(pages(0, 8))] == [Extent(0, SECTOR)]
    assert isinstance(heard[-1], RecoveryRefused)
    assert not device.capabilities(pages(0))[0].can_recover
    members.close()


# -- a file system ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "table",
    [
        "0 2048 linear a 0",
        "0 2048 linear ram 0",
        "0 1024 linear a 1024\n1024 1024 linear b 0\n2048 2048 linear c 0",
        "0 6144 striped 3 8 a 0 b 0 ram 0",
        "0 2048 faulty - ram 0",
        "0 2048 linear a 0\n2048 800 error\n2848 1000 zero\n3848 2048 linear b 0",
    ],
)
def test_a_file_system_lives_on_it(table: str) -> None:
    with mapped(table) as (device, _):
        make_file_system(device)
        fs = FileSystem(device, commits_each=False)
        ino = fs.make(fs.root, b"f", stat.S_IFREG | 0o644, 0, 0)
        data = bytes(range(256)) * 1200
        assert fs.write(ino, 0, data) == len(data)
        fs.close()
        fs = FileSystem(device, commits_each=False)
        assert fs.read(fs.lookup(fs.root, b"f"), 0, len(data)) == data
        assert list(fs.check()) == []
        fs.close()
        assert list(check(device)) == []
