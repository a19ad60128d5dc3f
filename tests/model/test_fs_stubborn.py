"""Random histories on media that do not clear, or only in part, with recovery switched on and off.

Operations fail in the middle here. Whatever a file reads as is what a success left there, or where
something failed on the way, the old byte or the new one; never another file's, and never one that
the file gave up. `DAXMEND_FSX_SEED` repeats a run.
"""

import contextlib
import os
import random
import stat
from collections.abc import Callable

import pytest

from daxmend.errors import MediaError
from daxmend.extent import Extent
from daxmend.fs import FileSystem, make_file_system
from daxmend.media.pool import MediumKind, create_memory_pool
from daxmend.pmem.device import PmemDevice
from daxmend.units import CACHELINE, KIB, MIB, PAGE, SECTOR
from fswalk import check_owners, walk

SEED = int(os.environ.get("DAXMEND_FSX_SEED", random.randrange(1 << 32)))
OPERATIONS = 200
FILES = 3
MAX = 24 * KIB  # where operations begin at most


class ModelFile:
    """The byte that a success left, and those that failures may have left."""

    def __init__(self, name: bytes) -> None:
        self.name = name
        self.data = bytearray()
        self.others: dict[int, set[int]] = {}

    def resize(self, size: int) -> None:
        del self.data[size:]
        self.data += bytes(size - len(self.data))
        self.others = {at: bytes_ for at, bytes_ in self.others.items() if at < size}

    def put(self, offset: int, data: bytes) -> None:
        if data:
            self.resize(max(len(self.data), offset + len(data)))
            self.data[offset : offset + len(data)] = data
            for at in range(offset, offset + len(data)):
                self.others.pop(at, None)

    def maybe(self, offset: int, data: bytes) -> None:
        """The operation failed: inside the file each byte is old or new."""
        for at, byte in enumerate(data[: max(len(self.data) - offset, 0)], offset):
            self.others.setdefault(at, set()).add(byte)

    def assert_possible(self, offset: int, found: bytes) -> None:
        for at, byte in enumerate(found, offset):
            if byte != self.data[at]:
                assert byte in self.others.get(at, ()), f"byte {at} is {byte}, not {self.data[at]}"


