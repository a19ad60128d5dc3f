"""What a device must do, computed from the rules: a bytearray, and sets of lines and sectors.

It knows nothing of journals, windows or gaps. Each operation returns the one result that
`docs/semantics` allows, and changes the model as the device must have changed. The medium is a
plain one (R7): it clears what it is told to, in its clear unit.
"""

from collections.abc import Callable, Iterable, Iterator

from daxmend.dax.api import Recovery
from daxmend.extent import Extent
from daxmend.media.medium import LEAK_PATTERN
from daxmend.units import CACHELINE, CLEAR_UNIT, PAGE, SECTOR, align_down, align_up

Heal = Callable[[Extent, bytes], int]


class EioError(Exception):
    """The operation fails with EIO and has done nothing but what R3 demands."""


def units(extent: Extent, unit: int) -> range:
    """The numbers of the units that the extent touches."""
    if not extent.length:
        return range(0)
    return range(extent.offset // unit, (extent.end - 1) // unit + 1)


def merged(numbers: Iterable[int], unit: int) -> list[Extent]:
    """Unit numbers as merged extents, ascending."""
    found: list[Extent] = []
    for number in sorted(numbers):
        if found and found[-1].end == number * unit:
            found[-1] = Extent(found[-1].offset, found[-1].length + unit)
        else:
            found.append(Extent(number * unit, unit))
    return found


class DeviceModel:
    """A device of `size` bytes. `content` is what the medium's cells hold, poisoned or not."""

    def __init__(self, size: int, clear_unit: int = CLEAR_UNIT) -> None:
        self.size = size
        self.clear_unit = clear_unit
        self.content = bytearray(size)
        self.poison: set[int] = set()  # lines
        self.recorded: set[int] = set()  # sectors
        self.lost: set[int] = set()  # sectors, a part of `recorded`
        self.kept: dict[int, int] = {}  # bytes of lost sectors, for salvage

    # -- injection (R2) and scrub (R4) ---------------------------------------------------------

    def inject(self, extent: Extent, *, latent: bool) -> None:
        lines = extent.widened(CACHELINE if latent else SECTOR)
        for line in units(lines, CACHELINE):
            self.poison.add(line)
            self._put(line * CACHELINE, LEAK_PATTERN)
        if not latent:
            self.recorded |= set(units(lines, SECTOR))

    def uninject(self, extent: Extent) -> None:
        self.poison -= set(units(extent, CACHELINE))

    def scrub(self, extent: Extent) -> None:
        self._consume(line for line in units(extent, CACHELINE) if line in self.poison)

    # -- reading -------------------------------------------------------------------------------

    def read(self, extent: Extent) -> bytes:
        """R10, R11: the bytes before the first bad sector. R3: the first poison met is recorded."""
        end = self._first_recorded(extent)
        met = next((n for n in units(extent, CACHELINE) if n in self.poison), None)
        if met is not None and met * CACHELINE < end:
            # The first load ends before the first page that holds a recorded sector.
            edge = align_down(self._first_recorded(extent.widened(PAGE)), PAGE)
            if met * CACHELINE < edge:
                end = min(end, edge)
            run = []
            while met in self.poison and met * CACHELINE < end:
                run.append(met)
                met += 1
            self._consume(run)
            end = self._first_recorded(extent)
        if extent.length and end <= extent.offset:
            raise EioError
        return bytes(self.content[extent.offset : end])

    def read_sectors(self, extent: Extent) -> bytes:
        """The block path: all or nothing (R33)."""
        if self._first_recorded(extent) < extent.end:
            raise EioError
        if len(data := self.read(extent)) < extent.length:
            raise EioError
        return data

    def salvage(self, extent: Extent) -> tuple[bytes, list[Extent]]:
        """R12: everything readable, and exactly what is not. Poison met is recorded (R3)."""
        self.scrub(extent)
        missing = {
            byte
            for unit, numbers in ((CACHELINE, self.poison), (SECTOR, self.lost))
            for number in units(extent, unit)
            if number in numbers
            for byte in range(number * unit, (number + 1) * unit)
            if extent.offset <= byte < extent.end and byte not in self.kept
        }
        data = bytearray(self.content[extent.offset : extent.end])
        for at in range(extent.offset, extent.end):
            if at in missing:
                data[at - extent.offset] = 0
            elif at in self.kept:
                data[at - extent.offset] = self.kept[at]
        return bytes(data), merged(missing, 1)

    # -- writing -------------------------------------------------------------------------------

    def write(self, offset: int, data: bytes, recovery: Recovery = Recovery.AUTO) -> int:
        """R14–R17, R23: heals the pages that it may heal, in order; returns the prefix written."""
        return self._write(offset, data, recovery, self._heal_page)

    def write_raw(self, offset: int, data: bytes, recovery: Recovery = Recovery.AUTO) -> int:
        """R33: the same, with the sector as the unit."""
        return self._write(offset, data, recovery, self._heal_sectors)

    def _write(self, offset: int, data: bytes, recovery: Recovery, heal: Heal) -> int:
        done = 0
        while done < len(data):
            at = offset + done
            page = Extent(at, 1).widened(PAGE)
            rest = Extent(at, len(data) - done)
            try:
                if recovery is not Recovery.ALWAYS and not self._bad_sectors(page):
                    piece = rest.intersection(page)
                    self._put(at, data[done : done + piece.length])  # R5: poison stays
                    done += piece.length
                elif recovery is Recovery.NEVER:
                    raise EioError
                else:
                    done += heal(rest, data[done:])
            except EioError:
                if done == 0:
                    raise
                break
        return done

    def _heal_page(self, rest: Extent, data: bytes) -> int:
        page = Extent(rest.offset, 1).widened(PAGE)
        covered = rest.intersection(page)
        if covered != page:  # R16
            bad = merged(self._bad_sectors(page), SECTOR)
            bad += merged((n for n in units(page, CACHELINE) if n in self.poison), CACHELINE)
            self.scrub(page)  # the good lines are read first
            if not all(covered.covers(run) for run in bad):
                raise EioError
        self._forget(page)
        self._put(rest.offset, data[: covered.length])
        return covered.length

    def _heal_sectors(self, rest: Extent, data: bytes) -> int:
        stretch = next(iter(merged(self._bad_stretch(rest), PAGE)))
        covered = rest.intersection(stretch)
        whole = covered.narrowed(SECTOR)
        if whole.offset == rest.offset and whole.length:
            return self.write_sectors(rest.offset, data[: whole.length])
        part = covered.intersection(Extent(rest.offset, 1).widened(SECTOR))
        if self._bad_sectors(part):
            raise EioError
        self._put(rest.offset, data[: part.length])
        return part.length

    def recovery_write(self, offset: int, data: bytes) -> int:
        """R14, R20: whole pages; a recovery leaves no poison behind, recorded or latent."""
        self._forget(Extent(offset, len(data)))
        self._put(offset, data)
        return len(data)

    def write_sectors(self, offset: int, data: bytes) -> int:
        """R33: the same, for whole sectors."""
        extent = Extent(offset, len(data))
        self.scrub(extent)
        start, end = align_down(offset, self.clear_unit), align_up(extent.end, self.clear_unit)
        for unit, side in (
            (start, Extent.between(start, offset)),
            (end - self.clear_unit, Extent.between(extent.end, end)),
        ):
            if self._bad_sectors(Extent(unit, self.clear_unit).intersection(extent)):
                self._clear_beside(side)
        return self.recovery_write(offset, data)

    def _clear_beside(self, side: Extent) -> None:
        """R7, R33: what is cleared too: its bad sectors become lost, but for their good lines."""
        self.scrub(side)
        for sector in self._bad_sectors(side):
            for line in units(Extent(sector * SECTOR, SECTOR), CACHELINE):
                if line in self.poison:
                    self._put(line * CACHELINE, bytes(CACHELINE))
                elif sector not in self.lost:
                    at = line * CACHELINE
                    self.kept.update(enumerate(self.content[at : at + CACHELINE], at))
            self.lost.add(sector)
        self.poison -= set(units(side, CACHELINE))

    def keep_zeros(self, extent: Extent) -> None:
        """R32: of lost bytes that were given up, zeros are salvaged."""
        for at in range(extent.offset, extent.end):
            if at // SECTOR in self.lost:
                self.kept[at] = 0

    # -- below ---------------------------------------------------------------------------------

    def _put(self, offset: int, data: bytes) -> None:
        self.content[offset : offset + len(data)] = data

    def _consume(self, lines: Iterable[int]) -> None:
        self.recorded |= {line * CACHELINE // SECTOR for line in lines}

    def _first_recorded(self, extent: Extent) -> int:
        found = (n * SECTOR for n in units(extent, SECTOR) if n in self.recorded)
        return max(next(found, extent.end), extent.offset)

    def _bad_sectors(self, extent: Extent) -> list[int]:
        return [n for n in units(extent, SECTOR) if n in self.recorded]

    def _bad_stretch(self, rest: Extent) -> Iterator[int]:
        """The page of the first byte, and the bad pages that follow it without a gap."""
        for page in units(rest, PAGE):
            if page * PAGE > rest.offset and not self._bad_sectors(Extent(page * PAGE, PAGE)):
                break
            yield page

    def _forget(self, extent: Extent) -> None:
        for at in range(extent.widened(CACHELINE).offset, extent.widened(CACHELINE).end):
            self.kept.pop(at, None)
        self.poison -= set(units(extent, CACHELINE))
        self.recorded -= set(units(extent, SECTOR))
        self.lost -= set(units(extent, SECTOR))
