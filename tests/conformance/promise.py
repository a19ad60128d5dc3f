"""What the rules promise for each step of a scenario: the one result accepted. No I/O.

`Model.apply(step)` computes the promise and moves the model on; `Model.adopt` then takes over what
the rules leave to the mount. All the freedom there is:

- R31: sectors of freed pages may be in the record still, or not any more (`Record.maybe`).
- Where the allocator puts a page that is newly mapped (`Slot.phys` is FRESH until adopted).
- R10: O_DIRECT on a cached open: page or sector grain, because the read reaches the server whole,
  and the rule's reason ("the kernel reads whole pages") fails. copy_file_range in either open: the
  same, because it goes through the page cache unless the server does it.
- R13, R29, R32: sectors under unwritten parts that no rule keeps bad: healed or not.
- R27: fsync after a page that was dirtied through a mapping went bad: 0 or EIO.
- R33, R50: a write that ends inside a bad sector of the raw device: held, or cut short.
- R50: a buffer that is not resident is cut by the kernel anywhere; a write that begins inside a
  bad page may then be refused by its first piece (R16).
- A tail page that a punch covers up to the file's end, and not to its own: freed or zeroed.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from answer import (
    GRAIN,
    INEXPRESSIBLE,
    UNKNOWN_DATA,
    UNTOUCHED_START,
    Answer,
    Mapping,
    Outcome,
    PagePlan,
    Promise,
    Step,
    direct_of,
    end_of,
    failed,
    mapping_of,
    ok,
    sigbus,
)
from state import (
    FILE,
    FIRST_PAGES,
    FRESH,
    HOLE,
    OTHER,
    PAGE,
    PER_PAGE,
    SECTOR,
    UNWRITTEN,
    WRITTEN,
    FileState,
    Record,
    Slot,
    format_runs,
    pieces_of,
)


@dataclass
class Model:
    """The file of a scenario, its device, a second file; `mode` is `direct` or `cached`.

    `buffer`: where the data of writes lies: `aligned`, `unaligned` or `untouched` (R50).
    """

    mode: str
    buffer: str = "aligned"
    record: Record = field(default_factory=Record)
    files: dict[str, FileState] = field(default_factory=dict)
    why_page: dict[int, tuple[str, ...]] = field(default_factory=dict)
    why_size: tuple[str, ...] = ()
    lost_store: bool = False
    copied: bool = False
    _next_fresh: int = FRESH

    def __post_init__(self) -> None:
        """The start of every scenario: 64 pages of `A` in one extent."""
        slots = {page: Slot(page, True, bytearray(b"A" * PAGE)) for page in range(FIRST_PAGES)}
        self.files[FILE] = FileState(FIRST_PAGES * PAGE, slots)

    # -- the two calls ---------------------------------------------------------------------

    def apply(self, step: Step) -> Promise:
        """What is promised for the step; the model is then in the state after it."""
        before = frozenset(self.record.maybe)
        act: Callable[[Step], Outcome] = getattr(self, f"_do_{step['op']}")
        outcome = act(step)
        touched = frozenset(outcome.touched)
        if outcome.rules and outcome.changes:
            for page in touched:
                self.why_page[page] = outcome.rules
        freedom = outcome.freedom
        if not freedom and (self.record.maybe or before):
            freedom = "R31: quarantined sectors are cleared in the background"
        return Promise(
            tuple(outcome.answers),
            outcome.rules,
            touched,
            frozenset(self.record.bad),
            frozenset(self.record.maybe),
            outcome.expressible,
            freedom,
            outcome.may_refuse,
        )

    def refuse(self) -> Promise:
        """The promise for a write whose cut first piece was refused: EIO, nothing changed (R16)."""
        bad, maybe = frozenset(self.record.bad), frozenset(self.record.maybe)
        return Promise(({"errno": "EIO"},), ("R16", "R50"), bad=bad, maybe=maybe)

    def adopt(self, bad_after: Iterable[int], mappings: dict[str, Mapping] | None) -> list[str]:
        """Take over what was left to the mount; complains of what was not left to it."""
        seen = set(bad_after)
        self.record.adopt(seen)
        if mappings is None:
            return []
        found = [
            text
            for name, file in self.files.items()
            for text in self._adopt_file(name, file, mappings.get(name, {}), seen)
        ]
        found += [f"there is no file '{name}'" for name in mappings if name not in self.files]
        owners: dict[int, str] = {}
        for name, file in self.files.items():
            for page, slot in file.slots.items():
                here = f"{name} page {page}"
                if owners.setdefault(slot.phys, here) != here:
                    found.append(f"{here} and {owners[slot.phys]} are the same device page")
        return found

    def _adopt_file(self, name: str, file: FileState, seen: Mapping, bad: set[int]) -> list[str]:
        found = []
        for page in sorted(file.slots.keys() | seen.keys()):
            slot, (phys, kind) = file.slots.get(page), seen.get(page, (None, HOLE))
            allowed = {HOLE} if slot is None else slot.kinds or {slot.kind}
            if kind not in allowed:
                found.append(f"{name} page {page} is {kind}, promised {' or '.join(allowed)}")
            elif slot is not None:
                found += self._adopt_slot(file, page, slot, phys, kind, bad)
        return found

    def _adopt_slot(
        self, file: FileState, page: int, slot: Slot, phys: int | None, kind: str, bad: set[int]
    ) -> list[str]:
        slot.kinds = frozenset()
        if phys is None:  # freed, where that was allowed
            self.record.free(file.slots.pop(page).sectors, "R31")
            return []
        slot.written = kind == WRITTEN
        if slot.phys == phys:
            return []
        if slot.phys < FRESH:
            return [f"page {page} moved from device page {slot.phys} to {phys}"]
        slot.phys = phys
        inherited = sorted(bad & set(slot.sectors))
        return [f"page {page} was given bad sectors {inherited} (R31)"] if inherited else []

    # -- what is bad -----------------------------------------------------------------------

    def _bad_in(self, slot: Slot) -> list[tuple[int, int]]:
        """The recorded sectors of a page, as `[lo, hi)` within it."""
        first = slot.phys * PER_PAGE
        return [
            (n * SECTOR, (n + 1) * SECTOR) for n in range(PER_PAGE) if first + n in self.record.bad
        ]

    def _visible_bad(self, file: FileState, page: int) -> list[tuple[int, int]]:
        """R13: under holes and unwritten parts nothing is bad."""
        slot = file.slots.get(page)
        return self._bad_in(slot) if slot is not None and slot.written else []

    def _bad_pages(self, file: FileState, offset: int, end: int) -> list[int]:
        return [page for page, _, _ in pieces_of(offset, end) if self._visible_bad(file, page)]

    def _first_bad(self, file: FileState, offset: int, end: int, grain: int) -> int:
        """Where a read that begins at `offset` must stop; `end` if nowhere (R10, R11)."""
        for page, _, _ in pieces_of(offset, end):
            for lo, hi in self._visible_bad(file, page):
                start, stop = (0, PAGE) if grain == PAGE else (lo, hi)
                if page * PAGE + stop > offset and page * PAGE + start < end:
                    return max(page * PAGE + start, offset)
        return end

    # -- injection -------------------------------------------------------------------------

    def _do_inject(self, step: Step) -> Outcome:
        """R2; a sector that no file has is free space, and may be cleared at once (R31)."""
        for sector in range(step["sector"], step["sector"] + step["count"]):
            self.record.why.pop(sector, None)
            owner = self._owner_of(sector // PER_PAGE)
            if owner is not None:
                self.record.maybe.discard(sector)
                self.record.doomed.discard(sector)
                self.record.bad.add(sector)
                file, page = owner
                self.lost_store = self.lost_store or page in file.stored
            else:
                self.record.maybe.add(sector)
                self.record.why[sector] = ("R31",)
                if 0 <= sector < FIRST_PAGES * PER_PAGE:
                    self.record.doomed.add(sector)
        return Outcome([{}])

    def _owner_of(self, phys: int) -> tuple[FileState, int] | None:
        for file in self.files.values():
            for page, slot in file.slots.items():
                if slot.phys == phys:
                    return file, page
        return None

    # -- reading (R10, R11, R13) -----------------------------------------------------------

    def _read(self, offset: int, length: int, grains: list[str]) -> Outcome:
        file = self.files.get(FILE)
        if file is None:
            return failed("ENOENT")
        end = max(min(offset + length, file.size), offset)
        answers: list[Answer] = []
        for grain in grains:
            answer = self._read_answer(file, offset, end, GRAIN[grain])
            if answer not in answers:
                answers.append(answer)
        outcome = Outcome(answers, self._read_rules(file, offset, end, answers[0]), changes=False)
        outcome.touched = [page for page, _, _ in pieces_of(offset, offset + length)]
        outcome.freedom = "R10: the read is not the page cache's" if len(answers) > 1 else ""
        return outcome

    def _read_answer(self, file: FileState, offset: int, end: int, grain: int) -> Answer:
        stop = self._first_bad(file, offset, end, grain)
        if stop <= offset and offset < end:
            return {"errno": "EIO"}
        return {"ret": stop - offset, "data": format_runs(file.content(offset, stop))}

    def _read_rules(
        self, file: FileState, offset: int, end: int, answer: Answer
    ) -> tuple[str, ...]:
        if self._bad_pages(file, offset, end):
            return ("R11",) if answer.get("ret", end) < end - offset else ("R10",)
        slots = [file.slots.get(page) for page, _, _ in pieces_of(offset, end)]
        under = any(slot and not slot.written and self._bad_in(slot) for slot in slots)
        return ("R13",) if under else ()

    def _do_pread(self, step: Step) -> Outcome:
        """R10, R11: sector grain in direct opens, page grain in cached ones."""
        if self.mode == "direct":
            grains = ["sector"]
        else:
            grains = ["page", "sector"] if direct_of(step) else ["page"]
        return self._read(step["off"], step["len"], grains)

    def _do_preadv(self, step: Step) -> Outcome:
        return self._do_pread({**step, "len": sum(step["lens"])})

    def _do_sendfile(self, step: Step) -> Outcome:
        """A read through the page cache, also of a direct open (measured on 6.18): page grain."""
        return self._read(step["off"], step["len"], ["page"])

    def _do_copy_range(self, step: Step) -> Outcome:
        """Read through the page cache, or by the server, which sees sectors."""
        self.copied = True
        return self._read(step["off"], step["len"], ["page", "sector"])

    # -- writing (R13-R17, R50) ------------------------------------------------------------

    def _do_pwrite(self, step: Step) -> Outcome:
        return self._do_pwritev({**step, "lens": [step["len"]]})

    def _do_pwritev(self, step: Step) -> Outcome:
        return self._write(FILE, step["off"], step["lens"], ord(step.get("byte", "B")))

    def _do_other_file_write(self, step: Step) -> Outcome:
        """A second file, made by its first write; the first one's poison never reaches it (R31)."""
        self.files.setdefault(OTHER, FileState())
        byte = ord(step.get("byte", "o"))
        return self._write(OTHER, step.get("off", 0), [step["len"]], byte)

    def _write(self, name: str, offset: int, lens: list[int], byte: int) -> Outcome:
        file, length = self.files.get(name), sum(lens)
        if file is None:
            return failed("ENOENT")
        plans = [
            self._plan_page(file, page, lo, hi, file.size)
            for page, lo, hi in pieces_of(offset, offset + length)
        ]
        bad = [plan for plan in plans if plan.verdict in ("heal", "part", "refuse")]
        touched = [plan.page for plan in plans] if name == FILE else ()
        if plans and plans[0].verdict == "refuse" and plans[0].lo:
            self._keep_bad(file, plans[0].page, "R16")
            return failed("EIO", "R16", touched=touched)
        held = bool(plans) and plans[-1].verdict == "refuse"
        rules = self._write_rules(offset, length, bad, held)
        may_be_cut = self._may_be_cut(plans, lens)
        for plan in plans:
            self._write_page(file, plan, byte, rules)
        if not held and length:
            self._set_size(name, file, max(file.size, offset + length), rules)
        answer: Answer = {"ret": length, "close": "EIO"} if held else {"ret": length}
        if name == OTHER:  # the runner reads it back
            grain = SECTOR if self.mode == "direct" else PAGE
            seen = self._read_answer(file, offset, offset + length, grain)
            answer["data"] = seen.get("data", "")
        freedom = "R50, R16: the kernel may cut the write's first page" if may_be_cut else ""
        return Outcome([answer], rules, touched, freedom=freedom, may_refuse=may_be_cut)

    def _plan_page(self, file: FileState, page: int, lo: int, hi: int, size: int) -> PagePlan:
        """R16: bytes beyond the end of the file count as covered."""
        slot = file.slots.get(page)
        if slot is None or not slot.written:
            return PagePlan(page, lo, hi, "fresh")
        bad = self._bad_in(slot)
        if not bad:
            return PagePlan(page, lo, hi, "plain")
        if (lo, hi) == (0, PAGE):
            return PagePlan(page, lo, hi, "heal")
        return PagePlan(
            page, lo, hi, "part" if _covers(bad, lo, hi, size - page * PAGE) else "refuse"
        )

    def _may_be_cut(self, plans: list[PagePlan], lens: list[int]) -> bool:
        """R50: only what begins at a page's first byte is held.

        The kernel cuts where a page of the buffer ends: the first of them has UNTOUCHED_START bytes
        before the data.
        """
        if self.buffer != "untouched" or not plans:
            return False
        first = plans[0]
        if first.verdict != "part" or not first.lo:
            return False
        length = lens[0] if lens else 0
        end_of_piece = min(length, PAGE - UNTOUCHED_START)
        return end_of_piece < first.hi - first.lo

    def _write_rules(
        self, offset: int, length: int, bad: list[PagePlan], held: bool
    ) -> tuple[str, ...]:
        if not bad:
            return ()
        rules = set()
        if any(plan.verdict == "heal" for plan in bad):
            rules.add("R15" if offset % PAGE or (offset + length) % PAGE else "R14")
        if any(plan.verdict == "part" for plan in bad):
            rules.add("R16")
        if held:
            rules.add("R50")
        return tuple(sorted(rules))

    def _write_page(
        self, file: FileState, plan: PagePlan, byte: int, rules: tuple[str, ...]
    ) -> None:
        if plan.verdict == "refuse":
            self._keep_bad(file, plan.page, *rules)
            return
        slot = file.slots.get(plan.page)
        if slot is None:
            slot = file.slots[plan.page] = self._fresh(file, plan.page, written=True)
        elif not slot.written:
            self.record.heal(slot.sectors, "R13")
            slot.written, slot.kinds = True, frozenset()
        elif plan.verdict != "plain":
            self.record.heal(slot.sectors, *rules)
        slot.data[plan.lo : plan.hi] = bytes([byte]) * (plan.hi - plan.lo)

    def _fresh(self, file: FileState, page: int, *, written: bool) -> Slot:
        """A newly mapped page; that it is in another place than a kernel's begins with R13."""
        if file is self.files.get(FILE):
            self.why_page.setdefault(page, ("R13",))
        self._next_fresh += 1
        return Slot(self._next_fresh, written)

    def _keep_bad(self, file: FileState, page: int, *rules: str) -> None:
        self.record.keep(file.slots[page].sectors, *rules)

    def _set_size(self, name: str, file: FileState, size: int, rules: tuple[str, ...]) -> None:
        if size != file.size and name == FILE and rules:
            self.why_size = rules
        file.size = size

    # -- mapped access (R24, R13) ----------------------------------------------------------

    def _do_load(self, step: Step) -> Outcome:
        file, offset = self.files.get(FILE), step["off"]
        if file is None:
            return failed("ENOENT")
        if (fault := self._fault(file, offset)) is not None:
            return fault
        slot = file.slots.get(offset // PAGE)
        byte = slot.data[offset % PAGE] if slot is not None and slot.written else 0
        rules = ("R13",) if slot is not None and not slot.written and self._bad_in(slot) else ()
        return Outcome([{"ok": f"load ok {chr(byte)}"}], rules, [offset // PAGE], changes=False)

    def _fault(self, file: FileState, offset: int) -> Outcome | None:
        page = offset // PAGE
        if page >= -(-file.size // PAGE):
            return Outcome([sigbus(offset)], (), [page])  # beyond the last page: mmap(2)
        if not self._visible_bad(file, page):
            return None
        return Outcome([sigbus(offset)], ("R24",), [page], changes=False)

    def _do_store(self, step: Step) -> Outcome:
        """R13 for what was not written: the store, when it is written back, heals and allocates."""
        file, offset = self.files.get(FILE), step["off"]
        if file is None:
            return failed("ENOENT")
        if (fault := self._fault(file, offset)) is not None:
            return fault
        self._store(file, offset)
        return Outcome([{"ok": "store ok"}], (), [offset // PAGE])

    def _store(self, file: FileState, offset: int) -> None:
        page, is_inside = offset // PAGE, offset < file.size
        file.stored.add(page)
        slot = file.slots.get(page)
        if slot is None:
            slot = file.slots[page] = self._fresh(file, page, written=True)
            slot.kinds = frozenset() if is_inside else frozenset({HOLE, WRITTEN})
        elif not slot.written:
            if is_inside:
                self.record.heal(slot.sectors, "R13")
                slot.written, slot.kinds = True, frozenset()
            else:  # the kernel writes back up to the end of the file, perhaps
                self.record.release(slot.sectors, "R13")
                slot.kinds = frozenset({UNWRITTEN, WRITTEN})
        if is_inside:  # beyond the end it is dropped
            slot.data[offset % PAGE] = ord("w")

    def _do_fsync(self, step: Step) -> Outcome:
        """R27: fsync may report a store that was lost."""
        file = self.files.get(FILE)
        if file is None:
            return failed("ENOENT")
        outcome = ok()
        if self.lost_store:
            outcome.answers.append({"errno": "EIO"})
            outcome.rules, outcome.freedom = ("R27",), "R27: a store may have been lost"
        self.lost_store = False
        file.stored.clear()
        return outcome

    # -- fallocate (R29-R31) ---------------------------------------------------------------

    def _do_fallocate(self, step: Step) -> Outcome:
        file, mode = self.files.get(FILE), step["mode"]
        if file is None:
            return failed("ENOENT")
        if step["len"] <= 0 or step["off"] < 0:
            return failed("EINVAL")
        if mode in INEXPRESSIBLE:
            refused = failed("ENOTSUP")
            refused.expressible = False
            return refused
        act: Callable[[FileState, int, int], Outcome] = getattr(self, f"_{mode}")
        return act(file, step["off"], step["off"] + step["len"])

    def _alloc(self, file: FileState, offset: int, end: int) -> Outcome:
        """Holes become unwritten extents; what is there stays, also what is bad."""
        for page, _, _ in pieces_of(offset, end):
            if page not in file.slots:
                file.slots[page] = self._fresh(file, page, written=False)
        self._set_size(FILE, file, max(file.size, end), ())
        return ok()

    def _edges(self, file: FileState, offset: int, end: int) -> tuple[list[PagePlan], int | None]:
        """The pages covered in part, and the first of them that cannot be healed (R30)."""
        plans = [
            self._plan_page(file, page, lo, hi, file.size)
            for page, lo, hi in pieces_of(offset, end)
            if (lo, hi) != (0, PAGE)
        ]
        return plans, next((plan.page for plan in plans if plan.verdict == "refuse"), None)

    def _refused_edge(self, file: FileState, page: int) -> Outcome:
        self._keep_bad(file, page, "R30")
        return failed("EIO", "R30", touched=[page])

    def _zero_edges(self, file: FileState, edges: list[PagePlan]) -> None:
        for plan in edges:
            slot = file.slots.get(plan.page)
            if slot is not None and slot.written:
                self.record.heal(slot.sectors, "R30")
                slot.data[plan.lo : plan.hi] = bytes(plan.hi - plan.lo)

    def _zero(self, file: FileState, offset: int, end: int) -> Outcome:
        """R29, R30: written parts in place, holes become unwritten, unwritten parts stay."""
        edges, refused = self._edges(file, offset, end)
        if refused is not None:
            return self._refused_edge(file, refused)
        self._zero_edges(file, edges)
        touched = []
        for page, lo, hi in pieces_of(offset, end):
            slot = file.slots.get(page)
            touched.append(page)
            if slot is None:
                file.slots[page] = self._fresh(file, page, written=False)
            elif not slot.written:
                self.record.release(slot.sectors, "R29")
            elif (lo, hi) == (0, PAGE):
                self.record.heal(slot.sectors, "R29")
                slot.data[:] = bytes(PAGE)
        self._set_size(FILE, file, max(file.size, end), ("R29",))
        return Outcome([{"ret": 0}], ("R29",), touched)

    def _punch(self, file: FileState, offset: int, end: int) -> Outcome:
        """R31 for the pages wholly inside; the others as R30 says of zeroing, and checked first."""
        edges, refused = self._edges(file, offset, end)
        if refused is not None:
            return self._refused_edge(file, refused)
        self._zero_edges(file, edges)
        pages = [(page, lo, hi) for page, lo, hi in pieces_of(offset, end) if page in file.slots]
        for page, lo, hi in pages:
            if (lo, hi) == (0, PAGE):
                self._free_page(file, page, "R31")
            elif lo == 0 and page * PAGE + hi >= file.size:
                slot = file.slots[page]
                self.record.release(slot.sectors, "R31")
                slot.kinds = frozenset({HOLE, slot.kind})
        return Outcome([{"ret": 0}], ("R31",), [page for page, _, _ in pages])

    def _free_page(self, file: FileState, page: int, *rules: str) -> None:
        slot = file.slots.pop(page)
        file.stored.discard(page)
        self.record.free(slot.sectors, *rules)

    # -- names, sizes, mounts --------------------------------------------------------------

    def _do_truncate(self, step: Step) -> Outcome:
        """R32 for the page that the new end cuts, R31 for those beyond it."""
        file, size = self.files.get(FILE), step["len"]
        if file is None:
            return failed("ENOENT")
        old, file.size = file.size, size
        tail = file.slots.get(size // PAGE) if size % PAGE else None
        was_bad = bool(tail is not None and size <= old and self._bad_in(tail))
        gone = [page for page in file.slots if page >= -(-size // PAGE) and size < old]
        rules = ("R32",) if was_bad else ("R31",)
        for page in gone:
            self._free_page(file, page, "R31")
        if tail is not None and size <= old:
            self._cut_tail(tail, size % PAGE, is_shorter=size < old)
        if size == old:
            return Outcome([{"ret": 0}])
        self.why_size = rules if was_bad else self.why_size
        touched = [*gone, size // PAGE] if was_bad else gone
        return Outcome([{"ret": 0}], rules if touched else (), touched)

    def _cut_tail(self, slot: Slot, length: int, *, is_shorter: bool) -> None:
        """R32: what the kept part needs stays bad; what is beyond it must read as zero."""
        kept = -(-length // SECTOR)
        beyond = set(slot.sectors[kept:])
        if slot.written and is_shorter:
            slot.data[length:] = bytes(PAGE - length)
            self.record.heal(beyond, "R32")
        else:
            self.record.release(beyond, "R32")
        self.record.keep(set(slot.sectors[:kept]), "R32")

    def _do_unlink(self, step: Step) -> Outcome:
        file = self.files.pop(FILE, None)
        if file is None:
            return failed("ENOENT")
        pages = list(file.slots)
        for page in pages:
            self._free_page(file, page, "R31")
        return ok()

    def _do_remount(self, step: Step) -> Outcome:
        """R8: the record survives; what was dirty is written back."""
        self.lost_store = False
        for file in self.files.values():
            file.stored.clear()
        return ok()

    # -- the raw device (R33) --------------------------------------------------------------

    def _do_bdev_pread(self, step: Step) -> Outcome:
        """R33, R11: the sector is the unit, in both modes (the runner reads with O_DIRECT)."""
        offset, end = step["off"], step["off"] + step["len"]
        sectors = range(offset // SECTOR, -(-end // SECTOR))
        stops = []
        for sector in sectors:
            if sector in self.record.bad | self.record.maybe:
                stops.append(max(sector * SECTOR, offset))
            if sector in self.record.bad:
                break
        else:
            stops.append(end)
        answers = [self._bdev_answer(offset, stop, end) for stop in reversed(stops)]
        rules = ("R33",) if len(stops) > 1 or stops[0] < end else ()
        freedom = "R31: quarantined sectors may be cleared by now" if len(answers) > 1 else ""
        touched_bad = self._bdev_near_bad(sectors)
        touched = range(offset // PAGE, -(-end // PAGE))
        return Outcome(answers, rules or touched_bad, touched, changes=False, freedom=freedom)

    def _bdev_near_bad(self, sectors: range) -> tuple[str, ...]:
        pages = {sector // PER_PAGE for sector in sectors}
        known = {sector // PER_PAGE for sector in self.record.bad | self.record.maybe}
        return ("R33",) if pages & known else ()

    def _bdev_answer(self, offset: int, stop: int, end: int) -> Answer:
        if stop == offset < end:
            return {"errno": "EIO"}
        return {"ret": stop - offset, "data": self._device_data(offset, stop)}

    def _device_data(self, offset: int, end: int) -> str:
        """What the device holds where whole written pages of a file say it."""
        pieces = []
        for phys, lo, hi in pieces_of(offset, end):
            owner = self._owner_of(phys)
            if owner is None:
                return UNKNOWN_DATA
            file, page = owner
            if not file.slots[page].written or (page + 1) * PAGE > file.size:
                return UNKNOWN_DATA
            pieces.append(bytes(file.slots[page].data[lo:hi]))
        return format_runs(b"".join(pieces))

    def _do_bdev_pwrite(self, step: Step) -> Outcome:
        """R33: each whole sector written is healed; a part of a bad one is not written."""
        offset, end = step["off"], step["off"] + step["len"]
        head, tail = self._bad_ends(offset, end)
        if head:
            self.record.keep({offset // SECTOR}, "R33")
            return failed("EIO", "R33")
        stop = end // SECTOR * SECTOR if tail else end
        self._device_write(offset, stop, bytes([ord(step.get("byte", "R"))]))
        if not tail:
            touched = range(offset // PAGE, -(-end // PAGE))
            return Outcome([{"ret": end - offset}], ("R33",), touched)
        self.record.keep({end // SECTOR}, "R33")
        short: Answer = {"ret": stop - offset} if stop > offset else {"errno": "EIO"}
        held = {"ret": end - offset, "close": "EIO"}
        freedom = "R33, R50: half of a bad sector is held, or not written"
        return Outcome([held, short], ("R33", "R50"), freedom=freedom)

    def _bad_ends(self, offset: int, end: int) -> tuple[bool, bool]:
        """Whether the write begins, and whether it ends, inside a bad sector it does not cover."""
        head = bool(offset % SECTOR) and offset // SECTOR in self.record.bad
        tail = bool(end % SECTOR) and end // SECTOR in self.record.bad
        return head, tail

    def _device_write(self, offset: int, end: int, byte: bytes) -> None:
        for phys, lo, hi in pieces_of(offset, end):
            owner = self._owner_of(phys)
            if owner is not None:
                file, page = owner
                if file.slots[page].written:
                    file.slots[page].data[lo:hi] = byte * (hi - lo)
        whole = range(-(-offset // SECTOR), end // SECTOR)
        self.record.heal(whole, "R33")

    def _do_bdev_zeroout(self, step: Step) -> Outcome:
        """R33: zeros in place, healed; a bad sector covered in part is checked first (R30)."""
        offset, end = step["off"], step["off"] + step["len"]
        if any(self._bad_ends(offset, end)):
            return failed("EIO", "R33")
        self._device_write(offset, end, b"\0")
        return Outcome([{"ret": 0}], ("R33",), range(offset // PAGE, -(-end // PAGE)))

    # -- the end ---------------------------------------------------------------------------

    def end(self) -> dict[str, Any]:
        """What is promised of the file when all steps are done; `{}` if it was unlinked."""
        file = self.files.get(FILE)
        return {} if file is None else end_of(mapping_of(file), file.size)


def _covers(bad: list[tuple[int, int]], lo: int, hi: int, eof: int) -> bool:
    """Whether `[lo, hi)` and what is beyond `eof` cover all that is bad (R16)."""
    return all((lo <= start and (stop <= hi or hi >= eof)) or start >= eof for start, stop in bad)
