"""The scrub that a bus of persistent memory makes by itself (R4): started, or followed."""

from __future__ import annotations

import errno
import os
import select
from typing import TYPE_CHECKING, Final

from daxmend.errors import UnknownStateError
from daxmend.host import ndbus
from daxmend.host.unknown import Unknown

if TYPE_CHECKING:
    from daxmend.rescue.hosttarget import HostTarget

_ASK_AGAIN_MS: Final = 5000  # a bus that does not tell that it is done is asked


class BusScrub:
    """The scrub of one bus: `name` as ndbus0."""

    def __init__(self, bus: ndbus.Bus) -> None:
        self.name = bus.name
        self._bus = bus
        self._wanted = 0  # scrubs that will have ended when ours has

    def start(self) -> bool:
        """Start one; returns whether one was running already, which is then the one followed.

        Raises `UnknownStateError` for who may not, or a bus that does not say how it is.
        """
        state = self._state()
        if not state.is_running:
            try:
                ndbus.start_scrub(self._bus)
            except OSError as error:
                if error.errno != errno.EBUSY:
                    raise UnknownStateError(
                        f"the scrub of {self.name} cannot be started: {error.strerror}; ask root, "
                        "or use --read"
                    ) from None
                state = state._replace(is_running=True)
        self._wanted = state.done + 1
        return state.is_running

    def wait(self) -> None:
        """Until it has ended: the file is pollable."""
        with open(self._bus.scrub_file, "rb", buffering=0) as file:
            poll = select.poll()
            poll.register(file, select.POLLPRI)
            while True:
                os.pread(file.fileno(), 64, 0)  # what comes later wakes the poll
                state = self._state()
                if state.done >= self._wanted and not state.is_running:
                    return
                poll.poll(_ASK_AGAIN_MS)

    def _state(self) -> ndbus.ScrubState:
        state = ndbus.read_scrub(self._bus)
        if isinstance(state, Unknown):
            raise UnknownStateError(state.why)
        return state


def bus_scrub(target: HostTarget) -> BusScrub | None:
    """The scrub of the bus that all of the target lies on; None where there is no such bus."""
    target.badblocks()  # which finds the records
    if target.unknown or target.records.own_paths:
        return None
    buses = {ndbus.bus_of(path) for path in target.records.record_files.values()}
    if len(buses) != 1:
        return None
    (bus,) = buses
    return BusScrub(bus) if isinstance(bus, ndbus.Bus) and bus.scrub_file.exists() else None
