"""Mapped files that raise an exception where the process died of "Bus error".

`open` and `memmap` map a file; `watch` guards any code on a mapping that is there already; `probe`
asks which pages would fault. `salvage`, `repair` and `recovery_range` are `rescue`'s.
"""

from daxmend.guard.mapping import Mapping, open
from daxmend.guard.memmap import memmap
from daxmend.guard.probe import probe
from daxmend.guard.recovery import repair, salvage
from daxmend.guard.trap import Fault
from daxmend.guard.watch import Watch
from daxmend.rescue.recovery_range import recovery_range

watch = Watch

__all__ = [
    "Fault",
    "Mapping",
    "Watch",
    "memmap",
    "open",
    "probe",
    "recovery_range",
    "repair",
    "salvage",
    "watch",
]
