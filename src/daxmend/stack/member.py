"""Members of tables by name, and the device that a pool with a table makes.

`PATH`          a pool, raw or itself of a table; a block or devdax device, as a window
`ram:SIZE`      empty memory without error management, one for each time that it is written (R40)
`window:PATH`   an ordinary file, mapped shared, without error management (R40)

A path that is not absolute counts from the directory of the pool that holds the table.
"""

from __future__ import annotations

import contextlib
import stat
from collections.abc import Iterator
from pathlib import Path

from daxmend.dax.api import DaxDevice
from daxmend.dm import MappedDevice, make_targets
from daxmend.errors import UsageError
from daxmend.events import Event, EventHub
from daxmend.media.backing import Durability
from daxmend.media.pool import Content, Pool, is_pool, open_pool
from daxmend.pmem.device import PmemDevice
from daxmend.stack.plain import PlainDevice, open_ram, open_window
from daxmend.stack.tablepool import StoredTable, read_table
from daxmend.stack.textfile import read_text
from daxmend.units import parse_size

_RAM = "ram:"
_WINDOW = "window:"


class TableDevice(MappedDevice):
    """The mapped device of a pool that holds a table. Owns the pool and the members."""

    def __init__(
        self, pool: Pool, table: StoredTable, members: Members, events: EventHub | None
    ) -> None:
        targets = make_targets(table.text, members)
        super().__init__(pool.name, targets, events, writable=pool.is_writable)
        self.pool = pool
        self.content = table.content
        # RAM members begin empty, and with them what a file system made of them had.
        self.is_volatile = members.is_volatile
        self.has_files = table.content is Content.FS and not members.is_volatile
        self.notices: list[str] = []
        for below in (*members.opened, *targets):
            self.notices += below.notices
        self._opened = members
        for member, event in members.attached:
            self.relay(member, event)

    @property
    def is_cheap_to_fence(self) -> bool:
        """Whether a fence costs no system call: every member promises no more than `process`."""
        return all(_is_cheap(member) for member in self._opened.opened)

    def close(self) -> None:
        """Make everything durable; close the members and give the pool back."""
        try:
            super().close()
        finally:
            try:
                self._opened.close()
            finally:
                self.pool.close()


PoolDevice = PmemDevice | TableDevice  # what a pool makes
Member = PoolDevice | PlainDevice


def _is_cheap(member: Member) -> bool:
    if isinstance(member, PmemDevice):
        return member.pool.header.durability is Durability.PROCESS
    return member.is_cheap_to_fence


class Members:
    """Opens what a table names (implements `dm.Context`), and closes it.

    `chain` are the pools whose tables are being opened, the last of them this one: none of them
    can be a member. What members publish while they are attached is in `attached`.
    """

    def __init__(self, base: Path, *, writable: bool, chain: tuple[Path, ...]) -> None:
        self.opened: list[Member] = []
        self.attached: list[tuple[DaxDevice, Event]] = []
        self.is_volatile = False
        self._base = base
        self._writable = writable
        self._chain = chain
        self._by_path: dict[tuple[Path, bool], Member] = {}

    def open_member(self, spec: str) -> DaxDevice:
        """See `dm.Context`. Raises `UsageError` for what cannot be a member."""
        if spec.startswith(_RAM):
            return self._open_ram(spec)
        path = (self._base / spec.removeprefix(_WINDOW)).resolve()
        key = (path, spec.startswith(_WINDOW))
        known = self._by_path.get(key)
        if known is None:
            if path in self._chain:
                raise UsageError(f"{path} would be a member of itself")
            known = self._by_path[key] = self._open_path(path, spec)
            self.opened.append(known)
        return known

    def read_text(self, path: str) -> str:
        """See `dm.Context`."""
        return read_text(self._base / path)

    def _open_ram(self, spec: str) -> PlainDevice:
        same = sum(member.name.split("#")[0] == spec for member in self.opened)
        name = f"{spec}#{same + 1}" if same else spec
        device = open_ram(parse_size(spec.removeprefix(_RAM)), name)
        self.opened.append(device)
        self.is_volatile = True
        return device

    def _open_path(self, path: Path, spec: str) -> Member:
        mode = path.stat().st_mode
        is_a_pool = is_pool(path)
        is_device = stat.S_ISBLK(mode) or stat.S_ISCHR(mode)
        if is_device or spec.startswith(_WINDOW):
            if is_a_pool:
                raise UsageError(f"{path} is a pool, of which a window would destroy the record")
            return open_window(path, str(path), writable=self._writable)
        if not is_a_pool:
            raise UsageError(f"{path} is not a daxmend pool; a window of a file is window:{spec}")
        hub, heard = EventHub(), list[Event]()
        end = hub.subscribe(heard.append)
        device = open_pool_device(path, writable=self._writable, events=hub, chain=self._chain)
        end()
        self.attached += [(device, event) for event in heard]
        self._check_content(device)
        return device

    def _check_content(self, device: PoolDevice) -> None:
        if isinstance(device, TableDevice):
            self.is_volatile |= device.is_volatile
        if content_of(device) is Content.FS:
            device.close()
            raise UsageError(
                f"{device.name} holds a file system of its own; members are made with --raw"
            )

    def close(self) -> None:
        """Close all, also if one of them fails; the first failure is raised."""
        with contextlib.ExitStack() as stack:
            for member in reversed(self.opened):
                stack.callback(member.close)
            self.opened.clear()


def content_of(device: PoolDevice) -> Content:
    """What was made on the device: `RAW` or `FS`."""
    return device.content if isinstance(device, TableDevice) else device.pool.header.content


def open_pool_device(
    path: Path,
    *,
    writable: bool = True,
    events: EventHub | None = None,
    chain: tuple[Path, ...] = (),
) -> PoolDevice:
    """The device of a pool: its own, or the one that its table makes of others.

    Raises what `open_pool` raises, and `TableError` where the table does not fit its members.
    """
    pool = open_pool(path, writable=writable)
    try:
        if pool.header.content is not Content.TABLE:
            return PmemDevice(pool, events)
        table, notices = read_table(pool)
        base = path.absolute()
        members = Members(base.parent, writable=writable, chain=(*chain, base.resolve()))
        with _closed_on_error(members):
            device = TableDevice(pool, table, members, events)
            device.notices[:0] = notices
            return device
    except BaseException:
        pool.close()
        raise


@contextlib.contextmanager
def _closed_on_error(members: Members) -> Iterator[None]:
    try:
        yield
    except BaseException:
        members.close()
        raise
