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
import stat
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from struct import Struct
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import quote

import xxhash

from daxmend.errors import (
    ChangedError,
    CorruptionError,
    DaxmendError,
    UnsupportedError,
    UsageError,
)
from daxmend.extent import Extent
from daxmend.host.mountinfo import find_mount_of
from daxmend.rescue.repairplan import BadPage, Strategy
from daxmend.rescue.salvage import sync_directory
from daxmend.units import PAGE

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
_IN_MEMORY: Final = frozenset({"tmpfs", "ramfs", "devtmpfs", "rootfs"})


class About(NamedTuple):
    """What a journal is of. `identity` is the file's number on its file system."""

    name: str
    identity: int
    size: int
    strategy: Strategy
    source: str | None


class RepairJournal:
    """A journal that is durable, opened. `path` names it."""

    def __init__(self, path: Path, owners: Collection[int] = ()) -> None:
        """Open it and check all of it; `owners` may have written it, and nobody else.

        Raises `CorruptionError`, `DaxmendError` for one that somebody else has made or can change,
        or `OSError` as open(2).
        """
        self.path = path
        flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
        self._fd = os.open(path, flags)
        try:
            self._size = self._validate(owners)
            self._load()
        except BaseException:
            os.close(self._fd)
            raise

    def _validate(self, owners: Collection[int]) -> int:
        """Its size. Whoever can write the journal says what becomes of the file."""
        found = os.fstat(self._fd)
        if not stat.S_ISREG(found.st_mode):
            raise DaxmendError(f"{self.path} is no regular file, and no journal; move it away")
        trusted = {0, os.geteuid(), *owners}
        if found.st_uid not in trusted or found.st_mode & 0o022:
            raise DaxmendError(
                f"{self.path} is a journal that somebody else made or can change (user "
                f"{found.st_uid}, mode {stat.S_IMODE(found.st_mode):o}): nothing of it is used; "
                "move it away, or make it yours (chown, chmod 600) if you know where it is from"
            )
        return found.st_size

    def _load(self) -> None:
        head = self._read(_HEAD.size, 0)
        if len(head) < _HEAD.size or head[:8] != _MAGIC:
            raise self._wrong(0, "magic", _MAGIC.decode(), head[:8])
        _, version, state, body, index, body_sum, index_sum = _HEAD.unpack(head)
        if version != _VERSION:
            raise UnsupportedError(f"{self.path} is of format {version}; this daxmend knows 1")
        if state not in (_BEGUN, _FINISHED):
            raise self._wrong(_STATE_AT, "state", "1 or 2", state)
        if _HEAD.size + body + index != self._size:
            raise self._wrong(0, "length", _HEAD.size + body + index, self._size)
        text = self._pread(index, _HEAD.size + body)
        if xxhash.xxh3_64_intdigest(text) != index_sum:
            raise self._wrong(
                _HEAD.size + body, "index", "what its checksum says", "something else"
            )
        self.is_finished = state == _FINISHED
        self.is_stopped = not self.is_finished  # somebody began, and did not come to the end
        try:
            self._parse_index(json.loads(text))
            self._validate_pages(body)
        except (ValueError, TypeError, KeyError, AssertionError):
            raise self._wrong(
                _HEAD.size + body, "index", "that of a journal", "something else"
            ) from None
        digest = xxhash.xxh3_64()
        for _, data in self.contents():
            digest.update(data)
        if digest.intdigest() != body_sum:
            raise self._wrong(_HEAD.size, "body", "what its checksum says", "something else")

    def _parse_index(self, index: dict[str, object]) -> None:
        if not isinstance(index, dict):
            raise TypeError
        rows = index.pop("pages")
        assert isinstance(rows, list)
        self.pages = [
            BadPage(Extent(at, length), [Extent(*run) for run in lost]) for at, length, lost in rows
        ]
        strategy = Strategy(str(index.pop("strategy")))
        self.about = About(strategy=strategy, **index)  # type: ignore[arg-type]
        if type(self.about.size) is not int or type(self.about.identity) is not int:
            raise TypeError

    def _validate_pages(self, body: int) -> None:
        """Raise `ValueError` unless the pages are what `create_journal` writes."""
        size, end = self.about.size, 0
        for page, lost in self.pages:
            whole = Extent(page.offset, PAGE).intersection(Extent(0, size))
            at = page.offset
            for run in lost:
                if run.offset < at or not run.length or not page.covers(run):
                    raise ValueError
                at = run.end
            if page != whole or not page.length or page.offset % PAGE or page.offset < end:
                raise ValueError
            end = page.end
        if sum(page.extent.length for page in self.pages) != body:
            raise ValueError

    def _pread(self, length: int, offset: int) -> bytes:
        data = b""
        while len(data) < length:
            more = self._read(length - len(data), offset + len(data))
            if not more:
                raise self._wrong(offset, "length", length, len(data))
            data += more
        return data

    def _read(self, length: int, offset: int) -> bytes:
        try:
            return os.pread(self._fd, length, offset)
        except OSError as error:
            raise DaxmendError(
                f"the journal {self.path} cannot be read at offset {offset}: {error.strerror}; "
                "save it with: daxmend salvage, and move it away: nothing of it is used"
            ) from None

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
        try:
            os.pwrite(self._fd, _STATE.pack(state), _STATE_AT)
            os.fsync(self._fd)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path)) from None
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
        self._subject = subject
        real = Path(os.path.realpath(file))
        self._directory = directory or real.parent
        self._is_named = directory is not None
        name = real.name + (f":{quote(inner, safe='')}" if inner else "")
        if directory is not None:  # others of the same name may be repaired with the same directory
            name += f".{subject.identity:x}"
        if len(os.fsencode(name)) > _MAX_NAME:
            name = f"{name[:40]}.{hashlib.sha256(os.fsencode(name)).hexdigest()[:16]}"
        self._name = name

    def validate_durable(self) -> None:
        """A journal in memory is gone after a stop, and good bytes with it (R46).

        Raises `UsageError` for one beside the file, as that of a block device would be; of one in a
        directory that was named, the operator is told. A file that is in memory, too, loses nothing
        more by it.
        """
        mount = find_mount_of(self._directory)
        if mount is None or mount.fstype not in _IN_MEMORY:
            return
        file = os.stat(self._subject.location[0])
        if not stat.S_ISBLK(file.st_mode) and file.st_dev == os.stat(self._directory).st_dev:
            return
        said = f"the journal would lie in {self._directory}, which is in memory ({mount.fstype})"
        if not self._is_named:
            raise UsageError(f"{said}; name a directory on a disk with --journal")
        self._subject.notices.append(f"{said}: if the machine stops, good bytes are lost with it")

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
        """The journal of the last repair, or None; of one that was stopped, wherever that lies.

        Raises `ChangedError` for one of a repair that was stopped, where another file has the name
        now, and what opening it raises.
        """
        numbers = self._numbers()
        noted = self._noted(self._path(numbers[-1]) if numbers else None)
        if noted is not None:
            return noted
        if not numbers:
            return None
        journal = self._open(self._path(numbers[-1]))
        if journal.about.identity == self._subject.identity:
            return journal
        is_finished = journal.is_finished
        journal.close()
        if is_finished:
            return None
        raise ChangedError(
            f"{journal.path} is of a repair that was stopped, of a file that had the name "
            f"{self._name} before this one; it has the good bytes of that: move it away"
        )

    def _open(self, path: Path) -> RepairJournal:
        return RepairJournal(path, [self._subject.owner])

    def _noted(self, ours: Path | None) -> RepairJournal | None:
        """The journal that the file itself says a stopped repair has; not if it is `ours`.

        The file may have got its note with a copy of another one: what is no stopped repair of
        this file is nothing.
        """
        path = self._subject.noted_journal()
        if path is None or (ours is not None and str(path) == os.path.abspath(ours)):
            return None
        try:
            journal = self._open(path)
        except FileNotFoundError:
            self._subject.notices.append(
                f"a repair of {self._subject.name} was stopped, and its journal {path} is not "
                "there any more: good bytes may have been in it"
            )
            return None
        except (DaxmendError, OSError) as error:
            self._subject.notices.append(
                f"a repair of {self._subject.name} may have been stopped, and its journal is not "
                f"used: {error}"
            )
            return None
        if journal.about.identity == self._subject.identity and not journal.is_finished:
            return journal
        journal.close()
        return None
