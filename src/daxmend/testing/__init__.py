"""The public test kit, for recovery code that is not daxmend's own, too (docs/testing.md).

`CrashExplorer` stops a machine at every persist point, restarts it, and looks. `ShadowDirectory`
and `MountedPool` make real EIO and SIGBUS for any program. `plugin` has them as pytest's fixtures;
it is the only part that imports pytest.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from daxmend.testing.crash import CrashBacking, CrashExplorer, PowerLoss
    from daxmend.testing.mountedpool import MountedPool
    from daxmend.testing.shadow import FaultPlan, ShadowDirectory, why_no_mounts

__all__ = [
    "CrashBacking",
    "CrashExplorer",
    "FaultPlan",
    "MountedPool",
    "PowerLoss",
    "ShadowDirectory",
    "why_no_mounts",
]

# Imported when somebody asks: pytest loads the plugin wherever daxmend is installed, and most of
# its runs have no need of any of this.
_MODULES = {
    "CrashBacking": "crash",
    "CrashExplorer": "crash",
    "FaultPlan": "shadow",
    "MountedPool": "mountedpool",
    "PowerLoss": "crash",
    "ShadowDirectory": "shadow",
    "why_no_mounts": "shadow",
}


def __getattr__(name: str) -> Any:
    module = _MODULES.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{module}"), name)
