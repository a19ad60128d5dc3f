"""The pool: one sparse file that holds an emulated persistent-memory device (format.md §1, §2).

0        header, copy 0            4 KiB
4 KiB    header, copy 1            4 KiB
8 KiB    owner: who has it open    4 KiB
64 KiB   poison journal, 2 copies
…        record journal, 2 copies
2 MiB·n  data area
"""

import errno
import fcntl
import os
import stat
import struct
import time
import uuid as _uuid
from enum import IntEnum, StrEnum
from pathlib import Path
from typing import NamedTuple, Protocol, Self

from xxhash import xxh3_64_intdigest

from daxmend.errors import BusyError, CorruptionError, UnsupportedError, UsageError
from daxmend.extent import Extent
from daxmend.media.backing import Backing, Durability
from daxmend.media.journal import Repair, format_journal
from daxmend.units import CACHELINE, CLEAR_UNIT, KIB, MAX_OFFSET, MIB, PAGE, SECTOR, align_up

POOL_VERSION = 2  # 1: until the file system and tables; its journals had other entries

_MAGIC = b"DAXMEND\0"
_BODY = struct.Struct("<8sII16sQIIIIQQQQQQQ")
_LENGTH = _BODY.size + 8  # and the checksum
_PREFIX = struct.Struct("<8sII")  # magic, version, length: the same in every version
_COPIES = (0, 4 * KIB)
_OWNER_OFFSET = 8 * KIB
_OWNER_MAGIC = b"DMOWNER\0"
_OWNER = struct.Struct("<8sIIQI")  # magic, version, length, pid, mount point's length
_OWNER_LENGTH = 4 * KIB
_JOURNALS_OFFSET = 64 * KIB
_DATA_ALIGN = 2 * MIB


class MakeBacking(Protocol):
    """How a pool's bytes are reached: `Backing`, or one that loses power."""

    def __call__(
        self, fd: int, name: str, durability: Durability, *, writable: bool = True
    ) -> Backing: ...


class Content(IntEnum):
    """What the data area holds; `mount` refuses what does not fit."""

    RAW = 1
    FS = 2
    TABLE = 3  # a mapped device's table text; the device is elsewhere (format.md §7)


class MediumKind(StrEnum):
    """How the medium answers when it is told to clear or is written to (R5–R7, R21)."""

    PLAIN = "plain"  # clears on command, and only then
    CLEARS_LINES = "clears-lines"  # a direct 64-byte store clears its line too
    HEALS_ON_WRITE = "heals-on-write"  # its controller heals every line that a store covers
    REFUSES = "refuses"  # clears nothing, and says so
    CLEARS_PART = "clears-part"  # clears the first half of what it is asked, and says so
    LIES = "lies"  # claims success, and stays poisoned


