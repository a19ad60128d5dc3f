"""Reads and writes over a device, in which a failed normal access turns into recovery (R22).

The normal path of a read is `read_clean`; that of a write asks `direct_access` once and stores.
Only its failure enters the functions below that walk around or heal bad pages.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, NoReturn

from daxmend.dax.api import AccessMode, DaxDevice, Recovery, Salvage, Window
from daxmend.errors import BadBlockError, DaxmendError, MediaError, PoisonError
from daxmend.events import RecoveryRefused
from daxmend.extent import Extent, ExtentSet, check_bounds
from daxmend.units import PAGE, SECTOR, align_down, align_up

if TYPE_CHECKING:
    from typing_extensions import Buffer

_NORMAL = AccessMode.NORMAL

# `write` or `write_raw`.
Write = Callable[[DaxDevice, int, "Buffer", Recovery], int]

# Writes what it can of the rest and returns the count; `MediaError` if that is nothing.
_Heal = Callable[[DaxDevice, int, memoryview], int]


def read(device: DaxDevice, extent: Extent) -> bytes:
    """The bytes of the range up to the first bad sector (R10, R11); bytes, any alignment.

    Raises `MediaError` if the first byte's sector is bad.
    """
    offset, length = extent
    found = device.read_clean(offset, length)
    if found is not None:
        return found
    sequence = device.sequence
    try:
        window = device.direct_access(extent, _NORMAL)
        data = _read_windows(device, extent, window, _NORMAL)
        if device.sequence == sequence:  # else the record changed under the copy (R19)
            return data
    except (BadBlockError, PoisonError):
        pass  # the page is bad somewhere; what of it can be read is decided below
    return _read_around(device, extent)


def view(device: DaxDevice, extent: Extent) -> memoryview | None:
    """The bytes themselves, read-only, for a system call at once.

    None if they are not in one piece, or damaged: `read` has what can be had. Whoever asks often
    asks `view_clean` of the device first.
    """
    try:
        window = device.direct_access(extent, _NORMAL)
        if window.length >= extent.length:
            return window.view(0, extent.length)
    except (BadBlockError, PoisonError):
        pass
    return None


def _read_windows(device: DaxDevice, extent: Extent, window: Window, mode: AccessMode) -> bytes:
    """The whole range through one window after the other: a mapped device's end with its chunks."""
    parts: list[bytes] = []
    offset = extent.offset
    while True:
        if window.length <= 0 < extent.end - offset:
            raise _no_window(device, offset)
        parts.append(window.load(0, min(window.length, extent.end - offset)))
        offset += len(parts[-1])
        if offset >= extent.end:
            return parts[0] if len(parts) == 1 else b"".join(parts)
        window = device.direct_access(Extent.between(offset, extent.end), mode)


def _read_around(device: DaxDevice, extent: Extent) -> bytes:
    """Sector by sector grain: everything before the first recorded sector of the range."""
    while True:
        sequence = device.sequence
        bad = _first_bad(device, extent)
        end = extent.end if bad is None else bad.offset
        if bad is not None and end <= extent.offset:
            raise BadBlockError(device.name, bad.offset, bad.length)
        try:
            good = Extent.between(extent.offset, end)
            window = device.direct_access(good, AccessMode.RECOVERY)
            data = _read_windows(device, good, window, AccessMode.RECOVERY)
            if device.sequence == sequence:
                return data
        except PoisonError:
            # Consumed: the record has grown (R3). A device that keeps no record cannot say more.
            if _first_bad(device, extent) == bad:
                raise


def write(
    device: DaxDevice,
    offset: int,
    data: Buffer,
    recovery: Recovery = Recovery.AUTO,
    *,
    owned_end: int | None = None,
) -> int:
    """Write `data`; bad pages that it covers heal in place (R14, R15). Returns bytes written.

    Fewer than asked if a page could not be healed; `MediaError` if that is none (R17). Healed
    pages are durable on return, others after the device's flush and fence. From `owned_end` on (an
    offset of the device, not before the end of the data) bytes belong to nobody, being beyond the
    end of a file, and count as covered: in a page that has to be healed they become zeros (R16).
    """
    return _write(device, offset, data, recovery, partial(_heal_pages, owned_end=owned_end))


