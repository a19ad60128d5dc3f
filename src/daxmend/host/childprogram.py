"""A small Python program in a process of its own, for what may block a thread for ever."""

import os
import select
import signal
import subprocess
import sys


def run_program(program: str, *arguments: str, seconds: float) -> int | None:
    """The exit status of the program; None if it takes longer, and is left to end when it can.

    Raises `OSError` where no child can be had.
    """
    child = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", program, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        close_fds=False,  # to close a file of a mount could wait for its server
    )
    if _ends_within(child.pid, seconds):
        return child.wait()
    child.kill()  # and no wait: until the server that it asks answers it cannot die
    child.returncode = -signal.SIGKILL  # Popen would warn of a child that it believes alive
    return None


def _ends_within(pid: int, seconds: float) -> bool:
    """At once when it does: `Popen.wait` with a time limit sleeps, and looks again."""
    fd = os.pidfd_open(pid)
    try:
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        return bool(poll.poll(seconds * 1000))
    finally:
        os.close(fd)