class Exerciser:
    """A file system on such a medium, and its model."""

    def __init__(self, seed: int, kind: MediumKind, clear_unit: int) -> None:
        self.random = random.Random(seed)
        self.commits_each = self.random.random() < 0.5
        self.device = PmemDevice(create_memory_pool(2 * MIB, kind, clear_unit))
        make_file_system(self.device)
        self.fs = FileSystem(self.device, commits_each=self.commits_each)
        self.files: dict[int, ModelFile] = {}
        for number in range(FILES):
            self.create(b"%d" % number)
        zeroing = [self.zeroing(name) for name in ("punch", "zeroinit", "zero_range", "fallocate")]
        self.acts: list[Callable[[], None]] = [
            *[self.write] * 6,
            *[self.truncate] * 3,
            *zeroing,
            *[self.inject] * 2,
            *[self.heal] * 2,
            self.replace,
            self.scrub,
            self.tidy,
            self.switch_recovery,
            self.fs.sync,
        ]

    def run(self) -> None:
        for number in range(OPERATIONS):
            self.random.choice(self.acts)()
            assert not self.fs.is_read_only, self.fs.notices
            if number % 10 == 9:
                self.look()
        self.fs.sync()
        self.device.set_holder(None)
        self.fs = FileSystem(self.device, commits_each=True)
        self.look()
        walk(self.fs)
        check_owners(self.fs)
        self.fs.close()
        self.device.close()

    def create(self, name: bytes) -> None:
        ino = self.fs.make(self.fs.root, name, stat.S_IFREG | 0o644, 0, 0)
        self.files[ino] = ModelFile(name)

    def file(self) -> tuple[int, ModelFile]:
        return self.random.choice(list(self.files.items()))

    def range(self) -> tuple[int, int]:
        unit = self.random.choice([1, 1, CACHELINE, SECTOR, SECTOR, PAGE, PAGE])
        length = self.random.choice([unit, SECTOR, PAGE, 4 * PAGE])
        offset = self.random.randrange(MAX // unit) * unit
        return offset, max(self.random.randrange(length + 1) // unit * unit, 1)

    def write(self) -> None:
        self.write_to(*self.file(), Extent(*self.range()))

    def heal(self) -> None:
        """As somebody does who was told what is bad: just that is written (R16)."""
        ino, model = self.file()
        for bad in self.fs.bad_ranges(ino)[:1]:
            self.write_to(ino, model, bad)

    def write_to(self, ino: int, model: ModelFile, extent: Extent) -> None:
        offset, length = extent
        data = self.random.randbytes(length)
        done = 0
        with contextlib.suppress(MediaError):
            done = self.fs.write(ino, offset, data)
        model.put(offset, data[:done])
        model.maybe(offset + done, data[done:])

    def truncate(self) -> None:
        """R32: it never fails."""
        ino, model = self.file()
        within = self.random.randrange(len(model.data) + 1)
        size = self.random.choice([0, within, self.range()[0]])
        self.fs.truncate(ino, size)
        model.resize(size)

    def zeroing(self, name: str) -> Callable[[], None]:
        def act() -> None:
            ino, model = self.file()
            offset, length = self.range()
            zeros = b"" if name == "fallocate" else bytes(length)
            try:
                getattr(self.fs, name)(ino, offset, length)
            except MediaError:
                model.maybe(offset, zeros)
                return
            if name in ("zero_range", "fallocate"):
                model.resize(max(len(model.data), offset + length))
            model.put(offset, zeros[: max(len(model.data) - offset, 0)])

        return act

    def inject(self) -> None:
        """Under anything that a file has, written or not."""
        ino, _ = self.file()
        mappings = list(self.fs.extents(ino))
        if mappings:
            mapping = self.random.choice(mappings)
            at = mapping.device_offset + self.random.randrange(mapping.length // SECTOR) * SECTOR
            length = self.random.choice([CACHELINE, SECTOR])
            self.device.inject(Extent(at, length), latent=self.random.random() < 0.4)

    def replace(self) -> None:
        ino, model = self.file()
        self.fs.unlink(self.fs.root, model.name)
        del self.files[ino]
        self.create(model.name)

    def scrub(self) -> None:
        for _ in self.device.scrub(Extent(0, self.device.size)):
            pass

    def tidy(self) -> None:
        while self.fs.tidy():
            pass

    def switch_recovery(self) -> None:
        self.device.allows_recovery = not self.device.allows_recovery

    def look(self) -> None:
        """Of what cannot be read nothing is claimed."""
        for ino, model in self.files.items():
            assert self.fs.stat(ino).size == len(model.data)
            at = 0
            while at < len(model.data):
                found = b""
                with contextlib.suppress(MediaError):
                    found = self.fs.read(ino, at, len(model.data) - at)
                model.assert_possible(at, found)
                at += len(found) or SECTOR - at % SECTOR
            self.look_at_salvage(ino, model)

    def look_at_salvage(self, ino: int, model: ModelFile) -> None:
        """R12, R32: nor does a salvage bring back what the file gave up."""
        for offset, place in self.fs.device_extents(ino, Extent(0, len(model.data))):
            salvage = self.device.recovery_read(place)
            end = place.offset
            for lost in [*salvage.lost, Extent(place.end, 0)]:
                good = salvage.data[end - place.offset : lost.offset - place.offset]
                model.assert_possible(offset + end - place.offset, good)
                end = lost.end


@pytest.mark.parametrize("clear_unit", [256, PAGE])
@pytest.mark.parametrize("kind", list(MediumKind))
def test_where_operations_fail_in_the_middle_no_byte_is_false(
    kind: MediumKind, clear_unit: int
) -> None:
    """R5–R7, R16, R17, R21, R30, R32."""
    print(f"seed {SEED}")
    for number in range(4):
        Exerciser(SEED + number, kind, clear_unit).run()