def write_raw(
    device: DaxDevice, offset: int, data: Buffer, recovery: Recovery = Recovery.AUTO
) -> int:
    """Like `write`, with the sector as the unit (R33): a raw device has no pages to complete."""
    return _write(device, offset, data, recovery, _heal_sectors)


def _write(device: DaxDevice, offset: int, data: Buffer, recovery: Recovery, heal: _Heal) -> int:
    rest = memoryview(data).cast("B")
    done = 0
    while rest:
        try:
            written = _write_some(device, offset + done, rest, recovery, heal)
        except MediaError:
            if done == 0:
                raise
            break  # R17: the prefix counts, the next write meets the failure
        done += written
        rest = rest[written:]
    return done


def _write_some(
    device: DaxDevice, offset: int, data: memoryview, recovery: Recovery, heal: _Heal
) -> int:
    if recovery is not Recovery.ALWAYS:
        try:
            return _write_normal(device, offset, data)
        except MediaError:
            if recovery is Recovery.NEVER:
                raise  # nothing was refused: nobody asked for a recovery
    return heal(device, offset, data)


def _write_normal(device: DaxDevice, offset: int, data: memoryview) -> int:
    window = device.direct_access(Extent(offset, len(data)), _NORMAL)
    count = min(window.length, len(data))
    if count <= 0:
        raise _no_window(device, offset)
    window.store(0, data[:count])
    return count


def _no_window(device: DaxDevice, offset: int) -> DaxmendError:
    """A device broke its word (`DaxDevice.direct_access`); asking again would not end."""
    return DaxmendError(f"{device.name}: direct access at offset {offset} gave an empty window")


def _first_bad(device: DaxDevice, extent: Extent) -> Extent | None:
    return next((run for run, _ in device.badblocks(extent)), None)


def _bad_pages(device: DaxDevice, extent: Extent) -> Extent:
    """The unbroken stretch of bad pages that begins with the first page of `extent`."""
    pages = ExtentSet(PAGE)
    pages.add(Extent(extent.offset, 1).widened(PAGE))
    for run, _ in device.badblocks(extent.widened(PAGE).intersection(Extent(0, device.size))):
        if not pages.overlaps(Extent(run.offset - PAGE, PAGE + 1)):
            break
        pages.add(run.widened(PAGE))
    return next(pages.extents())


def _heal_pages(device: DaxDevice, offset: int, data: memoryview, *, owned_end: int | None) -> int:
    """Heal the bad pages at `offset`: whole ones in one operation, a partly covered one alone."""
    extent = Extent(offset, len(data))
    check_bounds(extent, device.size, device.name)
    whole = _bad_pages(device, extent).intersection(extent.narrowed(PAGE))
    if whole.offset == offset and whole.length:
        return device.recovery_write(offset, data[: whole.length])
    return _heal_partly(device, offset, data, owned_end)


def _heal_partly(device: DaxDevice, offset: int, data: memoryview, owned_end: int | None) -> int:
    """Heal the page at `offset` if the data cover all that is bad in what is owned of it (R16)."""
    page = Extent(offset, 1).widened(PAGE)
    owned = page if owned_end is None else page.intersection(Extent.between(0, owned_end))
    covered = Extent(offset, len(data)).intersection(page)
    bad, salvage = _what_is_bad(device, page)
    if not all(covered.covers(part) for run in bad if (part := run.intersection(owned)).length):
        _refuse(device, page)
    start = covered.offset - page.offset
    salvage.data[start : start + covered.length] = data[: covered.length]
    salvage.data[owned.length :] = bytes(page.length - owned.length)
    keep = (
        Extent.between(page.offset, covered.offset),
        Extent.between(covered.end, owned.end),
    )
    device.recovery_write(page.offset, salvage.data, [part for part in keep if part.length])
    return covered.length


