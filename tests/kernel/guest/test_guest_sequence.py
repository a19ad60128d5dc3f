"""A new user's sequence with `watch` running.

Damage appears, the file is named, salvaged, repaired from a copy in place, and nothing bad is left.
"""

import json
import random
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from mountpoint import Mounted
from pmem import PAGE, SECTOR
from program import DAXMEND, Daxmend, Ran, program

pytestmark = pytest.mark.usefixtures("no_bad_blocks")

Event = dict[str, Any]


class Watching:
    """A running `daxmend watch --json`."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.seen: list[Event] = []

    def wait_for(self, is_wanted: Callable[[Event], bool]) -> Event:
        """The next event that is wanted; blocks, until the test's timeout. `seen` has all."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.seen.append(json.loads(line))
            if is_wanted(self.seen[-1]):
                return self.seen[-1]
        raise AssertionError(f"watch ended after {self.seen}")


@contextmanager
def watching(*words: object) -> Iterator[Watching]:
    """`daxmend watch`, started; it must end well when it is told to."""
    command = [DAXMEND, "watch", "--json", *map(str, words)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            watch = Watching(process)
            watch.wait_for(lambda event: event["event"] == "watch_started")
            yield watch
        finally:
            process.terminate()
        assert process.wait() == 0


@pytest.fixture
def command(mounted: Mounted, daxmend: Daxmend) -> Callable[..., Ran]:
    """As a user runs it, a process each; over dm in this one, which saves minutes."""
    if mounted.place.kind != "one":
        return daxmend
    return lambda *words, status=0: program(DAXMEND, *words, status=status)


def test_damage_appears_is_named_salvaged_and_repaired_in_place(
    mounted: Mounted, tmp_path: Path, command: Callable[..., Ran]
) -> None:
    data = random.Random(3).randbytes(256 * PAGE)
    copy, saved, heard = tmp_path / "copy", tmp_path / "saved", tmp_path / "heard"
    copy.write_bytes(data)
    path = mounted.write("precious", data)
    before = mounted.runs(path)
    offset = 100 * PAGE + 3 * SECTOR
    with watching(mounted.directory, "--exec", f"cat >>{heard}") as watch:
        mounted.inject(path, offset)
        found = watch.wait_for(lambda event: event["event"] == "bad_found")
        assert (found["owner"], found["path"]) == ("file", str(path))
        assert (found["file_offset"], found["length"]) == (offset, SECTOR)
        assert not found.get("at_start")

        located = command("locate", "--json", mounted.directory, status=4).json
        assert [(r["path"], r["file_offset"], r["length"]) for r in located["ranges"]] == [
            (str(path), offset, SECTOR)
        ]
        command("salvage", path, "-o", saved, status=4)
        assert saved.read_bytes() == data[:offset] + bytes(SECTOR) + data[offset + SECTOR :]

        ran = command("repair", path, "--from", copy, "--apply")
        assert "1 page repaired" in ran.out
        gone = watch.wait_for(lambda event: event["event"] == "bad_gone")
        assert gone["path"] == str(path)
        assert gone["file_offset"] == offset
        told = [json.loads(line) for line in heard.read_text().splitlines()]
        assert told[: len(watch.seen) - 1] == watch.seen[:-1]  # CMD of the last may still run
    assert path.read_bytes() == data
    assert mounted.runs(path) == before
    assert "no bad blocks" in command("list", mounted.directory).out
    assert mounted.place.bad_sectors() == mounted.place.ndctl_bad_sectors() == []
