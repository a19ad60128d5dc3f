"""The device mapper: tables of targets as devices (docs/dm.md). One module a target."""

from daxmend.dm.line import Line
from daxmend.dm.mapped import MappedDevice
from daxmend.dm.table import TARGETS, format_table, make_targets, parse_table
from daxmend.dm.target import Context, Piece, Target, Use

__all__ = [
    "TARGETS",
    "Context",
    "Line",
    "MappedDevice",
    "Piece",
    "Target",
    "Use",
    "format_table",
    "make_targets",
    "parse_table",
]
