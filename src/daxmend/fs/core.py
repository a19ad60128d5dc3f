"""The state of the file system, and how it becomes durable (persistence.md §4).

A change takes effect in memory at once and waits in `_pending`; a commit puts all that waits into
the journal as one entry. When the journal is full, a checkpoint takes its place.
"""

from __future__ import annotations

import contextlib
import errno
import time
from typing import TYPE_CHECKING

from daxmend.errors import DaxmendError, MediaError, os_error
from daxmend.events import CopyHealed, MetadataHealed
from daxmend.extent import Extent, ExtentSet
from daxmend.fs.change import Change, InodeGone, InodeSet, pack_change
from daxmend.fs.checkpoint import pages_for, write_checkpoint
from daxmend.fs.extentmap import joined
from daxmend.fs.inode import NO_GAP, ROOT_INO, Inode
from daxmend.fs.loading import Loaded, load
from daxmend.fs.mend import mend
from daxmend.fs.mirror import COPIES, Mirror
from daxmend.fs.space import Space
from daxmend.fs.superblock import (
    MAX_EXTENTS,
    next_generation,
    superblock_mirror,
    write_superblock,
)
from daxmend.units import KIB, MIB, PAGE, SECTOR

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from daxmend.dax.api import DaxDevice
    from daxmend.fs.extentmap import Run

_COMMIT_NS = 10**9  # what was changed is durable after a second, asked for or not
_PENDING_LIMIT = 256 * KIB
_SLICE = 8 * MIB  # of what failed, looked at in one turn of `tidy`
_SPARE_PAGES = 16  # of the next checkpoint, for what must not fail
_NO_JOURNAL = (
    "the journal is out of use, for its first page is bad and was not cleared; nothing is lost, "
    "but each commit writes all metadata anew: better copy the files to another pool"
)


