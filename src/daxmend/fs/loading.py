"""From a device to the state of the file system on it: superblock, checkpoint, journal."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING, NamedTuple

from daxmend.errors import CorruptionError, MediaError
from daxmend.fs.change import Change, InodeSet, ino_of, unpack_changes
from daxmend.fs.checkpoint import Reading, heal_checkpoint, read_checkpoint
from daxmend.fs.finding import Finding, Invariant
from daxmend.fs.journal import NO_ENTRIES, FsJournal, Replay, marked_generation
from daxmend.fs.mirror import COPIES, Mirror
from daxmend.fs.record import load_records
from daxmend.fs.rescan import Rescan, rescan
from daxmend.fs.state import State
from daxmend.fs.superblock import (
    Superblock,
    is_of_another_size,
    read_superblock,
    superblock_mirror,
    write_superblock,
)

if TYPE_CHECKING:
    from daxmend.dax.api import DaxDevice


_INODES_LOST = (Invariant.CHECKPOINT, Invariant.RECORD)


class Loaded(NamedTuple):
    """What was read. `losses` names what both copies have lost; the state lacks it."""

    superblock: Superblock
    stale: list[tuple[int, str]]  # copies of the superblock that are not it, and why
    checkpoint: Mirror
    reading: Reading
    journal: FsJournal
    replay: Replay
    state: State
    losses: list[Finding]

    def damage(self) -> list[tuple[str, int, str]]:
        """Structure, copy and what is wrong with it, where the other copy has everything."""
        found = [("superblock", copy, reason) for copy, reason in self.stale]
        for copy in COPIES:
            pages = sum(1 for each, _ in self.reading.damaged if each == copy)
            if pages:
                found.append(("checkpoint", copy, f"{pages} damaged pages"))
            entries = [extent for each, extent in self.replay.damaged if each == copy]
            if len(entries) == 1 and entries[0].end == len(self.replay.log):
                found.append(("journal", copy, "lacks the last commit, as after a stop"))
            elif entries:
                found.append(("journal", copy, f"{len(entries)} damaged entries"))
        return found

    def heal(self, device: DaxDevice) -> None:
        """Rewrite damaged copies from the others; durable on return (R43).

        Raises `MediaError` where the medium does not take that; the good copies are as they were.
        """
        if self.stale:
            written = write_superblock(device, self.superblock)
            if len(written) < len(COPIES):
                copy = next(copy for copy in COPIES if copy not in written)
                place = superblock_mirror(device).copies[copy][0]
                raise MediaError(device.name, place.offset, place.length)
        heal_checkpoint(self.checkpoint, self.reading.damaged, self.superblock.generation)
        self.journal.heal(self.replay)
        device.fence()


def load(device: DaxDevice) -> Loaded:
    """Read everything; changes nothing.

    Where no superblock counts, what a search of the device finds, and a loss that says so. Raises
    `CorruptionError` where that finds nothing, or the device has another size than it had;
    `UnsupportedError` for another version of the format.
    """
    losses: list[Finding] = []
    superblock, stale, reading = _find_checkpoint(device, losses)
    checkpoint = Mirror(device, superblock.checkpoint)
    journal = FsJournal(device, superblock.journal, superblock.generation)
    state = State()
    state.next_ino = superblock.next_ino
    is_found = bool(losses)
    load_records(state, reading.pages, losses)
    if is_found:
        state.next_ino = max([state.next_ino, *(ino + 1 for ino in state.inos())])
    replay = journal.read() if superblock.has_journal else NO_ENTRIES
    _replay(state, replay, losses)
    return Loaded(superblock, stale, checkpoint, reading, journal, replay, state, losses)


def _find_checkpoint(
    device: DaxDevice, losses: list[Finding]
) -> tuple[Superblock, list[tuple[int, str]], Reading]:
    """By the superblock; or, where none counts, by a search, which is a loss."""
    try:
        superblock, stale = read_superblock(device)
    except CorruptionError as error:
        if is_of_another_size(error):
            raise
        return _found(rescan(device, error), losses)
    checkpoint = Mirror(device, superblock.checkpoint)
    reading = read_checkpoint(checkpoint, superblock.checkpoint_length, superblock.generation)
    marked = marked_generation(device, superblock.journal)
    is_old = marked is not None and marked > superblock.generation
    leads_nowhere = marked not in (None, superblock.generation) and not any(reading.pages)
    if not is_old and not leads_nowhere:
        return superblock, stale, reading
    reason = CorruptionError("superblock", 0, "generation", marked, superblock.generation)
    try:
        return _found(rescan(device, reason), losses)
    except CorruptionError:
        losses.append(Finding(Invariant.SUPERBLOCK, f"what the journal marked is lost: {reason}"))
        return superblock, stale, reading


def _found(
    found: Rescan, losses: list[Finding]
) -> tuple[Superblock, list[tuple[int, str]], Reading]:
    losses.append(Finding(Invariant.SUPERBLOCK, found.text))
    return found.superblock, [], found.reading


def _replay(state: State, replay: Replay, losses: list[Finding]) -> None:
    """A change that does not fit ends it; but those of inodes that are lost never fit."""
    are_inodes_lost = any(loss.invariant in _INODES_LOST for loss in losses)
    first_new = state.next_ino
    misfits: list[str] = []
    try:
        for payload in replay.payloads:
            for change in unpack_changes(payload):
                if are_inodes_lost and _is_of_lost_inode(state, change, first_new):
                    misfits.append(
                        f"{type(change).__name__} for inode {ino_of(change)}, which is lost"
                    )
                else:
                    state.apply(change)
    except CorruptionError as error:
        misfits.append(str(error))
    if misfits:
        more = f", and {len(misfits) - 1} more" if len(misfits) > 1 else ""
        losses.append(Finding(Invariant.JOURNAL, f"{misfits[0]}{more}"))
    if replay.lost:
        losses.append(Finding(Invariant.JOURNAL, f"both copies have lost {replay.lost}"))


def _is_of_lost_inode(state: State, change: Change, first_new: int) -> bool:
    """New attributes of one must not be taken for a new inode: its content would be zeros."""
    ino = ino_of(change)
    if isinstance(change, InodeSet) and ino >= first_new:
        attributes = change.attributes
        return ino not in state and stat.S_ISREG(attributes.mode) and attributes.size > 0
    return ino not in state
