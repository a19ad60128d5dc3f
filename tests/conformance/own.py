"""Scenarios of our own: corners written by hand, and as many as wanted from a step generator."""

import os
import random
from collections.abc import Callable

from promise import Model
from scenario import Scenario, Step
from state import FILE, FIRST_PAGES, PAGE, PER_PAGE, SECTOR

SEED = int(os.environ.get("DAXMEND_CONFORMANCE_SEED", "2021"))
COUNT = int(os.environ.get("DAXMEND_CONFORMANCE_COUNT", "60"))

_LENGTHS = (1, 100, SECTOR, 1000, PAGE, PAGE + 100, 2 * PAGE, 3 * PAGE - 512, 5 * PAGE, 16 * PAGE)


def _inject(sector: int, count: int = 1) -> Step:
    return {"op": "inject", "sector": sector, "count": count}


def _pread(off: int, length: int, **more: object) -> Step:
    return {"op": "pread", "off": off, "len": length, **more}


def _pwrite(off: int, length: int, byte: str = "B", **more: object) -> Step:
    return {"op": "pwrite", "off": off, "len": length, "byte": byte, **more}


def _falloc(mode: str, off: int, length: int) -> Step:
    return {"op": "fallocate", "mode": mode, "off": off, "len": length}


def _at(op: str, off: int, length: int) -> Step:
    return {"op": op, "off": off, "len": length}


def _touch(op: str, off: int) -> Step:
    return {"op": op, "off": off}


def _truncate(length: int) -> Step:
    return {"op": "truncate", "len": length}


REMOUNT: Step = {"op": "remount"}
FSYNC: Step = {"op": "fsync"}
UNLINK: Step = {"op": "unlink"}
OTHER_WRITE: Step = {"op": "other_file_write", "len": 262144}
MIB = 1 << 20

