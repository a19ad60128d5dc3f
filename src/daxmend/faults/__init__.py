"""Fault plans: which bytes fail, and how; as text and as objects."""

from daxmend.faults.pattern import Pattern, encode_pattern, format_pattern, literal_path
from daxmend.faults.plan import (
    NO_FILES,
    Fault,
    FaultKind,
    format_plan,
    parse_fault,
    parse_numbered,
    parse_plan,
)

__all__ = [
    "NO_FILES",
    "Fault",
    "FaultKind",
    "Pattern",
    "encode_pattern",
    "format_pattern",
    "format_plan",
    "literal_path",
    "parse_fault",
    "parse_numbered",
    "parse_plan",
]
