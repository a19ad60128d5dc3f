"""What a device says of itself, whoever asks: a mount's `status`, or a command on a pool."""

from daxmend.dax.api import DaxDevice, FaultInjection, SectorState
from daxmend.extent import Extent
from daxmend.pmem.device import PmemDevice


def summarize(device: DaxDevice) -> dict[str, object]:
    """What the pool was made as, and the bytes that are bad, by state (R1); as JSON types.

    What the device cannot know is None.
    """
    header = device.pool.header if isinstance(device, PmemDevice) else None
    whole = Extent(0, device.size)
    lengths = dict.fromkeys(SectorState, 0)
    for run, state in device.badblocks(whole):
        lengths[state] += run.length
    poison = None
    if isinstance(device, FaultInjection):
        poison = sum(run.length for run in device.poison(whole))
    return {
        "device": device.name,
        "size": device.size,
        "content": header and header.content.name.lower(),
        "medium": header and header.medium.value,
        "clear_unit": header and header.clear_unit,
        "durability": header and header.durability.value,
        "recorded": sum(lengths.values()),
        "lost": lengths[SectorState.LOST],
        "poison": poison,
    }