# name, why, steps
_WRITTEN: list[tuple[str, str, list[Step]]] = [
    ("reads_at_every_grain", "R10, R11: all the ways to read across a bad sector", [
        _inject(20, 2), _pread(0, 65536), _pread(8192, 4096), _pread(8192, 4096, direct=True),
        _pread(11264, 1024), _pread(10000, 500), _at("sendfile", 0, 65536),
        _at("copy_range", 4096, 20000), {"op": "preadv", "off": 100, "lens": [100, 9000, 7]},
        {"op": "preadv", "off": 8192, "lens": [512, 512, 4096], "direct": True}]),
    ("half_pages_that_heal", "R16: all that is bad is covered", [
        _inject(17, 2), _pwrite(8192 + 512, 1024, "C"), _pread(8192, 4096), _inject(31),
        _pwrite(15000, 1384, "D"), _pread(12288, 8192), _touch("load", 16383)]),
    ("half_pages_that_do_not", "R16, R50: held from the first byte on, else refused", [
        _inject(17, 2), _pwrite(8192, 1024), _pread(8192, 512), _pwrite(8193, 1023),
        _pwrite(8705, 2000), _pwrite(8000, 1000), _pread(4096, 8192), FSYNC, REMOUNT,
        _pread(4096, 4096), _pwrite(8192, 1536, "C"), _pread(8192, 4096)]),
    ("unaligned_over_many", "R15 with pages covered in part at both ends", [
        _inject(15, 34), _pwrite(7680, 17000, "Q"), _pread(4096, 24576), _pwrite(4096, 24576, "R"),
        {"op": "pwritev", "off": 20480, "lens": [100, 5000, 3092], "byte": "V"},
        _pread(16384, 16384)]),
    ("zero_range_edges", "R30: edges are checked first", [
        _inject(16), _inject(24), _inject(40), _falloc("zero", 8192 + 512, 16384), _pread(8192, 64),
        _falloc("zero", 8192, 12288 + 512), _pread(8192, 16384), _falloc("zero", 20480, 512),
        _pread(20480, 4096), _falloc("zero", 258048, 8192), _pread(258048, 9000)]),
    ("zero_range_over_holes", "R29: holes become unwritten, unwritten stay", [
        _falloc("punch", 8192, 8192), _falloc("zero", 4096, 16384), _inject(8), _inject(16),
        _falloc("zero", 4096, 12288), _pread(4096, 16384), _pwrite(8200, 8, "U"),
        _touch("load", 8205), _pread(8192, 100)]),
    ("unwritten_hides_what_is_bad", "R13: reads, loads and stores", [
        _falloc("punch", 8192, 4096), _falloc("alloc", 8192, 4096), _inject(16, 8),
        _pread(4096, 12288), _touch("load", 8200), _touch("store", 8201), _pread(8192, 4096)]),
    ("punch_edges", "R30, R31", [
        _inject(16, 3), _inject(40), _falloc("punch", 8192 + 512, 8192),
        _falloc("punch", 8192, 8192),
        _falloc("punch", 20480, 100), _falloc("punch", 20480, 512), _pread(16384, 16384),
        _falloc("punch", 250000, 100000), _pread(245760, 65536)]),
    ("truncate_keeps_and_drops", "R32: what is kept stays bad, what is dropped reads as zero", [
        _inject(80), _inject(84), _inject(100, 8), _truncate(40960 + 300), _truncate(262144),
        _pread(40960, 4096), _pread(40960 + 512, 3584), _truncate(40960), _truncate(50000),
        _pread(40960, 9040)]),
    ("truncate_heals_the_tail", "R32: nothing bad is kept", [
        _inject(85, 3), _truncate(40960 + 2560), _pread(40960, 2560), _touch("load", 40960),
        _truncate(45056), _pread(40960, 4096)]),
    ("bad_beyond_the_end", "R16, R24: the end of the file in the middle of its last page", [
        _truncate(41960), _inject(87), _pread(40960, 1000), _touch("load", 40960),
        _pwrite(41000, 10, "E"), _pread(40960, 1000), _inject(86), _pwrite(44000, 10, "F"),
        _pread(40960, 8192)]),
    ("growing_writes", "R13, R17: holes behind the end", [
        _inject(511), _pwrite(262144 + 5000, 100, "G"), _pread(258048, 20000), _pwrite(261632, 512),
        _pread(258048, 20000), _touch("store", 266240), _pread(266240, 4096)]),
    ("large_write_heals", "R14, R50: more than the kernel sends in one request", [
        _inject(0, 3), _inject(255, 2), _inject(508, 4), _pwrite(0, 2 * MIB + 100, "L"),
        _pread(0, 262144), _pread(2 * MIB - 100, 300)]),
    ("mapped_and_bad", "R24, R27", [
        _touch("store", 8192), _touch("load", 8192), _inject(17), _touch("load", 8192),
        _touch("store", 12287), FSYNC, _pwrite(8192, 4096, "M"), _touch("load", 8192), FSYNC,
        _touch("store", 8193), _inject(16), _pwrite(8192, 4096, "N"), FSYNC, _pread(8192, 4096)]),
    ("unlinked", "R31: what was bad reaches nobody", [
        _inject(0, 64), _inject(300, 100), UNLINK, _pread(0, 10), OTHER_WRITE,
        {"op": "other_file_write", "len": 600000}, REMOUNT, _at("bdev_pread", 0, 512)]),
    ("device_and_file", "R33: one medium seen from two sides", [
        _inject(16, 4), _at("bdev_pread", 8192, 4096), _at("bdev_pread", 4096, 8192),
        {"op": "bdev_pwrite", "off": 8192 + 512, "len": 1024, "byte": "R"}, _pread(8192, 4096),
        _at("bdev_zeroout", 8192, 4096), _pread(8192, 4096), _touch("load", 8192),
        {"op": "bdev_pwrite", "off": 0, "len": 262144, "byte": "S"}, _pread(0, 262144)]),
    ("healed_survives", "R8, R14: over two mounts", [
        _inject(9), _inject(33, 20), REMOUNT, _pwrite(0, 16384, "K"), REMOUNT, _pread(0, 262144),
        _pwrite(16384, 245760, "J", direct=True), REMOUNT, _pread(0, 262144)]),
    ("not_expressible", "collapse, insert and write_zeroes are refused, and nothing changes", [
        _inject(72), _falloc("collapse", 16384, 16384), _falloc("insert", 16384, 16384),
        _falloc("write_zeroes", 36864, 4096), _pread(32768, 16384)]),
]  # fmt: skip


