"""What commands work on, behind one protocol; and from an error to the range to recover."""

from daxmend.rescue.recovery_range import (
    BusError,
    IoFailure,
    MappedRange,
    narrow_range,
    recovery_range,
)
from daxmend.rescue.target import MountTarget, PoolTarget, Range, Target, open_target

__all__ = [
    "BusError",
    "IoFailure",
    "MappedRange",
    "MountTarget",
    "PoolTarget",
    "Range",
    "Target",
    "narrow_range",
    "open_target",
    "recovery_range",
]
