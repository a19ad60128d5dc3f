"""Random operations, fsx-style: on a shadow mount and on a plain file, with and without faults.

The model: without faults, the mount and the file below hold the same bytes. With faults, a read
gives what is there up to the first bad page and EIO at it, and a write that covers one heals it.
"""

import mmap
import os
import random
from collections.abc import Callable

import pytest
from rawmount import PAGE, SECTOR
from shadowmount import Shadowed

DIAGONAL = True
PAGES = 32
OPERATIONS = 2000


class _Twin:
    """A file on the mount, what it should hold, and which of its pages are bad."""

    def __init__(self, shadow: Shadowed, seed: int, *, with_faults: bool) -> None:
        self.shadow = shadow
        self.random = random.Random(seed)
        self.path = shadow.path("file")
        self.path.touch()
        self.data = bytearray()
        self.bad: set[int] = set()
        self.fd = os.open(self.path, os.O_RDWR)
        self.steps: list[Callable[[], None]] = [
            self.write, self.read, self.truncate, self.reopen, self.append, self.punch, self.look,
            self.map_read, self.map_write,
        ]  # fmt: skip
        if with_faults:
            self.steps += [self.inject, self.heal, self.write, self.read]

    def some(self) -> tuple[int, int]:
        offset = self.random.randrange(PAGES * PAGE)
        if self.random.random() < 0.5:
            offset -= offset % PAGE
        length = self.random.choice([1, 100, SECTOR, PAGE, 3 * PAGE, 5 * PAGE + 7])
        return offset, min(length, PAGES * PAGE - offset)

    def expected_end(self, offset: int, length: int) -> int:
        """Where a read stops: the end of the file, or a page that is bad."""
        end = min(offset + length, len(self.data))
        for page in sorted(self.bad):
            if page * PAGE < end and (page + 1) * PAGE > offset:
                return max(page * PAGE, offset)
        return end

    def read(self) -> None:
        offset, length = self.some()
        end = self.expected_end(offset, length)
        is_bad = end < min(offset + length, len(self.data))
        if is_bad and end == offset:
            with pytest.raises(OSError, match="Input/output"):
                os.pread(self.fd, length, offset)
        else:
            assert os.pread(self.fd, length, offset) == bytes(self.data[offset:end])

    def write(self) -> None:
        """The pages that it covers heal; before one that it cannot heal it stops (R17)."""
        offset, length = self.some()
        data = self.random.randbytes(length)
        size = max(len(self.data), offset + length)
        end = offset + length
        for page in sorted(self.bad):
            if page * PAGE < offset + length and (page + 1) * PAGE > offset:
                covers = offset <= page * PAGE and min((page + 1) * PAGE, size) <= offset + length
                if not covers:
                    end = max(page * PAGE, offset)
                    break
        if end < offset + length and (end > offset or offset % PAGE == 0):
            return  # would be held, as the first half of a cut write (R50): others test that
        if end == offset:
            with pytest.raises(OSError, match="Input/output"):
                os.pwrite(self.fd, data, offset)
            return
        assert os.pwrite(self.fd, data, offset) == length
        self.store(offset, data)
        self.bad -= set(range(offset // PAGE, -(-(offset + length) // PAGE)))

    def store(self, offset: int, data: bytes) -> None:
        if len(self.data) < offset:
            self.data.extend(bytes(offset - len(self.data)))
        self.data[offset : offset + len(data)] = data

    def append(self) -> None:
        if self.bad or len(self.data) > PAGES * PAGE:
            return
        data = self.random.randbytes(100)
        with open(self.path, "ab", buffering=0) as file:
            file.write(data)
        self.data += data

    def truncate(self) -> None:
        if self.bad:
            return
        size = self.random.randrange(PAGES * PAGE)
        os.ftruncate(self.fd, size)
        del self.data[size:]
        self.data.extend(bytes(size - len(self.data)))

    def punch(self) -> None:
        from daxmend.extent import Extent
        from daxmend.host import zeroing

        page = self.random.randrange(PAGES)
        zeroing.punch_hole(self.fd, Extent(page * PAGE, PAGE))
        end = min((page + 1) * PAGE, len(self.data))
        if page * PAGE < end:
            self.data[page * PAGE : end] = bytes(end - page * PAGE)
        self.bad.discard(page)

    def reopen(self) -> None:
        os.close(self.fd)
        self.fd = os.open(self.path, os.O_RDWR)

    def map_read(self) -> None:
        if not self.data or self.bad:
            return
        with mmap.mmap(self.fd, 0, access=mmap.ACCESS_READ) as mapped:
            assert mapped[:] == self.data

    def map_write(self) -> None:
        if not self.data or self.bad:
            return
        with mmap.mmap(self.fd, 0) as mapped:
            offset = self.random.randrange(len(self.data))
            mapped[offset] = self.data[offset] = self.random.randrange(256)
            mapped.flush()

    def look(self) -> None:
        assert os.fstat(self.fd).st_size == len(self.data)
        assert self.shadow.below("file").read_bytes() == self.data

    def inject(self) -> None:
        page = self.random.randrange(PAGES)
        if (page + 1) * PAGE <= len(self.data):
            self.shadow.write_control("faults", f"/file {page * PAGE} {PAGE} until-written\n")
            self.bad.add(page)

    def heal(self) -> None:
        for page in list(self.bad):
            data = self.random.randbytes(min(PAGE, len(self.data) - page * PAGE))
            assert os.pwrite(self.fd, data, page * PAGE) == len(data)
            self.store(page * PAGE, data)
            self.bad.discard(page)


@pytest.mark.parametrize("with_faults", [False, True], ids=["clean", "faults"])
def test_random_operations_do_what_the_model_says(
    unmounted_shadow: Shadowed, with_faults: bool
) -> None:
    unmounted_shadow.must_mount("--arm", "**")
    seed = random.SystemRandom().randrange(1 << 32)
    print("seed", seed)
    twin = _Twin(unmounted_shadow, seed, with_faults=with_faults)
    for number in range(OPERATIONS):
        step = twin.random.choice(twin.steps)
        try:
            step()
        except BaseException:
            print("seed", seed, "operation", number, step.__name__, "bad", sorted(twin.bad))
            raise
    twin.heal()
    os.close(twin.fd)
    assert twin.path.read_bytes() == twin.data == unmounted_shadow.below("file").read_bytes()
