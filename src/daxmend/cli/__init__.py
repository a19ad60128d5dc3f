"""The command line: one module a command, found by its name when it is called.

A command prints for people, or one JSON document with `--json`; exit statuses are those of
`docs/errors.md`. No traceback reaches a user: this module imports next to nothing, and while the
others are imported Ctrl-C ends the process as it ends any other program.
"""

import os
import signal
import sys

COMMANDS = (
    "create",
    "mount",
    "umount",
    "list",
    "locate",
    "status",
    "inject",
    "scrub",
    "salvage",
    "repair",
    "check",
    "demo",
)


def main() -> None:
    """The entry point of the `daxmend` program."""
    is_interruptible = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if is_interruptible:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from daxmend.cli import program

    if is_interruptible:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    status = program.run(sys.argv[1:])
    if is_interruptible:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        if sys.stdout is not None:  # it was not closed from the start
            sys.stdout.flush()
    except OSError:  # said by now; the interpreter would flush it again, and complain of that
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(status)


def run(arguments: list[str]) -> int:
    """Run the command line; returns the exit status, with what went wrong said on stderr."""
    from daxmend.cli import program

    return program.run(arguments)
