"""Fault plans: which bytes fail, and how; as text and as objects."""

from daxmend.faults.plan import NO_FILES, Fault, FaultKind, format_plan, parse_plan

__all__ = ["NO_FILES", "Fault", "FaultKind", "format_plan", "parse_plan"]
