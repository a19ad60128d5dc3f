"""A scrub is background work: a slice at a time, with the device free in between (R4)."""

import threading

from daxmend.extent import Extent
from daxmend.media.pool import create_memory_pool
from daxmend.pmem.device import PmemDevice
from daxmend.units import MIB, PAGE

SIZE = 256 * MIB


def test_a_scrub_of_a_large_range_leaves_the_device_to_others_between_its_slices_r4() -> None:
    device = PmemDevice(create_memory_pool(SIZE))
    device.inject(Extent(SIZE - PAGE, 64), latent=True)
    position = 0
    found: list[bool] = []

    def use() -> None:
        if device.lock.acquire(timeout=10):
            device.lock.release()
            found.append(any(device.badblocks(Extent(0, SIZE))))

    for done in device.scrub(Extent(0, SIZE)):
        assert done.offset == position
        assert 0 < done.length < SIZE, "others would wait for all of it"
        position = done.end
        other = threading.Thread(target=use)
        other.start()
        other.join()
    assert position == SIZE
    assert found[0] is False, "what lies behind has not been looked at"
    assert found[-1] is True
    assert len(found) > 1
    device.close()
