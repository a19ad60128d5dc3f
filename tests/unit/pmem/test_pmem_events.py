"""What is done to a device, or refused, is one event with the bytes that it is about (R48)."""

from collections.abc import Callable

import pytest

from daxmend.dax import io
from daxmend.errors import MediaError
from daxmend.events import (
    Event,
    FaultInjected,
    FaultRemoved,
    PoisonConsumed,
    PoisonFound,
    RecoveryDone,
    RecoveryRefused,
    ScrubDone,
    ZeroinitDone,
)
from daxmend.extent import Extent
from daxmend.media.pool import MediumKind, create_memory_pool
from daxmend.pmem.device import PmemDevice
from daxmend.units import MIB, PAGE, SECTOR

PAGES = Extent(2 * PAGE, 2 * PAGE)  # recorded sectors in both
LATENT = Extent(8 * PAGE + 64, 64)
LATENT_SECTOR = LATENT.widened(SECTOR)

Act = Callable[[PmemDevice], object]

ACTS: dict[str, tuple[Act, list[Event]]] = {
    "injection": (
        lambda device: device.inject(Extent(600, 1)),
        [FaultInjected(Extent(SECTOR, SECTOR), "until-written")],
    ),
    "latent injection": (
        lambda device: device.inject(Extent(600, 1), latent=True),
        [FaultInjected(Extent(576, 64), "latent")],
    ),
    "fault that fails once": (
        lambda device: device.inject_once(Extent(600, 1)),
        [FaultInjected(Extent(576, 64), "once")],
    ),
    "poison taken away": (
        lambda device: device.uninject(Extent(600, 1)),
        [FaultRemoved(Extent(576, 64))],
    ),
    "consumed": (
        lambda device: device.recovery_read(LATENT),
        [PoisonConsumed(LATENT_SECTOR)],
    ),
    "scrub": (
        lambda device: list(device.scrub(Extent(8 * PAGE, PAGE))),
        [PoisonFound(LATENT_SECTOR), ScrubDone(Extent(8 * PAGE, PAGE), SECTOR)],
    ),
    "recovery": (
        lambda device: device.recovery_write(PAGES.offset, bytes(PAGES.length)),
        [RecoveryDone(PAGES)],
    ),
    "recovery of a sector": (
        lambda device: io.write_raw(device, PAGES.offset, bytes(SECTOR)),
        [RecoveryDone(Extent(PAGES.offset, SECTOR))],
    ),
    "zeroinit": (
        lambda device: device.zeroinit(PAGES),
        [RecoveryDone(PAGES), ZeroinitDone(PAGES)],
    ),
    "zeroinit of what is good": (
        lambda device: device.zeroinit(Extent(5 * PAGE, PAGE)),
        [ZeroinitDone(Extent(5 * PAGE, PAGE))],
    ),
    "write of what is good": (lambda device: io.write(device, 0, bytes(PAGE)), []),
    "read of what is good": (lambda device: io.read(device, Extent(0, PAGE)), []),
}


@pytest.fixture(autouse=True)
def damage(device: PmemDevice, events: list[Event]) -> None:
    for page in (PAGES.offset, PAGES.offset + PAGE):
        device.inject(Extent(page, SECTOR))
    device.inject(LATENT, latent=True)
    events.clear()


@pytest.mark.parametrize("name", ACTS)
def test_what_succeeds_is_told_once_r48(device: PmemDevice, events: list[Event], name: str) -> None:
    act, expected = ACTS[name]
    act(device)
    assert events == expected


@pytest.mark.parametrize("kind", [MediumKind.REFUSES, MediumKind.LIES])
def test_what_the_medium_refuses_is_told_with_the_page_that_is_still_bad_r48(
    kind: MediumKind,
) -> None:
    device = PmemDevice(create_memory_pool(MIB, kind))
    device.inject(Extent(PAGE + SECTOR, SECTOR))
    seen: list[Event] = []
    device.events.subscribe(seen.append)
    with pytest.raises(MediaError):
        device.recovery_write(PAGE, bytes(PAGE))
    assert seen == [RecoveryRefused(Extent(PAGE, PAGE), "the medium did not clear it")]
    device.close()


def test_a_write_that_does_not_cover_what_is_bad_is_told_with_the_page_r16_r48(
    device: PmemDevice, events: list[Event]
) -> None:
    with pytest.raises(MediaError):
        io.write(device, PAGES.offset + 10, b"x")
    (event,) = events
    assert isinstance(event, RecoveryRefused)
    assert event.extent == Extent(PAGES.offset, PAGE)
    assert event.reason
