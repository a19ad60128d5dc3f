"""The public test kit: stop a machine at every persist point, restart it, look."""

from daxmend.testing.crash import CrashBacking, CrashExplorer, PowerLoss

__all__ = ["CrashBacking", "CrashExplorer", "PowerLoss"]
