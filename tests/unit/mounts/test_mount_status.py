"""What a mount says of itself: the fields of a pool and more; counts that two threads add to."""

import json
import sys
from pathlib import Path
from threading import Thread

from mountkernel import PAGE

from daxmend.events import CopyHealed, FaultRemoved
from daxmend.extent import Extent
from daxmend.mounts.deviceuse import RawUse
from daxmend.mounts.scrub import Scrubber
from daxmend.mounts.status import Status
from daxmend.pmem.device import PmemDevice
from daxmend.rescue.opening import open_target
from daxmend.stack.device import open_device
from daxmend.stack.pool import create

# What nobody can say of a pool that is not mounted. `mounted` itself is the asker's to know.
MOUNT_ONLY = {"pid", "mounted_ns", "recovery", "healed", "events", "refused", "scrub"}


def test_a_mount_and_a_pool_say_the_same_of_themselves(tmp_path: Path) -> None:
    path = tmp_path / "pool"
    create(path, 1 << 20)
    device = open_device(path)
    device.inject(Extent(0, PAGE))
    device.inject(Extent(2 * PAGE, 64), latent=True)
    mounted = json.loads(json.dumps(Status(device, RawUse(), Scrubber(device, print)).document()))
    device.close()
    target = open_target(path)
    unmounted = target.status()
    target.close()
    assert set(mounted) - set(unmounted) == MOUNT_ONLY
    assert set(unmounted) - set(mounted) == {"mounted"}
    assert unmounted.pop("mounted") is None
    assert {name: mounted[name] for name in unmounted} == unmounted
    assert (unmounted["recorded"], unmounted["poison"]) == (PAGE, PAGE + 64)
    assert unmounted["medium"] == "plain"


def test_events_of_two_threads_are_all_counted(device: PmemDevice) -> None:
    status = Status(device, RawUse(), Scrubber(device, print))
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)

    def publish() -> None:
        for _ in range(5000):
            device.events.publish(FaultRemoved(Extent(0, 64)))

    try:
        threads = [Thread(target=publish) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert status.document()["events"] == {"fault_removed": 10_000}


def test_events_of_attaching_are_counted_too(device: PmemDevice) -> None:
    healed = CopyHealed("record", 1, "its checksum is wrong")
    status = Status(device, RawUse(), Scrubber(device, print), [healed])
    assert status.document()["events"] == {"copy_healed": 1}
    assert 'event="copy_healed"} 1' in status.metrics()
