"""What commands work on, behind one protocol: a pool, or the mount that has it open."""

from daxmend.rescue.target import MountTarget, PoolTarget, Range, Target, open_target

__all__ = ["MountTarget", "PoolTarget", "Range", "Target", "open_target"]
