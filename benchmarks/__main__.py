"""`./run bench [PART…]`: the rows of the design's speed budget, measured here.

The parts are guard, device, mapped, mount, files, salvage, shadow, locate, record; without any,
all of them.
"""

import os
import platform
import sys
import tempfile
from pathlib import Path

from benchmarks import device, files, guard, locate, mapped, mount, record, salvage, shadow
from benchmarks.harness import Row, format_seconds, pin

_ROWS = {"guard": guard.rows, "device": device.rows, "mapped": mapped.rows,
         "mount": mount.rows, "files": files.rows,
         "salvage": salvage.rows, "shadow": shadow.rows}  # fmt: skip
_MEASURES = {"guard": guard.measures, "locate": locate.measures, "record": record.measures,
             "files": files.measures, "mapped": mapped.measures}  # fmt: skip


def main() -> int:
    """Print the table; exit status 0 also where a goal is missed: a benchmark is not a test."""
    chosen = sys.argv[1:] or [*_ROWS, *_MEASURES]
    if not {*_ROWS, *_MEASURES}.issuperset(chosen):
        print(f"usage: ./run bench [{'|'.join({**_ROWS, **_MEASURES})}]…", file=sys.stderr)
        return 16
    pin()
    print(
        f"{platform.machine()}, Linux {platform.release()}, Python {platform.python_version()}, "
        f"{os.cpu_count()} CPUs, pinned to one; best of interleaved rounds\n"
    )
    print(f"{'what':<46} {'ours':>9} {'peer':>9}  {'against':<18} {'ratio':>6}  goal")
    with tempfile.TemporaryDirectory(prefix="daxmend-bench-", dir="/dev/shm") as name:
        for part in [part for part in _ROWS if part in chosen]:
            try:
                for row in _ROWS[part](Path(name)):
                    _print(row)
            except LookupError as error:
                print(f"{part}: {error}", file=sys.stderr)
        print(f"\n{'what':<46} {'measured':>12}  at most")
        for part in [part for part in _MEASURES if part in chosen]:
            for measure in _MEASURES[part](Path(name)):
                print(
                    f"{measure.name:<46} {measure.value:>8.3g} {measure.unit:<3}"
                    f"  {measure.limit:g} {measure.unit}"
                    f" {'met' if measure.value <= measure.limit else 'MISSED'}",
                    flush=True,
                )
    return 0


def _print(row: Row) -> None:
    goal = (
        "" if row.goal is None else f"{row.goal:.2f} {'met' if row.ratio >= row.goal else 'MISSED'}"
    )
    print(
        f"{row.name:<46} {format_seconds(row.ours_s):>9} {format_seconds(row.peer_s):>9}"
        f"  {row.peer_name:<18} {row.ratio:>6.2f}  {goal}",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