class Generator:
    """Makes steps one by one; a model beside it knows what would leave the rules' ground."""

    def __init__(self, seed: str) -> None:
        self._random = random.Random(seed)
        self._model = Model("direct")
        self._weights: dict[Callable[[], Step | None], int] = {
            self._inject: 16, self._pread: 14, self._preadv: 3, self._pwrite: 14, self._pwritev: 3,
            self._alloc: 2, self._punch: 6, self._zero: 6, self._touch: 8, self._truncate: 5,
            self._bdev_pread: 3, self._bdev_write: 4, self._copied: 4, self._other_write: 2,
            lambda: FSYNC: 2, lambda: REMOUNT: 2, lambda: UNLINK: 1, self._inexpressible: 1,
        }  # fmt: skip

    def steps(self, count: int) -> list[Step]:
        """The first makes something bad."""
        found = [self._inject()]
        self._model.apply(found[0])
        while len(found) < count:
            make = self._random.choices(list(self._weights), list(self._weights.values()))[0]
            step = make()
            if step is not None and (FILE in self._model.files or step["op"] != "copy_range"):
                found.append(step)
                self._model.apply(step)
        return found

    def _size(self) -> int:
        file = self._model.files.get(FILE)
        return file.size if file is not None else FIRST_PAGES * PAGE

    def _offset(self) -> int:
        """Near what is bad, near the end of the file, or anywhere; aligned or not."""
        bad = sorted(self._model.record.bad)
        place = self._random.choice(["bad", "bad", "bad", "end", "any"])
        if place == "bad" and bad:
            page = self._random.choice(bad) // PER_PAGE % (FIRST_PAGES + 8)
            page += self._random.choice([0, 0, 0, -1, -2, 1])
        elif place == "end":
            page = self._size() // PAGE + self._random.choice([-2, -1, 0, 1])
        else:
            page = self._random.randrange(FIRST_PAGES)
        inside = self._random.choice(
            [0, 0, 0, self._random.randrange(8) * SECTOR, self._random.randrange(PAGE)]
        )
        return max(page, 0) * PAGE + inside

    def _length(self) -> int:
        return self._random.choice(_LENGTHS)

    def _byte(self) -> str:
        return self._random.choice("BCDEFGHKLMNPQRSTUVXYZ")

    def _more(self) -> Step:
        return {"direct": True} if self._random.random() < 0.2 else {}

    def _inject(self) -> Step:
        sector = self._random.randrange(FIRST_PAGES * PER_PAGE)
        count = self._random.choice([1, 1, 1, 2, 3, 8, 12, 40])
        return _inject(sector, min(count, FIRST_PAGES * PER_PAGE - sector))

    def _pread(self) -> Step:
        return _pread(self._offset(), self._length(), **self._more())

    def _preadv(self) -> Step:
        lens = [self._length() for _ in range(self._random.randint(1, 4))]
        return {"op": "preadv", "off": self._offset(), "lens": lens, **self._more()}

    def _pwrite(self) -> Step:
        return _pwrite(self._offset(), self._length(), self._byte(), **self._more())

    def _pwritev(self) -> Step:
        lens = [self._length() for _ in range(self._random.randint(1, 4))]
        return {"op": "pwritev", "off": self._offset(), "lens": lens, "byte": self._byte()}

    def _alloc(self) -> Step:
        return _falloc("alloc", self._offset(), self._length())

    def _punch(self) -> Step:
        return _falloc("punch", self._offset(), self._length())

    def _zero(self) -> Step:
        return _falloc("zero", self._offset(), self._length())

    def _touch(self) -> Step:
        return _touch(self._random.choice(["load", "load", "store"]), self._offset())

    def _truncate(self) -> Step:
        return _truncate(self._offset())

    def _bdev_pread(self) -> Step | None:
        return self._on_device("bdev_pread", may_be_free=True)

    def _bdev_write(self) -> Step | None:
        step = self._on_device(
            self._random.choice(["bdev_pwrite", "bdev_zeroout"]), may_be_free=False
        )
        return step if step is None else {**step, "byte": self._byte()}

    def _on_device(self, op: str, *, may_be_free: bool) -> Step | None:
        """Sectors of the first 64 pages; written only where a file has them, below its end."""
        off = self._offset() // SECTOR * SECTOR
        end = min(off + max(self._length() // SECTOR, 1) * SECTOR, FIRST_PAGES * PAGE)
        pages = range(off // PAGE, -(-end // PAGE))
        if off >= end or not (may_be_free or all(map(self._is_below_the_end, pages))):
            return None
        return {"op": op, "off": off, "len": end - off}

    def _is_below_the_end(self, phys: int) -> bool:
        owner = self._model._owner_of(phys)
        return owner is not None and (owner[1] + 1) * PAGE <= owner[0].size

    def _copied(self) -> Step:
        return _at(self._random.choice(["copy_range", "sendfile"]), self._offset(), self._length())

    def _other_write(self) -> Step:
        return {"op": "other_file_write", "len": self._length() * 8}

    def _inexpressible(self) -> Step:
        mode = self._random.choice(["collapse", "insert", "write_zeroes"])
        return _falloc(mode, self._offset() // PAGE * PAGE, PAGE)


def written_scenarios() -> list[Scenario]:
    """Those written by hand."""
    return [Scenario(name, steps, why) for name, why, steps in _WRITTEN]


def generated_scenarios(seed: int = SEED, count: int = COUNT) -> list[Scenario]:
    """`count` scenarios of 5 to 14 steps; the seed is in the name."""
    found = []
    for number in range(count):
        name = f"seed{seed}-{number:02}"
        length = random.Random(name).randint(5, 14)
        found.append(Scenario(name, Generator(name).steps(length), f"generated, seed {seed}"))
    return found


def own_scenarios() -> list[Scenario]:
    """All of them."""
    return [*written_scenarios(), *generated_scenarios()]
