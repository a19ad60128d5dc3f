"""The file system's own fault suites, unchanged, over mapped devices (R36, R43)."""

from collections.abc import Iterator

import pytest

from daxmend.units import MIB
from targetsuite import TargetDevice, load_suite, put_under, suite_of

# About bytes of the format alone, of which each test tries hundreds: nothing of a device is in it.
_FORMAT = (
    "test_wrong_bytes_anywhere_in_one_copy_change_nothing",
    "test_wrong_bytes_anywhere_raise_nothing_but_our_errors",
    "test_wrong_bytes_with_right_checksums_raise_nothing_but_our_errors",
)
_FAULTS = load_suite("faults", "test_fs_metadata")
_MIRRORS = load_suite("unit/fs", "test_fs_checkpoint")
globals().update(suite_of(_FAULTS, _FORMAT))
globals().update(suite_of(_MIRRORS))


@pytest.fixture(params=["linear", "striped", "log-writes"], autouse=True, scope="module")
def target(request: pytest.FixtureRequest) -> str:
    """What is under the file system."""
    put_under(_FAULTS + _MIRRORS, request.param)
    return str(request.param)


@pytest.fixture
def device(target: str) -> Iterator[TargetDevice]:
    """A device of 1 MiB."""
    made = TargetDevice(target, MIB)
    yield made
    made.close()
