"""A client that only holds windows: a tiny block cache in persistent memory (R49).

It never calls read or write on its device. When a load of its window meets poison, it recovers with
the same two calls that everybody uses, `direct_access(RECOVERY)` and `recovery_write`: a clean slot
is filled again from the origin, in place; of a dirty one it can only say that it is lost.
"""

from collections.abc import Callable

from daxmend.dax.api import AccessMode, DaxDevice, Window
from daxmend.errors import MediaError
from daxmend.extent import Extent
from daxmend.units import PAGE


class WindowCache:
    """Caches pages of an origin in a `DaxDevice`: page n of the one in page n of the other."""

    def __init__(self, device: DaxDevice, load_origin: Callable[[int], bytes]) -> None:
        self._device = device
        self._load_origin = load_origin
        self._filled: set[int] = set()
        self._dirty: set[int] = set()
        self.recovered: list[int] = []
        self.lost: list[int] = []

    def get(self, slot: int) -> bytes:
        """A page, from cache or origin. Raises `MediaError` if it was dirty and is lost."""
        if slot not in self._filled:
            self._fill(slot)
        try:
            return self._window(slot, AccessMode.NORMAL).load(0, PAGE)
        except MediaError:
            self._recover(slot)
            return self._window(slot, AccessMode.NORMAL).load(0, PAGE)

    def put(self, slot: int, data: bytes) -> None:
        """A page that the origin does not have yet; durable after the device's fence."""
        try:
            self._window(slot, AccessMode.NORMAL).store(0, data)
        except MediaError:
            self._device.recovery_write(slot * PAGE, data)
        self._filled.add(slot)
        self._dirty.add(slot)

    def _fill(self, slot: int) -> None:
        data = self._load_origin(slot)
        try:
            self._window(slot, AccessMode.NORMAL).store(0, data)
        except MediaError:
            self._device.recovery_write(slot * PAGE, data)
            self.recovered.append(slot)
        self._filled.add(slot)

    def _recover(self, slot: int) -> None:
        if slot in self._dirty:
            self.lost.append(slot)
            raise MediaError(self._device.name, slot * PAGE, PAGE, hint="the page was dirty")
        self._device.recovery_write(slot * PAGE, self._load_origin(slot))
        self.recovered.append(slot)

    def _window(self, slot: int, mode: AccessMode) -> Window:
        return self._device.direct_access(Extent(slot * PAGE, PAGE), mode)
