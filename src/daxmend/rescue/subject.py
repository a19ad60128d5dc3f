"""A file that is to be saved or repaired, wherever it lies.

A *subject* reads past caches and around what cannot be read, and writes so that what it wrote is
on the medium. There are four: a file of the running system (`hostfile.py`), which may lie on a
daxmend mount, a block device (`blockfile.py`), a dax device (`daxfile.py`), which is only read, and
a file in a pool that nobody has open (`poolfile.py`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Protocol

from daxmend.dax.api import Salvage
from daxmend.errors import BusyError
from daxmend.extent import Extent, merged
from daxmend.units import MIB, PAGE, align_down

if TYPE_CHECKING:
    from pathlib import Path

    from daxmend.host.deviceuser import User
    from daxmend.host.unknown import Unknown
    from daxmend.rescue.target import FileExtent

CHUNK = 4 * MIB  # what is asked for at once where nothing is known to be bad


class Subject(Protocol):
    """Offsets and lengths are bytes of the file. Closed by who opened it."""

    name: str  # as the operator called it
    size: int  # when it was opened
    notices: list[str]  # what the operator should know; some come late
    location: tuple[Path, bytes]  # the file, or a pool and the path in it
    has_holes: bool  # whether `punch` has somebody to give blocks back to

    def data(self) -> Iterator[Extent]:
        """Where the file is no hole, ascending; holes and unwritten extents are zeros (R13)."""

    def salvage(self, extent: Extent) -> Salvage:
        """Everything readable of a range inside the file, and what is lost (R12), in its offsets.

        Read from the medium, not from a cache. Never raises for what is bad; `ChangedError` if the
        file has become shorter, `OSError` if it cannot be asked at all.
        """

    def pieces(self, extent: Extent) -> Iterator[tuple[Extent, memoryview | None]]:
        """The same, ascending, in pieces: the bytes, valid until the next step, or None: lost."""

    def unreadable(self, extent: Extent) -> Iterator[Extent]:
        """What of a range programs cannot read through the file, ascending.

        All that is lost. More where a page is refused as a whole, and `salvage` gets its good bytes
        from below: all of them, where what is bad in the last page lies behind the file's end.
        """

    def validate(self) -> None:
        """Raise `ChangedError` if the size has changed, or another file has taken the name."""

    def user(self) -> User | None:
        """Who else has the disk that it is: it must not be written then.

        None if nobody has, and for what is no disk.
        """

    def is_same(self, other: Subject) -> bool:
        """Whether both are one file."""

    def is_same_as_path(self, path: str | os.PathLike[str]) -> bool:
        """Whether the path leads to it, or to what it is kept in."""

    @property
    def grain(self) -> int:
        """The bytes that are lost together, at least."""

    @property
    def is_touched(self) -> bool:
        """Whether the file was written to since it was opened, by its times."""

    @property
    def mtime_ns(self) -> int | None:
        """When it was last written to, as it was when it was opened; None if that is not known."""

    @property
    def mode(self) -> int:
        """Its permissions."""

    @property
    def owner(self) -> int:
        """The user it belongs to."""

    @property
    def identity(self) -> int:
        """A number that the file keeps while it lives, on its own file system."""

    def extents(self) -> list[FileExtent] | Unknown:
        """Where the file lies, ascending."""

    def sharers(self, extents: list[Extent]) -> list[str]:
        """The names of the other files that have the same blocks there (reflink).

        In words where they could not be asked; empty if the blocks are its own.
        """

    # Of a subject that was opened for writing. What they do is durable after `sync`.

    def write(self, offset: int, data: bytes) -> int:
        """Write whole pages, the last up to the end of the file; returns the bytes written.

        Fewer than asked where a page cannot be written; raises `OSError` if that is the first
        (R17). The size stays; if the machine stops meanwhile, it may be that of the whole last
        page: `restore_size`.
        """

    def zero(self, extent: Extent) -> str:
        """Zeros in place, by the best way there is (R29, R34); returns which. Raises `OSError`."""

    def punch(self, extent: Extent) -> None:
        """Give the pages of the range back to the file system (R35). Raises `OSError`."""

    def restore_size(self, size: int) -> None:
        """Cut off what a stopped `write` added, if that is all: else `ChangedError`."""

    def sync(self) -> None:
        """Everything written is durable on return; raises `OSError` if it is not."""

    def note_journal(self, path: Path | None) -> None:
        """Keep with the file where the journal of its repair lies, if it can; None: forget it."""

    def noted_journal(self) -> Path | None:
        """What `note_journal` kept; what anybody may have put there who can write the file."""

    def close(self) -> None:
        """Let go of it."""


def refined(extent: Extent, saved: Salvage, ask: Callable[[Extent], Salvage | None]) -> Salvage:
    """The same salvage of a range, with what `ask` has of what was lost; `saved` is changed.

    It is asked for a page, or a part of one, at a time, and answers None where it has nothing.
    """
    lost: list[Extent] = []
    for run in saved.lost:
        at = run.offset
        while at < run.end:
            part = Extent.between(at, min(run.end, align_down(at, PAGE) + PAGE))
            found = ask(part)
            if found is None:
                lost.append(part)
            else:
                start = at - extent.offset
                saved.data[start : start + part.length] = found.data
                lost += found.lost
            at = part.end
    return Salvage(saved.data, merged(lost))


def tell_cached(subject: Subject, saved: Salvage, before: list[Extent]) -> Salvage:
    """`saved`; where it has more than what was lost before, the operator is told why."""
    if saved.lost != before:
        said = (
            f"the medium has lost bytes of {subject.name} that the page cache still has: they are "
            "saved from there, while they can be"
        )
        if said not in subject.notices:
            subject.notices.append(said)
    return saved


def validate_free(name: str, user: User | None) -> None:
    """Raise `BusyError` where somebody has the disk (`Subject.user`)."""
    if user is not None:
        raise BusyError(
            f"{name} is {user.words}: what is written to it now would go past whoever has it; "
            f"{user.remedy}"
        )


def iter_lost(pieces: Iterable[tuple[Extent, memoryview | None]]) -> Iterator[Extent]:
    """The ranges of `Subject.pieces` that came to nothing."""
    return (part for part, data in pieces if data is None)


def collected(extent: Extent, pieces: Iterable[tuple[Extent, memoryview | None]]) -> Salvage:
    """The pieces of a range as a salvage has them."""
    data, lost = bytearray(extent.length), []
    for part, got in pieces:
        if got is None:
            lost.append(part)
        else:
            at = part.offset - extent.offset
            data[at : at + part.length] = got
    return Salvage(data, merged(lost))


def iter_pieces(extent: Extent, saved: Salvage) -> Iterator[tuple[Extent, memoryview | None]]:
    """A salvage of the range as `Subject.pieces` has it."""
    data = memoryview(saved.data)
    at = extent.offset
    for lost in [*saved.lost, None]:
        end = extent.end if lost is None else lost.offset
        if at < end:
            yield Extent.between(at, end), data[at - extent.offset : end - extent.offset]
        if lost is not None:
            yield lost, None
            at = lost.end
