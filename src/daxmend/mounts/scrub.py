"""The scrub of a mount: one at a time, in slices, beside the requests (R4)."""

from collections.abc import Callable, Iterable
from threading import Event, Thread

from daxmend.dax.api import DaxDevice
from daxmend.errors import BusyError, DaxmendError
from daxmend.extent import Extent
from daxmend.stack.device import validate_length


class Scrubber:
    """Runs a scrub on a thread of its own; each slice holds the device's lock, and then lets go.

    `log` takes what stopped a scrub, such as a pool's file that was cut short (R44). Polled by
    `state`: the number of scrubs done, and `+` while one runs, as the kernel's nfit scrub attribute
    says it.
    """

    def __init__(self, device: DaxDevice, log: Callable[[str], object]) -> None:
        self.done_count = 0
        self.scrubbed = 0  # bytes of the running scrub, or of the last one
        self.total = 0
        self.error = ""  # what stopped the last one
        self._device = device
        self._log = log
        self._thread: Thread | None = None
        self._is_running = False
        self._stop = Event()

    @property
    def is_running(self) -> bool:
        """True from `start` until the last slice is done."""
        return self._is_running

    @property
    def state(self) -> str:
        """`N` idle, `N+` running."""
        return f"{self.done_count}{'+' if self.is_running else ''}"

    def start(self, extent: Extent, on_end: Callable[[], object]) -> None:
        """Scrub the range in the background; `on_end` is called on its thread when it has ended.

        Raises `BusyError` while another one runs.
        """
        if self.is_running:
            raise BusyError("a scrub is running; wait for it to end")
        self.scrubbed, self.total, self.error = 0, extent.length, ""
        self._is_running = True
        slices = self._device.scrub(extent)
        self._thread = Thread(target=self._run, args=(slices, on_end), name="scrub", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End a running scrub after its slice and wait for that."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self, slices: Iterable[Extent], on_end: Callable[[], object]) -> None:
        try:
            for scrubbed in slices:
                validate_length(self._device)
                self.scrubbed += scrubbed.length
                if self._stop.is_set():
                    return
            self.done_count += 1
        except (DaxmendError, OSError) as error:
            self.error = str(error)
            self._log(f"scrub: {error}")
        finally:
            self._is_running = False
            on_end()
