"""From the pages of a checkpoint to the records in them (format.md §6.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from daxmend.errors import CorruptionError
from daxmend.fs.checkpoint import NO_RECORD, Page
from daxmend.fs.finding import Finding, Invariant
from daxmend.fs.inode import RecordHead

if TYPE_CHECKING:
    from collections.abc import Sequence

    from daxmend.fs.state import State


def load_records(state: State, pages: Sequence[Page | None], losses: list[Finding]) -> None:
    """Cut the stream of pages into records; those that a lost page cuts are lost, and named."""
    parts: list[bytes] = []  # of the stream, since the last lost page
    lost_from: int | None = None
    is_in_step = True
    for index, page in enumerate(pages):
        if page is None:
            if lost_from is None:
                lost_from = index
                _cut_records(state, b"".join(parts), losses, is_cut=True)
                parts.clear()
                is_in_step = False
            continue
        if lost_from is not None:
            losses.append(_lost_pages(lost_from, index))
            lost_from = None
        if is_in_step:
            parts.append(page.payload)
        elif page.first_record != NO_RECORD:
            parts.append(page.payload[page.first_record :])
            is_in_step = True
    if lost_from is not None:
        losses.append(_lost_pages(lost_from, len(pages)))
    _cut_records(state, b"".join(parts), losses, is_cut=False)


def _lost_pages(first: int, end: int) -> Finding:
    which = f"page {first}" if end == first + 1 else f"pages {first} to {end - 1}"
    what = f"lost: both copies of {which} of the checkpoint, and inodes with it"
    return Finding(Invariant.CHECKPOINT, what)


def _cut_records(state: State, stream: bytes, losses: list[Finding], *, is_cut: bool) -> None:
    at = 0
    while at < len(stream):
        try:
            head = RecordHead.unpack_from(stream, at)
        except CorruptionError as error:
            if not is_cut:
                losses.append(Finding(Invariant.RECORD, str(error)))
            return
        if head.ino in state:
            losses.append(Finding(Invariant.RECORD, f"inode {head.ino} has two records"))
        else:
            state.add_record(head, stream[at : at + head.length])
        at += head.length
