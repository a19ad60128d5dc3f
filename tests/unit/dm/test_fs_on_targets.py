"""The file system's own tests, unchanged, over mapped devices (R36)."""

from collections.abc import Iterator

import pytest

from daxmend.units import MIB
from targetsuite import TARGETS, TargetDevice, load_suite, put_under, suite_of

_NAMES = ("test_fs_data", "test_fs_namespace", "test_fs_errors", "test_fs_room", "test_fs_space")
_MODULES = load_suite("unit/fs", "conftest", *_NAMES)
globals().update(suite_of(_MODULES))

_NO_QUESTION = {  # to a mapped device of these targets
    "test_one_range_is_split_between_its_owners_r42": (
        ("striped",),
        "it tells of a range member by member, not in the range's order",
    ),
    "test_a_view_is_the_bytes_themselves_if_they_are_in_one_piece": (
        ("striped", "writecache"),
        "they are not in one piece",
    ),
}


@pytest.fixture(params=TARGETS, autouse=True, scope="module")
def target(request: pytest.FixtureRequest) -> str:
    """What is under the file system."""
    put_under(_MODULES, request.param)
    return str(request.param)


@pytest.fixture
def device(target: str, request: pytest.FixtureRequest) -> Iterator[TargetDevice]:
    """A device of 1 MiB."""
    targets, reason = _NO_QUESTION.get(getattr(request.node, "originalname", ""), ((), ""))
    if target in targets:
        pytest.skip(f"{target}: {reason}")
    made = TargetDevice(target, MIB)
    yield made
    made.close()
