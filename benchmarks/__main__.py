"""`./run bench [PART…]`: the rows of the design's speed budget, measured here.

Without a part, all of them: then the result is stored in `benchmarks/results`, and the tables of
`docs/performance.md` are made from it. Both print what moved since the last whole run.
"""

import os
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import (
    device,
    files,
    guard,
    locate,
    mapped,
    mount,
    record,
    replica,
    result,
    salvage,
    scrub,
    shadow,
)
from benchmarks.harness import Measure, Missing, Note, Result, Row, format_seconds, pin, seconds

_PARTS: dict[str, Callable[[Path], Iterator[Result]]] = {
    "guard": guard.results,
    "device": device.results,
    "record": record.results,
    "mapped": mapped.results,
    "mount": mount.results,
    "files": files.results,
    "salvage": salvage.results,
    "scrub": scrub.results,
    "replica": replica.results,
    "shadow": shadow.results,
    "locate": locate.results,
}
_PAGE = Path(__file__).parents[1] / "docs" / "performance.md"


def main() -> int:
    """Exit status 0 also where a goal is missed: a benchmark is not a test. 1 if a part failed."""
    chosen = sys.argv[1:] or list(_PARTS)
    if not _PARTS.keys() >= set(chosen):
        print(f"usage: ./run bench [{'|'.join(_PARTS)}]…", file=sys.stderr)
        return 16
    started, load = datetime.now(UTC), os.getloadavg()[0]
    failed: list[str] = []
    with tempfile.TemporaryDirectory(
        prefix="daxmend-bench-", dir="/dev/shm", ignore_cleanup_errors=True
    ) as name:
        _start_as_installed(Path(name))
        pin()
        parts = {part: _measured(part, Path(name), failed) for part in _PARTS if part in chosen}
    now = result.document(started, load, parts)
    before = result.last()
    if before is not None:
        print(f"\nmoved since {before['date']} ({before['commit']}):")
        print("\n".join(result.moved(before, now)) or "nothing")
    if len(parts) == len(_PARTS):
        print(f"\nstored in {result.store(now)}; {now['seconds']} s")
        generator = _PAGE.with_name("generate_performance.py")
        command = [sys.executable, "-B", generator]  # its compiled modules would have no place
        _PAGE.write_bytes(subprocess.run(command, capture_output=True, check=True).stdout)
    return 1 if failed else 0


def _start_as_installed(directory: Path) -> None:
    """Commands start from compiled modules, as installed ones do, and leave none here."""
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ["PYTHONPYCACHEPREFIX"] = str(directory / "pycache")


def _measured(part: str, directory: Path, failed: list[str]) -> list[Result]:
    """Everything a part finds, printed as it comes; a part that fails ends with that."""
    found: list[Result] = []

    def measure() -> None:
        place = directory / part
        place.mkdir()
        try:
            for each in _PARTS[part](place):
                found.append(each)
                print(_line(each), flush=True)
        except Missing as error:
            found.append(Note(f"{part}: {error}"))
            print(_line(found[-1]), flush=True)
        except Exception as error:  # noqa: BLE001  # the other parts took their time, too
            traceback.print_exc()
            failed.append(part)
            found.append(Note(f"{part} failed, and has no more rows: {error!r}"))

    print(f"\n{part}", flush=True)
    print(f"  took {seconds(measure):.0f} s", flush=True)
    return found


def _line(found: Result) -> str:
    if isinstance(found, Note):
        return f"  {found.text}"
    if isinstance(found, Measure):
        met = "met" if found.is_met else "MISSED"
        return f"{found.name:<52} {found.value:>7.3g} {found.unit:<3} of {found.limit:g} {met}"
    return _row_line(found)


def _row_line(row: Row) -> str:
    goal = ""
    if row.goal is not None:
        goal = f"{row.goal:.2f} {'met' if row.is_met else 'MISSED'}"
    ours, peer = format_seconds(row.ours.best), format_seconds(row.peer.best)
    return (
        f"{row.name:<52} {ours:>8} {peer:>8}  {row.peer_name:<18} "
        f"{row.ratio:>6.3g} ±{row.noise:>4.0%}  {goal}"
    )


if __name__ == "__main__":
    sys.exit(main())
