"""The table that a pool of content `table` holds: two copies, checksummed (format.md §7)."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import NamedTuple

from xxhash import xxh3_64_intdigest

from daxmend.errors import CorruptionError, MediaError, UnsupportedError
from daxmend.media.backing import Durability
from daxmend.media.pool import Content, Header, Pool, create_pool, open_pool
from daxmend.units import PAGE, align_up

_MAGIC = b"DMTABLE\0"
_VERSION = 1
_HEAD = struct.Struct("<8sIII4x")  # magic, version, length, content
_CHECKSUM = struct.Struct("<Q")


class StoredTable(NamedTuple):
    """A table, and what the device that it makes holds: `RAW` or `FS`."""

    text: str
    content: Content


def create_table_pool(path: Path, table: StoredTable, durability: Durability) -> Header:
    """Make a pool that holds `table`; durable on return. Raises what `create_pool` raises."""
    packed = _pack(table)
    size = 2 * align_up(len(packed), PAGE)
    header = create_pool(path, size, durability=durability, content=Content.TABLE)
    pool = open_pool(path)
    try:
        for copy in (0, 1):
            _write(pool, copy, packed)
        pool.backing.fence()
    finally:
        pool.close()
    return header


def read_table(pool: Pool) -> tuple[StoredTable, list[str]]:
    """The table of a pool, and what should be told of its copies.

    A damaged copy is rewritten from the other, if the pool is open for writing. Raises
    `CorruptionError` if both are damaged, `UnsupportedError` for another version.
    """
    tables: dict[int, StoredTable] = {}
    failures: list[CorruptionError] = []
    for copy in (0, 1):
        try:
            tables[copy] = _unpack(_read(pool, copy), f"{pool.name}: table", _start(pool, copy))
        except CorruptionError as error:
            failures.append(error)
    if not tables:
        raise failures[0]
    copy, table = next(iter(tables.items()))
    notices = []
    if failures:
        done = "the other copy is used"
        if pool.is_writable:
            _write(pool, 1 - copy, _pack(table))
            pool.backing.fence()
            done = "rewritten from the other copy"
        notices.append(f"{pool.name}: table, copy {1 - copy}: {failures[0].field} is wrong; {done}")
    return table, notices


def _area(pool: Pool) -> int:
    return pool.header.layout.data.length // 2


def _start(pool: Pool, copy: int) -> int:
    return pool.header.layout.data.offset + copy * _area(pool)


def _read(pool: Pool, copy: int) -> bytes:
    try:
        return pool.backing.load(_start(pool, copy), _area(pool))
    except MediaError:  # the disk below: like any other damage, if the other copy is good
        return b""


def _write(pool: Pool, copy: int, packed: bytes) -> None:
    pool.backing.store(_start(pool, copy), packed)
    pool.backing.flush(_start(pool, copy), len(packed))


def _pack(table: StoredTable) -> bytes:
    text = table.text.encode()
    body = _HEAD.pack(_MAGIC, _VERSION, _HEAD.size + len(text) + 8, table.content) + text
    return body + _CHECKSUM.pack(xxh3_64_intdigest(body))


def _unpack(raw: bytes, name: str, offset: int) -> StoredTable:
    if raw[:8] != _MAGIC or len(raw) < _HEAD.size + 8:
        raise CorruptionError(name, offset, "magic", _MAGIC, raw[:8])
    _, version, length, content = _HEAD.unpack_from(raw)
    body, rest = raw[: length - 8], raw[length - 8 : length]
    if len(rest) != 8 or rest != _CHECKSUM.pack(xxh3_64_intdigest(body)):
        raise CorruptionError(name, offset, "checksum", "matching", "different")
    if version != _VERSION or content not in (Content.RAW, Content.FS):
        raise UnsupportedError(
            f"{name}: version {version}, content {content}; this daxmend knows version {_VERSION}"
        )
    return StoredTable(body[_HEAD.size :].decode(), Content(content))
