"""What a mount says of itself: `status` as JSON, `metrics` as Prometheus text."""

import os
import time
from collections import Counter

from daxmend.dax.api import DaxDevice, FaultInjection, SectorState
from daxmend.events import Event, RecoveryDone
from daxmend.extent import Extent
from daxmend.mounts.scrub import Scrubber


class Status:
    """Counts events and asks the device; every answer is of the moment."""

    def __init__(self, device: DaxDevice, scrubber: Scrubber) -> None:
        self._device = device
        self._scrubber = scrubber
        self._started_ns = time.time_ns()
        self._events: Counter[str] = Counter()
        self._healed = 0
        device.events.subscribe(self._count)

    def _count(self, event: Event) -> None:
        self._events[event.name] += 1
        if isinstance(event, RecoveryDone):
            self._healed += event.extent.length

    def _bytes_by_state(self) -> dict[str, int]:
        whole = Extent(0, self._device.size)
        lengths = {state.value: 0 for state in SectorState}
        for run, state in self._device.badblocks(whole):
            lengths[state.value] += run.length
        if isinstance(self._device, FaultInjection):
            lengths["poison"] = sum(run.length for run in self._device.poison(whole))
        return lengths

    def document(self) -> dict[str, object]:
        """The `status` file: lengths in bytes."""
        lengths = self._bytes_by_state()
        scrub = self._scrubber
        return {
            "device": self._device.name,
            "size": self._device.size,
            "pid": os.getpid(),
            "mounted_ns": self._started_ns,
            "recovery": self._device.allows_recovery,
            "recorded": lengths["bad"] + lengths["lost"],
            "lost": lengths["lost"],
            "poison": lengths.get("poison"),
            "healed": self._healed,
            "events": dict(self._events),
            "scrub": {
                "state": scrub.state,
                "scrubbed": scrub.scrubbed,
                "total": scrub.total,
                "error": scrub.error,
            },
        }

    def metrics(self) -> str:
        """The `metrics` file."""
        lengths = self._bytes_by_state()
        gauges = {
            "daxmend_device_bytes": self._device.size,
            "daxmend_recorded_bytes": lengths["bad"] + lengths["lost"],
            "daxmend_lost_bytes": lengths["lost"],
            "daxmend_scrub_running": int(self._scrubber.is_running),
        }
        lines = [f"# TYPE {name} gauge\n{name} {value}\n" for name, value in gauges.items()]
        lines.append("# TYPE daxmend_healed_bytes_total counter\n")
        lines.append(f"daxmend_healed_bytes_total {self._healed}\n")
        lines.append("# TYPE daxmend_events_total counter\n")
        lines += [
            f'daxmend_events_total{{event="{name}"}} {count}\n'
            for name, count in sorted(self._events.items())
        ]
        return "".join(lines)