def _what_is_bad(device: DaxDevice, page: Extent) -> tuple[list[Extent], Salvage]:
    """Recorded sectors and lost lines of a page, and what else it holds.

    The record is asked first: reading makes it grow by whole sectors where only lines are bad (R3).
    """
    recorded = [run for run, _ in device.badblocks(page)]
    salvage = device.recovery_read(page)
    return recorded + salvage.lost, salvage


def _refuse(device: DaxDevice, unit: Extent) -> NoReturn:
    """Nothing changes; a warning names the aligned range that a write must cover (R16)."""
    device.events.publish(RecoveryRefused(unit, "the write does not cover all that is bad there"))
    raise BadBlockError(
        device.name, unit.offset, unit.length, hint="write all of this range to heal it"
    )


def _heal_sectors(device: DaxDevice, offset: int, data: memoryview) -> int:
    """Write through a bad stretch: whole sectors heal, a part of a bad one fails (R33)."""
    extent = Extent(offset, len(data))
    check_bounds(extent, device.size, device.name)
    extent = extent.intersection(_bad_pages(device, extent))
    whole = extent.narrowed(SECTOR)
    if whole.length and whole.offset == offset:
        return device.write_sectors(offset // SECTOR, data[: whole.length])
    part = extent.intersection(Extent(align_down(offset, SECTOR), SECTOR))
    bad = _first_bad(device, part.widened(SECTOR))
    if bad is not None:
        _refuse(device, bad)
    window = device.direct_access(part, AccessMode.RECOVERY)
    window.store(0, data[: part.length])
    return part.length


def zeroinit(device: DaxDevice, extent: Extent) -> None:
    """Set the range to zeros and heal what is bad in it, in place (R29); bytes, any alignment.

    Pages that it covers in part follow R16 and are looked at first: `MediaError` if one of them
    cannot be healed, and nothing has changed then (R30). Whole pages are durable on return.
    """
    check_zeroinit(device, extent)
    head, tail = _edges(extent)
    whole = Extent.between(head.end, tail.offset)
    for _ in device.scrub(whole):  # latent poison goes too, and only what is known can be cleared
        pass
    for edge in (head, tail):
        write(device, edge.offset, bytes(edge.length))
    done = device.zeroinit(whole) if whole.length else 0
    if done < whole.length:
        raise MediaError(device.name, whole.offset + done, whole.length - done)


def check_zeroinit(device: DaxDevice, extent: Extent) -> None:
    """Raise what `zeroinit` would raise before it changes anything (R30)."""
    bad = _first_bad(device, extent.widened(PAGE))
    if bad is not None and not device.allows_recovery:
        reason = "recovery is switched off"
        device.events.publish(RecoveryRefused(Extent(bad.offset, 1).widened(PAGE), reason))
        raise BadBlockError(device.name, extent.offset, extent.length, hint=reason)
    for edge in _edges(extent):
        if edge.length:
            _check_edge(device, edge)


def _edges(extent: Extent) -> tuple[Extent, Extent]:
    """What of the range lies before and behind its whole pages."""
    head = Extent.between(extent.offset, min(align_up(extent.offset, PAGE), extent.end))
    return head, Extent.between(max(align_down(extent.end, PAGE), head.end), extent.end)


def _check_edge(device: DaxDevice, edge: Extent) -> None:
    """Raise unless the edge of a zeroing can be written (R30)."""
    page = edge.widened(PAGE)
    if not any(True for _ in device.badblocks(page)):
        return
    bad, _ = _what_is_bad(device, page)
    if not all(edge.covers(run) for run in bad):
        _refuse(device, page)


__all__ = ["Write", "check_zeroinit", "read", "view", "write", "write_raw", "zeroinit"]
