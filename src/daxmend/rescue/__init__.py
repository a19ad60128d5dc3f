"""What commands work on, behind one protocol; and from an error to the range to recover."""

from daxmend.rescue.file import FileTarget
from daxmend.rescue.mount import MountTarget
from daxmend.rescue.opening import open_device_target, open_target
from daxmend.rescue.pool import PoolTarget
from daxmend.rescue.recovery_range import (
    BusError,
    IoFailure,
    MappedRange,
    consume_fault,
    narrow_range,
    recovery_range,
)
from daxmend.rescue.target import DeviceTarget, FileExtent, Range, Target, locate

__all__ = [
    "BusError",
    "DeviceTarget",
    "FileExtent",
    "FileTarget",
    "IoFailure",
    "MappedRange",
    "MountTarget",
    "PoolTarget",
    "Range",
    "Target",
    "consume_fault",
    "locate",
    "narrow_range",
    "open_device_target",
    "open_target",
    "recovery_range",
]
