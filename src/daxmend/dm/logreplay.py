"""Replay of a log of log-writes, ours or a kernel's, onto another device (R39)."""

from __future__ import annotations

from daxmend.dax import io
from daxmend.dax.api import DaxDevice
from daxmend.dm.logformat import LogFlag, Placed, iter_entries, read_data
from daxmend.errors import MediaError, UsageError
from daxmend.extent import Extent
from daxmend.units import MIB, PAGE, is_aligned


def replay(log: DaxDevice, target: DaxDevice, until: str | int | None = None) -> int:
    """Do again on `target` what the log says, in its order; returns how many entries were done.

    `target` holds what the logged device held when the log began. `until` is the name of a mark
    (the first that has it ends the replay), or a number of entries; without it, all. Then `target`
    has the state at that point; what was bad is not made bad again. Durable on return. Raises
    `UsageError`, before anything is written, if there is no such mark, or an entry lies beyond
    `target`'s end; `MediaError` where the log cannot be read or `target` not be written.
    """
    entries = _entries_until(log, until)
    for placed in entries:
        if placed.entry.extent.end > target.size:
            raise UsageError(
                f"{target.name} ends at {target.size}, and the log has {placed.entry.extent}"
            )
    for placed in entries:
        _apply(log, target, placed)
    target.flush(Extent(0, target.size))
    target.fence()
    return len(entries)


def _entries_until(log: DaxDevice, until: str | int | None) -> list[Placed]:
    """The entries that `replay` does. Raises as it does, before it writes."""
    if isinstance(until, int) and until < 0:
        raise UsageError(f"{until} is no number of entries")
    entries: list[Placed] = []
    for placed in iter_entries(log):
        if until == placed.number:
            return entries
        entries.append(placed)
        is_mark = LogFlag.MARK in placed.entry.flags
        if is_mark and placed.entry.mark == until:
            return entries
    if isinstance(until, str):
        raise UsageError(f"{log.name}: the log has no mark '{until}'")
    if until is not None and until > len(entries):
        raise UsageError(f"{log.name}: the log has {len(entries)} entries, not {until}")
    return entries


def _apply(log: DaxDevice, target: DaxDevice, placed: Placed) -> None:
    extent = placed.entry.extent
    if LogFlag.DISCARD in placed.entry.flags:
        _zero(target, extent)
        return
    for at in range(0, placed.data.length, MIB):
        piece = Extent(placed.data.offset + at, min(MIB, placed.data.length - at))
        _write(target, extent.offset + at, read_data(log, piece))


def _zero(target: DaxDevice, extent: Extent) -> None:
    """A discarded range reads as zeros: what a kernel's own discard leaves may be anything."""
    if is_aligned(extent.offset, PAGE) and is_aligned(extent.length, PAGE):
        io.zeroinit(target, extent)
        return
    for at in range(extent.offset, extent.end, MIB):
        _write(target, at, bytes(min(MIB, extent.end - at)))


def _write(target: DaxDevice, offset: int, data: bytes) -> None:
    done = io.write(target, offset, data)
    if done < len(data):
        raise MediaError(target.name, offset + done, len(data) - done)
