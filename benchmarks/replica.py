"""A replica of a damaged pool of PMDK's, mended from the other one: `pmempool sync` against us.

No row, for there is nothing to compare: pmempool asks libndctl for bad blocks, and reads no data.
What it does is noted.
"""

import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.harness import Missing, Note, Result, format_seconds, seconds
from benchmarks.mount import mounted
from daxmend.host import fileioctl
from daxmend.units import MIB, PAGE

_SIZE = 64 * MIB


def results(directory: Path) -> Iterator[Result]:
    """`directory` is on tmpfs."""
    if shutil.which("pmempool") is None:
        raise Missing("no peer: install pmdk-tools")
    with mounted(directory, 4 * _SIZE) as mountpoint:
        pool = _PoolSet(mountpoint / "part", directory / "replica", directory / "set")
        pool.damage(pool.last_written_page())
        yield Note(f"a page of a replica is bad: {pool.ended('check')}")
        yield Note(f"a page of a replica is bad: {pool.ended('sync')}")
        took = seconds(pool.repair)
        yield Note(f"daxmend repair --from the other replica mends it in {format_seconds(took)}")
        pool.damage(0)
        yield Note(f"the first page of a replica is bad: {pool.ended('check')}")
        yield Note(f"the first page of a replica is bad: {pool.ended('sync')}")


class _PoolSet:
    """A pool of PMDK's in two replicas: `part` on our mount, and another file."""

    def __init__(self, part: Path, replica: Path, description: Path) -> None:
        self._part, self._replica, self._set = part, replica, description
        lines = ("PMEMPOOLSET", f"{_SIZE} {part}", "REPLICA", f"{_SIZE} {replica}")
        description.write_text("\n".join(lines) + "\n")
        subprocess.run(["pmempool", "create", "obj", "--layout", "x", description], check=True)

    def damage(self, offset: int) -> None:
        """Make a page of the first replica bad."""
        _daxmend("inject", self._part, "--offset", offset, "--length", PAGE)

    def _is_bad(self) -> bool:
        """Whether a byte of the first replica cannot be read."""
        try:
            self._part.read_bytes()
        except OSError:
            return True
        return False

    def last_written_page(self) -> int:
        """The offset of the last page that holds data: what was never written reads as zeros."""
        with open(self._part, "rb") as file:
            written = [each for each in fileioctl.iter_extents(file.fileno()) if each.is_written]
        return written[-1].offset + written[-1].length - PAGE

    def ended(self, command: str) -> str:
        """How a command of pmempool's on the set ends, and what it left."""
        done = subprocess.run(["pmempool", command, self._set], capture_output=True, check=False)
        end = f"exits {done.returncode}"
        if done.returncode < 0:
            end = f"dies of {signal.Signals(-done.returncode).name}"
        became = "is as bad as before" if self._is_bad() else "is mended"
        return f"pmempool {command} {end}, and the page {became}"

    def repair(self) -> None:
        """From the other replica; what it heals is read back."""
        _daxmend("repair", self._part, "--from", self._replica, "--apply")
        assert not self._is_bad()


def _daxmend(*words: object) -> None:
    program = Path(sys.executable).with_name("daxmend")
    subprocess.run([program, *map(str, words)], check=True, capture_output=True)
