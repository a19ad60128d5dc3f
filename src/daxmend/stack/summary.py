"""What a device says of itself, whoever asks: a mount's `status`, or a command on a pool."""

from daxmend.dax.api import DaxDevice, FaultInjection, SectorState
from daxmend.dm import MappedDevice
from daxmend.extent import Extent
from daxmend.media.pool import Header
from daxmend.pmem.device import PmemDevice
from daxmend.stack.member import TableDevice


def summarize(device: DaxDevice) -> dict[str, object]:
    """What the pool was made as, and the bytes that are bad, by state (R1); as JSON types.

    What the device cannot know is None. Of a mapped device, also its table and its members.
    """
    header = _header(device)
    content = device.content if isinstance(device, TableDevice) else header and header.content
    is_own = header is not None and isinstance(device, PmemDevice)
    said: dict[str, object] = {
        "device": device.name,
        "size": device.size,
        "content": None if content is None else content.name.lower(),
        "medium": header.medium.value if header is not None and is_own else None,
        "clear_unit": header.clear_unit if header is not None and is_own else None,
        "durability": header and header.durability.value,
        **_damage(device),
    }
    if isinstance(device, MappedDevice):
        said["table"] = device.status().splitlines()
        said["members"] = [_member(member) for member in device.members]
    return said


def _header(device: DaxDevice) -> Header | None:
    return device.pool.header if isinstance(device, PmemDevice | TableDevice) else None


def _damage(device: DaxDevice) -> dict[str, object]:
    whole = Extent(0, device.size)
    lengths = dict.fromkeys(SectorState, 0)
    for run, state in device.badblocks(whole):
        lengths[state] += run.length
    poison = None
    if isinstance(device, FaultInjection):
        poison = sum(run.length for run in device.poison(whole))
    return {
        "recorded": sum(lengths.values()),
        "lost": lengths[SectorState.LOST],
        "poison": poison,
    }


def _member(device: DaxDevice) -> dict[str, object]:
    """A member that keeps no record says None, not that nothing is bad (R44); so does one that is
    only read when it is asked whether it recovers."""
    known = _damage(device)
    if device.error_management is None:
        known = dict.fromkeys(known, None)
    return {"name": device.name, "size": device.size, **known, "recovers": _recovers(device)}


def _recovers(device: DaxDevice) -> str | None:
    if not _is_writable(device):
        return None
    answers = [each.can_recover for each in device.capabilities(Extent(0, device.size))]
    return "yes" if all(answers) else "in parts" if any(answers) else "no"


def _is_writable(device: DaxDevice) -> bool:
    if isinstance(device, MappedDevice):
        return all(map(_is_writable, device.members))
    return not isinstance(device, PmemDevice) or device.pool.is_writable
