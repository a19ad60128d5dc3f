"""The thread that does a file system's background work beside the requests (R31)."""

from collections.abc import Callable
from threading import Event, Thread

from daxmend.errors import DaxmendError

PERIOD_SECONDS = 1.0  # so that what was written long ago is committed, without anybody's kick


class Janitor:
    """Calls `tidy` in slices until it says that there is no more to do, then waits.

    `tidy` takes the device's lock for a slice and lets go. `log` takes what stopped it, each
    complaint once; the work is tried again after the next kick or period.
    """

    def __init__(self, tidy: Callable[[], bool], log: Callable[[str], object]) -> None:
        self._tidy = tidy
        self._log = log
        self._kick = Event()
        self._is_stopping = False
        self._last_complaint = ""
        self._thread = Thread(target=self._run, name="janitor", daemon=True)

    def start(self) -> None:
        """Start the thread (in the process that serves: threads do not survive a fork)."""
        self._thread.start()

    def kick(self) -> None:
        """There may be something to do. From any thread, and returns at once."""
        self._kick.set()

    def stop(self) -> None:
        """End the thread after its slice and wait for that. Not under the device's lock."""
        self._is_stopping = True
        self._kick.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._is_stopping:
            self._kick.wait(PERIOD_SECONDS)
            self._kick.clear()
            try:
                self._tidy_all()
                self._last_complaint = ""
            except (DaxmendError, OSError) as error:
                self._complain(f"janitor: {error}")

    def _tidy_all(self) -> None:
        while self._tidy() and not self._is_stopping:
            pass

    def _complain(self, complaint: str) -> None:
        if complaint != self._last_complaint:
            self._last_complaint = complaint
            self._log(complaint)