class Layout(NamedTuple):
    """Where everything lies: bytes from the start of the file. Areas come in two copies."""

    poison: tuple[Extent, Extent]
    record: tuple[Extent, Extent]
    data: Extent

    @classmethod
    def of_size(cls, size: int) -> Self:
        """The layout of a pool of `size` bytes of data.

        A journal's area holds twice the largest snapshot (a bit a unit, and a header for each
        4 KiB of bits), and some MiB for intents and appends; the file is sparse.
        """
        poison = align_up(size // CACHELINE // 4 * 17 // 16 + 2 * MIB, PAGE)
        record = align_up(size // SECTOR // 2 * 17 // 16 + 8 * MIB, PAGE)
        start = _JOURNALS_OFFSET
        areas = [Extent(start, poison), Extent(start + poison, poison)]
        start += 2 * poison
        areas += [Extent(start, record), Extent(start + record, record)]
        data = Extent(align_up(start + 2 * record, _DATA_ALIGN), size)
        return cls((areas[0], areas[1]), (areas[2], areas[3]), data)


class Header(NamedTuple):
    """The pool's header; the field names are those of format.md §1."""

    uuid: bytes
    created_ns: int
    content: Content
    medium: MediumKind
    durability: Durability
    clear_unit: int
    layout: Layout


class Pool:
    """An open pool file: its header, its lock and its bytes.

    Owned by one process: a second opener gets `BusyError`, with the owner's pid and mount point.
    """

    def __init__(self, path: Path, backing: Backing, header: Header, repairs: list[Repair]) -> None:
        self.path = path
        self.name = str(path)
        self.backing = backing
        self.header = header
        self.repairs = repairs
        self.is_writable = backing.is_writable

    @property
    def is_open(self) -> bool:
        """Whether `close` has not been called yet."""
        return self.backing.fd >= 0

    def set_owner(self, mountpoint: str = "") -> None:
        """Write who has the pool open, for those who find it locked; as durable as the lock."""
        _write_owner(self.backing.fd, mountpoint)

    def close(self) -> None:
        """Make everything durable and give the lock back."""
        if not self.is_open:
            return
        try:
            self.backing.fence()
        finally:
            # Closing is not enough: the mapping has a duplicate of the descriptor.
            fcntl.flock(self.backing.fd, fcntl.LOCK_UN)
            self.backing.close()


def create_pool(
    path: Path,
    size: int,
    *,
    durability: Durability,
    medium: MediumKind = MediumKind.PLAIN,
    clear_unit: int = CLEAR_UNIT,
    content: Content = Content.RAW,
) -> Header:
    """Make a pool of `size` bytes (a multiple of a page) at `path`; durable on return.

    `content` says what the caller is going to put on the device.

    `clear_unit` is a power of two from 64 to 4096 (R7). Raises `UsageError` if something is there
    already or size or clear unit is not possible; a pool that could not be completed is removed.
    """
    layout = _layout_of(size)
    _check_clear_unit(clear_unit)
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    except FileExistsError:
        raise UsageError(f"{path} exists; remove it or choose another name") from None
    try:
        header = _format(fd, str(path), layout, durability, medium, clear_unit, content)
        _sync_directory(path.parent)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    finally:
        os.close(fd)
    return header


def create_memory_pool(
    size: int, medium: MediumKind = MediumKind.PLAIN, clear_unit: int = CLEAR_UNIT
) -> Pool:
    """A pool of anonymous memory, gone with its last user: for tests and for `ram:SIZE`.

    Raises `UsageError` if size or clear unit is not possible.
    """
    layout = _layout_of(size)
    _check_clear_unit(clear_unit)
    fd = os.memfd_create("daxmend", os.MFD_CLOEXEC)
    try:
        header = _format(fd, "ram", layout, Durability.PROCESS, medium, clear_unit, Content.RAW)
        backing = Backing(fd, "ram", Durability.PROCESS)
    except BaseException:
        os.close(fd)
        raise
    return Pool(Path("ram"), backing, header, [])


def _layout_of(size: int) -> Layout:
    if size <= 0 or size % PAGE:
        raise UsageError(
            f"a pool's size is a positive multiple of {PAGE} bytes, not {size}; 64M is 64 MiB"
        )
    layout = Layout.of_size(size)
    if layout.data.end > MAX_OFFSET:
        raise UsageError(f"a pool of {size} bytes is more than a file can hold")
    return layout


def _is_clear_unit(number: int) -> bool:
    return CACHELINE <= number <= PAGE and number.bit_count() == 1


def _check_clear_unit(clear_unit: int) -> None:
    if not _is_clear_unit(clear_unit):
        raise UsageError(
            f"a clear unit is a power of two from {CACHELINE} to {PAGE} bytes, not {clear_unit}"
        )


def _format(
    fd: int,
    name: str,
    layout: Layout,
    durability: Durability,
    medium: MediumKind,
    clear_unit: int,
    content: Content,
) -> Header:
    """Write an empty pool into an empty file; durable on return."""
    header = Header(
        _uuid.uuid4().bytes, time.time_ns(), content, medium, durability, clear_unit, layout
    )
    os.truncate(fd, layout.data.end)
    own_fd = os.dup(fd)
    try:
        backing = Backing(own_fd, name, durability)
    except BaseException:  # there may be no room in memory to map it
        os.close(own_fd)
        raise
    try:
        format_journal(backing, layout.poison, f"{name}: poison journal")
        format_journal(backing, layout.record, f"{name}: record journal")
    finally:
        backing.close()
    os.pwrite(fd, bytes(_OWNER_LENGTH), _OWNER_OFFSET)  # so that opening needs no space later
    os.fsync(fd)
    for offset in _COPIES:  # last: only a complete pool has a header
        os.pwrite(fd, pack_header(header), offset)
    os.fsync(fd)
    return header


def open_pool(path: Path, *, writable: bool = True, make_backing: MakeBacking = Backing) -> Pool:
    """Open and lock the pool at `path`; its bytes are reached through what `make_backing` makes.

    Read-only openers share the lock. A damaged header copy is rewritten from the other (`repairs`
    says so). Raises `BusyError` if somebody has it, `UsageError` if it is no pool,
    `UnsupportedError` for another format version, `CorruptionError` if both copies are damaged or
    the file is shorter than the header says.
    """
    fd = os.open(path, (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC)
    try:
        _lock(fd, path, exclusive=writable)
        header, repairs = _read_header(fd, path)
        size = os.fstat(fd).st_size
        if size < header.layout.data.end:
            raise CorruptionError(
                f"{path}",
                0,
                "file size",
                header.layout.data.end,
                size,
                "the file was cut short; restore it from a copy",
            )
        if writable and repairs:
            for repair in repairs:
                os.pwrite(fd, pack_header(header), _COPIES[repair.copy])
            os.fdatasync(fd)
        if writable:
            _write_owner(fd)
        backing = make_backing(fd, str(path), header.durability, writable=writable)
    except BaseException:
        os.close(fd)
        raise
    return Pool(path, backing, header, repairs)


def is_pool(path: Path) -> bool:
    """True if `path` is a file that starts like a pool, whole or damaged.

    A copy of the header that gives EIO says nothing: one file in many has a bad block there.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):  # opening a FIFO would wait for its writer
        return False
    with open(path, "rb") as file:
        return any(_has_readable_magic(file.fileno(), offset) for offset in _COPIES)


def read_owner(path: Path) -> tuple[int, str] | None:
    """`(pid, mount point or "")` of the process that has the pool open for writing, or None."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return _owner_block(fd)
        return None
    finally:
        os.close(fd)


def pack_header(header: Header) -> bytes:
    """One copy of the header as it stands on the medium (format.md §1)."""
    layout = header.layout
    body = _BODY.pack(
        _MAGIC,
        POOL_VERSION,
        _LENGTH,
        header.uuid,
        header.created_ns,
        header.content,
        list(MediumKind).index(header.medium),
        list(Durability).index(header.durability),
        header.clear_unit,
        layout.data.end,
        layout.poison[0].offset,
        layout.poison[0].length,
        layout.record[0].offset,
        layout.record[0].length,
        layout.data.offset,
        layout.data.length,
    )
    return body + struct.pack("<Q", xxh3_64_intdigest(body))


def unpack_header(raw: bytes, name: str, offset: int) -> Header:
    """The header from one copy. Raises `UnsupportedError` or `CorruptionError`."""
    magic, version, length = _PREFIX.unpack_from(raw)
    if magic != _MAGIC:
        raise CorruptionError(f"{name}: pool header", offset, "magic", _MAGIC, magic)
    if not _PREFIX.size + 8 <= length <= len(raw) or _checksum(raw, length) != struct.unpack_from(
        "<Q", raw, length - 8
    ):
        raise CorruptionError(f"{name}: pool header", offset, "checksum", "matching", "different")
    if version != POOL_VERSION or length != _LENGTH:
        raise UnsupportedError(
            f"{name}: pool format version {version}; this daxmend knows version {POOL_VERSION}; "
            "use the daxmend that made the pool to copy its content out"
        )
    _, _, _, uuid, created_ns, content, medium, durability, clear_unit, *places = _BODY.unpack_from(
        raw
    )
    if content not in list(Content) or medium >= len(MediumKind) or durability >= len(Durability):
        raise UnsupportedError(f"{name}: content {content} on medium {medium} is not known here")
    size, poison, poison_length, record, record_length, data, data_length = places
    layout = Layout(
        (Extent(poison, poison_length), Extent(poison + poison_length, poison_length)),
        (Extent(record, record_length), Extent(record + record_length, record_length)),
        Extent(data, data_length),
    )
    if size != layout.data.end or layout.record[1].end > data:
        raise CorruptionError(f"{name}: pool header", offset, "layout", "consistent", places)
    if not _is_clear_unit(clear_unit):
        raise CorruptionError(
            f"{name}: pool header", offset, "clear_unit", "a power of two", clear_unit
        )
    return Header(
        uuid,
        created_ns,
        Content(content),
        list(MediumKind)[medium],
        list(Durability)[durability],
        clear_unit,
        layout,
    )


def _checksum(raw: bytes, length: int) -> tuple[int]:
    """What the last 8 of a header's `length` bytes must say."""
    return (xxh3_64_intdigest(raw[: length - 8]),)


def _has_magic(fd: int, offset: int) -> bool:
    return os.pread(fd, len(_MAGIC), offset) == _MAGIC


def _has_readable_magic(fd: int, offset: int) -> bool:
    try:
        return _has_magic(fd, offset)
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        return False


def _read_header(fd: int, path: Path) -> tuple[Header, list[Repair]]:
    """The header from the first copy that proves itself, and which copy does not."""
    if not any(_has_magic(fd, offset) for offset in _COPIES):
        raise UsageError(
            f"{path} is not a daxmend pool; make one with: daxmend create {path}.pool --size 1G"
        )
    headers: dict[int, Header] = {}
    failures: list[tuple[int, CorruptionError]] = []
    unsupported: UnsupportedError | None = None
    for copy, offset in enumerate(_COPIES):
        raw = os.pread(fd, 4 * KIB, offset).ljust(4 * KIB, b"\0")
        try:
            headers[copy] = unpack_header(raw, str(path), offset)
        except UnsupportedError as error:
            unsupported = error
        except CorruptionError as error:
            failures.append((copy, error))
    if unsupported is not None:  # beside a copy of ours too: somebody's upgrade was interrupted
        raise unsupported
    if not headers:
        first = failures[0][1]
        hint = "its other copy is damaged, too; restore the pool from a copy"
        raise CorruptionError(
            first.structure, first.offset, first.field, first.expected, first.got, hint
        )
    repairs = [Repair(copy, f"its {error.field} is wrong") for copy, error in failures]
    return next(iter(headers.values())), repairs


def _lock(fd: int, path: Path, *, exclusive: bool) -> None:
    mode = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
    try:
        fcntl.flock(fd, mode | fcntl.LOCK_NB)
    except BlockingIOError:
        raise BusyError(f"{path} is in use by {_describe_user(fd, exclusive)}") from None


def _describe_user(fd: int, exclusive: bool) -> str:
    """Who holds the lock that was not to be had."""
    if exclusive and _is_only_read(fd):
        return "a process that reads it"  # what the owner block says is long over
    owner = _owner_block(fd)
    if owner is None:
        return "another process"
    pid, mountpoint = owner
    where = f", mounted at {mountpoint}; use that directory" if mountpoint else ""
    return f"process {pid}{where}"


def _is_only_read(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _write_owner(fd: int, mountpoint: str = "") -> None:
    encoded = os.fsencode(mountpoint)
    block = _OWNER.pack(_OWNER_MAGIC, POOL_VERSION, _OWNER.size, os.getpid(), len(encoded))
    os.pwrite(fd, (block + encoded).ljust(_OWNER_LENGTH, b"\0"), _OWNER_OFFSET)


def _owner_block(fd: int) -> tuple[int, str] | None:
    block = os.pread(fd, _OWNER_LENGTH, _OWNER_OFFSET)
    if len(block) < _OWNER_LENGTH:
        return None
    magic, _, _, pid, length = _OWNER.unpack_from(block)
    if magic != _OWNER_MAGIC or length > _OWNER_LENGTH - _OWNER.size:
        return None
    return pid, os.fsdecode(block[_OWNER.size : _OWNER.size + length])


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
