"""Performs a scenario on the guest's own file system and notes it in the observations' shape.

The steps are those of tests/conformance/replay.py; only what a real disk does differently is here.
"""

import fcntl
import os
import struct
from pathlib import Path
from typing import Any

from mountpoint import MAKE, filefrag, filefrag_rows, mount
from place import Place
from program import program
from replay import Replay, Result, with_open
from scenario import Scenario, Step
from state import UNWRITTEN, WRITTEN

BLKZEROOUT = 0x127F


class KernelTarget:
    """A new file system on a namespace, mounted -o dax: a target of the replay."""

    def __init__(self, kind: str, place: Place, directory: Path, helper: Path) -> None:
        self.directory = directory
        self.helper = helper
        self._place = place
        program(*MAKE[kind], place.path)
        mount(place, directory)

    @property
    def device(self) -> Path:
        """The disk."""
        return self._place.path

    def read_badblocks(self) -> list[tuple[int, int]]:
        """The disk's record."""
        return [(sector, 1) for _, sector in self._place.bad_sectors()]

    def inject(self, sector: int) -> None:
        """One line to the disk's record."""
        self._place.members[0].inject(sector)

    def mapping(self, path: Path) -> list[tuple[int, int, int, str]]:
        """Where a file lies."""
        return [
            (run.offset, run.place, run.length, UNWRITTEN if run.unwritten else WRITTEN)
            for run in filefrag(path)
        ]

    def umount(self) -> None:
        """Unmount, and forget what is bad."""
        program("umount", self.directory)
        self._place.clear()

    def remount(self) -> None:
        """Unmount and mount."""
        program("umount", self.directory)
        mount(self._place, self.directory)


class Recorder(Replay):
    """One scenario, recorded."""

    def record(self, scenario: Scenario) -> dict[str, Any]:
        """What the kernel did; the shape is that of the observations."""
        self._prepare()
        steps = [{"step": step, "result": self._perform(step).result} for step in scenario.steps]
        end = self._end()
        self._close_reader()
        return {"name": scenario.name, "why": scenario.why, "steps": steps, "end": end}

    def _mappings(self) -> None:
        """Not noted after each step."""

    def _end(self) -> dict[str, Any]:
        """As the observations count extents: each that FIEMAP names, also where they adjoin."""
        end = super()._end()
        return {**end, "extents": len(filefrag_rows(self._file))} if end else end

    def _do_copy_range(self, step: Step) -> Result:
        """Into a new file, which stays: it may share its blocks."""
        out = os.open(self._target.directory / "copy", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        try:
            return self._read_with(
                step, lambda fd: os.copy_file_range(fd, out, step["len"], step["off"], 0)
            )
        finally:
            os.close(out)

    def _do_bdev_zeroout(self, step: Step) -> Result:
        span = struct.pack("=QQ", self._base + step["off"], step["len"])
        flags = os.O_RDWR | os.O_DIRECT
        return with_open(
            self._target.device, flags, lambda fd: fcntl.ioctl(fd, BLKZEROOUT, span) and 0
        )


def differences(recorded: dict[str, Any], again: dict[str, Any]) -> list[str]:
    """Which answers of two records of a scenario differ, in words.

    What the older one did not note, such as the data of a second file, is not compared.
    """
    steps = zip(recorded["steps"], again["steps"], strict=True)
    pairs = [(f"{one['step']}", one["result"], two["result"]) for one, two in steps]
    pairs.append(("end", recorded["end"], again["end"]))
    return [
        f"{recorded['name']}: {what}: recorded {one}, now {two}"
        for what, one, two in pairs
        if one != {key: two.get(key) for key in one}
    ]
