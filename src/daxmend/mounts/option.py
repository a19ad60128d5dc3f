"""What `daxmend mount -o` can say."""

from enum import StrEnum
from typing import NamedTuple

from daxmend.dax.api import Recovery


class OpenMode(StrEnum):
    """How files are opened (`-o open=`).

    Auto is direct where mappings then still work: the raw device, and files with bad sectors.
    """

    AUTO = "auto"
    DIRECT = "direct"
    CACHED = "cached"


class MountOptions(NamedTuple):
    """What `-o` can say."""

    open_mode: OpenMode = OpenMode.AUTO
    recovery: Recovery = Recovery.AUTO
    verify_writes: bool = False


class ShadowOptions(NamedTuple):
    """What `daxmend shadow` can say. `armed` are PATTERNs of files that may go bad while open.

    `cache_seconds` is for how long the kernel may show names and attributes without asking: changes
    that are made below show that much later.
    """

    mount: MountOptions = MountOptions()
    armed: tuple[str, ...] = ()
    cache_seconds: float = 1.0
