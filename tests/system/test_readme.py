"""The README's transcript, run as it stands."""

import os
import re
import resource
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from daxmend.fuse import find_mount, unmount_dead

_README = Path(__file__).parents[2] / "README.md"
_BLOCK = re.compile(r"^```console\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_PROGRAM = re.compile(r"^```python\n(# (\S+)\n.*?)^```$", re.DOTALL | re.MULTILINE)


def _transcript() -> list[tuple[str, str]]:
    """Each command line with the output that the README shows for it."""
    steps: list[tuple[str, str]] = []
    for block in _BLOCK.findall(_README.read_text()):
        for line in block.splitlines(keepends=True):
            if line.startswith("$ "):
                steps.append((line[2:].strip(), ""))
            else:
                command, output = steps[-1]
                steps[-1] = (command, output + line)
    return steps


def _no_core() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


@pytest.mark.timeout(120)
def test_the_readme_transcript_shows_what_really_happens(tmp_path: Path) -> None:
    steps = _transcript()
    assert len(steps) > 10
    program = f"{shlex.quote(sys.executable)} -c 'from daxmend.cli import main; main()'"
    (tmp_path / "daxmend").write_text(f'#!/bin/sh\nexec {program} "$@"\n')
    (tmp_path / "daxmend").chmod(0o755)
    environment = {**os.environ, "LC_ALL": "C", "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    work = tmp_path / "work"
    work.mkdir()
    (tmp_path / "python3").write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
    (tmp_path / "python3").chmod(0o755)
    for program, name in _PROGRAM.findall(_README.read_text()):
        (work / name).write_text(program)
    try:
        for command, expected in steps:
            done = subprocess.run(
                command,
                shell=True,
                cwd=work,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                preexec_fn=_no_core,
                text=True,
                check=False,
            )
            assert done.stdout == expected, command
    finally:
        if find_mount(work / "mnt") is not None:
            unmount_dead(work / "mnt")
