"""Fault plans: which bytes fail, and how; as text and as objects."""

from daxmend.faults.plan import Fault, FaultKind, format_plan, parse_plan

__all__ = ["Fault", "FaultKind", "format_plan", "parse_plan"]
