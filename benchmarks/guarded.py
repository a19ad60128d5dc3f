"""The guarded copy against memcpy, measured in C."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from benchmarks.harness import Row

_HERE = Path(__file__).parent
_NATIVE = _HERE.parent / "src" / "daxmend" / "_native"


def rows(directory: Path) -> Iterator[Row]:
    """One row; none without a compiler."""
    if shutil.which("cc") is None:
        raise LookupError("no C compiler")
    program = directory / "guarded"
    sources = [_HERE / "guarded.c", _NATIVE / "trap.c", _NATIVE / "move.c"]
    subprocess.run(
        ["cc", "-std=gnu11", "-O2", f"-I{_NATIVE}", *sources, "-o", program, "-pthread"], check=True
    )
    ours, peer = subprocess.run(
        [program], capture_output=True, text=True, check=True
    ).stdout.split()
    yield Row("guarded copy of 4 KiB, in C", float(ours) / 1e9, "memcpy", float(peer) / 1e9, 0.95)
