"""The record on the medium: bad blocks and intents in one journal, so that one append changes both.

Order (persistence.md §3): a sector enters the record before anything else happens to it, and
leaves it only after its new data was fenced and read back.
"""

from collections.abc import Iterable, Iterator

from daxmend.dax.api import SectorState
from daxmend.errors import UnsupportedError
from daxmend.extent import Extent
from daxmend.media.journal import Entry, Journal, Repair
from daxmend.media.pool import Pool
from daxmend.media.runs import batched_runs, pack_runs, pack_snapshot, unpack_runs
from daxmend.pmem.badblocks import BadBlocks
from daxmend.pmem.intent import Hold, Intent, Kept, pack_id, unpack_id
from daxmend.units import SECTOR

_RECORDED = 1  # runs: entered the record
_CLEARED = 2  # runs: left it
_LOST = 3  # runs: in it, content gone
_INTENT = 4
_COMPLETED = 5  # id, runs: the intent is over, and these left the record
_KEPT = 6  # an intent without checksums: good bytes of lost sectors, for salvage
_HELD = 8  # the same, its grain the unit: the acknowledged half of a cut write (R50)
_RELEASED = 9  # runs, in bytes: held no longer


class Record:
    """`BadBlocks` that survive every stop, and the intents in flight.

    A change is durable after `fence`; of a pool that is open read-only, it stays in memory. Not
    locked: the device's lock holds.
    """

    def __init__(self, pool: Pool) -> None:
        self.badblocks = BadBlocks()
        self.intents: dict[int, Intent] = {}
        self.kept: list[Kept] = []
        self.holds: list[Hold] = []
        self._next_id = 1
        self._is_writable = pool.is_writable
        self._journal = Journal(
            pool.backing, pool.header.layout.record, f"{pool.name}: record journal", self._snapshot
        )
        for entry in self._journal.read():
            self._replay(entry)

    @property
    def repairs(self) -> list[Repair]:
        """Which journal copies were damaged when the record was read."""
        return self._journal.repairs

    def heal(self) -> None:
        """Rewrite damaged copies of the journal; durable on return."""
        self._journal.heal()

    def fence(self) -> None:
        """Every change so far is durable on return."""
        self._journal.fence()

    def seal(self) -> None:
        """Everything is durable on return, and provably complete."""
        self._journal.seal()

    def set(self, extents: Iterable[Extent]) -> None:
        """Enter sectors."""
        self._append_runs(_RECORDED, list(extents))

    def reserve(self, extents: Iterable[Extent]) -> None:
        """Enter sectors that are about to be made bad; if that fails, nothing has changed (R2)."""
        for part in batched_runs(list(extents)):
            self._append(_RECORDED, pack_runs(part, SECTOR))
            self._apply(_RECORDED, part)

    def clear(self, extents: Iterable[Extent]) -> None:
        """Drop sectors without an intent: the medium healed them by itself (R6)."""
        self._append_runs(_CLEARED, list(extents))

    def set_lost(self, extents: Iterable[Extent]) -> None:
        """Enter sectors as lost."""
        self._append_runs(_LOST, list(extents))

    def next_id(self) -> int:
        """A number no other intent has."""
        self._next_id += 1
        return self._next_id - 1

    def begin(self, intent: Intent) -> None:
        """Make the intent known; nothing may be cleared before the next `fence` returned."""
        self._append(_INTENT, intent.pack())
        self.intents[intent.id] = intent

    def complete(self, intent: Intent, healed: Iterable[Extent]) -> None:
        """End an intent and drop what it healed, in one append."""
        runs = list(healed)
        self._append(_COMPLETED, pack_id(intent.id) + pack_runs(runs, SECTOR))
        self._end(intent.id, runs)

    def keep(self, kept: Iterable[Kept]) -> None:
        """Hold good bytes, all of them in lost sectors, until those are rewritten (R18)."""
        pieces = tuple(kept)
        if pieces:
            self._append(_KEPT, _pack_kept(pieces, SECTOR))
            self._keep(pieces)

    def hold(self, hold: Hold) -> None:
        """Keep what a writer was promised, until its sectors are rewritten or it is released."""
        self._append(_HELD, _pack_kept((hold.kept,), hold.unit))
        self._hold(hold)

    def release(self, extent: Extent) -> None:
        """Forget what is held in the range; what is kept there stays (R18)."""
        self._forget_holds(extent)
        self._append(_RELEASED, pack_runs([extent], 1))

    def keep_zeros(self, extent: Extent) -> None:
        """Keep zeros of the lost bytes of the range, whatever was kept or is held of them (R32)."""
        if any(hold.kept.extent.overlaps(extent) for hold in self.holds):
            self.release(extent)
        lost = list(self.badblocks.lost.extents(extent))
        self.keep(Kept(run, bytes(run.length)) for run in lost)

    def _keep(self, pieces: Iterable[Kept]) -> None:
        for piece in pieces:
            self._forget_kept(piece.extent)
            self.kept.append(piece)

    def _hold(self, hold: Hold) -> None:
        self._forget_holds(hold.kept.extent)
        self.holds.append(hold)

    def _append_runs(self, kind: int, runs: list[Extent]) -> None:
        for part in batched_runs(runs):
            if kind != _CLEARED:
                self._apply(kind, part)  # known to be bad from now on, even if the append fails
            self._append(kind, pack_runs(part, SECTOR))
            if kind == _CLEARED:
                self._apply(kind, part)

    def _append(self, kind: int, payload: bytes) -> None:
        if self._is_writable:
            self._journal.append(kind, payload)

    def _apply(self, kind: int, runs: Iterable[Extent]) -> None:
        verbs = {
            _RECORDED: self.badblocks.set,
            _CLEARED: self._forget,
            _LOST: self.badblocks.set_lost,
        }
        for run in runs:
            verbs[kind](run)

    def _forget(self, run: Extent) -> None:
        self.badblocks.clear(run)
        self._forget_kept(run)
        self._forget_holds(run)

    def _forget_kept(self, run: Extent) -> None:
        if self.kept:
            self.kept = [piece for kept in self.kept for piece in kept.outside(run)]

    def _forget_holds(self, run: Extent) -> None:
        if self.holds:
            self.holds = [
                Hold(piece, unit) for kept, unit in self.holds for piece in kept.outside(run)
            ]

    def _end(self, intent_id: int, healed: Iterable[Extent]) -> None:
        self.intents.pop(intent_id, None)
        self._apply(_CLEARED, healed)

    def _replay(self, entry: Entry) -> None:
        kind, payload = entry
        if kind == _INTENT:
            intent = Intent.unpack(payload)
            self.intents[intent.id] = intent
            self._next_id = max(self._next_id, intent.id + 1)
        elif kind == _COMPLETED:
            self._end(unpack_id(payload), unpack_runs(payload[8:], SECTOR))
        elif kind == _KEPT:
            self._keep(Intent.unpack(payload).kept)
        elif kind == _HELD:
            held = Intent.unpack(payload)
            for piece in held.kept:
                self._hold(Hold(piece, held.grain))
        elif kind == _RELEASED:
            for run in unpack_runs(payload, 1):
                self._forget_holds(run)
        elif kind in (_RECORDED, _CLEARED, _LOST):
            self._apply(kind, unpack_runs(payload, SECTOR))
        else:
            raise UnsupportedError(
                f"{self._journal.name}: entries of kind {kind} are not known here; "
                "use the daxmend that made the pool"
            )

    def _snapshot(self) -> Iterator[Entry]:
        for payload in pack_snapshot(self.badblocks.recorded):
            yield Entry(_RECORDED, payload)
        for payload in pack_snapshot(self.badblocks.lost):
            yield Entry(_LOST, payload)
        for intent in self.intents.values():
            yield Entry(_INTENT, intent.pack())
        if self.kept:
            yield Entry(_KEPT, _pack_kept(tuple(self.kept), SECTOR))
        for hold in self.holds:
            yield Entry(_HELD, _pack_kept((hold.kept,), hold.unit))

    def states(self, within: Extent) -> Iterator[tuple[Extent, SectorState]]:
        """The record inside the range."""
        return self.badblocks.states(within)


def _pack_kept(pieces: tuple[Kept, ...], unit: int) -> bytes:
    return Intent(0, unit, (), b"", b"", pieces).pack()
