"""Reading a whole block device to find what is bad: `daxmend scrub --read` against badblocks."""

import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.harness import Missing, Note, Result, seconds, versus
from benchmarks.loop import can_loop, loop_device
from daxmend.extent import Extent, format_badblocks
from daxmend.units import GIB, PAGE

_SIZE = GIB
_BAD = 1000
_ROUNDS = 3  # each is seconds long
_SOME_BAD = 4  # the exit status of a scrub that found something
_PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"  # where badblocks is


def results(directory: Path) -> Iterator[Result]:
    """`directory` is on tmpfs. badblocks tests 4 KiB blocks, 64 a read, as it does by default."""
    if not can_loop():
        raise Missing("loop devices can be had as root only")
    with loop_device(directory, _SIZE) as (loop, record):
        ours = [Path(sys.executable).with_name("daxmend"), "scrub", "--read", loop]
        peer = ["badblocks", "-b", PAGE, loop]
        for bad in (0, _BAD):
            pages = random.Random(1).sample(range(_SIZE // PAGE), bad)
            record.write_text(format_badblocks(Extent(page * PAGE, PAGE) for page in pages))
            found = {"ours": "", "badblocks": ""}

            def work(name: str, command: list[object], found: dict[str, str] = found) -> float:
                return seconds(lambda: found.update({name: _printed(command)}))

            yield versus(
                f"scrub --read of 1 GiB, {bad} bad pages",
                lambda work=work: work("ours", ours),  # type: ignore[misc]
                "badblocks",
                lambda work=work: work("badblocks", peer),  # type: ignore[misc]
                None,
                _ROUNDS,
            )
            lines = found["badblocks"].splitlines()
            yield Note(f"scrub, {bad} bad pages: badblocks prints {len(lines)} blocks")


def _printed(command: list[object]) -> str:
    """What it prints; it must have been done, whatever it found."""
    done = subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PATH": _PATH},
    )
    if done.returncode not in (0, _SOME_BAD):
        raise RuntimeError(f"{command}: {done.stderr}")
    return done.stdout
