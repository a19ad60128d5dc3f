"""Suites of the file system, run as they stand over mapped devices (R36).

A suite's modules are loaded a second time, and their `PmemDevice` is a device that makes a table of
one target over pmem devices of the same kind of medium; whatever else they do is theirs.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType

import pytest

from daxmend.dax.api import DaxDevice
from daxmend.dm import MappedDevice, Target
from daxmend.dm.linear import Linear
from daxmend.dm.log_writes import LogWrites
from daxmend.dm.striped import Striped
from daxmend.dm.writecache import Writecache
from daxmend.extent import Extent
from daxmend.media.pool import MediumKind, Pool, create_memory_pool
from daxmend.pmem.device import PmemDevice
from daxmend.units import MIB, PAGE

_FIXTURE = type(pytest.fixture(lambda: None))

MakeMember = Callable[[int], DaxDevice]

TARGETS: dict[str, Callable[[int, MakeMember], Target]] = {
    "linear": lambda size, make: Linear(size, make(size + MIB), 9 * PAGE),
    "striped": lambda size, make: Striped(size, PAGE, [(make(size // 2), 0) for _ in "ab"]),
    "log-writes": lambda size, make: LogWrites(size, make(size), _plain(64 * MIB)),
    "writecache": lambda size, make: Writecache(size, make(16 * PAGE), make(size)),
}


def _plain(size: int) -> PmemDevice:
    return PmemDevice(create_memory_pool(size))


class TargetDevice(MappedDevice):
    """A mapped device of one target, that owns its members; `pool` is what its bytes look like."""

    def __init__(self, name: str, size: int, kind: MediumKind = MediumKind.PLAIN) -> None:
        def make(size: int) -> PmemDevice:
            return PmemDevice(create_memory_pool(size, kind))

        super().__init__(name, [TARGETS[name](size, make)])
        self.pool = _LikeAPool(self)

    def close(self) -> None:
        super().close()
        for member in self.members:
            member.close()  # type: ignore[attr-defined]


class _LikeAPool:
    """What tests ask of a pool to see and change bytes behind the record's back."""

    def __init__(self, device: TargetDevice) -> None:
        self._device = device
        self.header = self.layout = self.data = self.backing = self
        self.offset = 0
        self.length = device.size

    def load(self, offset: int, length: int) -> bytes:
        data = b""
        for pool, place in self._places(offset, length):
            data += pool.backing.load(place.offset, place.length)
        return data

    def store(self, offset: int, data: bytes) -> None:
        at = 0
        for pool, place in self._places(offset, len(data)):
            pool.backing.store(place.offset, data[at : at + place.length])
            at += place.length

    def _places(self, offset: int, length: int) -> Iterable[tuple[Pool, Extent]]:
        for target, _, extent in self._device._pieces_of(Extent(offset, length)):
            member, place = target.place_of(extent)
            assert isinstance(member, PmemDevice)
            yield member.pool, place.shifted(member.pool.header.layout.data.offset)


def load_suite(folder: str, *names: str) -> list[ModuleType]:
    """The modules of `tests/FOLDER`, loaded anew."""
    return [_load(Path(__file__).parent / folder / f"{name}.py") for name in names]


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"{path.stem}_over_targets", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def suite_of(modules: Iterable[ModuleType], leave_out: Iterable[str] = ()) -> dict[str, object]:
    """Their tests and fixtures, by name, for the module that runs them."""
    found = {
        name: value
        for module in modules
        for name, value in vars(module).items()
        if name.startswith(("test_", "Test")) or isinstance(value, _FIXTURE)
    }
    for name in leave_out:
        del found[name]
    return found


def put_under(modules: Iterable[ModuleType], name: str) -> None:
    """From now on their pmem devices are mapped devices of the target `name`."""

    def make(pool: Pool) -> TargetDevice:
        size, kind = pool.header.layout.data.length, pool.header.medium
        pool.close()
        return TargetDevice(name, size, kind)

    for module in modules:
        vars(module)["PmemDevice"] = make
