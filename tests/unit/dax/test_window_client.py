"""The example client that only holds windows (R49)."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from daxmend.errors import MediaError
from daxmend.extent import Extent
from daxmend.pmem.device import PmemDevice
from daxmend.units import PAGE

_EXAMPLE = Path(__file__).parents[3] / "docs" / "examples" / "window_client.py"


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("window_client", _EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def origin(slot: int) -> bytes:
    return bytes([slot]) * PAGE


@pytest.mark.parametrize("latent", [True, False])
def test_a_clean_slot_that_goes_bad_is_filled_again_in_place_r49(
    example: ModuleType, device: PmemDevice, latent: bool
) -> None:
    cache = example.WindowCache(device, origin)
    assert cache.get(3) == origin(3)
    device.inject(Extent(3 * PAGE + 64, 64), latent=latent)
    assert cache.get(3) == origin(3)
    assert cache.recovered == [3]
    assert list(device.badblocks(Extent(0, device.size))) == []


def test_a_slot_that_is_bad_from_the_start_is_filled_r49(
    example: ModuleType, device: PmemDevice
) -> None:
    device.inject(Extent(5 * PAGE, PAGE))
    cache = example.WindowCache(device, origin)
    assert cache.get(5) == origin(5)
    assert cache.recovered == [5]


def test_a_dirty_slot_that_goes_bad_is_lost_and_says_so_r49(
    example: ModuleType, device: PmemDevice
) -> None:
    cache = example.WindowCache(device, origin)
    cache.put(2, b"d" * PAGE)
    device.inject(Extent(2 * PAGE, 1))
    with pytest.raises(MediaError, match="dirty"):
        cache.get(2)
    assert cache.lost == [2]
    cache.put(2, b"e" * PAGE)
    assert cache.get(2) == b"e" * PAGE
