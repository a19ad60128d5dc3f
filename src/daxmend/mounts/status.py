"""What a mount says of itself: `status` as JSON, `metrics` as Prometheus text."""

import os
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from threading import Lock

from daxmend.dax.api import DaxDevice
from daxmend.events import Event, RecoveryDone
from daxmend.mounts.deviceuse import DeviceUse
from daxmend.mounts.scrub import Scrubber
from daxmend.stack.summary import summarize


class EventCounts:
    """Events by their names, and the bytes that they healed. From any thread."""

    def __init__(self) -> None:
        self._lock = Lock()  # guards the next two
        self._events: Counter[str] = Counter()
        self._healed = 0

    def count(self, event: Event) -> None:
        """One more."""
        with self._lock:
            self._events[event.name] += 1
            if isinstance(event, RecoveryDone):
                self._healed += event.extent.length

    def read(self) -> tuple[dict[str, int], int]:
        """How many of each, and the bytes healed."""
        with self._lock:
            return dict(self._events), self._healed


class Status:
    """Counts events and asks the device; every answer is of the moment.

    `attached` are the events that came before anybody could subscribe.
    """

    def __init__(
        self,
        device: DaxDevice,
        use: DeviceUse,
        scrubber: Scrubber,
        attached: Iterable[Event] = (),
    ) -> None:
        self._device = device
        self._use = use
        self._scrubber = scrubber
        self.refused: str | None = None  # why the last refused write to a control file was
        self._started_ns = time.time_ns()
        self._counts = EventCounts()
        for event in attached:
            self._counts.count(event)
        device.events.subscribe(self._counts.count)

    def document(self) -> dict[str, object]:
        """The `status` file: what is said of a pool, then what only a mount has; in bytes."""
        events, healed = self._counts.read()
        scrub = self._scrubber
        return {
            **summarize(self._device),
            **self._use.status(),
            "pid": os.getpid(),
            "mounted_ns": self._started_ns,
            "recovery": self._device.allows_recovery,
            "healed": healed,
            "events": events,
            "refused": self.refused,
            "scrub": {
                "state": scrub.state,
                "scrubbed": scrub.scrubbed,
                "total": scrub.total,
                "error": scrub.error,
            },
        }

    def metrics(self) -> str:
        """The `metrics` file."""
        said = summarize(self._device)
        events, healed = self._counts.read()
        gauges = {
            "daxmend_device_bytes": self._device.size,
            "daxmend_recorded_bytes": said["recorded"],
            "daxmend_lost_bytes": said["lost"],
            "daxmend_scrub_running": int(self._scrubber.is_running),
            **self._use.gauges(),
        }
        return format_metrics(gauges, healed, events)


def format_metrics(gauges: Mapping[str, object], healed: int, events: Mapping[str, int]) -> str:
    """Prometheus text: the gauges, the bytes healed, and the events by name."""
    lines = [f"# TYPE {name} gauge\n{name} {value}\n" for name, value in gauges.items()]
    lines.append("# TYPE daxmend_healed_bytes_total counter\n")
    lines.append(f"daxmend_healed_bytes_total {healed}\n")
    lines.append("# TYPE daxmend_events_total counter\n")
    lines += [
        f'daxmend_events_total{{event="{name}"}} {count}\n'
        for name, count in sorted(events.items())
    ]
    return "".join(lines)
