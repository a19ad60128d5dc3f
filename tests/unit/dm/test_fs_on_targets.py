"""The file system's own tests of data and names, unchanged, over mapped devices (R36).

The tests are those of `tests/unit/fs`, taken from their modules as they stand; only the device
below is another.
"""

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from daxmend.dm import MappedDevice, Target
from daxmend.dm.linear import Linear
from daxmend.dm.log_writes import LogWrites
from daxmend.dm.striped import Striped
from daxmend.dm.writecache import Writecache
from daxmend.media.pool import create_memory_pool
from daxmend.pmem.device import PmemDevice
from daxmend.units import MIB, PAGE

_FIXTURE = type(pytest.fixture(lambda: None))
_SUITE = Path(__file__).parents[1] / "fs"


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"{name}_on_targets", _SUITE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_MODULES = [
    _load(name) for name in ("conftest", "test_fs_data", "test_fs_namespace", "test_fs_errors")
]
globals().update(
    {
        name: value
        for module in _MODULES
        for name, value in vars(module).items()
        if name.startswith("test_") or isinstance(value, _FIXTURE)
    }
)
# What they ask of a pool, or of one piece of memory, is no question to a mapped device.
for _name in (
    "test_a_file_system_opened_for_reading_is_not_written",
    "test_a_view_is_the_bytes_themselves_if_they_are_in_one_piece",
):
    del globals()[_name]


def _pmem(size: int) -> PmemDevice:
    return PmemDevice(create_memory_pool(size))


TARGETS: dict[str, Callable[[], Target]] = {
    "linear": lambda: Linear(MIB, _pmem(2 * MIB), 9 * PAGE),
    "striped": lambda: Striped(MIB, PAGE, [(_pmem(MIB // 2), 0), (_pmem(MIB // 2), 0)]),
    "log-writes": lambda: LogWrites(MIB, _pmem(MIB), _pmem(64 * MIB)),
    "writecache": lambda: Writecache(MIB, _pmem(MIB // 2), _pmem(MIB)),
    "tiny-writecache": lambda: Writecache(MIB, _pmem(16 * PAGE), _pmem(MIB)),
}


@pytest.fixture(params=TARGETS)
def device(request: pytest.FixtureRequest) -> Iterator[MappedDevice]:
    """A device of 1 MiB."""
    name = getattr(request.node, "originalname", "")
    if (request.param, name) == ("striped", "test_one_range_is_split_between_its_owners_r42"):
        pytest.skip("a striped device tells of a range member by member, not in its order")
    made = MappedDevice(request.param, [TARGETS[request.param]()])
    yield made
    made.close()
    for member in made.members:
        member.close()  # type: ignore[attr-defined]
