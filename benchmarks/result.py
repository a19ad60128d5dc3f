"""What a whole run found, as a document: stored, and compared with the one before."""

import json
import math
import os
import platform
import re
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.harness import Measure, Note, Result

_ROOT = Path(__file__).parents[1]
_RESULTS = Path(__file__).with_name("results")
_LEAST_NOISE = 0.05  # of a ratio: what a quiet machine does by itself
_MEASURE_NOISE = 0.3  # of a single number, measured once or a few times

Document = dict[str, Any]

# What each peer says its version is; where it is not there, it says nothing.
_VERSIONS = {
    "GNU ddrescue": ["ddrescue", "--version"],
    "badblocks (e2fsprogs)": ["/sbin/mkfs.ext4", "-V"],
    "bindfs": ["bindfs", "--version"],
    "libfuse": ["pkg-config", "--modversion", "fuse3"],
    "pmempool": ["pmempool", "--version"],
    "dd (coreutils)": ["dd", "--version"],
    "fio": ["fio", "--version"],
    "C compiler": ["cc", "-dumpfullversion"],
}


def document(started: datetime, load: float, parts: dict[str, list[Result]]) -> Document:
    """All that is to be kept of a run. `load` is the machine's before it began."""
    return {
        "date": started.date().isoformat(),
        "commit": _commit(),
        "machine": {**_machine(), "load_before": round(load, 2)},
        "seconds": round((datetime.now(UTC) - started).total_seconds()),
        "peers": _peers(),
        "parts": {part: [_entry(result) for result in results] for part, results in parts.items()},
    }


def _entry(result: Result) -> Document:
    if isinstance(result, Note):
        return {"note": result.text}
    if isinstance(result, Measure):
        return {**result._asdict(), "met": result.is_met}
    return {
        "name": result.name,
        "ours_s": result.ours.best,
        "peer": result.peer_name,
        "peer_s": result.peer.best,
        "ratio": round(result.ratio, 3),
        "noise": round(result.noise, 3),
        "goal": result.goal,
        "met": result.is_met,
    }


def _commit() -> str:
    command = ["git", "-C", str(_ROOT), "describe", "--always", "--dirty"]
    return _first_line(command) or "unknown"


def _machine() -> Document:
    cpuinfo = Path("/proc/cpuinfo").read_text()
    model = re.search(r"^model name\s*: (.*)$", cpuinfo, re.M)
    return {
        "cpu": model[1] if model else platform.machine(),
        "cpus": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


def _peers() -> dict[str, str]:
    found = {name: _first_line(command) for name, command in _VERSIONS.items()}
    numbers = {name: re.search(r"\d+(\.\d+)+", line) for name, line in found.items()}
    versions = {name: number[0] for name, number in numbers.items() if number}
    return {**versions, "numpy": version("numpy")}


def _first_line(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return ((done.stdout or done.stderr).splitlines() or [""])[0]


def last() -> Document | None:
    """What the last whole run stored, or None before the first."""
    stored = sorted(_RESULTS.glob("*.json"))
    return json.loads(stored[-1].read_text()) if stored else None


def store(run: Document) -> Path:
    """Keep it, in place of another run of the same day."""
    _RESULTS.mkdir(exist_ok=True)
    path = _RESULTS / f"{run['date']}.json"
    path.write_text(json.dumps(run, indent=1, ensure_ascii=False) + "\n")
    return path


def moved(before: Document, now: Document) -> Iterator[str]:
    """What differs by more than noise, a line each; of parts that both have."""
    old = dict(_entries(before))
    for key, entry in _entries(now):
        if key not in old:
            continue
        is_row = "ratio" in entry
        was, is_ = (each["ratio" if is_row else "value"] for each in (old[key], entry))
        noise = max(_LEAST_NOISE, old[key]["noise"] + entry["noise"]) if is_row else _MEASURE_NOISE
        if was > 0 and is_ > 0 and abs(math.log(is_ / was)) > math.log1p(noise):
            against = f" against {entry['peer']}: ratio" if is_row else f" in {entry['unit']}:"
            better = (is_ > was) is is_row
            yield f"{key[1]}{against} {was:.3g} -> {is_:.3g}, {'better' if better else 'WORSE'}"


def _entries(run: Document) -> Iterator[tuple[tuple[str, str, str], Document]]:
    """Every row and measure, with what it is known by."""
    for part, entries in run["parts"].items():
        for entry in entries:
            if "note" not in entry:
                yield (part, entry["name"], entry.get("peer", "")), entry
