"""The journal of a repair: what each bad page is to become, durable before the first write (R46).

One file beside the repaired one, made as a whole. From it a stopped repair is finished, and a
finished one taken back. Little-endian:

    head     magic `DAXMENDR`, u32 version, u32 state (1 begun, 2 finished), u64 length of body,
             u64 length of index, u64 xxh3 of body, u64 xxh3 of index
    body     the pages, one after the other, as they are to become
    index    JSON: the file (name, size, number), strategy, source, pages with what was lost

In a page only what was lost is new; the rest are the good bytes that the file had.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from struct import Struct
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import quote

import xxhash

from daxmend.errors import ChangedError, CorruptionError, DaxmendError, UnsupportedError
from daxmend.extent import Extent
from daxmend.rescue.repairplan import BadPage, Strategy
from daxmend.rescue.salvage import sync_directory

if TYPE_CHECKING:
    from daxmend.rescue.subject import Subject

_MAGIC: Final = b"DAXMENDR"
_VERSION: Final = 1
_HEAD: Final = Struct("<8sIIQQQQ")
_STATE: Final = Struct("<I")
_STATE_AT: Final = 12
_BEGUN, _FINISHED = 1, 2
_SUFFIX: Final = ".daxmend-repair."
_MAX_NAME: Final = 200  # bytes of a name before the suffix; most file systems take 255


class About(NamedTuple):
    """What a journal is of. `identity` is the file's number on its file system."""

    name: str
    identity: int
    size: int
    strategy: Strategy
    source: str | None


class RepairJournal:
    """A journal that is durable, opened. `path` names it."""

    def __init__(self, path: Path) -> None:
        """Open it and check all of it. Raises `CorruptionError`, or `OSError` as open(2)."""
        self.path = path
        self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            self._load()
        except BaseException:
            os.close(self._fd)
            raise

    def _load(self) -> None:
        head = os.pread(self._fd, _HEAD.size, 0)
        if len(head) < _HEAD.size or head[:8] != _MAGIC:
            raise self._wrong(0, "magic", _MAGIC.decode(), head[:8])
        _, version, state, body, index, body_sum, index_sum = _HEAD.unpack(head)
        if version != _VERSION:
            raise UnsupportedError(f"{self.path} is of format {version}; this daxmend knows 1")
        if state not in (_BEGUN, _FINISHED):
            raise self._wrong(_STATE_AT, "state", "1 or 2", state)
        text = self._pread(index, _HEAD.size + body)
        if xxhash.xxh3_64_intdigest(text) != index_sum:
            raise self._wrong(
                _HEAD.size + body, "index", "what its checksum says", "something else"
            )
        self.is_finished = state == _FINISHED
        self.is_stopped = not self.is_finished  # somebody began, and did not come to the end
        self._parse_index(json.loads(text))
        digest = xxhash.xxh3_64()
        for _, data in self.contents():
            digest.update(data)
        if digest.intdigest() != body_sum:
            raise self._wrong(_HEAD.size, "body", "what its checksum says", "something else")

    def _parse_index(self, index: dict[str, object]) -> None:
        rows = index.pop("pages")
        assert isinstance(rows, list)
        self.pages = [
            BadPage(Extent(at, length), [Extent(*run) for run in lost]) for at, length, lost in rows
        ]
        strategy = Strategy(str(index.pop("strategy")))
        self.about = About(strategy=strategy, **index)  # type: ignore[arg-type]

    def _pread(self, length: int, offset: int) -> bytes:
        data = b""
        while len(data) < length:
            more = os.pread(self._fd, length - len(data), offset + len(data))
            if not more:
                raise self._wrong(offset, "length", length, len(data))
            data += more
        return data

    def _wrong(self, offset: int, field: str, expected: object, got: object) -> CorruptionError:
        hint = "it is damaged; move it away, and nothing of it is used"
        return CorruptionError(str(self.path), offset, field, expected, got, hint)

    def contents(self) -> Iterator[tuple[BadPage, bytes]]:
        """Each page, and what it is to become; lazily."""
        at = _HEAD.size
        for page in self.pages:
            yield page, self._pread(page.extent.length, at)
            at += page.extent.length

    def finish(self) -> None:
        """Every page was dealt with; durable on return."""
        self._set_state(_FINISHED)

    def reopen(self) -> None:
        """Its pages are about to be written again: good bytes may be nowhere else; durable."""
        if self.is_finished:
            self._set_state(_BEGUN)

    def _set_state(self, state: int) -> None:
        os.pwrite(self._fd, _STATE.pack(state), _STATE_AT)
        os.fsync(self._fd)
        self.is_finished = state == _FINISHED

    def remove(self) -> None:
        """It is not needed any more; durable on return."""
        self.path.unlink()
        sync_directory(self.path.parent)

    def close(self) -> None:
        """Let go of it; it stays."""
        os.close(self._fd)