class Core:
    """What all operations stand on. Mutations hold `lock`, which is the device's."""

    def __init__(
        self,
        device: DaxDevice,
        *,
        commits_each: bool,
        writable: bool = True,
        loaded: Loaded | None = None,
    ) -> None:
        self.device = device
        self.events = device.events
        self.lock = device.lock
        self.root = ROOT_INO
        self.is_read_only = not writable
        self.notices: list[str] = []
        self._commits_each = commits_each
        self._pending: list[bytes] = []
        self._pending_length = 0
        self._dirty: set[int] = set()  # inodes whose attributes the next commit holds
        self._last_commit_ns = time.monotonic_ns()
        self._has_failed = False
        self._failures = ExtentSet(SECTOR)  # since `tidy` looked
        self._unsorted = ExtentSet(SECTOR)  # failed, and may have bad free pages yet
        loaded = _shown(device, loaded or load(device))
        self._superblock = loaded.superblock
        self._journal = loaded.journal
        self._checkpoint = loaded.checkpoint
        self._state = loaded.state
        self._live = loaded.state.live
        self._space = Space(device)
        self._reserve = Mirror(device, ((), ()))  # where the next checkpoint goes
        with self.lock:
            self._open(loaded)
        device.set_holder(self)

    # -- opening ---------------------------------------------------------------------------

    def _open(self, loaded: Loaded) -> None:
        for loss in loaded.losses:
            self._lose(str(loss))
        if loaded.losses:
            name = self.device.name
            self.notices.append(f"{name}: what a repair would do: daxmend check {name} --repair")
        is_healed = not self.is_read_only and self._heal(loaded)
        for structure, copy, reason in loaded.damage():
            self._tell_damage(structure, copy, reason, is_healed=is_healed)
        self._find_space()
        if not self.is_read_only:
            self._begin_journal()
            if not self._superblock.has_journal:
                self.notices.append(f"{self.device.name}: {_NO_JOURNAL}")
            self._remove_nameless()
            self._make_some_room(0)
            self._failures.add(Extent(0, self.device.size))

    def _heal(self, loaded: Loaded) -> bool:
        """Whether the damaged copies could be rewritten; `tidy` tries again."""
        try:
            loaded.heal(self.device)
        except MediaError as error:
            self.notices.append(f"{self.device.name}: a copy could not be rewritten: {error}")
            return False
        return True

    def _begin_journal(self) -> None:
        """Mark the generation. A journal that does not take that is out of use: checkpoints do."""
        with self._must_succeed():
            try:
                self._journal.begin()
                takes_mark = True
            except MediaError:
                takes_mark = False
            if takes_mark != self._superblock.has_journal:
                self._superblock = self._superblock._replace(has_journal=takes_mark)
                write_superblock(self.device, self._superblock)

    def _tell_damage(self, structure: str, copy: int, reason: str, *, is_healed: bool) -> None:
        what = f"{self.device.name}: {structure}, copy {copy}: {reason}"
        if is_healed:
            self.notices.append(f"{what}; rewritten from the other copy")
            self.events.publish(CopyHealed(structure, copy, reason))
        else:
            self.notices.append(f"{what}; the other copy is used")

    def _lose(self, what: str) -> None:
        """Something is gone: the rest stays readable, and nothing is written any more."""
        self.is_read_only = True
        self.notices.append(f"{self.device.name}: {what}; the file system is read-only")

    def _find_space(self) -> None:
        """What superblocks, journal, checkpoint and files leave is free."""
        for mirror in (superblock_mirror(self.device), self._journal.mirror):
            for extent in mirror.extents():
                self._space.take(extent)
        for extent in self._checkpoint.extents():
            self._space.take(extent)
        for place, pages in joined(self._state.iter_places()):
            self._space.take(Extent(place * PAGE, pages * PAGE))
        if not self._space.is_consistent:
            self._lose("pages belong to two files, or lie outside the device")

    def _remove_nameless(self) -> None:
        """Files that were unlinked but open when the machine stopped."""
        for ino in self._state.nameless():
            self._change(InodeGone(ino))

    # -- changes ---------------------------------------------------------------------------

    def _check_writable(self) -> None:
        if self.is_read_only:
            raise os_error(errno.EROFS)

    def _inode(self, ino: int) -> Inode:
        return self._state.inode(ino)

    def _change(self, change: Change) -> None:
        """Let it take effect; it becomes durable with the next commit."""
        self._free_runs(self._state.apply(change))
        packed = pack_change(change)
        self._pending.append(packed)
        self._pending_length += len(packed)

    def _free_runs(self, runs: Iterable[Run]) -> None:
        for place, pages in joined((run.place, run.pages) for run in runs):
            self._space.free(Extent(place * PAGE, pages * PAGE))

    def _touch(self, inode: Inode, **attributes: int) -> None:
        """Set attributes in memory; the next commit holds them, whatever else it does."""
        if attributes.get("size", inode.attributes.size) != inode.attributes.size:
            inode.gap = NO_GAP
        inode.attributes = inode.attributes._replace(**attributes)
        inode.record = None
        self._dirty.add(inode.ino)

    def _end_operation(self) -> None:
        """Commit if it is time to."""
        if self._commits_each or self._pending_length > _PENDING_LIMIT:
            self._commit()

    def _commit(self) -> None:
        """All changes so far are durable on return, and what they freed may be reused.

        If that fails, nothing is written any more: what is on the medium is the last good state.
        """
        self._last_commit_ns = time.monotonic_ns()
        for ino in self._dirty:
            if ino in self._state:
                self._pending.append(pack_change(InodeSet(self._inode(ino).attributes)))
        self._dirty.clear()
        if not self._pending:
            return
        payload = b"".join(self._pending)
        if not self._append(payload):
            self._write_checkpoint()
        self._pending.clear()
        self._pending_length = 0
        self._space.settle()

    def _append(self, payload: bytes) -> bool:
        """Whether the journal took it."""
        if not self._journal.has_room(len(payload)):
            return False
        with self._must_succeed():
            try:
                self._journal.append(payload)
            except MediaError:
                return False  # a checkpoint goes elsewhere
        return True

    @contextlib.contextmanager
    def _must_succeed(self) -> Iterator[None]:
        """After a failure nothing is written any more: nobody knows how much of it is durable."""
        try:
            yield
        except (OSError, DaxmendError) as error:
            self._has_failed = True
            self._lose(f"a commit failed: {error}")
            raise

    def sync(self) -> None:
        """Everything that was done so far is durable on return."""
        with self.lock:
            if self._has_failed:
                raise os_error(errno.EIO)
            if self._pending or self._dirty:
                self._commit()
            else:
                self.device.fence()

    # -- checkpoints -----------------------------------------------------------------------

    def _make_room(self, growth: int) -> None:
        """Make sure that the next checkpoint has a place, with `growth` bytes more of records.

        Raises ENOSPC, before anything changes, if it would not have one.
        """
        needed = (pages_for(self._state.records_length + growth) + _SPARE_PAGES) * PAGE
        if self._has_room(needed):
            return
        if self._space.has_freed:
            self._commit()
        if not self._has_room(needed):
            raise os_error(errno.ENOSPC)

    def _has_room(self, needed: int) -> bool:
        """Whether the next checkpoint and the one after it have places, after trying for them."""
        if self._reserve.length < needed:
            self._reserve = self._extended(self._reserve, needed)
        if self._reserve.length < needed:
            self._renew_reserve(needed)
        if self._checkpoint.length < needed:  # what is added to it is on no medium yet
            self._checkpoint = self._extended(self._checkpoint, needed)
        return self._reserve.length >= needed and self._checkpoint.length >= needed

    def _renew_reserve(self, needed: int) -> None:
        """Choose it anew: it may have come to lie in too many pieces. It never gets shorter."""
        old = self._reserve
        self._drop_reserve()
        self._reserve = self._extended(self._reserve, needed)
        if self._reserve.length < old.length and not self._is_bad(old):
            self._drop_reserve()
            for extent in old.extents():
                self._space.claim(extent)
            self._reserve = old

    def _is_bad(self, mirror: Mirror) -> bool:
        return any(any(self._bad_in(extent)) for extent in mirror.extents())

    def _bad_in(self, extent: Extent) -> Iterator[Extent]:
        return (bad for bad, _ in self.device.badblocks(extent))

    def _drop_reserve(self) -> None:
        for extent in self._reserve.extents():
            self._space.give_back(extent)
            self._space.seclude(self._bad_in(extent))
        self._reserve = Mirror(self.device, ((), ()))

    def _return_room(self) -> bool:
        """Free what checkpoints needed once and do not any more; whether that was anything."""
        before = self._space.free_length
        needed = (pages_for(self._state.records_length) + _SPARE_PAGES) * PAGE
        if self._checkpoint.length > 2 * needed and self._can_checkpoint():
            self.checkpoint()
        if self._reserve.length > 2 * needed:
            self._drop_reserve()
            self._has_room(needed)
        return self._space.free_length > before

    def _extended(self, mirror: Mirror, needed: int) -> Mirror:
        """The same pages with more behind them: `needed` bytes, or what can be had."""
        first, second = (self._more_pages(mirror.copies[copy], needed) for copy in COPIES)
        return Mirror(self.device, (first, second))

    def _make_some_room(self, growth: int) -> None:
        """As `_make_room`, for what must not fail: there are spare pages for that.

        Raises ENOSPC when they are used up: a checkpoint of what is in memory must have a place.
        """
        try:
            self._make_room(growth)
        except OSError:
            needed = pages_for(self._state.records_length + growth) * PAGE
            if growth and min(self._reserve.length, self._checkpoint.length) < needed:
                raise

    def _more_pages(self, extents: Sequence[Extent], needed: int) -> list[Extent]:
        """One copy with as many pages as needed; with more of them where there is much space."""
        found = list(extents)
        has = sum(extent.length for extent in found)
        wanted = 2 * needed
        if self._space.free_length < 8 * wanted:
            is_tight = self._space.free_length < 8 * _SPARE_PAGES * PAGE
            wanted = needed if is_tight else needed + _SPARE_PAGES * PAGE
        try:
            while has < wanted and len(found) < MAX_EXTENTS:
                found.append(self._space.allocate(wanted - has))
                has += found[-1].length
        except OSError:
            pass  # the caller looks at what it has got
        return found

    def checkpoint(self) -> None:
        """Write everything anew, as a checkpoint; durable on return."""
        with self.lock:
            self._check_writable()
            self._commit()
            self._write_checkpoint()

    def _can_checkpoint(self) -> bool:
        needed = pages_for(self._state.records_length) * PAGE
        return self._has_room(needed) or self._reserve.length >= needed

    def _write_checkpoint(self) -> None:
        """The state as it is replaces checkpoint and journal; durable on return."""
        with self._must_succeed():
            bad = (bad for extent in self._reserve.extents() for bad in self._bad_in(extent))
            self._clear_reserve(ExtentSet(PAGE, (each.widened(PAGE) for each in bad)))
            if not self._can_checkpoint():
                raise os_error(errno.ENOSPC)
            generation = next_generation(self._superblock.generation)
            self.device.fence()
            length = write_checkpoint(self._reserve, self._state.records(), generation)
            self.device.fence()
            self._superblock = self._superblock._replace(
                generation=generation,
                next_ino=self._state.next_ino,
                checkpoint_length=length,
                checkpoint=self._reserve.copies,
                has_journal=not self._is_bad(self._journal.marks),
            )
            write_superblock(self.device, self._superblock)
        self._journal.restart(generation)
        self._begin_journal()
        self._checkpoint, self._reserve = self._reserve, self._checkpoint

    # -- background ------------------------------------------------------------------------

    def notify_failure(self, extent: Extent) -> None:
        """See `daxmend.dax.api.Holder`: `tidy` heals metadata, when no operation is under way."""
        self._failures.add(extent.widened(SECTOR))
        self._space.seclude([extent])

    def tidy(self) -> bool:
        """A slice of what has to be done in the background; True if there is more.

        Commits what has waited for a second, heals metadata that went bad, puts bad free pages into
        quarantine, clears them and frees them (R31, R43).
        """
        with self.lock:
            if self.is_read_only:
                return False
            is_due = time.monotonic_ns() - self._last_commit_ns > _COMMIT_NS
            if (self._pending or self._dirty) and is_due:
                self._commit()
            self._look_at_failures()
            has_more = self._seclude_some()
            return self._space.clear_some() or has_more

    def _look_at_failures(self) -> None:
        """All metadata that is among them heals at once; `_seclude_some` has the rest."""
        failures, self._failures = self._failures, ExtentSet(SECTOR)
        self._unsorted.update(failures)
        pages = ExtentSet(PAGE)
        for mirror in (superblock_mirror(self.device), *self._mirrors()):
            for part in mirror.parts(failures):
                pages.update(bad.widened(PAGE) for bad in self._bad_in(part))
        if pages:
            self._heal_metadata(pages)

    def _seclude_some(self) -> bool:
        """Put bad free pages into quarantine, in a slice of what failed; whether there is more."""
        run = next(iter(self._unsorted), None)
        if run is not None:
            piece = Extent(run.offset, min(run.length, _SLICE))
            self._space.seclude(self._bad_in(piece))
            self._unsorted.discard(piece)
        return bool(self._unsorted)

    def is_metadata(self, extent: Extent) -> bool:
        """True if the device's range touches what the file system itself lives on."""
        mirrors = (superblock_mirror(self.device), *self._mirrors())
        return any(mirror.overlaps(extent) for mirror in mirrors)

    def _mirrors(self) -> tuple[Mirror, Mirror, Mirror]:
        return self._journal.mirror, self._checkpoint, self._reserve

    def _heal_metadata(self, bad: ExtentSet) -> None:
        """What is in memory is the best copy there is: a checkpoint of it goes elsewhere (R43).

        `bad` are its pages, and perhaps others, which stay as they are.
        """
        superblock = superblock_mirror(self.device)
        if any(superblock.parts(bad)):
            with contextlib.suppress(MediaError):
                write_superblock(self.device, self._superblock)
            self._tell_healed(superblock.parts(bad))
        if not any(any(mirror.parts(bad)) for mirror in self._mirrors()):
            return
        self._commit()  # before: it may make the reserve the checkpoint
        self._clear_reserve(bad)
        journal = list(self._journal.mirror.parts(bad))
        if (journal or any(self._checkpoint.parts(bad))) and self._can_checkpoint():
            self.checkpoint()  # now nothing of the journal is in use, nor of the old checkpoint
            for extent in journal:  # but for the new mark, which healed what it was written to
                for bad_still in list(self._bad_in(extent)):
                    with contextlib.suppress(MediaError):
                        self.device.zeroinit(bad_still.widened(PAGE))
            self._tell_healed(journal)
            self._clear_reserve(bad)
        self._make_some_room(0)

    def _clear_reserve(self, bad: ExtentSet) -> None:
        """Nothing of it is in use. What the medium does not clear is no place for a checkpoint."""
        parts = list(self._reserve.parts(bad))
        for extent in parts:
            with contextlib.suppress(MediaError):
                self.device.zeroinit(extent)
        self._tell_healed(parts)
        if any(any(self._bad_in(extent)) for extent in parts):
            self._drop_reserve()

    def _tell_healed(self, parts: Iterable[Extent]) -> None:
        for extent in parts:
            if not any(self._bad_in(extent)):
                self.events.publish(MetadataHealed(extent))

    def close(self) -> None:
        """Commit everything, as a checkpoint if that can be; the device stays open."""
        with self.lock:
            try:
                if not self.is_read_only:
                    self._commit()
                    if not self._journal.is_empty:
                        with contextlib.suppress(OSError):  # the journal has it all
                            self._write_checkpoint()
                    self.is_read_only = True
            finally:
                self.device.set_holder(None)


def _shown(device: DaxDevice, loaded: Loaded) -> Loaded:
    """Where something is lost: the state as a repair would leave it, so that all can be reached.

    Not if that took pages from files, which would read as zeros.
    """
    if not loaded.losses:
        return loaded
    mended = mend(device, loaded)
    return load(device) if mended.takes_pages else loaded._replace(state=mended.state)
