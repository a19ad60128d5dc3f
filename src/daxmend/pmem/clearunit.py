"""The block path on a medium whose clear unit is larger than a sector (R7, R33).

To clear one sector the medium clears its neighbours too. So the recovery takes in the whole unit:
good neighbours are kept bytes of the intent and are written again; bad ones, which the write does
not cover, are *lost* before anything is cleared, and their good lines kept for salvage (R1, R46).
"""

from collections.abc import Callable

from daxmend.extent import Extent, ExtentSet
from daxmend.pmem.intent import Kept, Request
from daxmend.pmem.record import Record
from daxmend.units import CACHELINE, SECTOR, align_down, align_up

# The bytes of a range, and its poisoned lines, which enter the record.
Salvage = Callable[[Extent], tuple[bytearray, ExtentSet]]


def complete_units(request: Request, unit: int, record: Record, salvage: Salvage) -> Request:
    """The request, widened to clear units of `unit` bytes where it heals only a part of one.

    Durable with the next fence, which comes before the medium clears.
    """
    extent = request.extent
    start, end = align_down(extent.offset, unit), align_up(extent.end, unit)
    head = Extent.between(start, extent.offset)
    tail = Extent.between(extent.end, end)
    if not record.badblocks.check(Extent(start, unit).intersection(extent)):
        head = Extent(extent.offset, 0)
    if not record.badblocks.check(Extent(end - unit, unit).intersection(extent)):
        tail = Extent(extent.end, 0)
    sides = [side for side in (head, tail) if side.length]
    if not sides:
        return request
    aside = ExtentSet(SECTOR)
    before = _set_aside(head, aside, record, salvage)
    after = _set_aside(tail, aside, record, salvage)
    return Request(
        Extent.between(head.offset, tail.end),
        memoryview(b"".join((before, request.data, after))),
        (*request.keep, *sides),
        request.grain,
        tuple(aside),
    )


def _set_aside(side: Extent, aside: ExtentSet, record: Record, salvage: Salvage) -> bytearray:
    """The bytes of one side; its bad sectors go to `aside` and become lost, but for good lines."""
    data, poisoned = salvage(side)
    sectors = ExtentSet(SECTOR, record.badblocks.recorded.extents(side))
    aside.update(sectors)
    fresh = sectors.without(ExtentSet(SECTOR, record.badblocks.lost.extents(side)))
    good = ExtentSet(CACHELINE, fresh).without(poisoned)
    # First: what is lost without being kept would be gone after a stop between the two.
    record.keep(
        Kept(run, bytes(data[run.offset - side.offset : run.end - side.offset])) for run in good
    )
    record.set_lost(fresh)
    return data
