"""From a device to the state of the file system on it: superblock, checkpoint, journal."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from daxmend.errors import CorruptionError, MediaError
from daxmend.fs.change import unpack_changes
from daxmend.fs.checkpoint import (
    NO_RECORD,
    Page,
    Reading,
    heal_checkpoint,
    pages_for,
    read_checkpoint,
)
from daxmend.fs.finding import Finding, Invariant
from daxmend.fs.inode import RecordHead
from daxmend.fs.journal import FsJournal, Replay
from daxmend.fs.mirror import COPIES, Mirror
from daxmend.fs.state import State
from daxmend.fs.superblock import (
    Superblock,
    read_superblock,
    superblock_mirror,
    write_superblock,
)

if TYPE_CHECKING:
    from daxmend.dax.api import DaxDevice


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
            entries = sum(1 for each, _ in self.replay.damaged if each == copy)
            if entries:
                found.append(("journal", copy, f"{entries} damaged entries"))
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

    Raises `CorruptionError` or `UnsupportedError` where no superblock proves itself.
    """
    superblock, stale = read_superblock(device)
    checkpoint = Mirror(device, superblock.checkpoint)
    journal = FsJournal(device, superblock.journal, superblock.generation)
    losses: list[Finding] = []
    reading = _read_checkpoint(checkpoint, superblock, losses)
    state = State()
    state.next_ino = superblock.next_ino
    _load_records(state, reading.pages, losses)
    replay = journal.read()
    _replay(state, replay, losses)
    return Loaded(superblock, stale, checkpoint, reading, journal, replay, state, losses)


def _read_checkpoint(mirror: Mirror, superblock: Superblock, losses: list[Finding]) -> Reading:
    length = superblock.checkpoint_length
    if pages_for(length) > mirror.length:
        losses.append(Finding(Invariant.CHECKPOINT, f"{length} bytes do not fit into its extents"))
        return Reading([], [])
    return read_checkpoint(mirror, length, superblock.generation)


def _load_records(state: State, pages: list[Page | None], losses: list[Finding]) -> None:
    """Cut the stream of pages into records; those that a lost page cuts are lost."""
    stream = bytearray()
    is_in_step = True
    for index, page in enumerate(pages):
        if page is None:
            what = f"both copies of page {index} of the checkpoint, and inodes with it"
            losses.append(Finding(Invariant.CHECKPOINT, f"lost: {what}"))
            _cut_records(state, bytes(stream), losses, is_cut=True)
            stream.clear()
            is_in_step = False
        elif is_in_step:
            stream += page.payload
        elif page.first_record != NO_RECORD:
            stream += page.payload[page.first_record :]
            is_in_step = True
    _cut_records(state, bytes(stream), losses, is_cut=False)


def _cut_records(state: State, stream: bytes, losses: list[Finding], *, is_cut: bool) -> None:
    at = 0
    while at < len(stream):
        try:
            head = RecordHead.unpack_from(stream, at)
        except CorruptionError as error:
            if not is_cut:
                losses.append(Finding(Invariant.RECORD, str(error)))
            return
        state.add_record(head, stream[at : at + head.length])
        at += head.length


def _replay(state: State, replay: Replay, losses: list[Finding]) -> None:
    try:
        for payload in replay.payloads:
            for change in unpack_changes(payload):
                state.apply(change)
    except CorruptionError as error:
        losses.append(Finding(Invariant.JOURNAL, str(error)))
    if replay.lost:
        losses.append(Finding(Invariant.JOURNAL, f"both copies have lost {replay.lost}"))
