"""What a device says that it can do, and what it refuses (R23, R40, R41, R48)."""

from collections.abc import Callable

import pytest

from daxmend.dax import io
from daxmend.dax.api import Capability, DaxDevice, Window, capabilities_of
from daxmend.errors import BadBlockError, UnsupportedError
from daxmend.events import Event, FaultInjected, RecoveryRefused
from daxmend.extent import Extent
from daxmend.media.exposure import Exposure
from daxmend.media.pool import MediumKind, create_memory_pool
from daxmend.pmem.device import PmemDevice
from daxmend.units import MIB, PAGE, SECTOR

ALL = Extent(0, MIB)
BAD = Extent(PAGE + SECTOR, SECTOR)
BAD_PAGE = BAD.widened(PAGE)

Attempt = Callable[[PmemDevice], object]

# What needs a recovery, and the unit that its refusal names.
ATTEMPTS: dict[str, tuple[Attempt, int]] = {
    "write": (lambda device: io.write(device, PAGE, bytes(PAGE)), PAGE),
    "part": (lambda device: io.write(device, BAD.offset, bytes(SECTOR)), PAGE),
    "raw": (lambda device: io.write_raw(device, BAD.offset, bytes(SECTOR)), SECTOR),
    "recovery": (lambda device: device.recovery_write(PAGE, bytes(PAGE)), PAGE),
    "sectors": (lambda device: device.write_sectors(BAD.offset // SECTOR, bytes(SECTOR)), SECTOR),
    "zeroinit of the device": (lambda device: device.zeroinit(BAD_PAGE), PAGE),
    "zeroinit": (lambda device: io.zeroinit(device, BAD_PAGE), PAGE),
}


def refusals(events: list[Event]) -> list[Extent]:
    return [event.extent for event in events if isinstance(event, RecoveryRefused)]


@pytest.mark.parametrize("kind", MediumKind)
def test_only_a_medium_that_can_clear_is_said_to_recover(kind: MediumKind) -> None:
    """R41: one that lies or clears in part cannot be told before; one that refuses can."""
    device = PmemDevice(create_memory_pool(MIB, kind))
    device.inject(BAD)
    (whole,), (good,) = device.capabilities(ALL), device.capabilities(Extent(0, PAGE))
    can_clear = kind is not MediumKind.REFUSES
    assert whole.can_recover == whole.can_zero == can_clear
    assert good.can_recover == can_clear
    assert good.can_zero, "zeros over good pages need no clear command"
    assert whole.can_scrub
    assert ("refuses" in whole.reason) == (not can_clear)
    device.close()


def test_a_device_without_error_management_says_that_it_cannot_recover(
    device: PmemDevice, events: list[Event]
) -> None:
    """R40, R41: what the driver registered answers, and nothing stands for it."""
    device.inject(BAD)
    device.error_management = None
    assert device.capabilities(ALL) == capabilities_of(None, ALL)
    (answer,) = device.capabilities(ALL)
    assert answer == Capability(ALL, False, False, False, "the device has no error management")
    events.clear()
    with pytest.raises(UnsupportedError, match=r"ram: \[4096, 8192\).*no error management"):
        device.recovery_write(PAGE, bytes(PAGE))
    assert refusals(events) == [BAD_PAGE]
    assert io.write(device, 0, b"x" * PAGE) == PAGE, "it is a full member all the same"


def test_somebody_else_can_answer_for_a_range(device: PmemDevice) -> None:
    """R41: it is registered, and not built into the device."""

    class Nothing:
        def capabilities(self, extent: Extent) -> list[Capability]:
            return [Capability(extent, False, True, False, "as registered")]

    device.error_management = Nothing()
    assert device.capabilities(BAD_PAGE) == [
        Capability(BAD_PAGE, False, True, False, "as registered")
    ]


def test_a_device_that_must_not_recover_says_so_before_anybody_tries(device: PmemDevice) -> None:
    """R23, R41: the switch, and not the medium, is the reason."""
    device.inject(BAD)
    device.allows_recovery = False
    assert device.capabilities(BAD_PAGE) == [
        Capability(BAD_PAGE, False, False, True, "recovery is switched off")
    ]
    device.allows_recovery = True
    assert device.capabilities(BAD_PAGE) == [Capability(BAD_PAGE, True, True, True, "")]


@pytest.mark.parametrize("name", ATTEMPTS)
def test_a_refusal_of_a_device_that_must_not_recover_is_an_event_and_one_only(
    device: PmemDevice, events: list[Event], name: str
) -> None:
    """R23, R48."""
    attempt, unit = ATTEMPTS[name]
    device.inject(BAD)
    device.allows_recovery = False
    events.clear()
    with pytest.raises(BadBlockError):
        attempt(device)
    assert refusals(events) == [BAD.widened(unit)]
    assert len(events) == 1


@pytest.mark.parametrize("public", [PmemDevice, DaxDevice, Window, Exposure])
def test_nobody_but_the_driver_can_clear_without_writing_r20(public: type) -> None:
    """R7, R20: the clear command has no public name above the medium, nor can it be asked for."""
    names = [name for name in dir(public) if not name.startswith("_")]
    assert names
    for name in names:
        assert "clear" not in name
        parameters = getattr(getattr(public, name), "__annotations__", {})
        assert not [word for word in parameters if "clear" in word], name


def test_an_injection_that_fails_once_is_an_event_too_r48(
    device: PmemDevice, events: list[Event]
) -> None:
    device.inject_once(Extent(PAGE + 100, 1))
    assert events == [FaultInjected(Extent(PAGE + 64, 64), "once")]
