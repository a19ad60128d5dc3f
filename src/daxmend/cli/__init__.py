"""The command line: one module a command, found by its name when it is called.

A command prints for people, or one JSON document with `--json`; exit statuses are those of
`docs/errors.md`. No traceback reaches a user: this module imports next to nothing, and while the
others are imported Ctrl-C ends the process as it ends any other program.
"""

import os
import signal
import sys

# What `daxmend --help` says of each, without importing it.
COMMANDS = {
    "create": "Make a pool: a device in one file, with a file system.",
    "mount": "Show a pool to programs, at a directory.",
    "shadow": "Show a directory once more, with faults on demand.",
    "umount": "End a mount, also one whose server has died.",
    "list": "Print what the bad-block record says.",
    "locate": "Print which bytes of which files are bad.",
    "status": "Print a screenful on one target.",
    "inject": "Make bytes bad, to rehearse.",
    "scrub": "Find what has failed unnoticed.",
    "message": "Tell a line of a mapped device something.",
    "salvage": "Save all of a file that can be read.",
    "repair": "Give bad pages new bytes, in place.",
    "watch": "Tell what goes bad as it happens.",
    "report": "Write a page on one target, for people.",
    "check": "Check a file system; plan or do a repair of it.",
    "compare": "The same damage, repaired by each strategy.",
    "demo": "The story on real files, in under 30 seconds.",
}


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
