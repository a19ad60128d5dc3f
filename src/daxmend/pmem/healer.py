"""The recovery operation (R20): intent, clear, data, read back, record; and what a stop left of it.

persistence.md §3 numbers the steps. A *unit* is a page, or a sector on the block path (R33).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from daxmend.errors import MediaError, PoisonError
from daxmend.events import EventHub, IntentReplayed, RecoveryDone, RecoveryRefused
from daxmend.extent import Extent, ExtentSet
from daxmend.media.checksum import checksum_units
from daxmend.media.medium import Medium
from daxmend.pmem.intent import Intent, Kept, Request
from daxmend.pmem.record import Record
from daxmend.units import CACHELINE, MIB, PAGE, SECTOR, align_down

# Bytes of data under one intent: so that intents stay small, and what was read for its checksum is
# still in the cache when it is stored.
MAX_INTENT = 16 * MIB

_POISONED_LINE = b"poisoned" * (CACHELINE // 8)  # in the checksum `before`; no medium holds it


class Healer:
    """Heals what a write covers. Every call holds the device's lock.

    `fence` makes medium and record durable; `changed` is called with ranges whose record changed.
    """

    def __init__(
        self,
        medium: Medium,
        record: Record,
        events: EventHub,
        fence: Callable[[], None],
        changed: Callable[[Extent], None],
    ) -> None:
        self.recovering: Extent | None = None  # in state UC: only the running call may touch it
        # Healed, and the append that says so not yet fenced. A store there before that fence would
        # make the leftover intent's checksum lie after a crash, so the first access fences.
        self.unfenced = ExtentSet(SECTOR)
        self._medium = medium
        self._record = record
        self._events = events
        self._fence = fence
        self._changed = changed

    def write(self, request: Request) -> int:
        """Heal the bad units, then store the good ones; returns where the written prefix ends.

        Durable on return.
        """
        if self.unfenced.overlaps(request.extent.widened(PAGE)):
            self._fence()
        bad = self._bad_units(request)
        end = self._heal(request, tuple(bad)) if bad else request.extent.end
        good = ExtentSet(request.grain, [Extent.between(request.extent.offset, end)])
        for run in bad:
            good.discard(run)
        if good:
            self._store(request, good)
            self._fence()
        return end

    def _bad_units(self, request: Request) -> ExtentSet:
        bad = ExtentSet(request.grain)
        unit = max(request.grain, self._medium.clear_unit)  # what is cleared must be written again
        for run in self._record.badblocks.recorded.extents(request.extent):
            bad.add(run.widened(unit))
        for run in request.aside:
            bad.discard(run)
        return bad

    def _store(self, request: Request, runs: Iterable[Extent]) -> None:
        for run in runs:
            self._medium.store(run.offset, request.part(run))
            self._medium.flush(run.offset, run.length)

    def _heal(self, request: Request, runs: tuple[Extent, ...]) -> int:
        """Heal `runs` in one operation; returns the offset of the first byte not proven good."""
        self.end_leftovers(request.extent)
        before = b"".join(self._checksums_before(run, request.grain) for run in runs)
        intent = Intent.to_write(self._record.next_id(), request, runs, before)
        self._record.begin(intent)
        cleared: list[Extent] = []
        try:
            self._fence()
            self.recovering = request.extent  # NP → UC (R28)
            end = self._replace(runs, cleared, request)
            self._fence()
            end = self._verify(intent, end)
            self._complete(intent, cleared, end)
        except BaseException as error:  # an interrupted program must not call zeros good either
            self._complete(intent, cleared, request.extent.offset)  # nothing is proven good
            self._tell(intent, request.extent.offset, str(error))
            raise
        finally:
            self.recovering = None
            if self._medium.is_exposed(request.extent):
                self._fence()  # before mapped stores can reach the healed pages, see `unfenced`
            self._changed(request.extent)
        self._tell(intent, end, "the medium did not clear it")
        return end

    def end_leftovers(self, extent: Extent) -> None:
        """End intents that failed before they could be ended: nothing in them is proven good.

        Found at the next attach, an older intent would judge bytes that a newer one healed.
        """
        for intent in list(self._record.intents.values()):
            if any(run.overlaps(extent) for run in intent.runs):
                self._complete(intent, list(intent.runs), intent.runs[0].offset)

    def _checksums_before(self, run: Extent, grain: int) -> bytes:
        if self._medium.is_poisoned(run):  # the short way to what is said below
            poisoned = _POISONED_LINE * (grain // CACHELINE)
            return checksum_units(poisoned, grain) * (run.length // grain)
        return b"".join(
            self._checksum_before(Extent(at, grain)) for at in range(run.offset, run.end, grain)
        )

    def _checksum_before(self, unit: Extent) -> bytes:
        """What tells an untouched bad unit from a half-cleared one: good bytes and bad lines."""
        data, poisoned = self.salvage(unit)
        for lines in poisoned:
            start = lines.offset - unit.offset
            data[start : start + lines.length] = _POISONED_LINE * (lines.length // CACHELINE)
        return checksum_units(data, unit.length)

    def _replace(self, runs: tuple[Extent, ...], cleared: list[Extent], request: Request) -> int:
        """Clear and store, noting what the medium says; the first refused unit, or the end (R21).

        A command that cleared only a part is followed by one for the rest (R7).
        """
        unit = self._medium.clear_unit
        for rest in ExtentSet(unit, (run.widened(unit) for run in runs)):
            while rest.length:
                cleared.append(rest)  # all of it, for all we know if the command fails
                count = self._medium.clear_and_store(rest.offset, request.part(rest))
                cleared[-1] = Extent(rest.offset, count)
                if count == 0:
                    return align_down(rest.offset, request.grain)
                rest = Extent.between(rest.offset + count, rest.end)
        return request.extent.end

    def _verify(self, intent: Intent, end: int) -> int:
        """Read back: the first unit before `end` that is not as it should be, else `end` (R21)."""
        for run, checksums, _ in intent.parts():
            if run.end <= end and self._holds(run, checksums, intent.grain):
                continue
            for unit, checksum, _ in intent.units():
                if unit.offset >= end or not self._holds(unit, checksum, intent.grain):
                    return min(unit.offset, end)
        return end

    def _holds(self, extent: Extent, checksums: bytes, grain: int) -> bool:
        try:
            return self._medium.checksum(*extent, grain) == checksums
        except MediaError:
            return False

    def _complete(self, intent: Intent, cleared: list[Extent], end: int) -> None:
        """Drop what is proven good; what was cleared beyond it is lost, but for what is kept."""
        healed = _below(intent.runs, end)
        lost = ExtentSet(SECTOR)
        for run in cleared:
            lost.add(Extent.between(max(run.offset, end), run.end).widened(SECTOR))
        self._record.set_lost(lost)
        self._record.keep(_kept_in(intent, lost))
        self._record.complete(intent, healed)
        self.unfenced.update(healed)
        if end < intent.runs[-1].end:
            self._fence()

    def _tell(self, intent: Intent, end: int, reason: str) -> None:
        """What was healed, and why the rest was not."""
        for run in _below(intent.runs, end):
            self._events.publish(RecoveryDone(run))
        if end < intent.runs[-1].end:
            self._events.publish(RecoveryRefused(Extent(end, intent.grain), reason))

    # -- after a stop ----------------------------------------------------------------------

    def judge(self, intent: Intent) -> None:
        """Decide what became of a recovery that a stop interrupted; durable on return (R18)."""
        outcomes: dict[str, ExtentSet] = {}
        for unit, checksum, before in intent.units():
            outcome = self._outcome(unit, checksum, before)
            if outcome == "bad" and not self._record.badblocks.check(unit):
                continue  # a good neighbour in the clear unit, and untouched
            outcomes.setdefault(outcome, ExtentSet(intent.grain)).add(unit)
        lost = outcomes.get("lost", ExtentSet(intent.grain))
        self._record.set_lost(lost)
        self._record.keep(_kept_in(intent, lost))
        self._record.complete(intent, outcomes.get("complete", ()))
        self._fence()
        for outcome, extents in outcomes.items():
            for run in extents:
                self._events.publish(IntentReplayed(run, outcome))

    def _outcome(self, unit: Extent, checksum: bytes, before: bytes) -> str:
        if self._holds(unit, checksum, unit.length):
            return "complete"
        return "bad" if self._checksum_before(unit) == before else "lost"

    # -- what can be read ------------------------------------------------------------------

    def salvage(self, extent: Extent) -> tuple[bytearray, ExtentSet]:
        """The range with zeros for poisoned lines, and those lines; met poison is consumed (R3)."""
        data = bytearray(extent.length)
        target = memoryview(data)
        poisoned = ExtentSet(CACHELINE)
        position, failed_at = extent.offset, -1
        while position < extent.end:
            try:
                self._medium.load_into(position, target[position - extent.offset :])
                break
            except PoisonError as poison:
                lines = Extent(poison.offset, poison.length).widened(CACHELINE)
                good = Extent.between(position, lines.offset)
                start = position - extent.offset
                self._medium.load_into(position, target[start : start + good.length])
                poisoned.add(lines)
                position = lines.end
            except MediaError:
                if position == failed_at:  # a fault that fails one access is spent by now (R12)
                    raise
                failed_at = position
        return data, poisoned


def _kept_in(intent: Intent, lost: Iterable[Extent]) -> list[Kept]:
    """What the intent keeps of the lost sectors, and nothing of others: those may yet change."""
    pieces = (kept.inside(run) for run in lost for kept in intent.kept)
    return [piece for piece in pieces if piece.data]


def _below(runs: Iterable[Extent], end: int) -> list[Extent]:
    """The parts of `runs` before `end`."""
    return [Extent.between(run.offset, min(run.end, end)) for run in runs if run.offset < end]
