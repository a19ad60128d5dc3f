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
