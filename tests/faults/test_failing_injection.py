"""Injections that fail half-way: no poison without its record, and none made up (R2, R8)."""

import errno
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from daxmend.dax import io
from daxmend.dax.api import AccessMode
from daxmend.errors import MediaError, UnsupportedError
from daxmend.events import Event, FaultInjected
from daxmend.extent import Extent, ExtentSet
from daxmend.media.backing import Backing, Durability
from daxmend.media.exposure import Exposure
from daxmend.media.pool import create_pool, open_pool
from daxmend.pmem.device import PmemDevice
from daxmend.units import CACHELINE, PAGE, SECTOR

SIZE = 6 * PAGE
ALL = Extent(0, SIZE)
OLD = bytes(range(1, 251)) * (SIZE // 250 + 1)
FAULT = Extent(PAGE, 3 * SECTOR)
KNOWN = Extent(PAGE + SECTOR, SECTOR)  # of them; recorded before


@pytest.fixture
def path(shm: Path) -> Path:
    create_pool(shm / "p", SIZE, durability=Durability.PROCESS)
    return shm / "p"


@pytest.fixture
def opened(path: Path) -> Iterator[Callable[[], PmemDevice]]:
    """Opens the device anew."""
    devices: list[PmemDevice] = []

    def restart() -> PmemDevice:
        while devices:
            devices.pop().close()
        devices.append(PmemDevice(open_pool(path)))
        return devices[0]

    yield restart
    while devices:
        devices.pop().close()


def record(device: PmemDevice) -> ExtentSet:
    return ExtentSet(SECTOR, (run for run, _ in device.badblocks(ALL)))


class Witness:
    def __init__(self) -> None:
        self.told: list[Extent] = []

    def notify_failure(self, extent: Extent) -> None:
        self.told.append(extent)


def fail_at(backing: Backing, patch: pytest.MonkeyPatch, step: int) -> Callable[[], bool]:
    """The step-th store, poke or fence has no space; returns what says whether it was reached."""
    steps = itertools.count()

    def counted(original: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object) -> object:
            if next(steps) == step:
                raise OSError(errno.ENOSPC, "planted: no space; free space")
            return original(*args)

        return call

    for name in ("store", "fence"):
        patch.setattr(backing, name, counted(getattr(backing, name)))
    return lambda: next(steps) > step


@pytest.mark.parametrize("latent", [False, True])
def test_an_injection_that_fails_leaves_no_poison_unrecorded_and_makes_nothing_up(
    opened: Callable[[], PmemDevice],
    monkeypatch: pytest.MonkeyPatch,
    path: Path,
    latent: bool,
) -> None:
    """R8: every store and fence of it fails once."""
    outcomes = set()
    for step in itertools.count():
        device = opened()
        device.uninject(ALL)
        device.recovery_write(0, OLD[:SIZE])
        device.inject(KNOWN)
        device.uninject(KNOWN)
        device.fence()
        seen: list[Event] = []
        device.events.subscribe(seen.append)
        witness = Witness()
        device.set_holder(witness)
        with monkeypatch.context() as patch:
            was_reached = fail_at(device.pool.backing, patch, step)
            error: OSError | None = None
            try:
                device.inject(FAULT, latent=latent)
            except OSError as caught:
                error = caught
            if not was_reached():
                break
        assert error is not None
        assert error.errno == errno.ENOSPC
        assert all(word in str(error) for word in (str(path), str(FAULT), "free space")), error
        poisoned = device._medium.is_poisoned(FAULT)
        outcomes.add(poisoned)
        assert poisoned == any(isinstance(event, FaultInjected) for event in seen), step
        assert witness.told == ([FAULT] if poisoned and not latent else []), step
        expected = [FAULT] if poisoned and not latent else [KNOWN]
        for _ in range(2):
            assert list(record(device)) == expected, step
            assert device._medium.is_poisoned(FAULT) == poisoned, step
            device = opened()
    assert step >= 5
    assert outcomes == {False, True}


@pytest.mark.parametrize("latent", [False, True])
def test_memory_that_cannot_be_made_faulting_comes_last(
    opened: Callable[[], PmemDevice], monkeypatch: pytest.MonkeyPatch, latent: bool
) -> None:
    """R8, R42, R48: the limit of faulting pages must not keep record, event or holder waiting."""
    device = opened()
    device.recovery_write(0, OLD[:SIZE])
    exposed = device.direct_access(ALL, AccessMode.NORMAL).expose()
    seen: list[Event] = []
    device.events.subscribe(seen.append)
    witness = Witness()
    device.set_holder(witness)

    def refuse(*_: object) -> None:
        raise UnsupportedError("1 more faulting pages refused")

    with monkeypatch.context() as patch:
        patch.setattr(Exposure, "make_faulting", refuse)
        with pytest.raises(UnsupportedError, match="refused"):
            device.inject(FAULT, latent=latent)
        assert [type(event) for event in seen] == [FaultInjected]
        assert witness.told == ([] if latent else [FAULT])
        assert list(record(device)) == ([] if latent else [FAULT])
        with pytest.raises((MediaError, UnsupportedError)):  # consumed, and again not shown
            io.read(device, Extent(FAULT.offset, CACHELINE))
        assert next(iter(record(device))).offset == FAULT.offset
        assert len(witness.told) == 1
    exposed.close()


def test_a_fault_that_could_not_be_taken_back_can_be_salvaged(
    opened: Callable[[], PmemDevice], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that stays full: what the record says too much costs an EIO and no byte."""
    device = opened()
    device.recovery_write(0, OLD[:SIZE])

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "planted; free space")

    with monkeypatch.context() as patch:
        patch.setattr(device._medium, "inject", fail)
        patch.setattr(device._record, "clear", fail)
        with pytest.raises(OSError, match="inject it again"):
            device.inject(FAULT)
    assert list(record(device)) == [FAULT]
    with pytest.raises(MediaError):
        io.read(device, FAULT)
    salvage = device.recovery_read(FAULT)
    assert (salvage.data, salvage.lost) == (OLD[FAULT.offset : FAULT.end], [])
    device.inject(FAULT)
    assert device._medium.is_poisoned(FAULT)
