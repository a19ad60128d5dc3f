"""`dax.io` and the device against the rules (R3, R5, R10–R12, R14–R17, R23, R33)."""

import errno
import random
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from daxmend.dax import io
from daxmend.dax.api import Recovery, SectorState
from daxmend.errors import MediaError
from daxmend.extent import Extent, ExtentSet
from daxmend.media.backing import Durability
from daxmend.media.pool import create_pool, open_pool
from daxmend.pmem.device import PmemDevice
from daxmend.units import CACHELINE, CLEAR_UNIT, PAGE, SECTOR
from devicemodel import DeviceModel, EioError, merged

PAGES = 6
SIZE = PAGES * PAGE
ALL = Extent(0, SIZE)


@st.composite
def extents(draw: st.DrawFn, unit: int | None = None) -> Extent:
    """A range of the device; mostly with aligned ends, for that is where the rules change."""
    units = [unit] if unit else [1, CACHELINE, SECTOR, SECTOR, PAGE, PAGE]
    start_unit, end_unit = draw(st.sampled_from(units)), draw(st.sampled_from(units))
    start = draw(st.integers(0, SIZE // start_unit)) * start_unit
    end = draw(st.integers(0, SIZE // end_unit)) * end_unit
    return Extent.between(min(start, end), max(start, end))


@st.composite
def spots(draw: st.DrawFn) -> Extent:
    """A small range for a fault."""
    unit = draw(st.sampled_from([1, CACHELINE, SECTOR]))
    first = draw(st.integers(0, SIZE // unit - 1))
    return Extent(first * unit, min(draw(st.integers(1, 3)) * unit, SIZE - first * unit))


seeds = st.integers(0, 1 << 16)
recoveries = st.sampled_from(Recovery)


def noise(seed: int, length: int) -> bytes:
    return random.Random(seed).randbytes(length)


class DeviceMachine(RuleBasedStateMachine):
    """Every operation is done to the device and to the model; both must agree on all there is."""

    clear_unit = CLEAR_UNIT

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="daxmend-model-", dir="/dev/shm"))
        create_pool(
            self.directory / "p", SIZE, durability=Durability.PROCESS, clear_unit=self.clear_unit
        )
        self.model = DeviceModel(SIZE, self.clear_unit)
        self.device = PmemDevice(open_pool(self.directory / "p"))

    def teardown(self) -> None:
        self.device.close()
        shutil.rmtree(self.directory)

    def agree(self, real: Callable[[], object], expected: Callable[[], object]) -> None:
        """Both succeed with the same result, or both fail with EIO."""
        try:
            result = expected()
        except EioError:
            result = EioError
        try:
            found = real()
        except MediaError as error:
            found = EioError if error.errno == errno.EIO else error
        assert found == result

    # -- faults ----------------------------------------------------------------------------

    @rule(extent=spots(), latent=st.booleans())
    def inject(self, extent: Extent, latent: bool) -> None:
        self.device.inject(extent, latent=latent)
        self.model.inject(extent, latent=latent)

    @rule(extent=st.one_of(spots(), extents()))
    def uninject(self, extent: Extent) -> None:
        self.device.uninject(extent)
        self.model.uninject(extent)

    @rule(extent=extents())
    def scrub(self, extent: Extent) -> None:
        for _ in self.device.scrub(extent):
            pass
        self.model.scrub(extent)

    # -- reading ---------------------------------------------------------------------------

    @rule(extent=extents())
    def read(self, extent: Extent) -> None:
        self.agree(lambda: io.read(self.device, extent), lambda: self.model.read(extent))

    @rule(extent=extents(SECTOR))
    def read_sectors(self, extent: Extent) -> None:
        sector, count = extent.offset // SECTOR, extent.length // SECTOR
        self.agree(
            lambda: self.device.read_sectors(sector, count),
            lambda: self.model.read_sectors(extent),
        )

    @rule(extent=extents())
    def salvage(self, extent: Extent) -> None:
        found = self.device.recovery_read(extent)
        assert (bytes(found.data), found.lost) == self.model.salvage(extent)

    @rule(extent=extents())
    def keep_zeros(self, extent: Extent) -> None:
        """R32."""
        self.device.keep_zeros(extent)
        self.model.keep_zeros(extent)

    # -- writing ---------------------------------------------------------------------------

    @rule(extent=extents(), seed=seeds, recovery=recoveries)
    def write(self, extent: Extent, seed: int, recovery: Recovery) -> None:
        data = noise(seed, extent.length)
        self.agree(
            lambda: io.write(self.device, extent.offset, data, recovery),
            lambda: self.model.write(extent.offset, data, recovery),
        )

    @rule(extent=extents(), seed=seeds, recovery=recoveries)
    def write_raw(self, extent: Extent, seed: int, recovery: Recovery) -> None:
        data = noise(seed, extent.length)
        self.agree(
            lambda: io.write_raw(self.device, extent.offset, data, recovery),
            lambda: self.model.write_raw(extent.offset, data, recovery),
        )

    @rule(extent=extents(PAGE), seed=seeds)
    def recovery_write(self, extent: Extent, seed: int) -> None:
        data = noise(seed, extent.length)
        self.agree(
            lambda: self.device.recovery_write(extent.offset, data),
            lambda: self.model.recovery_write(extent.offset, data),
        )

    @rule(extent=extents(SECTOR), seed=seeds)
    def write_sectors(self, extent: Extent, seed: int) -> None:
        data = noise(seed, extent.length)
        self.agree(
            lambda: self.device.write_sectors(extent.offset // SECTOR, data),
            lambda: self.model.write_sectors(extent.offset, data),
        )

    @rule(extent=extents(PAGE))
    def zeroinit(self, extent: Extent) -> None:
        self.agree(
            lambda: self.device.zeroinit(extent),
            lambda: self.model.recovery_write(extent.offset, bytes(extent.length)),
        )

    @rule()
    def restart(self) -> None:
        self.device.close()
        self.device = PmemDevice(open_pool(self.directory / "p"))

    # -- what must always hold -------------------------------------------------------------

    @invariant()
    def record_and_poison_are_those_of_the_model(self) -> None:
        states = list(self.device.badblocks(ALL))
        assert list(ExtentSet(SECTOR, (run for run, _ in states))) == merged(
            self.model.recorded, SECTOR
        )
        lost = [run for run, state in states if state is SectorState.LOST]
        assert lost == merged(self.model.lost, SECTOR)
        assert list(self.device.poison(ALL)) == merged(self.model.poison, CACHELINE)

    @invariant()
    def every_cell_holds_what_the_model_holds(self) -> None:
        pool = self.device.pool
        assert pool.backing.load(pool.header.layout.data.offset, SIZE) == self.model.content


class WideUnitMachine(DeviceMachine):
    """A medium that cannot clear less than a page (R7): the block path has neighbours to keep."""

    clear_unit = PAGE


TestDevice = DeviceMachine.TestCase
TestDevice.settings = settings(max_examples=250, stateful_step_count=25, deadline=None)
TestWideUnit = WideUnitMachine.TestCase
TestWideUnit.settings = settings(max_examples=150, stateful_step_count=25, deadline=None)
