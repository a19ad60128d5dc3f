"""The DAX file system: POSIX files on one `DaxDevice`, whose media errors heal in place.

`FileSystem` has the operations, without FUSE; `make_file_system` makes an empty one. The format is
in docs/format.md §6, the order in which things become durable in docs/persistence.md §4.
"""

from daxmend.fs.check import check
from daxmend.fs.filesystem import FileSystem
from daxmend.fs.finding import Finding, Invariant
from daxmend.fs.inode import FIRST_INO, ROOT_INO, Mapping, Stat
from daxmend.fs.make import make_file_system
from daxmend.fs.owner import Owner, OwnerKind
from daxmend.fs.repair import Plan, apply_repair, plan_repair
from daxmend.fs.space import Statfs

__all__ = [
    "FIRST_INO",
    "ROOT_INO",
    "FileSystem",
    "Finding",
    "Invariant",
    "Mapping",
    "Owner",
    "OwnerKind",
    "Plan",
    "Stat",
    "Statfs",
    "apply_repair",
    "check",
    "make_file_system",
    "plan_repair",
]