def create_journal(
    path: Path, about: About, contents: Iterable[tuple[BadPage, bytes]]
) -> RepairJournal:
    """Write a journal and read it back; durable, all of it, when it returns.

    Raises `DaxmendError` where there is no room or no right to, and nothing is left then.
    """
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()  # of a run that was stopped here
        _write(temporary, about, contents)
        os.rename(temporary, path)
        sync_directory(path.parent)
        journal = RepairJournal(path)
        journal.is_stopped = False
        return journal
    except BaseException as error:
        for left in (temporary, path):
            with contextlib.suppress(OSError):
                left.unlink()
        if isinstance(error, DaxmendError) or not isinstance(error, OSError):
            raise
        raise DaxmendError(
            f"the journal {path} cannot be written: {error.strerror}; nothing was changed; name a "
            "directory that has room with --journal"
        ) from None


def _write(path: Path, about: About, contents: Iterable[tuple[BadPage, bytes]]) -> None:
    """Body, index, and the head last."""
    rows = []
    body = xxhash.xxh3_64()
    with open(path, "xb", opener=_private) as file:
        file.write(bytes(_HEAD.size))
        for page, data in contents:
            assert len(data) == page.extent.length
            rows.append([*page.extent, page.lost])
            body.update(data)
            file.write(data)
        length = file.tell() - _HEAD.size
        index = json.dumps({**about._asdict(), "pages": rows}).encode()
        file.write(index)
        file.seek(0)
        sums = body.intdigest(), xxhash.xxh3_64_intdigest(index)
        file.write(_HEAD.pack(_MAGIC, _VERSION, _BEGUN, length, len(index), *sums))
        file.flush()
        os.fsync(file.fileno())


def _private(path: str, flags: int) -> int:
    """It holds what is in a file that not everybody may read."""
    return os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


class JournalPlace:
    """Where the journals of one file are: beside it, or in the directory that was named.

    They are numbered; the last may be of a repair that was stopped, the others are finished.
    """

    def __init__(self, subject: Subject, directory: Path | None) -> None:
        file, inner = subject.location
        real = Path(os.path.realpath(file))
        self._identity = subject.identity
        self._directory = directory or real.parent
        name = real.name + (f":{quote(inner, safe='')}" if inner else "")
        if directory is not None:  # others of the same name may be repaired with the same directory
            name += f".{subject.identity:x}"
        if len(os.fsencode(name)) > _MAX_NAME:
            name = f"{name[:40]}.{hashlib.sha256(os.fsencode(name)).hexdigest()[:16]}"
        self._name = name

    def _numbers(self) -> list[int]:
        pattern = re.compile(re.escape(self._name + _SUFFIX) + r"(\d{1,9})")
        try:
            names = os.listdir(self._directory)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self._directory)) from None
        return sorted(int(match[1]) for name in names if (match := pattern.fullmatch(name)))

    def new_path(self) -> Path:
        """Of a journal that is to be made."""
        return self._path(([0] + self._numbers())[-1] + 1)

    def _path(self, number: int) -> Path:
        return self._directory / f"{self._name}{_SUFFIX}{number}"

    def last(self) -> RepairJournal | None:
        """The journal of the last repair, or None.

        Raises `ChangedError` for one of a repair that was stopped, where another file has the name
        now, and what opening it raises.
        """
        numbers = self._numbers()
        if not numbers:
            return None
        journal = RepairJournal(self._path(numbers[-1]))
        if journal.about.identity == self._identity:
            return journal
        is_finished = journal.is_finished
        journal.close()
        if is_finished:
            return None
        raise ChangedError(
            f"{journal.path} is of a repair that was stopped, of a file that had the name "
            f"{self._name} before this one; it has the good bytes of that: move it away"
        )
