"""The commands that start a server, in a process that has nothing of the test's own."""

import subprocess
import sys

from daxmend.errors import EXIT_USAGE, DaxmendError, UsageError

_PROGRAM = "from daxmend.cli import main; main()"


def run_daxmend(*words: object) -> None:
    """Run a command to its end: a server goes on. Raises what it complains of."""
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, *map(str, words)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        said = done.stderr.strip().removeprefix("daxmend: ")
        raise (UsageError if done.returncode == EXIT_USAGE else DaxmendError)(said)
