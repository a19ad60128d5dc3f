"""A client that does everything at random, against a bytearray.

What is read is the model's, or an error that the record explains; what was acknowledged is kept;
the record grows by what was injected or met, and shrinks by what was written.
"""

import errno
import os
import random
import time

import pytest
from rawmount import PAGE, SECTOR, Mapping, Mounted

pytestmark = pytest.mark.timeout(60, method="signal")
DIAGONAL = True

SIZE = 24 * PAGE
LINE = 64


class Client:
    """One open, one mapping, and what they should see."""

    def __init__(self, raw: Mounted, fd: int, mapping: Mapping, chosen: random.Random) -> None:
        self.raw = raw
        self.fd = fd
        self.mapping = mapping
        self.chosen = chosen
        self.bytes = bytearray(SIZE)
        self.bad: set[int] = set()  # sectors

    def step(self) -> None:
        actions = [self.write, self.write, self.write_pages, self.read, self.store]
        actions += [self.inject, self.inject_latent]
        self.chosen.choice(actions)(self.chosen.randrange(SIZE))

    # What the control files say

    def record(self) -> set[int]:
        lines = self.raw.badblocks.splitlines()
        runs = (map(int, line.split()) for line in lines)
        return {sector for first, count in runs for sector in range(first, first + count)}

    def poisoned(self) -> set[int]:
        """The sectors with a poisoned line."""
        runs = (map(int, line.split()) for line in self.raw.read_control("poison").splitlines())
        return {
            sector
            for offset, length in runs
            for sector in range(offset // SECTOR, (offset + length - 1) // SECTOR + 1)
        }

    def page_is(self, sectors: set[int], page: int) -> bool:
        return any(sector // 8 == page for sector in sectors)

    # What the client does

    def write(self, offset: int) -> None:
        length = self.chosen.choice([1, 64, 511, 512, 3000, PAGE, 9000])
        self._write(offset, min(length, SIZE - offset))

    def write_pages(self, offset: int) -> None:
        offset -= offset % PAGE
        self._write(offset, min(PAGE * self.chosen.randrange(1, 4), SIZE - offset))

    def _write(self, offset: int, length: int) -> None:
        data, poisoned = self.chosen.randbytes(length), self.poisoned()
        try:
            count = os.pwrite(self.fd, data, offset)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            count = 0
        end = offset + count
        before = self.record()
        if count < length:  # R17: up to a sector of which a part was not to be written
            assert end // SECTOR in before
            assert end % SECTOR or not count
        elif end % SECTOR and end // SECTOR in before:  # R50: it gets its other half
            rest = self.chosen.randbytes(SECTOR - end % SECTOR)
            assert os.pwrite(self.fd, rest, end) == len(rest)
            data, end = data + rest, end + len(rest)
        assert count or offset % SECTOR  # else it heals, or is held
        self.bytes[offset:end] = data[: end - offset]
        healed = set(range(-(-offset // SECTOR), end // SECTOR))
        self.bad -= healed
        self._met(poisoned)

    def read(self, offset: int) -> None:
        length = min(self.chosen.choice([1, 512, PAGE, 20000]), SIZE - offset)
        poisoned = self.poisoned()
        try:
            data = os.pread(self.fd, length, offset)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            data = b""
        self._met(poisoned)
        assert data == self.bytes[offset : offset + len(data)]
        if len(data) < length:  # R10, R11
            unit = 1 if self.raw.is_direct else 8
            stopped = (offset + len(data)) // SECTOR // unit
            assert any(sector // unit == stopped for sector in self.bad)

    def store(self, offset: int) -> None:
        page, poisoned = offset // PAGE, self.poisoned()
        stored = self.mapping.store(offset, 0xA5)
        if stored == "ok":
            assert not self.page_is(self.bad, page)  # R24
            # a cached write over latent poison leaves the page cached: no load of the medium (R5)
            assert not (self.raw.is_direct and self.page_is(poisoned, page))
            self.bytes[offset] = 0xA5
        else:
            assert stored == (offset, 2)
            self._met(poisoned)
            assert self.page_is(self.bad, page)

    def _met(self, poisoned: set[int]) -> None:
        """R3: nothing but poisoned sectors may have entered the record.

        The kernel may have met them for the program: it reads around a fault, later.
        """
        after = self.record()
        assert self.bad <= after
        assert after - self.bad <= poisoned
        self.bad = after

    def inject(self, offset: int) -> None:
        assert self.mapping.sync() == "ok"  # else it is open which stores were first
        poisoned = self.poisoned()
        sector = offset // SECTOR
        count = min(self.chosen.choice([1, 1, 2, 8]), SIZE // SECTOR - sector)
        self.raw.write_control("badblocks", f"{sector} {count}\n")
        self.bad |= set(range(sector, sector + count))
        self._met(poisoned)

    def inject_latent(self, offset: int) -> None:
        assert self.mapping.sync() == "ok"
        self.raw.write_control("poison", f"{offset // LINE * LINE} {LINE}\n")
        self._met(self.poisoned())

    def check(self) -> None:
        """At the end, every sector that is not bad or poisoned holds the model's bytes."""
        assert self.mapping.sync() == "ok"
        self._met(self.poisoned())
        poisoned = self.poisoned()
        for sector in range(SIZE // SECTOR):
            sectors = {sector} if self.raw.is_direct else set(range(SIZE // SECTOR))
            failing = (self.bad | poisoned) & sectors
            at = sector * SECTOR
            if not self.page_is(failing, sector // 8):
                assert self.raw.pread(SECTOR, at) == self.bytes[at : at + SECTOR], sector
            elif sector in self.bad:
                with pytest.raises(OSError):
                    self.raw.pread(SECTOR, at)


def test_a_client_at_random_agrees_with_a_model(raw: Mounted) -> None:
    seed = time.time_ns() & 0xFFFFFFFF
    print("seed", seed)
    raw.pwrite(bytes(SIZE), 0)
    with raw.mapped() as mapping, raw.opened() as fd:
        client = Client(raw, fd, mapping, random.Random(seed))
        for _ in range(400):
            client.step()
        client.check()
    raw.must_umount()  # and all of it is durable
    raw.must_mount()
    with raw.mapped() as mapping, raw.opened() as fd:
        again = Client(raw, fd, mapping, random.Random(seed))
        again.bytes, again.bad = client.bytes, again.record()
        assert client.bad <= again.bad
        again.check()
